import test from 'ava';
import {
	type EvaluateModelsOptions,
	evaluateModels,
	evaluateRanks,
	testedMetrics,
} from '../../lib/evaluation/evaluation.js';
import { formatEvaluation } from '../../lib/evaluation/format.js';
import { Random } from '../../lib/evaluation/random.js';
import { sliceWhere } from '../../lib/evaluation/slices.js';

// Items 1 … 6 with 9, 8, 7, 2, 1, 0 training interactions: 1 and 2 warm, 5 and 6 cold, 6 never seen.
const trainingCounts = Int32Array.of(0, 9, 8, 7, 2, 1, 0);
const four: EvaluateModelsOptions = {
	users: Int32Array.of(11, 12, 13, 14),
	candidates: Int32Array.of(...[1, 3, 4], ...[3, 5, 2], ...[6, 1, 2], ...[2, 6, 4]),
	targets: Int32Array.of(0, 1, 0, 0), // items 1, 5, 6, 2
	models: {
		popularity: Float32Array.of(...[9, 7, 2], ...[7, 1, 8], ...[0, 9, 8], ...[8, 0, 2]),
		oracle: Float32Array.of(...[1, 0, 0], ...[0, 1, 0], ...[1, 0, 0], ...[1, 0, 0]),
		constant: new Float32Array(12),
	},
	trainingCounts,
	resamples: 200,
};

test('four users by hand', async (t) => {
	const result = await evaluateModels(four);
	const value = (model: string, slice: string, metric: string) =>
		result.models[model]!.slices[slice]!.metrics[metric]!.value;
	t.deepEqual(
		Object.entries(result.slices).map(([name, { users }]) => [name, users]),
		[
			['overall', 4],
			['warm', 2],
			['cold', 2],
			['neverSeen', 1],
		],
	);
	t.is(value('popularity', 'overall', 'hit@1'), 1 / 2); // ranks 1, 3, 3, 1
	t.is(value('popularity', 'warm', 'hit@1'), 1);
	t.is(value('popularity', 'cold', 'hit@1'), 0);
	t.is(value('popularity', 'overall', 'ndcg@10'), (1 + 0.5 + 0.5 + 1) / 4);
	t.true(Math.abs(value('popularity', 'overall', 'mrr') - (1 + 1 / 3 + 1 / 3 + 1) / 4) < 1e-12);
	t.is(value('oracle', 'cold', 'hit@1'), 1);
	t.true(Math.abs(value('constant', 'overall', 'hit@1') - 1 / 3) < 1e-12);
	t.deepEqual(
		result.models.popularity!.slices.overall!.metrics['recall@5'],
		result.models.popularity!.slices.overall!.metrics['hit@5'],
	);
	// Popularity recommends 1, 2, 1, 2; the oracle 1, 5, 6, 2.
	t.is(result.models.popularity!.recommendations!['coverage@1'], 2 / 6);
	t.is(result.models.popularity!.recommendations!['averagePopularity@1'], (9 + 8 + 9 + 8) / 4);
	t.is(result.models.oracle!.recommendations!['coverage@1'], 4 / 6);
	t.is(result.models.oracle!.recommendations!['averagePopularity@1'], (9 + 1 + 0 + 8) / 4);
	t.deepEqual(result.protocol, {
		ranking: 'candidates',
		negatives: 2,
		users: 4,
		seed: 0,
		resamples: 200,
		confidence: 0.95,
		cutoffs: [1, 5, 10, 20],
		ties: 'expected',
	});
	const oracle = result.tests.find(({ model, slice }) => model === 'oracle' && slice === 'overall')!;
	t.is(oracle.reference, 'popularity');
	t.is(oracle.differences['hit@1'].difference, 1 / 2);
	t.like(oracle.mcNemar, { onlyFirst: 2, onlySecond: 0, pValue: 0.5, adjusted: 1 });
	t.is(oracle.wilcoxon.pairs, 2);
});

test('the result is JSON and repeats', async (t) => {
	const result = await evaluateModels(four);
	t.deepEqual(JSON.parse(JSON.stringify(result)), result);
	t.deepEqual(await evaluateModels(four), result);
});

test('ranks of the catalogue give the same as the scores they come from', async (t) => {
	const { models, slices, tests } = await evaluateModels(four);
	const fromRanks = await evaluateRanks({
		models: {
			popularity: { greater: Int32Array.of(0, 2, 2, 0), ties: new Int32Array(4) },
			oracle: { greater: new Int32Array(4), ties: new Int32Array(4) },
			constant: { greater: new Int32Array(4), ties: new Int32Array(4).fill(2) },
		},
		slices: [sliceWhere('overall', 4, () => true, slices.overall!.description)],
		resamples: 200,
	});
	t.deepEqual(fromRanks.models.popularity!.slices.overall, models.popularity!.slices.overall);
	t.deepEqual(
		fromRanks.tests,
		tests.filter(({ slice }) => slice === 'overall'),
	);
	t.like(fromRanks.protocol, { ranking: 'catalogue', negatives: null });
	t.is(fromRanks.models.popularity!.recommendations, undefined);
});

