import type { NativeModel } from '../../lib/native/addon.js';
import type { Fixture, WeightSource } from './fixture.js';
import type { Report } from './report.js';

/** Every weight of a model. */
export async function readParameters(model: NativeModel): Promise<Map<string, Float32Array>> {
	const values = new Map<string, Float32Array>();
	for (const { name } of model.parameters()) values.set(name, await model.getParameter(name));
	return values;
}

/**
 * Checks that a further weight file of a folder gives a model the weights of the first one, rounded to the file's
 * dtype.
 *
 * @returns whether it is of half precision
 */
export async function compareParameters(
	report: Report,
	fixture: Fixture,
	source: WeightSource,
	model: NativeModel,
	first: ReadonlyMap<string, Float32Array>,
): Promise<boolean> {
	const dtypes = new Set([...fixture.tensorsOf(source).values()].map(({ dtype }) => dtype));
	const half = dtypes.has('F16') || dtypes.has('BF16');
	const round = dtypes.has('F16')
		? roundToHalf
		: dtypes.has('BF16')
			? roundToBfloat16
			: (value: number) => value;
	let wrong: string | null = null;
	for (const [name, values] of await readParameters(model))
		if (!first.get(name)!.every((value, i) => Object.is(round(value), values[i]))) wrong ??= name;
	const note = `all ${first.size} weights as in ${fixture.sources[0]!.name}${half ? ', rounded to half precision' : ''}`;
	report.equal('weights', wrong, null, { source: source.name, note });
	return half;
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** To IEEE half precision, ties to even. */
export function roundToHalf(value: number): number {
	if (!Number.isFinite(value) || value === 0) return value;
	const exponent = Math.max(Math.floor(Math.log2(Math.abs(value))), -14);
	const unit = 2 ** (exponent - 10);
	const rounded = roundTiesToEven(value / unit) * unit;
	return Math.abs(rounded) > 65504 ? Math.sign(value) * Number.POSITIVE_INFINITY : rounded;
}

function roundToBfloat16(value: number): number {
	float[0] = value;
	bits[0] = ((bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) & 0xffff0000) >>> 0;
	return float[0]!;
}

function roundTiesToEven(x: number): number {
	const floor = Math.floor(x);
	const rest = x - floor;
	if (rest !== 0.5) return Math.round(x);
	return floor % 2 === 0 ? floor : floor + 1;
}
