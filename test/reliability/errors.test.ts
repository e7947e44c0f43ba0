// Every code is documented, and something a user can do makes it happen.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { Database } from '../../lib/data/database.js';
import * as lib from '../../lib/index.js';
import {
	ALLMRecError,
	CausalLM,
	Dataset,
	ERROR_CODES,
	type ErrorCode,
	leaveLastOut,
	loadRun,
	resolveCheckpoint,
	SASRec,
	sampleCandidates,
} from '../../lib/index.js';
import { loadAddon } from '../../lib/native/addon.js';
import { guard, ragged, Session } from '../../lib/native/session.js';
import { freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { held } from '../support/reliability.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { type TinyRun, tinyRun, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';

const EMULATOR = join(process.cwd(), 'build-emulator/allmrec_cudaemu.so');
let run: TinyRun;
test.before(async () => {
	run = await tinyRun();
});

/** A library call in a process of its own; throws what it ended with. */
async function elsewhere(code: string, env: NodeJS.ProcessEnv): Promise<void> {
	const script = `import * as lib from ${JSON.stringify(join(process.cwd(), 'dist/lib/index.js'))};
		try { ${code} } catch (error) { console.log(JSON.stringify({ code: error.code, message: error.message, ours: error instanceof lib.ALLMRecError })); }`;
	const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
		env: { ...process.env, ...env },
	});
	let out = '';
	child.stdout.on('data', (data) => {
		out += data;
	});
	await new Promise((done) => child.on('close', done));
	const { code: name, message, ours } = JSON.parse(out);
	if (ours) throw new ALLMRecError(name, message);
}

async function log(lines: string[]): Promise<string> {
	const folder = freshPath('log');
	await mkdir(folder, { recursive: true });
	const path = join(folder, 'log.csv');
	await writeFile(path, `${lines.join('\n')}\n`);
	return path;
}

function raise(error: unknown): never {
	throw error;
}

const prepared = async (lines: string[], kCore = 1) =>
	Dataset.prepare({ format: 'csv', interactions: [await log(lines)], kCore, out: freshPath('dataset') });

const withRun = async (use: (recommender: Awaited<ReturnType<typeof loadRun>>) => Promise<unknown>) => {
	await using recommender = await loadRun(run.folder, CPU);
	await use(recommender);
};

