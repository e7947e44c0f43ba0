import test from 'ava';
import { atOnce, blocks, inTurns, nextTurn, turnIsOver } from '../lib/event-loop.js';
import { sorted } from '../lib/sorting.js';

/** Work of about a millisecond. */
function work(): void {
	const begun = performance.now();
	while (performance.now() - begun < 1);
}

test('long work lets timers and aborts in, however many do some at once', async (t) => {
	const controller = new AbortController();
	let ticks = 0;
	const timer = setInterval(() => ticks++, 1);
	const long = () => inTurns(blocks(100, 1, work));
	await Promise.all([long(), long(), long()]);
	clearInterval(timer);
	// Every turn is over after 8 ms, whoever works in it.
	t.true(ticks >= 20, `${ticks}`);
	const reason = new Error('enough');
	const endless = inTurns(blocks(1e9, 1, work), controller.signal);
	setTimeout(() => controller.abort(reason), 20);
	t.is(await t.throwsAsync(endless), reason);
});

test('short work is done at once', async (t) => {
	await nextTurn();
	let done = false;
	const small = inTurns(
		blocks(3, 1, (from) => {
			done = from === 2;
		}),
	);
	t.true(done || turnIsOver());
	await small;
});

test('sorting in steps is sorting', (t) => {
	for (const length of [0, 1, 1000, 8192, 8193, 40_000, 65_536]) {
		const values = Float64Array.from({ length }, (_, i) => ((i * 7919) % 1013) / 7);
		if (length > 9000) values[9000] = Number.NaN;
		t.deepEqual(atOnce(sorted(values)), values.slice().sort());
		const places = Int32Array.from(values.keys());
		const compare = (a: number, b: number) => (values[b] || 0) - (values[a] || 0);
		t.deepEqual(atOnce(sorted(places, compare)), places.slice().sort(compare)); // equal ones in their order
	}
});
