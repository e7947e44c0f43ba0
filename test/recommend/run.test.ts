import { cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import test from 'ava';
import type { Progress } from '../../lib/progress.js';
import { loadRun, type StageName } from '../../lib/recommend/run.js';
import {
	EMBEDDED_PRESET,
	parseRunOptions,
	type RunOptions,
	readRunFile,
} from '../../lib/recommend/run-config.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { hashes, tinyRun, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';

const trained = tinyRun();

/** Lists of a run for a few users. */
async function listsOf(folder: string) {
	const { dataset } = await trained;
	const model = await loadRun(folder, CPU);
	try {
		return await model.recommend(
			[0, 7, 30].map((user) => ({
				history: [...dataset.sequence(user)].slice(0, -1).map((item) => dataset.items[item]!.id),
			})),
			{ topK: 5 },
		);
	} finally {
		model.dispose();
	}
}

test.serial('a run is a folder of the stages, the model, the split and the configuration', async (t) => {
	const { folder, dataset, options } = await trained;
	const files = Object.keys(await hashes(folder));
	for (const file of [
		'config.json',
		'split.json',
		'cf/state.json',
		'cf/log.jsonl',
		'align/state.json',
		'project/state.json',
		'model/cf.safetensors',
		'model/alignment.safetensors',
		'model/latents.safetensors',
		'model/projector.safetensors',
		'model/catalogue.json',
		'model/fusion.json',
		'model/encoder/config.json',
		'model/encoder/model.safetensors',
		'model/encoder/vocab.txt',
	])
		t.true(files.includes(file), file);
	t.false(
		files.some((file) => /part|checkpoint-/.test(file)),
		'nothing is left over',
	);
	const file = await readRunFile(folder);
	t.like(file.dataset, {
		name: dataset.name,
		numUsers: 60,
		numItems: 50,
		numInteractions: dataset.numInteractions,
	});
	t.like(file.options, { seed: 2, llm: options.llm, negatives: 9 });
	t.is(file.options.projection.seed, 2);
});

test.serial('training again trains nothing and leaves every file as it was', async (t) => {
	const { folder, dataset, options } = await trained;
	const before = await hashes(folder);
	const reports: Progress[] = [];
	await trainTinyRun(folder, dataset, options, { onProgress: (progress) => reports.push(progress) });
	t.deepEqual(await hashes(folder), before);
	t.deepEqual(
		reports.filter(({ stage }) => ['cf', 'align', 'project', 'fusion'].includes(stage)),
		[],
	);
});

test.serial('stages one by one, in other processes as it were, give the run of all at once', async (t) => {
	const { folder, dataset, options } = await trained;
	const out = freshPath('run');
	const train = (stages: StageName[]) => trainTinyRun(out, dataset, options, { stages });
	await rejects(t, () => train(['align']), 'ERR_ALLMREC_RUN', /Stage `cf`.*--stages cf/);
	await train(['cf']);
	await rejects(t, () => loadRun(out, CPU), 'ERR_ALLMREC_RUN', /Stage `align`/);
	await rejects(t, () => train(['project']), 'ERR_ALLMREC_RUN', /Stage `align`/);
	await train(['align']);
	await rejects(t, () => loadRun(out, CPU), 'ERR_ALLMREC_RUN', /Stage `project`/);
	await train(['project']);
	t.deepEqual(await hashes(join(out, 'model')), await hashes(join(folder, 'model')));
});

test.serial(
	'a training interrupted in any stage and called again gives the run of one never stopped',
	async (t) => {
		const { folder, dataset, options } = await trained;
		const expected = await hashes(join(folder, 'model'));
		const out = freshPath('run');
		const train = (calls: object) => trainTinyRun(out, dataset, options, calls);
		for (const name of ['cf', 'align', 'project']) {
			const error = await interrupted(
				train,
				({ stage, done, total }) => stage === name && done > 0.5 * total!,
			);
			t.is(error, INTERRUPTED, name);
			const { step, done } = JSON.parse(await readFile(join(out, name, 'state.json'), 'utf8'));
			t.true(step > 0 && !done, name);
		}
		t.is(await interrupted(train, ({ stage }) => stage === 'fusion'), INTERRUPTED);
		await train({});
		t.deepEqual(await hashes(join(out, 'model')), expected);
	},
);

test.serial('a folder of other options or data is not trained over', async (t) => {
	const { folder, dataset, options } = await trained;
	const before = await hashes(folder);
	const again =
		(changes: RunOptions, data = dataset) =>
		() =>
			trainTinyRun(folder, data, { ...options, ...changes });
	await rejects(t, again({ historyLength: 5 }), 'ERR_ALLMREC_RUN', /other options/);
	await rejects(t, again({ cf: { ...options.cf, epochs: 11 } }), 'ERR_ALLMREC_RUN', /other options/);
	await rejects(t, again({}, tinyDataset({ seed: 9 })), 'ERR_ALLMREC_RUN', /other data/);
	t.deepEqual(await hashes(folder), before);
});

test.serial('a run loads wherever it is copied to, without data set and encoder', async (t) => {
	const { folder, options } = await trained;
	const expected = await listsOf(folder);
	const copy = freshPath('copied');
	await cp(folder, copy, { recursive: true });
	for (const stage of ['cf', 'align', 'project']) await rm(join(copy, stage), { recursive: true });
	const away = `${options.textEncoder}-away`;
	await rename(options.textEncoder!, away);
	try {
		t.deepEqual(await listsOf(copy), expected);
	} finally {
		await rename(away, options.textEncoder!);
	}
});

test.serial('checkpoints named by relative paths are found from other folders too', async (t) => {
	const { dataset, options } = await trained;
	const out = freshPath('run');
	const here = (path: string) => relative(process.cwd(), path);
	const sources = { llm: here(options.llm!), textEncoder: here(options.textEncoder!) };
	await trainTinyRun(out, dataset, { ...options, ...sources }, { stages: ['cf'] });
	await trainTinyRun(out, dataset, options, { stages: ['cf'] }); // the same run
	t.like((await readRunFile(out)).options, { llm: options.llm, textEncoder: options.textEncoder });
});

test.serial('the language model can be given from elsewhere, but not another one', async (t) => {
	const { folder, options } = await trained;
	const moved = freshPath('moved');
	await cp(options.llm!, moved, { recursive: true });
	const model = await loadRun(folder, { llm: moved, ...CPU });
	t.is(model.parts.llm.source, moved);
	model.dispose();
	const wider = await tinyLlm({ hiddenSize: 48, embedSize: 48 });
	await rejects(
		t,
		() => loadRun(folder, { llm: wider, ...CPU }),
		'ERR_ALLMREC_RUN',
		/width 32, this one has 48/,
	);
});

test.serial('folders that are no run, and damaged ones', async (t) => {
	const { folder, dataset, options } = await trained;
	await rejects(t, () => loadRun('/no/such/run', CPU), 'ERR_ALLMREC_RUN', /is no run/);
	const damaged = async (file: string, contents: string | null) => {
		const copy = freshPath('damaged');
		await cp(folder, copy, { recursive: true });
		if (contents === null) await rm(join(copy, file));
		else await writeFile(join(copy, file), contents);
		await rm(join(copy, 'files.json')); // as runs of earlier versions, which have no checksums
		return copy;
	};
	const load = (file: string, contents: string | null) => async () =>
		loadRun(await damaged(file, contents), CPU);
	for (const contents of ['{', 'null', '{"format": "other"}'])
		await rejects(t, load('config.json', contents), 'ERR_ALLMREC_RUN', /config\.json/);
	await rejects(t, load('model/catalogue.json', '{'), 'ERR_ALLMREC_RUN', /catalogue\.json/);
	await rejects(t, load('model/catalogue.json', 'null'), 'ERR_ALLMREC_RUN', /catalogue\.json/);
	await rejects(t, load('model/fusion.json', '{'), 'ERR_ALLMREC_RUN', /fusion\.json/);
	await rejects(t, load('model/fusion.json', 'null'), 'ERR_ALLMREC_RUN', /fusion\.json/);
	await rejects(t, load('model/cf.safetensors', 'x'), 'ERR_ALLMREC_CHECKPOINT', /cf\.safetensors/);
	await rejects(t, load('model/projector.safetensors', null), 'ERR_ALLMREC_RUN', /Stage `project`/);
	await rejects(t, load('model/latents.safetensors', null), 'ERR_ALLMREC_FILE_NOT_FOUND', /latents/);
	const without = await damaged('split.json', '{}');
	await rejects(t, () => trainTinyRun(without, dataset, options), 'ERR_ALLMREC_FILE_FORMAT', /split\.json/);
});

test.serial('a run without fusion is ordered by the language model alone', async (t) => {
	const { folder } = await trained;
	const copy = freshPath('copied');
	await cp(folder, copy, { recursive: true });
	await rm(join(copy, 'model/fusion.json'));
	await rm(join(copy, 'files.json'));
	for (const list of await listsOf(copy)) for (const { fused, llm } of list) t.is(fused, llm);
});

test.serial('runs of the ablations and of few users train, load and recommend', async (t) => {
	const { dataset, options } = await trained;
	const steps = async (folder: string) =>
		JSON.parse(await readFile(join(folder, 'cf/state.json'), 'utf8')).step;
	for (const changes of [
		{ joint: 'text', alignment: { ...options.alignment, freezeEncoder: true, items: 'all' } },
		{ joint: 'random', withoutUser: true, projection: { ...options.projection, projector: 'linear' } },
		{
			excludeColdUsers: true,
			trainUsers: 20,
			projection: { ...options.projection, initialisation: 'shared' },
		},
		{ alignment: { ...options.alignment, referenceCompat: true }, coldThreshold: 3 },
	] as RunOptions[]) {
		const { folder } = await tinyRun(dataset, changes);
		for (const list of await listsOf(folder)) t.is(list.length, 5);
		if (changes.trainUsers) t.true((await steps(folder)) < (await steps((await trained).folder)));
	}
});

test.serial('an abort rejects with the reason of the signal', async (t) => {
	const { dataset, options, folder } = await trained;
	const reason = new Error('enough');
	const signal = AbortSignal.abort(reason);
	await t.throwsAsync(trainTinyRun(freshPath('run'), dataset, options, { signal }), { is: reason });
	await t.throwsAsync(loadRun(folder, { signal, ...CPU }), { is: reason });
});

test.serial('options that cannot be are named, misspelt ones of a stage too', async (t) => {
	const { dataset } = await trained;
	const out = freshPath('run');
	const train = (options: object) => () => trainTinyRun(out, dataset, options);
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(
		t,
		train({ histroyLength: 3 }),
		code,
		/unknown option `histroyLength`, did you mean `historyLength`\?/,
	);
	await rejects(t, train({ cf: { hiddenUnit: 3 } }), code, /`cf\.hiddenUnit`, did you mean `hiddenUnits`\?/);
	await rejects(t, train({ projection: { candidates: 1 } }), code, /`projection\.candidates`/);
	await rejects(t, train({ words: 'book' }), code, /`words`/);
	await rejects(t, train({ cf: 3 }), code, /`cf`/);
	await rejects(t, train({ seed: -1 }), code, /`seed`/);
	await rejects(t, () => readRunFile(out), 'ERR_ALLMREC_RUN'); // nothing was begun
});

test.serial('a checkpoint that is not there', async (t) => {
	const { dataset, options } = await trained;
	const out = freshPath('run');
	const missing = await fixture('config.json', '{}');
	await rejects(
		t,
		() =>
			trainTinyRun(out, dataset, { ...options, textEncoder: 'embedded:none' }, { stages: ['cf', 'align'] }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/no embedded checkpoint `embedded:none`/,
	);
	await mkdir(`${missing}.d`);
	await rejects(
		t,
		() => trainTinyRun(freshPath('run'), dataset, { ...options, llm: `${missing}.d` }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/holds no config\.json/,
	);
});

test('stages take the seed of the run unless they have their own', (t) => {
	const { cf, alignment, projection } = parseRunOptions({ seed: 4, alignment: { seed: 9 } });
	t.deepEqual([cf.seed, alignment.seed, projection.seed], [4, 9, 4]);
});

test("embedded checkpoints bring defaults of their own, others the paper's, and one's own come first", (t) => {
	const embedded = parseRunOptions({ projection: { epochs: 3 } });
	t.like(embedded.alignment, EMBEDDED_PRESET.alignment);
	t.like(embedded.projection, { ...EMBEDDED_PRESET.projection, epochs: 3 });
	const own = parseRunOptions({ llm: '/opt', textEncoder: '/encoder' });
	t.like(own.projection, {
		initialisation: 'xavier',
		items: 'last',
		batchSize: 4,
		learningRate: 1e-4,
		epochs: 5,
	});
	t.like(own.alignment, { items: 'last', activation: 'sigmoid', learningRate: 1e-4, alpha: 0.5 });
});
