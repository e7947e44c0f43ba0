import { ALLMRecError, invalidArgument } from '../errors.js';
import { Random } from '../evaluation/random.js';
import type { Steps } from '../event-loop.js';

/** Points in the plane of their largest variance. */
export interface PlaneProjection {
	/** (rows × 2), centred; the first coordinate has the larger variance. */
	coordinates: Float64Array;
	/** Shares of the whole variance along both axes, 0 … 1. */
	explained: [number, number];
}

/** Directions iterated at once: more than two, so that a third of nearly the second's variance slows nothing down. */
const BLOCK = 8;
const MAX_ITERATIONS = 500;
/** Of the largest variance: what the axes may miss being eigenvectors by. */
const TOLERANCE = 1e-10;

/**
 * Principal component analysis onto a plane: subspace iteration on the centred data with a Rayleigh–Ritz step (Halko,
 * Martinsson and Tropp, 2011), until both axes are eigenvectors of the covariance up to 1e-10 of the largest variance.
 * The covariance itself is never made, so wide rows such as a language model's cost no more than their numbers. Same data,
 * same picture: the start is seeded, and of each axis the largest component is positive.
 *
 * @param data (rows × width), finite, at least one row
 * @throws ERR_ALLMREC_NUMERIC where a number is not finite
 */
export function* projectToPlane(data: Float32Array | Float64Array, width: number): Steps<PlaneProjection> {
	if (!(Number.isInteger(width) && width > 0)) invalidArgument('width', 'a positive integer', width);
	const rows = data.length / width;
	if (!Number.isInteger(rows) || rows < 1)
		invalidArgument('data', `at least one row of ${width} numbers`, data.length);
	const centred = yield* centre(data, rows, width);
	const total = centred.reduce((sum, value) => sum + value * value, 0);
	const coordinates = new Float64Array(rows * 2);
	if (total === 0) return { coordinates, explained: [0, 0] };
	const { axes, values } = yield* largestAxes(centred, rows, width);
	for (const [column, axis] of axes.slice(0, 2).entries()) {
		const sign = Math.sign(
			axis.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0),
		);
		for (let row = 0; row < rows; row++) {
			let sum = 0;
			for (let c = 0; c < width; c++) sum += centred[row * width + c]! * axis[c]!;
			coordinates[2 * row + column] = sign * sum;
		}
		yield;
	}
	return { coordinates, explained: [values[0]! / total, (values[1] ?? 0) / total] };
}

function* centre(data: Float32Array | Float64Array, rows: number, width: number): Steps<Float64Array> {
	const means = new Float64Array(width);
	const centred = Float64Array.from(data);
	for (let at = 0; at < centred.length; at++) {
		if (!Number.isFinite(centred[at]!))
			throw new ALLMRecError(
				'ERR_ALLMREC_NUMERIC',
				`Expected finite numbers, got ${centred[at]} in row ${Math.floor(at / width)}.`,
			);
		means[at % width]! += centred[at]! / rows;
	}
	yield;
	for (let at = 0; at < centred.length; at++) centred[at]! -= means[at % width]!;
	return centred;
}

/** Eigenvectors of XᵀX with the largest eigenvalues, descending. */
function* largestAxes(
	x: Float64Array,
	rows: number,
	width: number,
): Steps<{ axes: Float64Array[]; values: number[] }> {
	const random = new Random(0);
	const size = Math.min(BLOCK, width);
	let axes = orthonormal(
		Array.from({ length: size }, () => Float64Array.from({ length: width }, () => random.normal())),
	);
	for (let iteration = 1; ; iteration++) {
		const images = axes.map(() => new Float64Array(width));
		for (let row = 0; row < rows; row++) {
			const part = x.subarray(row * width, (row + 1) * width);
			for (const [at, axis] of axes.entries()) addScaled(images[at]!, part, dot(part, axis));
			if (row % 64 === 63) yield;
		}
		// Rayleigh–Ritz: the best axes within the span, and how far they are from being eigenvectors.
		const { values, vectors } = symmetricEigen(axes.map((axis) => images.map((image) => dot(axis, image))));
		const rotated = vectors.map((weights) => combine(axes, weights));
		const images2 = vectors.map((weights) => combine(images, weights));
		const settled = rotated.slice(0, 2).every((axis, at) => {
			const residual = images2[at]!.slice();
			addScaled(residual, axis, -values[at]!);
			return Math.sqrt(dot(residual, residual)) <= TOLERANCE * values[0]!;
		});
		if (settled || iteration === MAX_ITERATIONS) return { axes: rotated, values };
		axes = orthonormal(images2);
		yield;
	}
}