/** What a user does, for each code. */
const SITUATIONS: Record<ErrorCode, () => unknown> = {
	ERR_ALLMREC_INVALID_ARGUMENT: () => SASRec.train(run.dataset, { hiddenUnits: -1 }),
	ERR_ALLMREC_FILE_NOT_FOUND: () => Dataset.open('/nowhere/at/all'),
	ERR_ALLMREC_FILE_FORMAT: () => prepared(['user,item,time', 'a,x,yesterday']),
	ERR_ALLMREC_CHECKPOINT: async () => {
		const folder = await tinyLlm();
		writeFileSync(join(folder, 'config.json'), '{ "model_type": "llama" }');
		await CausalLM.load(folder, CPU);
	},
	ERR_ALLMREC_UNSUPPORTED: () =>
		trainTinyRun(freshPath('run'), run.dataset, { ...run.options, llmDtype: 'int8' }),
	ERR_ALLMREC_UNKNOWN_ITEM: () => run.dataset.itemIndex('no such item'),
	ERR_ALLMREC_UNKNOWN_USER: () => run.dataset.userIndex('no such user'),
	ERR_ALLMREC_EMPTY_HISTORY: () => withRun((recommender) => recommender.recommend([{ history: [] }])),
	ERR_ALLMREC_EMPTY_DATASET: () => prepared(['user,item,time', 'a,x,1', 'b,y,2'], 5),
	ERR_ALLMREC_PROMPT_TOO_LONG: async () => {
		const llm = await CausalLM.load(await tinyLlm(), CPU);
		try {
			await llm.scoreCandidates('A list:', ['word '.repeat(2000)]);
		} finally {
			llm.dispose();
		}
	},
	ERR_ALLMREC_TOO_FEW_ITEMS: () =>
		sampleCandidates(leaveLastOut(run.dataset), { seed: 1, negatives: run.dataset.numItems }),
	ERR_ALLMREC_DEVICE: () => Session.open({ device: 'cuda', cudaLibrary: '/nowhere/allmrec_cuda.so' }),
	ERR_ALLMREC_DEVICE_LOST: async () =>
		elsewhere(
			`const llm = await lib.CausalLM.load(${JSON.stringify(await tinyLlm())}, { device: 'cudaemu', threads: 1 }); await llm.generate('a');`,
			{ ALLMREC_CUDAEMU_LIBRARY: EMULATOR, ALLMREC_EMULATOR_FAIL_LAUNCH: '20' },
		),
	ERR_ALLMREC_OUT_OF_MEMORY: async () =>
		elsewhere(
			`await lib.CausalLM.load(${JSON.stringify(await tinyLlm())}, { device: 'cudaemu', threads: 1 });`,
			{ ALLMREC_CUDAEMU_LIBRARY: EMULATOR, ALLMREC_EMULATOR_MEMORY: '10000' },
		),
	ERR_ALLMREC_WRITE: async () => {
		// A file where the folder would be.
		const path = freshPath('out');
		await mkdir(join(path, '..'), { recursive: true });
		await writeFile(path, '');
		await trainTinyRun(join(path, 'run'), run.dataset, run.options);
	},
	ERR_ALLMREC_LOCKED: async () => {
		const folder = freshPath('run');
		const first = trainTinyRun(folder, run.dataset, run.options);
		try {
			await trainTinyRun(folder, run.dataset, run.options);
		} finally {
			await first;
		}
	},
	ERR_ALLMREC_NUMERIC: () =>
		SASRec.train(tinyDataset(), { hiddenUnits: 8, epochs: 200, learningRate: 1e6 }, CPU),
	ERR_ALLMREC_DISPOSED: () =>
		withRun((recommender) => {
			recommender.dispose();
			return recommender.recommend([{ history: [run.dataset.items[1]!.id] }]);
		}),
	ERR_ALLMREC_RUN: async () => {
		const folder = freshPath('half-run');
		await mkdir(folder, { recursive: true });
		await loadRun(folder, CPU);
	},
	ERR_ALLMREC_ADDON_NOT_FOUND: async () => {
		// In a copy of the compiled library alone.
		const folder = freshPath('package');
		await cp('dist/lib', join(folder, 'dist/lib'), { recursive: true });
		await cp('package.json', join(folder, 'package.json'));
		await symlink(join(process.cwd(), 'node_modules'), join(folder, 'node_modules'));
		const copy: typeof import('../../lib/index.js') = await import(join(folder, 'dist/lib/index.js'));
		try {
			copy.listDevices();
		} catch (error) {
			// The copy's class is its own.
			if (error instanceof copy.ALLMRecError) throw new ALLMRecError(error.code, error.message);
		}
	},
	ERR_ALLMREC_DOWNLOAD: () =>
		resolveCheckpoint('nobody/nothing', { cacheDir: freshPath('cache'), offline: true }),
	ERR_ALLMREC_CANCELLED: async () => {
		// Public calls reject with the signal's reason instead.
		const session = Session.open(CPU);
		const addon = loadAddon();
		const shape = {
			numItems: 9,
			maxLength: 5,
			hiddenUnits: 8,
			numBlocks: 1,
			numHeads: 1,
			dropoutRate: 0,
			variant: 'reference' as const,
		};
		const model = new addon.Backbone(session.engine, { kind: 'sasrec', ...shape });
		const flag = new addon.CancelFlag();
		flag.cancel();
		try {
			await model
				.userVectors(ragged([[1, 2, 3]]), undefined, flag)
				.catch((error) => guard(() => raise(error)));
		} finally {
			model.dispose();
			session.release();
		}
	},
	ERR_ALLMREC_INTERNAL: async () => {
		// Of the queries this library makes up itself.
		const database = await Database.open({ memoryLimit: '1GB' });
		try {
			await database.rows('SELEC 1');
		} finally {
			database.close();
		}
	},
};

for (const code of ERROR_CODES)
	test.serial(`${code} happens`, async (t) => {
		if (/DEVICE_LOST|OUT_OF_MEMORY/.test(code) && !existsSync(EMULATOR))
			return t.fail('build it with `npm run build:emulator`');
		const error = (await t.throwsAsync(async () => SITUATIONS[code]())) as ALLMRecError;
		t.is(error?.code, code, error?.message);
		t.regex(error?.message ?? '', /\w{3}.* .*\w/, 'a sentence');
	});

