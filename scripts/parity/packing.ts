import type { Ragged } from '../../lib/native/addon.js';
import { ragged } from '../../lib/native/session.js';

/** Rows without their padding. */
export interface Packed extends Ragged {
	/** Where each packed token stands among all (rows · width). */
	places: number[];
	/** Says in the table what was left out. */
	note: string;
}

/** Keeps the values whose mask is not 0; without a mask all of them. */
export function pack(rows: readonly number[][], mask?: readonly number[][]): Packed {
	const places: number[] = [];
	let place = 0;
	const kept = rows.map((row, r) =>
		row.filter((_, i) => {
			const real = mask === undefined || mask[r]![i] !== 0;
			if (real) places.push(place);
			place++;
			return real;
		}),
	);
	const note =
		places.length === place
			? ''
			: `at the ${places.length} real positions of ${place}; padding is not computed`;
	return { ...ragged(kept), places, note };
}

/** Rows of a matrix (n, width) at places. */
export function rowsAt(matrix: Float32Array, width: number, places: readonly number[]): Float32Array {
	const rows = new Float32Array(places.length * width);
	for (const [i, place] of places.entries())
		rows.set(matrix.subarray(place * width, (place + 1) * width), i * width);
	return rows;
}

/** The reverse: zeros elsewhere. */
export function scatterRows(
	rows: Float32Array,
	width: number,
	places: readonly number[],
	count: number,
): Float32Array {
	const matrix = new Float32Array(count * width);
	for (const [i, place] of places.entries())
		matrix.set(rows.subarray(i * width, (i + 1) * width), place * width);
	return matrix;
}

/** 0, 1, … n − 1. */
export function firstIntegers(n: number): Int32Array {
	return Int32Array.from({ length: n }, (_, i) => i);
}
