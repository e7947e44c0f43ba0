import test from 'ava';
import * as measures from '../../lib/evaluation/oversmoothing.js';
import { atOnce } from '../../lib/event-loop.js';

const { overSmoothing } = measures;
const meanPairwiseCosine = (...of: Parameters<typeof measures.meanPairwiseCosine>) =>
	atOnce(measures.meanPairwiseCosine(...of));
const reconstructionError = (...of: Parameters<typeof measures.reconstructionError>) =>
	atOnce(measures.reconstructionError(...of));

import { Random } from '../../lib/evaluation/random.js';

const close = (value: number, expected: number, tolerance = 1e-6) => Math.abs(value - expected) < tolerance;

test('mean cosine of three directions in the plane', (t) => {
	// (1, 0), (0, 2), (3, 3): cosines 0, 1/√2, 1/√2.
	t.true(close(meanPairwiseCosine(Float32Array.of(1, 0, 0, 2, 3, 3), 3), Math.SQRT2 / 3));
	t.true(close(meanPairwiseCosine(Float32Array.of(1, 1, 5, 5), 2), 1));
	t.true(close(meanPairwiseCosine(Float32Array.of(1, 1, -5, -5), 2), -1));
});

test('the closed form equals the sum over pairs, rows of zeros left out', (t) => {
	const random = new Random(6);
	const rows = Float32Array.from({ length: 60 * 8 }, () => random.normal() + 0.3);
	rows.fill(0, 8 * 10, 8 * 11);
	const directed = Array.from({ length: 60 }, (_, row) => rows.subarray(row * 8, row * 8 + 8)).filter((row) =>
		row.some((value) => value !== 0),
	);
	const dot = (a: Float32Array, b: Float32Array) => a.reduce((sum, value, at) => sum + value * b[at]!, 0);
	let total = 0;
	let pairs = 0;
	for (const [at, a] of directed.entries())
		for (const b of directed.slice(at + 1)) {
			total += dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
			pairs++;
		}
	t.is(pairs, (59 * 58) / 2);
	t.true(close(meanPairwiseCosine(rows, 60), total / pairs));
});

test('both measures in one', (t) => {
	const item = { original: Float32Array.of(1, 2), reconstructed: Float32Array.of(1, 4) };
	t.is(reconstructionError(item), 2);
	t.deepEqual(overSmoothing(Float32Array.of(1, 0, 0, 1), 2, { item }), {
		meanCosine: 0,
		itemReconstruction: 2,
	});
	t.deepEqual(Object.keys(overSmoothing(Float32Array.of(1, 0, 0, 1), 2, { text: item })), [
		'meanCosine',
		'textReconstruction',
	]);
});

test('what has no answer is an error', (t) => {
	const invalid = { code: 'ERR_ALLMREC_INVALID_ARGUMENT' };
	t.throws(() => meanPairwiseCosine(Float32Array.of(1, 2), 1), invalid);
	t.throws(() => meanPairwiseCosine(new Float32Array(4), 2), invalid);
	t.throws(() => meanPairwiseCosine(new Float32Array(5), 2), invalid);
	t.throws(() => meanPairwiseCosine(Float32Array.of(1, Number.NaN), 2), { code: 'ERR_ALLMREC_NUMERIC' });
	const original = Float32Array.of(1, 2);
	t.throws(() => reconstructionError({ original, reconstructed: new Float32Array(3) }), invalid);
	t.throws(() => reconstructionError({ original, reconstructed: Float32Array.of(1, Number.NaN) }), {
		code: 'ERR_ALLMREC_NUMERIC',
	});
});