/** `users` rows of 20 with the target at a random place, lifted by each model's own gain. */
function simulate(users: number, gains: Record<string, number>, seed = 1): EvaluateModelsOptions {
	const random = new Random(seed);
	const targets = Int32Array.from({ length: users }, () => Math.floor(20 * random.uniform()));
	const candidates = Int32Array.from({ length: users * 20 }, () => 1 + Math.floor(6 * random.uniform()));
	const models: Record<string, Float32Array> = {};
	for (const [name, gain] of Object.entries(gains))
		models[name] = Float32Array.from(
			candidates,
			(_, at) => random.normal() + (at % 20 === targets[Math.floor(at / 20)] ? gain : 0),
		);
	return {
		users: Int32Array.from({ length: users }, (_, at) => at),
		candidates,
		targets,
		models,
		trainingCounts,
	};
}

test('a better model is marked, an equal one is not', async (t) => {
	const result = await evaluateModels({
		...simulate(1500, { base: 1.5, equal: 1.5, better: 2, worse: 1 }),
		seed: 3,
	});
	t.is(result.reference, 'base');
	for (const { model, slice, differences, mcNemar, wilcoxon } of result.tests) {
		if (slice !== 'overall') continue;
		const pValues = [...testedMetrics.map((metric) => differences[metric]), mcNemar, wilcoxon];
		for (const { pValue, adjusted } of pValues) {
			t.true(adjusted >= pValue);
			t.is(adjusted < 0.05, model !== 'equal', `${model} ${adjusted}`);
		}
	}
	const text = formatEvaluation(result, { slices: ['overall'] });
	const line = (model: string) => text.split('\n').find((row) => row.startsWith(model))!;
	t.is(line('better').match(/▲/g)?.length, 3);
	t.is(line('worse').match(/▼/g)?.length, 3);
	t.notRegex(line('equal'), /[▲▼]/);
	t.notRegex(line('base (reference)'), /[▲▼]/);
	t.regex(line('base'), /0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]/);
});

test('pairs, no tests, another reference', async (t) => {
	const options = { ...simulate(60, { a: 1, b: 1, c: 2 }), resamples: 100 };
	const pairsOf = async (chosen: Partial<EvaluateModelsOptions>) =>
		(await evaluateModels({ ...options, ...chosen })).tests
			.filter(({ slice }) => slice === 'overall')
			.map(({ model, reference }) => `${model}-${reference}`);
	t.deepEqual(await pairsOf({}), ['b-a', 'c-a']);
	t.deepEqual(await pairsOf({ reference: 'c' }), ['a-c', 'b-c']);
	t.deepEqual(await pairsOf({ tests: 'none' }), []);
	t.deepEqual(await pairsOf({ tests: [['c', 'b']] }), ['c-b']);
});

test('a slice without users has no metrics and no tests', async (t) => {
	const result = await evaluateModels({
		...four,
		slices: [sliceWhere('overall', 4, () => true), sliceWhere('coldUsers', 4, () => false)],
	});
	t.deepEqual(result.models.oracle!.slices.coldUsers, { users: 0, metrics: {} });
	t.true(result.tests.every(({ slice }) => slice === 'overall'));
	t.notRegex(formatEvaluation(result), /coldUsers/);
	t.regex(formatEvaluation(result, { slices: ['coldUsers'] }), /oracle +– +– +–/);
});

test('no users at all', async (t) => {
	const none = new Int32Array(0);
	const options = { users: none, candidates: none, targets: none, models: { cf: new Float32Array(0) } };
	const result = await evaluateModels({ ...options, trainingCounts });
	t.is(result.protocol.users, 0);
	t.deepEqual(result.models.cf!.slices.overall!.metrics, {});
});

test('progress and abort', async (t) => {
	const seen: number[] = [];
	await evaluateModels({ ...four, onProgress: ({ done, total }) => seen.push(done / total!) });
	t.is(seen.at(-1), 1);
	const controller = new AbortController();
	const reason = new Error('enough');
	const aborted = evaluateModels({
		...four,
		signal: controller.signal,
		onProgress: () => controller.abort(reason),
	});
	t.is(await t.throwsAsync(aborted), reason);
});

test('wrong arguments', async (t) => {
	const cases: [Partial<EvaluateModelsOptions>, RegExp][] = [
		[{ targets: Int32Array.of(0) }, /`targets`/],
		[{ users: Int32Array.of(1), targets: Int32Array.of(3), candidates: Int32Array.of(1, 2) }, /scores \(2\)/],
		[{ models: {} }, /at least one model/],
		[{ models: { cf: new Float32Array(11) } }, /`models\.cf`/],
		[{ reference: 'llm' }, /`reference`/],
		[{ tests: [['oracle', 'llm']] }, /`tests`/],
		[{ slices: [sliceWhere('few', 3, () => true)] }, /`slices\.few\.mask`/],
		[{ slices: [sliceWhere('twice', 4, () => true), sliceWhere('twice', 4, () => true)] }, /different names/],
	];
	for (const [wrong, message] of cases)
		await t.throwsAsync(evaluateModels({ ...four, ...wrong }), {
			code: 'ERR_ALLMREC_INVALID_ARGUMENT',
			message,
		});
	await t.throwsAsync(evaluateModels({ ...four, models: { cf: new Float32Array(12).fill(Number.NaN) } }), {
		code: 'ERR_ALLMREC_NUMERIC',
	});
});
