import test from 'ava';
import * as metrics from '../../lib/evaluation/metrics.js';
import { atOnce } from '../../lib/event-loop.js';

const { metricNames, metricValues } = metrics;
const rankTargets = (...of: Parameters<typeof metrics.rankTargets>) => atOnce(metrics.rankTargets(...of));
const topItems = (...of: Parameters<typeof metrics.topItems>) => atOnce(metrics.topItems(...of));
const coverage = (...of: Parameters<typeof metrics.coverage>) => atOnce(metrics.coverage(...of));
const averagePopularity = (...of: Parameters<typeof metrics.averagePopularity>) =>
	atOnce(metrics.averagePopularity(...of));

// Four users, five candidates: ranks 1, 2, 4 and, with two others beside it, 2 … 4.
const scores = Float32Array.of(
	...[0.9, 0.1, 0.2, 0.3, 0.4],
	...[0.5, 0.1, 0.8, 0.2, 0.3],
	...[0.5, 0.9, 0.3, 0.7, 0.1],
	...[0.4, 0.4, 0.9, 0.4, 0.1],
);
const targets = Int32Array.of(0, 0, 2, 1);
const log3 = 1 / Math.log2(3);
const log5 = 1 / Math.log2(5);

test('ranks of four rows', (t) => {
	const { greater, ties } = rankTargets(scores, targets);
	t.deepEqual([...greater], [0, 1, 3, 1]);
	t.deepEqual([...ties], [0, 0, 0, 2]);
});

const byHand: [metrics.MetricName, number[]][] = [
	['hit@1', [1, 0, 0, 0]],
	['hit@2', [1, 1, 0, 1 / 3]],
	['hit@3', [1, 1, 0, 2 / 3]],
	['hit@5', [1, 1, 1, 1]],
	['recall@3', [1, 1, 0, 2 / 3]],
	['ndcg@1', [1, 0, 0, 0]],
	['ndcg@3', [1, log3, 0, (log3 + 0.5) / 3]],
	['ndcg@10', [1, log3, log5, (log3 + 0.5 + log5) / 3]],
	['mrr', [1, 1 / 2, 1 / 4, (1 / 2 + 1 / 3 + 1 / 4) / 3]],
];
for (const [metric, expected] of byHand) {
	test(`${metric} of four rows`, (t) => {
		const values = metricValues(rankTargets(scores, targets), metric);
		for (const [user, value] of values.entries())
			t.true(Math.abs(value - expected[user]!) < 1e-12, `user ${user}`);
	});
}

test('a constant scorer gets chance wherever the target stands', (t) => {
	const ranks = rankTargets(
		new Float32Array(20 * 20).fill(3),
		Int32Array.from({ length: 20 }, (_, at) => at),
	);
	for (const k of [1, 5, 10, 20])
		for (const value of metricValues(ranks, `hit@${k}`)) t.true(Math.abs(value - k / 20) < 1e-12);
});

test('expected values under ties equal the mean over every order', (t) => {
	// Above 3, beside 4: ranks 4 … 8, each with probability 1/5.
	const ranks = { greater: Int32Array.of(3), ties: Int32Array.of(4) };
	const mean = (worth: (rank: number) => number) =>
		[4, 5, 6, 7, 8].reduce((sum, rank) => sum + worth(rank) / 5, 0);
	const close = (metric: metrics.MetricName, expected: number) =>
		t.true(Math.abs(metricValues(ranks, metric)[0]! - expected) < 1e-12, metric);
	close('hit@5', 2 / 5);
	close(
		'ndcg@5',
		mean((rank) => (rank <= 5 ? 1 / Math.log2(rank + 1) : 0)),
	);
	close(
		'mrr',
		mean((rank) => 1 / rank),
	);
});

test('ranks of a catalogue of 60,000 come as counts', (t) => {
	const ranks = { greater: Int32Array.of(59_999, 0), ties: Int32Array.of(0, 59_999) };
	const [worst, constant] = metricValues(ranks, 'mrr');
	t.is(Math.round(1 / worst!), 60_000);
	t.true(Math.abs(constant! - (Math.log(60_000) + 0.5772156649) / 60_000) < 1e-9);
	t.true(Math.abs(metricValues(ranks, 'hit@20')[1]! - 20 / 60_000) < 1e-12);
});

test('infinite scores are ranked, NaN is an error that names its place', (t) => {
	const row = Float32Array.of(Number.NEGATIVE_INFINITY, 0, Number.POSITIVE_INFINITY);
	t.is(rankTargets(row, Int32Array.of(1)).greater[0], 1);
	for (const target of [0, 1]) {
		const error = t.throws(() => rankTargets(Float32Array.of(1, Number.NaN, 0), Int32Array.of(target)));
		t.like(error, { code: 'ERR_ALLMREC_NUMERIC' });
		t.regex(error.message, /user row 0, candidate 1/);
	}
});

test('no users, wrong shapes, wrong names', (t) => {
	t.is(rankTargets(new Float32Array(0), new Int32Array(0)).greater.length, 0);
	const invalid = { code: 'ERR_ALLMREC_INVALID_ARGUMENT' };
	t.throws(() => rankTargets(new Float32Array(5), new Int32Array(2)), invalid);
	t.throws(() => rankTargets(new Float32Array(4), Int32Array.of(0, 2)), invalid);
	const ranks = { greater: Int32Array.of(0), ties: Int32Array.of(0) };
	for (const name of ['hit@0', 'hit@', 'mrr@5', 'auc', 'ndcg@1.5'])
		t.throws(() => metricValues(ranks, name as metrics.MetricName), invalid, name);
	t.throws(() => metricValues({ greater: Int32Array.of(-1), ties: Int32Array.of(0) }, 'mrr'), invalid);
	t.throws(() => metricValues({ greater: Int32Array.of(1, 2), ties: Int32Array.of(0) }, 'mrr'), invalid);
	t.is(metricNames().length, 13);
});

test('top lists follow the scores and break ties without regard to position', (t) => {
	t.deepEqual(
		[...topItems(Float32Array.of(1, 3, 2, 9, 7, 8), Int32Array.of(4, 5, 6, 1, 2, 3), 3, 2)],
		[5, 6, 1, 3],
	);
	const users = 3000;
	const candidates = Int32Array.from({ length: users * 3 }, (_, at) => (at % 3) + 1);
	const lists = topItems(new Float32Array(users * 3), candidates, 3, 1, 7);
	for (const item of [1, 2, 3]) {
		const share = lists.filter((first) => first === item).length / users;
		t.true(Math.abs(share - 1 / 3) < 0.04, `item ${item}: ${share}`);
	}
	t.deepEqual(lists, topItems(new Float32Array(users * 3), candidates, 3, 1, 7));
});

test('coverage and average popularity of three lists', (t) => {
	const lists = Int32Array.of(...[1, 2, 3], ...[1, 4, 0], ...[0, 0, 0]);
	t.is(coverage(lists, 3, 1, 5), 1 / 5);
	t.is(coverage(lists, 3, 2, 5), 3 / 5);
	t.is(coverage(lists, 3, 10, 5), 4 / 5);
	const counts = Int32Array.of(0, 10, 6, 2, 0, 1);
	t.is(averagePopularity(lists, 3, 1, counts), 10);
	t.is(averagePopularity(lists, 3, 3, counts), (6 + 5) / 2);
	t.is(averagePopularity(new Int32Array(3), 3, 1, counts), 0);
	t.throws(() => coverage(Int32Array.of(6), 1, 1, 5), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});
