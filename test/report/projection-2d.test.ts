import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { atOnce } from '../../lib/event-loop.js';
import { projectToPlane, symmetricEigen } from '../../lib/report/projection-2d.js';
import { rejects } from '../data/folders.js';

/** Orthonormal columns of a Householder reflection: exact axes for data that are made from them. */
function reflection(width: number, random: SeededRandom): Float64Array[] {
	const normal = Float64Array.from({ length: width }, () => random.normal());
	const square = normal.reduce((sum, value) => sum + value * value, 0);
	return Array.from({ length: width }, (_, i) =>
		normal.map((value, j) => (i === j ? 1 : 0) - (2 * value * normal[i]!) / square),
	);
}

test('data of known axes are projected onto the two longest', (t) => {
	for (const [rows, width] of [
		[60, 2],
		[60, 5],
		[300, 40],
		[20, 300],
	] as const) {
		const random = new SeededRandom(7, width);
		const axes = reflection(width, random);
		// Two patterns of rows that are centred and at right angles, and a third, shorter one.
		const wave = (k: number) => (row: number) => Math.cos((2 * Math.PI * k * (row + 0.5)) / rows);
		const patterns = [wave(1), wave(2), wave(3)].slice(0, width);
		const lengths = [9, 5, 2];
		const data = new Float64Array(rows * width);
		for (let row = 0; row < rows; row++)
			for (let c = 0; c < width; c++)
				data[row * width + c] =
					100 + patterns.reduce((sum, p, k) => sum + lengths[k]! * p(row) * axes[k]![c]!, 0);
		const { coordinates, explained } = atOnce(projectToPlane(data, width));
		for (const axis of [0, 1]) {
			const sign = Math.sign(coordinates[axis]! * patterns[axis]!(0));
			for (let row = 0; row < rows; row++) {
				const expected = sign * lengths[axis]! * patterns[axis]!(row);
				t.true(Math.abs(coordinates[2 * row + axis]! - expected) < 1e-8, `${rows} × ${width}, row ${row}`);
			}
		}
		const total = width > 2 ? 81 + 25 + 4 : 81 + 25;
		t.true(Math.abs(explained[0] - 81 / total) < 1e-9);
		t.true(Math.abs(explained[1] - 25 / total) < 1e-9);
	}
});

test('random data: the plane holds as much variance as the two largest eigenvalues of the covariance', (t) => {
	const [rows, width] = [120, 12];
	const random = new SeededRandom(3);
	const data = Float32Array.from({ length: rows * width }, () => random.normal());
	const means = Array.from({ length: width }, (_, c) => {
		let sum = 0;
		for (let row = 0; row < rows; row++) sum += data[row * width + c]!;
		return sum / rows;
	});
	const covariance = means.map((_, i) =>
		means.map((_, j) => {
			let sum = 0;
			for (let row = 0; row < rows; row++)
				sum += (data[row * width + i]! - means[i]!) * (data[row * width + j]! - means[j]!);
			return sum;
		}),
	);
	const { values, vectors } = symmetricEigen(covariance);
	for (const [at, vector] of vectors.entries())
		for (const [i, row] of covariance.entries()) {
			const image = row.reduce((sum, value, j) => sum + value * vector[j]!, 0);
			t.true(Math.abs(image - values[at]! * vector[i]!) < 1e-9 * values[0]!);
		}
	const { coordinates, explained } = atOnce(projectToPlane(data, width));
	const total = values.reduce((sum, value) => sum + value, 0);
	let cross = 0;
	for (let row = 0; row < rows; row++) cross += coordinates[2 * row]! * coordinates[2 * row + 1]!;
	t.true(Math.abs(cross) < 1e-7 * values[0]!, 'coordinates are uncorrelated');
	for (const axis of [0, 1] as const) t.true(Math.abs(explained[axis] - values[axis]! / total) < 1e-12);
	t.deepEqual(atOnce(projectToPlane(data, width)), { coordinates, explained }, 'the same again');
});

test('points without a plane', async (t) => {
	t.deepEqual(atOnce(projectToPlane(new Float32Array(12).fill(3), 4)), {
		coordinates: new Float64Array(6),
		explained: [0, 0],
	});
	const { coordinates, explained } = atOnce(projectToPlane(Float32Array.of(1, 2, 4), 1));
	t.deepEqual(explained, [1, 0]);
	t.deepEqual(
		[...coordinates].map((value) => Math.round(value * 3)),
		[-4, 0, -1, 0, 5, 0],
	);
	const line = atOnce(
		projectToPlane(
			Float64Array.from({ length: 30 }, (_, at) => (at / 3) | 0),
			3,
		),
	);
	t.true(line.explained[0] > 1 - 1e-12 && line.explained[1] < 1e-12);
	await rejects(
		t,
		async () => atOnce(projectToPlane(Float32Array.of(1, Number.NaN), 1)),
		'ERR_ALLMREC_NUMERIC',
		/row 1/,
	);
	await rejects(
		t,
		async () => atOnce(projectToPlane(new Float32Array(5), 2)),
		'ERR_ALLMREC_INVALID_ARGUMENT',
	);
});
