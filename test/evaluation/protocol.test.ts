import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { formatEvaluation } from '../../lib/evaluation/format.js';
import { evaluateRun, MODEL_NAMES, type RunEvaluation } from '../../lib/evaluation/protocol.js';
import { loadRun, openRunDataset } from '../../lib/recommend/run.js';
import { freshPath, rejects } from '../data/folders.js';
import { preparedWorld, tinyRunOptions, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

const NAMES = Object.values(MODEL_NAMES);

const evaluated = (async () => {
	const { path, dataset } = await preparedWorld();
	const folder = freshPath('run');
	await trainTinyRun(folder, dataset, await tinyRunOptions(), { datasetPath: path });
	const opened = await openRunDataset(folder);
	const model = await loadRun(folder, CPU);
	return { path, folder, model, ...opened, result: await evaluateRun(model, opened.split, opened.test) };
})();
test.after.always(async () => (await evaluated).model.dispose());

const timeless = ({ seconds: _, ...rest }: RunEvaluation) => rest;

test('it is plain JSON, and tells all five models', async (t) => {
	const { result } = await evaluated;
	t.deepEqual(JSON.parse(JSON.stringify(result)), result);
	t.deepEqual(Object.keys(result.candidates.models), NAMES);
	t.deepEqual(Object.keys(result.catalogue!.models).sort(), [...NAMES].sort());
	t.deepEqual(
		Object.keys(result.seconds).sort(),
		[...NAMES.filter((name) => name !== 'Fused'), 'catalogue'].sort(),
	);
	t.like(result.candidates.protocol, { ranking: 'candidates', negatives: 9, ties: 'expected' });
	t.like(result.catalogue!.protocol, { ranking: 'catalogue', negatives: null });
	t.is(result.candidates.reference, 'CF');
	const { meanCosineE, meanCosineQ, itemReconstruction } = result.latents;
	for (const cosine of [meanCosineE, meanCosineQ]) t.true(cosine > -1 && cosine <= 1);
	t.true(itemReconstruction > 0);
	for (const part of [result.candidates, result.catalogue!])
		t.regex(formatEvaluation(part), /A-LLMRec \(e\)/);
});

test('all models are evaluated on the same users, in the same slices', async (t) => {
	const { result, split } = await evaluated;
	const users = split.users('test').length;
	const { models, slices, protocol } = result.candidates;
	t.is(protocol.users, users);
	t.deepEqual(Object.keys(slices), ['overall', 'warm', 'cold', 'neverSeen', 'coldUsers']);
	t.is(slices.overall!.users, users);
	t.is(slices.coldUsers!.users, split.coldUsers.length);
	t.is(slices.neverSeen!.users, split.test.filter((item) => item > 0 && split.itemCounts[item] === 0).length);
	t.true(slices.neverSeen!.users > 0 && slices.coldUsers!.users > 0 && slices.warm!.users > 0);
	for (const name of NAMES)
		for (const [slice, { users: count }] of Object.entries(slices)) {
			const own = models[name]!.slices[slice]!;
			t.is(own.users, count);
			if (count === 0) continue;
			const { value, low, high } = own.metrics['hit@1']!;
			t.true(low <= value && value <= high && low >= 0 && high <= 1, `${name} ${slice}`);
			t.is(own.metrics['hit@10']!.value, 1, 'of ten candidates');
		}
	t.deepEqual(
		result.candidates.tests.filter(({ slice }) => slice === 'overall').map(({ model }) => model),
		NAMES.slice(1),
	);
});

test('the candidates are those of split.json, drawn by the seed of the run, and they are what is scored', async (t) => {
	const { folder, split, test: drawn, model, result } = await evaluated;
	const file = JSON.parse(await readFile(join(folder, 'split.json'), 'utf8'));
	const saved = file.candidates.find(({ phase }: { phase: string }) => phase === 'test');
	t.deepEqual(saved.rows.flat(), [...drawn.candidates]);
	t.deepEqual(saved.users, [...split.users('test')]);
	t.deepEqual(
		[...sampleCandidates(split, { seed: 2, negatives: 9, phase: 'test' }).candidates],
		saved.rows.flat(),
	);

	// Hit@1 by hand, of the recommender and of the language model.
	const histories = saved.users.map((user: number) => split.history(user, 'test'));
	const vectors = await model.userVectors(histories);
	const flat = Int32Array.from(saved.rows.flat());
	const hits = (scores: Float32Array) => {
		let sum = 0;
		for (const [u, target] of saved.targets.entries()) {
			t.is(saved.rows[u][target], split.test[saved.users[u]]);
			const row = [...scores.subarray(10 * u, 10 * u + 10)];
			const best = Math.max(...row);
			if (row[target] === best) sum += 1 / row.filter((score) => score === best).length;
		}
		return sum / saved.users.length;
	};
	const value = (name: string) => result.candidates.models[name]!.slices.overall!.metrics['hit@1']!.value;
	const near = (a: number, b: number) => Math.abs(a - b) < 1e-9;
	const cf = await model.parts.cf.scoreCandidates(vectors, flat, 10);
	t.true(near(value('CF'), hits(cf)));
	const llm = await model.llmScores(vectors, histories, flat, 'aligned');
	t.true(near(value('A-LLMRec (e)'), hits(llm)));
	t.true(near(value('Fused'), hits(model.fusedScores(cf, llm, flat, 10))));
});

test('in the whole catalogue re-ranking stays within the best of the recommender', async (t) => {
	const { result } = await evaluated;
	const value = (name: string, metric: string) =>
		result.catalogue!.models[name]!.slices.overall!.metrics[metric]!.value;
	for (const name of NAMES) t.true(Math.abs(value(name, 'hit@20') - value('CF', 'hit@20')) < 1e-9, name);
	t.true(value('CF', 'hit@20') > 0 && value('CF', 'hit@20') < 1);
});

test('evaluated again it gives the same; fewer users and no catalogue by option', async (t) => {
	const { model, split, test: drawn, result } = await evaluated;
	t.deepEqual(timeless(await evaluateRun(model, split, drawn)), timeless(result));
	const some = await evaluateRun(model, split, drawn, { users: 12, fullUsers: 5, rerank: 3 });
	t.is(some.candidates.protocol.users, 12);
	t.is(some.catalogue!.protocol.users, 5);
	const without = await evaluateRun(model, split, drawn, { users: 3, fullUsers: 0 });
	t.is(without.catalogue, undefined);
	t.is(
		await evaluateRun(model, split, drawn, { users: 1e9, fullUsers: 0 }).then(
			({ candidates }) => candidates.protocol.users,
		),
		split.users('test').length,
	);
});

test('progress names what is evaluated, and an abort rejects with its reason', async (t) => {
	const { model, split, test: drawn } = await evaluated;
	const stages = new Set<string>();
	await evaluateRun(model, split, drawn, {
		users: 4,
		fullUsers: 2,
		onProgress: ({ stage }) => stages.add(stage),
	});
	t.deepEqual([...stages].sort(), [
		'evaluate A-LLMRec (e)',
		'evaluate A-LLMRec (q)',
		'evaluate LLM-Only',
		'evaluate catalogue',
	]);
	const reason = new Error('enough');
	await t.throwsAsync(evaluateRun(model, split, drawn, { signal: AbortSignal.abort(reason) }), {
		is: reason,
	});
});

test('options that cannot be are named', async (t) => {
	const { model, split, test: drawn } = await evaluated;
	for (const options of [{ users: 0 }, { users: 1.5 }, { rerank: 0 }, { fullUsers: -1 }])
		await rejects(
			t,
			() => evaluateRun(model, split, drawn, options),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			new RegExp(`\`${Object.keys(options)[0]}\``),
		);
	const none = sampleCandidates(split, { seed: 2, negatives: 9, users: [] });
	await rejects(t, () => evaluateRun(model, split, none), 'ERR_ALLMREC_EMPTY_DATASET');
});

test('the data set is found where it was, or where it is said to be; another one is an error', async (t) => {
	const { folder, path, split } = await evaluated;
	const { dataset } = await openRunDataset(folder, path);
	t.is(dataset.numInteractions, split.dataset.numInteractions);
	const other = await preparedWorld(tinyWorld({ seed: 5 }));
	await rejects(t, () => openRunDataset(folder, other.path), 'ERR_ALLMREC_RUN', /was trained on 60 users/);
	await rejects(t, () => openRunDataset(folder, '/no/such/data'), 'ERR_ALLMREC_FILE_NOT_FOUND');
});
