import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { ExperimentFile } from '../../lib/experiment/experiment-file.js';
import { readResults } from '../../lib/experiment/results.js';
import { type RunExperimentOptions, runExperiment } from '../../lib/experiment/runner.js';
import { writeReport } from '../../lib/report/report.js';
import { freshPath } from '../data/folders.js';
import { preparedWorld, tinyRunOptions } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const MODELS = ['Popularity', 'ItemKNN', 'GRU4Rec', 'SASRec', 'LLM-Only', 'MLP-LLM'];
const OURS = ['A-LLMRec', 'A-LLMRec (q)', 'A-LLMRec fused'];

async function tiny(changes: Partial<ExperimentFile> = {}): Promise<ExperimentFile> {
	const { seed: _, ...options } = await tinyRunOptions();
	return {
		name: 'tiny',
		data: [{ name: 'world', path: (await world).path }],
		models: [
			'popularity',
			'itemKnn',
			{ model: 'gru4rec', options: { hiddenUnits: 8, epochs: 4 } },
			'sasrec',
			'llmOnly',
			{ model: 'mlpLlm', options: { epochs: 1 } },
			'allmrec',
		],
		seeds: [0, 1],
		users: 20,
		options,
		...changes,
	} as ExperimentFile;
}

const world = preparedWorld();

function run(experiment: ExperimentFile, options: Partial<RunExperimentOptions> = {}) {
	return runExperiment(experiment, { out: freshPath('experiment'), jobs: 1, ...CPU, ...options });
}

/** What does not depend on the clock. */
async function numbers(out: string): Promise<unknown> {
	const results = await readResults(out);
	return results.map(({ timings: _, models, ...rest }) => ({
		...rest,
		models: Object.fromEntries(Object.entries(models).map(([name, { seconds: __, ...m }]) => [name, m])),
	}));
}

test('every cell has all of its models, on the same users, and the report shows them', async (t) => {
	const out = freshPath('experiment');
	const scenarios: ExperimentFile['scenarios'] = [
		'overall',
		{ scenario: 'fewShot', trainUsers: 30, models: ['SASRec', 'A-LLMRec'] },
		{ scenario: 'shuffle', models: ['SASRec', 'Popularity'] },
		{ scenario: 'temporal', models: ['SASRec', 'A-LLMRec'] },
		'genres',
		{ scenario: 'ablation', rows: ['A-LLMRec', 'without user vector', 'without joint embedding'] },
		{ scenario: 'sweep', name: 'alpha', values: { 'alignment.alpha': [0.5, 2] } },
	];
	const summary = await run(await tiny({ seeds: [3], scenarios }), { out, command: 'as typed' });
	t.deepEqual(summary.failures, []);
	const results = await readResults(out);
	const labels = Object.fromEntries(results.map((r) => [r.scenario.kind, Object.keys(r.models)]));
	t.deepEqual(labels, {
		overall: [...MODELS, ...OURS],
		fewShot: ['SASRec', ...OURS],
		shuffle: ['Popularity', 'Popularity, shuffled', 'SASRec', 'SASRec, shuffled'],
		temporal: ['SASRec', ...OURS],
		genres: ['A-LLMRec'],
		ablation: ['A-LLMRec', 'without user vector', 'without joint embedding'],
		sweep: ['alpha = 0.5', 'alpha = 2'],
	});
	const of = (kind: string) => results.find((r) => r.scenario.kind === kind)!;
	t.is(of('overall').users.length, 20);
	t.is(of('overall').command, 'as typed');
	t.deepEqual(Object.keys(of('overall')).sort(), [
		...[
			'calibration',
			'command',
			'curves',
			'dataset',
			'examples',
			'experiment',
			'format',
			'key',
			'latents',
			'maps',
		],
		...['models', 'negatives', 'scenario', 'seed', 'slices', 'targetCounts', 'timings', 'users', 'version'],
	]);
	// A rule that looks at no history does not notice that it is shuffled.
	const { Popularity, 'Popularity, shuffled': same } = of('shuffle').models;
	t.deepEqual(same!.ranks, Popularity!.ranks);
	const { SASRec, 'SASRec, shuffled': other } = of('shuffle').models;
	t.notDeepEqual(other!.ranks, SASRec!.ranks);
	// Its prompt has no vectors of items, so the ranking is another one.
	const { 'A-LLMRec': full, 'without joint embedding': without } = of('ablation').models;
	t.deepEqual(full!.ranks, of('overall').models['A-LLMRec']!.ranks);
	t.notDeepEqual(without!.ranks, full!.ranks);
	t.deepEqual(of('temporal').models['A-LLMRec fused']!.parts, ['SASRec', 'A-LLMRec']);
	const { genres } = of('genres');
	const asked = ['A-LLMRec', 'LLM-Only'];
	t.deepEqual(Object.keys(genres!), [...asked, ...asked.map((name) => `${name}, confined to genres`)]);
	for (const { value, users } of Object.values(genres!)) t.true(value >= 0 && value <= 1 && users <= 20);
	t.true(genres!['A-LLMRec, confined to genres']!.value > 0);
	const { sections } = await writeReport({ folders: [out], out: join(out, 'report.html'), resamples: 50 });
	t.true(sections.length > 5);
});

