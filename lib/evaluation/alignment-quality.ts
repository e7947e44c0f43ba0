import { invalidArgument } from '../errors.js';
import type { Steps } from '../event-loop.js';

/** How near an item's two latents are to each other, among those of all items. */
export interface AlignmentQuality {
	/** Mean cosine of e_i and q_i. */
	cosine: number;
	/** Share of the items whose own q_i is among the k nearest to e_i, by cosine; ties count by expectation. */
	recallAt1: number;
	recallAt10: number;
}

/**
 * Recall of an item's text among all latents.
 *
 * @param e (items, size) latents of the collaborative side
 * @param q (items, size) latents of the texts
 * @param rows items that are asked for; default all
 */
export function* alignmentQuality(
	e: Float32Array,
	q: Float32Array,
	size: number,
	rows?: ArrayLike<number>,
): Steps<AlignmentQuality> {
	if (e.length !== q.length || e.length % size !== 0)
		invalidArgument('q', `as many rows of ${size} as \`e\``, q.length / size);
	const items = e.length / size;
	const asked = rows ?? Array.from({ length: items }, (_, i) => i);
	const [a, b] = [yield* unit(e, size), yield* unit(q, size)];
	const similarity = new Float64Array(items);
	const found = { cosine: 0, recallAt1: 0, recallAt10: 0 };
	for (let r = 0; r < asked.length; r++) {
		const own = asked[r]!;
		const from = a.subarray(own * size, (own + 1) * size);
		for (let i = 0; i < items; i++) {
			let dot = 0;
			for (let c = 0; c < size; c++) dot += from[c]! * b[i * size + c]!;
			similarity[i] = dot;
		}
		const mine = similarity[own]!;
		let [above, beside] = [0, 0];
		for (const other of similarity) {
			if (other > mine) above++;
			else if (other === mine) beside++;
		}
		const within = (k: number) => Math.min(1, Math.max(0, k - above) / beside);
		found.cosine += mine / asked.length;
		found.recallAt1 += within(1) / asked.length;
		found.recallAt10 += within(10) / asked.length;
		yield;
	}
	return found;
}

/** Rows of length one; those that are zero stay so. */
function* unit(x: Float32Array, size: number): Steps<Float64Array> {
	const y = Float64Array.from(x);
	for (let at = 0; at < y.length; at += size) {
		const row = y.subarray(at, at + size);
		const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
		if (length > 0) for (let c = 0; c < size; c++) row[c]! /= length;
		if (at % (256 * size) === 0) yield;
	}
	return y;
}
