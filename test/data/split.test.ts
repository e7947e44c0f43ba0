import test from 'ava';
import { Dataset } from '../../lib/data/dataset.js';
import { SeededRandom } from '../../lib/data/random.js';
import { leaveLastOut, temporalSplit } from '../../lib/data/split.js';
import { datasetOf } from './datasets.js';

const histories = [[1, 2, 3, 4, 5], [2, 3], [4], [1, 3, 6], [5, 1, 2, 7]];

test('leave last out', (t) => {
	const split = leaveLastOut(datasetOf(histories, 8));
	t.deepEqual([...split.test], [5, 0, 0, 6, 7]);
	t.deepEqual([...split.validation], [4, 0, 0, 3, 2]);
	t.deepEqual(
		histories.map((_, u) => [...split.trainSequence(u)]),
		[[1, 2, 3], [2, 3], [4], [1], [5, 1]],
	);
	t.deepEqual([...split.itemCounts], [0, 3, 2, 2, 1, 1, 0, 0, 0]);
	t.deepEqual([...split.coldUsers], [3]);
	t.deepEqual([...split.users('test')], [0, 3, 4]);
	t.deepEqual([...split.history(0, 'test')], [1, 2, 3, 4]);
	t.deepEqual([...split.history(0, 'validation')], [1, 2, 3]);
	t.deepEqual([...split.history(1, 'test')], [2, 3]);
});

test('cold users kept out of training still have targets and a history', (t) => {
	const split = leaveLastOut(datasetOf(histories, 8), { excludeColdUsers: true });
	t.is(split.trainSequence(3).length, 0);
	t.deepEqual([...split.trainSequence(4)], [5, 1]);
	t.is(split.test[3], 6);
	t.deepEqual([...split.history(3, 'test')], [1, 3]);
	t.is(split.itemCounts[1], 2);
	t.deepEqual([...split.coldUsers], [3]);
});

test('item slices: top, bottom and never seen', (t) => {
	const counts = [9, 8, 7, 6, 5, 4, 3, 2, 1];
	const rows = counts.flatMap((n, i) => Array.from({ length: n }, () => [i + 1]));
	const split = leaveLastOut(datasetOf([...rows, [1, 2, 10]], 10));
	const { warm, cold, unseen } = split.itemSlices();
	const members = (mask: Uint8Array) => Array.from(mask.keys()).filter((item) => mask[item] === 1);
	t.deepEqual(members(warm), [1, 2, 3]);
	t.deepEqual(members(cold), [8, 9, 10]);
	t.deepEqual(members(unseen), [10]);
});

test('few-shot training keeps some users, by the seed', (t) => {
	const many = Array.from({ length: 50 }, (_, u) => [1 + (u % 5), 6, 7, 8]);
	const dataset = datasetOf(many, 8);
	const trained = (seed: number) => {
		const split = leaveLastOut(dataset, { trainUsers: 10, seed });
		t.is(split.users('test').length, 50);
		return many.flatMap((_, u) => (split.trainSequence(u).length > 0 ? [u] : []));
	};
	t.is(trained(1).length, 10);
	t.deepEqual(trained(1), trained(1));
	t.notDeepEqual(trained(1), trained(2));
	const misspelled = { trainusers: 5 } as object;
	t.throws(() => leaveLastOut(dataset, misspelled), { message: /did you mean `trainUsers`/ });
	t.throws(() => leaveLastOut(dataset, { trainUsers: 0 }), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('temporal split: nothing after the cut is trained on', (t) => {
	const random = new SeededRandom(4);
	const times = Array.from({ length: 40 }, () =>
		Array.from({ length: 1 + random.int(12) }, () => random.int(1000)).sort((a, b) => a - b),
	);
	const dataset = datasetOf(
		times.map((row) => row.map(() => 1 + random.int(20))),
		20,
		times,
	);
	const split = temporalSplit(dataset, { testShare: 0.2, validationShare: 0.1 });
	const sorted = times.flat().sort((a, b) => a - b);
	const validationStart = sorted[Math.floor(sorted.length * (1 - 0.1 - 0.2))]!;
	const testStart = sorted[Math.floor(sorted.length * 0.8)]!;
	for (const [u, row] of times.entries()) {
		const before = row.filter((time) => time < validationStart).length;
		t.is(split.trainSequence(u).length, before);
		const testAt = row.findIndex((time) => time >= testStart);
		t.is(split.test[u], testAt > 0 ? dataset.sequence(u)[testAt]! : 0);
		if (testAt > 0) t.is(split.history(u, 'test').length, testAt);
		const validationAt = row.findIndex((time) => time >= validationStart && time < testStart);
		t.is(split.validation[u], validationAt > 0 ? dataset.sequence(u)[validationAt]! : 0);
	}
	t.throws(() => temporalSplit(dataset, { testShare: 1 }), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.throws(() => temporalSplit(dataset, { testShare: 0.5, validationShare: 0.5 }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
});

test('a split is JSON of its options and counts', (t) => {
	const split = leaveLastOut(datasetOf(histories, 8), { excludeColdUsers: true, seed: 3 });
	t.deepEqual(JSON.parse(JSON.stringify(split)), {
		kind: 'leaveLastOut',
		options: { excludeColdUsers: true, seed: 3 },
		dataset: { name: 'made', numUsers: 5, numItems: 8, numInteractions: 15 },
		counts: { train: 8, validation: 2, test: 3, coldUsers: 1, unseenItems: 3 },
	});
});

test('a data set in memory has to be consistent', (t) => {
	t.throws(
		() =>
			new Dataset({
				name: 'x',
				items: [],
				userIds: ['a'],
				sequences: { offsets: Int32Array.of(0, 2), items: Int32Array.of(1), times: Float64Array.of(0) },
			}),
		{ code: 'ERR_ALLMREC_INVALID_ARGUMENT', message: /offsets/ },
	);
});