test('every code has its cause and its remedy in docs/errors.md, and nothing else is there', (t) => {
	const rows = readFileSync('docs/errors.md', 'utf8')
		.split('\n')
		.map((line) => /^\| `(ERR_ALLMREC_\w+)` \| (.+) \| (.+) \|$/.exec(line))
		.filter((match) => match !== null);
	t.deepEqual(rows.map(([, code]) => code).sort(), [...ERROR_CODES].sort());
	held('Errors', 'every code is documented with cause and remedy, and a test makes it happen', {
		codes: ERROR_CODES.length,
	});
});

/** Every public call that takes an object of options, with one of them misspelled; nothing else is done. */
const MISSPELLED: [name: string, near: string, call: (options: never) => unknown][] = [
	['kcore', 'kCore', (o) => Dataset.prepare(o)],
	['signl', 'signal', (o) => Dataset.open('/nowhere', o)],
	['numuser', 'numUsers', (o) => lib.generateWorld(o)],
	['negative', 'negatives', (o) => sampleCandidates(leaveLastOut(run.dataset), o)],
	['trainUser', 'trainUsers', (o) => leaveLastOut(run.dataset, o)],
	['testshare', 'testShare', (o) => lib.temporalSplit(run.dataset, o)],
	['hiddenUnit', 'hiddenUnits', (o) => SASRec.train(run.dataset, o)],
	['thread', 'threads', (o) => SASRec.train(run.dataset, {}, o)],
	['numheads', 'numHeads', (o) => SASRec.load('/nowhere', o)],
	['encoder_dtype', 'encoderDtype', (o) => loadRun('/nowhere', o)],
	['dataSetPath', 'datasetPath', (o) => lib.trainRun(run.dataset, o)],
	['dtyp', 'dtype', (o) => CausalLM.load('/nowhere', o)],
	['maxTokns', 'maxTokens', (o) => lib.SentenceEncoder.load('/nowhere', o)],
	['contxt', 'context', (o) => lib.languageModelMemory('/nowhere', o)],
	['forc', 'force', (o) => lib.quantizeCheckpoint('/nowhere', o)],
	['windw', 'window', (o) => lib.quantizationError('/nowhere', o)],
	['ofline', 'offline', (o) => resolveCheckpoint('/nowhere', o)],
	['resample', 'resamples', (o) => lib.evaluateModels(o)],
	['resample', 'resamples', (o) => lib.evaluateRanks(o)],
	[
		'fullusers',
		'fullUsers',
		(o) => withRun((r) => lib.evaluateRun(r, leaveLastOut(run.dataset), undefined as never, o)),
	],
	['maxuser', 'maxUsers', (o) => lib.fitFusion(o)],
	['topk', 'topK', (o) => withRun((r) => r.recommend([], o))],
	['itm', 'item', (o) => withRun((r) => r.explain({ history: [] }, o))],
	['constraind', 'constrained', (o) => withRun((r) => lib.evaluateGenres(r, leaveLastOut(run.dataset), o))],
	['coldshare', 'coldShare', (o) => withRun((r) => r.scoreAll([], o).next())],
	['restrat', 'restart', (o) => withRun((r) => lib.scoreFile(r, o))],
	['tokensperBatch', 'tokensPerBatch', (o) => withRun((r) => r.parts.llm.scoreCandidates('a', ['b'], o))],
	['doSampel', 'doSample', (o) => withRun((r) => r.parts.llm.generate('a', o))],
	['topp', 'topP', (o) => withRun((r) => r.parts.llm.stream('a', o).next())],
];

test.serial('a misspelled option is answered with the nearest one', async (t) => {
	for (const [name, near, call] of MISSPELLED) {
		const error = (await t.throwsAsync(
			async () => call({ [name]: 1 } as never),
			undefined,
			name,
		)) as ALLMRecError;
		t.is(error?.code, 'ERR_ALLMREC_INVALID_ARGUMENT', `${name}: ${error?.message}`);
		t.true(
			error?.message.includes(`\`${name}\``) && error.message.includes(`did you mean \`${near}\`?`),
			error?.message,
		);
	}
	for (const [args, near] of [
		[['trian'], 'train'],
		[['train', 'x', '--epoch'], undefined],
		[['score', 'x', '--user', 'y'], '--users'],
		[['prepare', '--kcore', '5'], '--k-core'],
	] as const) {
		const { code, err } = await command(args);
		t.is(code, 2, err);
		if (near) t.true(err.includes(`Did you mean ${near}?`), err);
	}
	held('Errors', 'an unknown option of any public call or verb is answered with the nearest known one', {
		'calls tried': MISSPELLED.length + 4,
	});
});
