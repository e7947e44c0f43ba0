import test from 'ava';
import { alignmentQuality } from '../../lib/evaluation/alignment-quality.js';

test('four latents that can be checked by hand', async (t) => {
	const item = Float32Array.of(1, 0, 0, 2, -1, 0, 0, -3);
	t.deepEqual(await alignmentQuality({ item, text: item.map((v) => 5 * v), items: 4 }), {
		items: 4,
		cosine: 1,
		'itemToText@1': 1,
		'itemToText@10': 1,
		'textToItem@1': 1,
		'textToItem@10': 1,
	});
	// The first two texts change places; the others stay.
	const text = Float32Array.of(0, 1, 1, 0, -1, 0, 0, -1);
	const all = await alignmentQuality({ item, text, items: 4 });
	t.is(all.cosine, 0.5);
	t.is(all['itemToText@1'], 0.5);
	t.is(all['textToItem@1'], 0.5);
	const swapped = await alignmentQuality({ item, text, items: 4, rows: Int32Array.of(0, 1) });
	t.like(swapped, { items: 2, cosine: 0, 'itemToText@1': 0, 'itemToText@10': 1 });
});

test('equal latents are found by chance only', async (t) => {
	const same = new Float32Array(40).fill(1);
	const quality = await alignmentQuality({ item: same, text: same, items: 20 });
	t.is(Math.round(quality['itemToText@1'] * 1e6), 50_000);
	t.is(Math.round(quality['textToItem@10'] * 1e6), 500_000);
});

test('what is not finite, of other length or without rows is an error', async (t) => {
	const item = Float32Array.of(1, 0, 0, 1);
	const of = (changes: object) => alignmentQuality({ item, text: item, items: 2, ...changes });
	await t.throwsAsync(of({ text: Float32Array.of(Number.NaN, 0, 0, 1) }), { code: 'ERR_ALLMREC_NUMERIC' });
	for (const changes of [{ text: item.subarray(2) }, { rows: new Int32Array() }, { rows: Int32Array.of(2) }])
		await t.throwsAsync(of(changes), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});
