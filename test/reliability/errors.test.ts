// Every code is documented, and something a user can do makes it happen.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
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
import { guard, Session } from '../../lib/native/session.js';
import { freshPath } from '../data/folders.js';
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
	ERR_ALLMREC_FILE_FORMAT: () => prepared(['one,two', '1,2']),
	ERR_ALLMREC_CHECKPOINT: async () => {
		const folder = await tinyLlm();
		writeFileSync(join(folder, 'model.safetensors'), 'not weights');
		await CausalLM.load(folder, CPU);
	},
	ERR_ALLMREC_UNSUPPORTED: () =>
		trainTinyRun(freshPath('run'), run.dataset, { ...run.options, llmDtype: 'int8' }),
	ERR_ALLMREC_UNKNOWN_ITEM: () => run.dataset.itemIndex('no such item'),
	ERR_ALLMREC_UNKNOWN_USER: () => run.dataset.userIndex('no such user'),
	ERR_ALLMREC_EMPTY_HISTORY: () => withRun((recommender) => recommender.recommend([{ history: [] }])),
	ERR_ALLMREC_EMPTY_DATASET: () => prepared(['user,item,time', 'a,x,1', 'b,y,2'], 5),
	ERR_ALLMREC_PROMPT_TOO_LONG: () =>
		withRun((recommender) =>
			recommender.recommend(
				[{ history: [run.dataset.items[1]!.id], candidates: run.dataset.items.slice(2).map(({ id }) => id) }],
				{ topK: 3 },
			),
		),
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
		SASRec.train(tinyDataset(), { hiddenUnits: 8, epochs: 3, learningRate: 1e30 }, CPU),
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
		const session = Session.open(CPU);
		const addon = loadAddon();
		const model = new addon.Gru(session.engine, { inputSize: 1, hiddenSize: 1, numLayers: 1 });
		session.engine.stop();
		try {
			await guard(() => model.setParameter(model.parameters()[0]!.name, new Float32Array(3)));
		} finally {
			session.release();
		}
	},
	ERR_ALLMREC_INTERNAL: () => guard(() => loadAddon().openTensorFile(undefined as never)),
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
