import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { planMicroBatches } from '../../lib/llm/micro-batches.js';

test('every sequence is in one batch, batches keep to the budget and are of like lengths', (t) => {
	const random = new SeededRandom(3);
	const lengths = Array.from({ length: 500 }, () => 1 + random.int(900));
	const batches = planMicroBatches(lengths, 2000);
	const order = batches.flatMap((batch) => [...batch]);
	t.deepEqual(
		[...order].sort((a, b) => a - b),
		[...lengths.keys()],
	);
	t.deepEqual(
		order,
		[...lengths.keys()].sort((a, b) => lengths[b]! - lengths[a]! || a - b),
	);
	const tokens = batches.map((batch) => batch.reduce((sum, i) => sum + lengths[i]!, 0));
	t.true(tokens.every((sum) => sum <= 2000));
	// A batch ends only where the next sequence does not fit.
	for (const [b, sum] of tokens.slice(0, -1).entries())
		t.true(sum + lengths[batches[b + 1]![0]!]! > 2000, `${b}`);
});

test('a sequence above the budget is a batch of its own', (t) => {
	t.deepEqual(
		planMicroBatches([5, 50, 6, 40], 12).map((batch) => [...batch]),
		[[1], [3], [2, 0]],
	);
	t.deepEqual(planMicroBatches([], 10), []);
	t.throws(() => planMicroBatches([1], 0), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});
