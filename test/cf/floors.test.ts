import test from 'ava';
import { ItemKnn } from '../../lib/cf/floors/item-knn.js';
import { Popularity } from '../../lib/cf/floors/popularity.js';
import { Dataset } from '../../lib/data/dataset.js';
import { SeededRandom, sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut, type Split } from '../../lib/data/split.js';
import { metricValues, rankTargets } from '../../lib/evaluation/metrics.js';
import { atOnce } from '../../lib/event-loop.js';
import { rejects } from '../data/folders.js';

function datasetOf(rows: number[][], numItems: number): Dataset {
	const items = rows.flat();
	const ids = Array.from({ length: numItems + 1 }, (_, i) => (i > 0 ? `item ${i}` : ''));
	let end = 0;
	return new Dataset({
		name: 'small',
		items: ids.map((id) => ({ id, title: id, description: '', genres: [] })),
		userIds: rows.map((_, user) => `user ${user}`),
		sequences: {
			offsets: Int32Array.of(0, ...rows.map(({ length }) => (end += length))),
			items: Int32Array.from(items),
			times: Float64Array.from(items.keys()),
		},
	});
}

/** Three users; each's last two items are held out. */
function small(): Split {
	const rows = [
		[1, 2, 1, 4, 5],
		[1, 2, 3, 5, 4],
		[2, 3, 5, 1],
	];
	return leaveLastOut(datasetOf(rows, 5));
}

test('popularity counts training interactions alone', async (t) => {
	const scores = await Popularity.of(small()).score({
		users: [0, 1],
		histories: [[1], []],
		candidates: Int32Array.of(1, 2, 3, 4, 5, 1),
		width: 3,
	});
	t.deepEqual([...scores], [3, 3, 2, 0, 0, 3]);
});

test('similarities are cosines of the sets of users, shrunk, and scores their sums', async (t) => {
	const split = small(); // 1: users 0, 1; 2: users 0, 1, 2; 3: users 1, 2
	const knn = await ItemKnn.train(split, { shrinkage: 1 });
	const near = (value: number) => Math.fround(value);
	t.deepEqual(knn.neighbours(1), [
		{ item: 2, similarity: near(2 / (Math.sqrt(6) + 1)) },
		{ item: 3, similarity: near(1 / (2 + 1)) },
	]);
	t.deepEqual(knn.neighbours(4), []);
	const request = { users: [0], histories: [[2, 3, 3]], candidates: Int32Array.of(1, 2, 4), width: 3 };
	const scores = await knn.score(request);
	const both = near(near(2 / (Math.sqrt(6) + 1)) + near(1 / 3));
	t.deepEqual([...scores], [both, near(2 / (Math.sqrt(6) + 1)), 0]);
	const one = await ItemKnn.train(split, { shrinkage: 1, neighbours: 1 });
	t.deepEqual([...(await one.score(request))], [near(2 / (Math.sqrt(6) + 1)), 0, 0]);
});

function ndcg(scores: Float32Array, targets: Int32Array): number {
	const values = metricValues(atOnce(rankTargets(scores, targets)), 'ndcg@10');
	return values.reduce((a, b) => a + b, 0) / values.length;
}

function testRequest(split: Split) {
	const { users, candidates, targets } = sampleCandidates(split, { seed: 1, negatives: 19 });
	const histories = Array.from(users, (user) => split.history(user, 'test'));
	return { request: { users, histories, candidates, width: 20 }, targets };
}

test('popularity beats chance where some items are chosen more often', async (t) => {
	const random = new SeededRandom(3);
	const rows = Array.from({ length: 200 }, () =>
		Array.from({ length: 8 }, () => 1 + Math.floor(40 * random.uniform() ** 2)),
	);
	const split = leaveLastOut(datasetOf(rows, 40));
	const { request, targets } = testRequest(split);
	const chance = ndcg(new Float32Array(request.candidates.length), targets);
	t.true(ndcg(await Popularity.of(split).score(request), targets) > 1.25 * chance);
});

test('neighbours tell two tastes apart, which popularity cannot', async (t) => {
	const random = new SeededRandom(4);
	const rows = Array.from({ length: 200 }, (_, user) =>
		Array.from({ length: 8 }, () => 1 + 20 * (user % 2) + random.int(20)),
	);
	const split = leaveLastOut(datasetOf(rows, 40));
	const { request, targets } = testRequest(split);
	const popularity = ndcg(await Popularity.of(split).score(request), targets);
	const knn = ndcg(await (await ItemKnn.train(split)).score(request), targets);
	t.true(knn > 1.25 * popularity, `${knn} against ${popularity}`);
});

test('what is no item or no option is said', async (t) => {
	const split = small();
	const request = { users: [0], histories: [[1]], candidates: Int32Array.of(6), width: 1 };
	await rejects(t, () => Popularity.of(split).score(request), 'ERR_ALLMREC_UNKNOWN_ITEM', /1 to 5/);
	await rejects(
		t,
		() => ItemKnn.train(split, { neighbors: 3 } as never),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/neighbours/,
	);
});