function dot(a: Float64Array, b: Float64Array): number {
	let sum = 0;
	for (let at = 0; at < a.length; at++) sum += a[at]! * b[at]!;
	return sum;
}

function addScaled(into: Float64Array, from: Float64Array, scale: number): void {
	for (let at = 0; at < into.length; at++) into[at]! += scale * from[at]!;
}

function combine(vectors: readonly Float64Array[], weights: readonly number[]): Float64Array {
	const sum = new Float64Array(vectors[0]!.length);
	for (const [at, vector] of vectors.entries()) addScaled(sum, vector, weights[at]!);
	return sum;
}

/** Gram–Schmidt, twice; directions that the others already span become a unit vector that they do not. */
function orthonormal(vectors: readonly Float64Array[]): Float64Array[] {
	const basis: Float64Array[] = [];
	let unit = 0;
	for (const vector of vectors) {
		let candidate = vector.slice();
		for (;;) {
			const before = Math.sqrt(dot(candidate, candidate));
			for (let pass = 0; pass < 2; pass++)
				for (const other of basis) addScaled(candidate, other, -dot(candidate, other));
			const length = Math.sqrt(dot(candidate, candidate));
			if (length > 1e-12 * before) {
				basis.push(candidate.map((value) => value / length));
				break;
			}
			candidate = new Float64Array(vector.length);
			candidate[unit++] = 1;
		}
	}
	return basis;
}

/**
 * Eigenvalues of a small symmetric matrix, descending, with their unit eigenvectors: Jacobi's rotations, until what is
 * beside the diagonal no longer changes it.
 */
export function symmetricEigen(matrix: readonly (readonly number[])[]): {
	values: number[];
	vectors: number[][];
} {
	const size = matrix.length;
	const a = matrix.map((row) => [...row]);
	const v = matrix.map((_, i) => matrix.map((_, j) => (i === j ? 1 : 0)));
	for (let sweep = 0; sweep < 50; sweep++) {
		let rotated = false;
		for (let p = 0; p < size; p++)
			for (let q = p + 1; q < size; q++) {
				const off = a[p]![q]!;
				if (Math.abs(off) <= 1e-18 * (Math.abs(a[p]![p]!) + Math.abs(a[q]![q]!))) continue;
				rotated = true;
				const theta = (a[q]![q]! - a[p]![p]!) / (2 * off);
				const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
				const c = 1 / Math.hypot(t, 1);
				rotate(a, v, p, q, c, t * c);
			}
		if (!rotated) break;
	}
	const order = a.map((_, i) => i).sort((i, j) => a[j]![j]! - a[i]![i]!);
	return { values: order.map((i) => a[i]![i]!), vectors: order.map((i) => v.map((row) => row[i]!)) };
}

function rotate(a: number[][], v: number[][], p: number, q: number, c: number, s: number): void {
	const turn = (row: number[]) => {
		const [x, y] = [row[p]!, row[q]!];
		row[p] = c * x - s * y;
		row[q] = s * x + c * y;
	};
	for (const row of a) turn(row);
	const [first, second] = [a[p]!, a[q]!];
	for (let k = 0; k < a.length; k++) {
		const [x, y] = [first[k]!, second[k]!];
		first[k] = c * x - s * y;
		second[k] = s * x + c * y;
	}
	for (const row of v) turn(row);
}