test('a recommender with vectors of users is compared by them, and fused by what it makes of histories', async (t) => {
	const out = freshPath('experiment');
	const bprmf = { hiddenUnits: 8, epochs: 4 };
	const models: ExperimentFile['models'] = [
		{ model: 'bprmf', options: bprmf },
		{ model: 'allmrec', label: 'ours', options: { backbone: 'bprmf', cf: bprmf } },
	];
	const { failures } = await run(await tiny({ seeds: [0], models }), { out });
	t.deepEqual(failures, []);
	const [result] = await readResults(out);
	t.deepEqual(Object.keys(result!.models), ['BPR-MF', 'ours', 'ours (q)', 'ours (CF)', 'ours fused']);
	t.deepEqual(result!.models['ours fused']!.parts, ['ours (CF)', 'ours']);
	t.notDeepEqual(result!.models['ours (CF)']!.ranks, result!.models['BPR-MF']!.ranks);
});

test('stopped anywhere, gone on with, done in two processes at once: the same numbers', async (t) => {
	const experiment = await tiny({ models: ['sasrec', 'itemKnn', 'allmrec'] });
	const whole = freshPath('experiment');
	const summary = await run(experiment, { out: whole });
	t.deepEqual([summary.found, summary.failures.length], [0, 0]);
	const again = await run(experiment, { out: whole });
	t.deepEqual([again.done, again.found], [0, summary.done]);

	const stopped = freshPath('experiment');
	for (const at of [1, 2, 3, 2]) {
		const abort = new AbortController();
		let calls = 0;
		const onProgress = () => {
			if (++calls === at) abort.abort(new Error('enough'));
		};
		const work = run(experiment, { out: stopped, signal: abort.signal, onProgress, checkpointSeconds: 0 });
		await t.throwsAsync(work, { message: 'enough' });
	}
	await run(experiment, { out: stopped });
	t.deepEqual(await numbers(stopped), await numbers(whole));

	const parallel = freshPath('experiment');
	await run(experiment, { out: parallel, jobs: 2 });
	t.deepEqual(await numbers(parallel), await numbers(whole));
});

test('what has changed, and no more, is computed anew', async (t) => {
	const out = freshPath('experiment');
	const experiment = await tiny({ seeds: [0], models: ['sasrec', 'allmrec'] });
	t.is((await run(experiment, { out })).done, 5); // three stages, two models
	const { projection, ...options } = experiment.options as Record<string, object>;
	const changed = {
		...experiment,
		options: { ...options, projection: { ...projection, learningRate: 1e-3 } },
	};
	t.is((await run(changed, { out })).done, 2); // stage 2 and its model
	t.is((await run({ ...changed, models: ['sasrec', 'allmrec', 'popularity'] }, { out })).done, 1);
	// The stages of models that are scored may go.
	const cache = join(out, 'cache');
	for (const name of await readdir(cache))
		if (!name.startsWith('score-')) await rm(join(cache, name), { recursive: true });
	t.is((await run(changed, { out })).done, 0);
});

test('a task that fails takes its cell with it, and no other', async (t) => {
	const experiment = await tiny({
		seeds: [0],
		models: ['popularity', { model: 'sasrec', options: { learningRate: 1e30, epochs: 40 } }, 'itemKnn'],
		scenarios: ['overall', { scenario: 'temporal', models: ['Popularity'] }],
	});
	const out = freshPath('experiment');
	const { results, failures } = await run(experiment, { out });
	t.deepEqual(results.length, 1);
	t.is(failures.length, 1);
	t.regex(failures[0]!.task, /stage 0 of sasrec on world/);
	t.is((failures[0]!.error as { code?: string }).code, 'ERR_ALLMREC_INVALID_ARGUMENT');
	t.regex(await readFile(results[0]!, 'utf8'), /"temporal"/);
});
