import test from 'ava';
import { coldUserSlice, itemPopularity, itemSlices, sliceWhere } from '../../lib/evaluation/slices.js';

const members = (mask: Uint8Array) => [...mask.keys()].filter((at) => mask[at] === 1);

test('the top and the bottom 35 % of twenty items', (t) => {
	// Counts 0 … 19 for items 1 … 20: seven are cold, seven are warm.
	const counts = Int32Array.of(0, ...Array.from({ length: 20 }, (_, at) => at));
	const { warm, cold, warmMinimum, coldMaximum } = itemPopularity(counts);
	t.deepEqual(members(cold), [1, 2, 3, 4, 5, 6, 7]);
	t.deepEqual(members(warm), [14, 15, 16, 17, 18, 19, 20]);
	t.is(coldMaximum, 6);
	t.is(warmMinimum, 13);
});

test('items with equal counts stay together', (t) => {
	// Ten items, 3.5 wanted. Below: 2 or 6 items, 2 is nearer. Above: 1 or 4 items, 4 is nearer.
	const counts = Int32Array.of(0, 1, 1, 2, 2, 2, 2, 5, 5, 5, 9);
	const { warm, cold } = itemPopularity(counts);
	t.deepEqual(members(cold), [1, 2]);
	t.deepEqual(members(warm), [7, 8, 9, 10]);
});

test('no item is warm and cold, whatever the ties', (t) => {
	for (const counts of [[3, 3, 3, 3], [1, 1, 1, 2, 2], [0, 0, 0, 0, 7], [1, 5], [4], []]) {
		for (const share of [0.1, 0.35, 0.5]) {
			const { warm, cold } = itemPopularity(Int32Array.of(0, ...counts), share);
			t.true(
				warm.every((isWarm, item) => isWarm + cold[item]! <= 1),
				`${counts} at ${share}`,
			);
		}
	}
	t.deepEqual(members(itemPopularity(Int32Array.of(0, 3, 3, 3)).cold), []);
});

test('items without interactions are cold, however many', (t) => {
	const counts = Int32Array.of(0, 0, 0, 0, 0, 7);
	t.deepEqual(members(itemPopularity(counts).cold), [1, 2, 3, 4]);
	const slices = itemSlices(counts, Int32Array.of(1, 5, 4));
	t.deepEqual(
		slices.map(({ name, mask }) => [name, members(mask)]),
		[
			['overall', [0, 1, 2]],
			['warm', [1]],
			['cold', [0, 2]],
			['neverSeen', [0, 2]],
		],
	);
	t.regex(slices[2]!.description, /at most 0 training interactions/);
});

test('slices of users', (t) => {
	t.deepEqual(members(coldUserSlice(Int32Array.of(3, 4, 3, 2)).mask), [0, 2]);
	t.deepEqual(
		sliceWhere('even', 3, (user) => user % 2 === 0),
		{
			name: 'even',
			mask: Uint8Array.of(1, 0, 1),
			description: 'even',
		},
	);
});

test('wrong arguments', (t) => {
	const invalid = { code: 'ERR_ALLMREC_INVALID_ARGUMENT' };
	t.throws(() => itemPopularity(Int32Array.of(0, 1), 0.6), invalid);
	t.throws(() => itemPopularity(Int32Array.of(0, -1)), invalid);
	t.throws(() => itemSlices(Int32Array.of(0, 1), Int32Array.of(2)), invalid);
	t.throws(() => itemSlices(Int32Array.of(0, 1), Int32Array.of(0)), invalid);
});
