import type { NativeModel } from '../../lib/native/addon.js';

/** All weights of a model by name. */
export async function weightsOf(model: NativeModel): Promise<Record<string, Float32Array>> {
	const weights: Record<string, Float32Array> = {};
	for (const { name } of model.parameters()) weights[name] = await model.getParameter(name);
	return weights;
}

/** The largest difference of two arrays of one length. */
export function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
	if (a.length !== b.length) throw new Error(`${a.length} numbers against ${b.length}`);
	let most = 0;
	for (let i = 0; i < a.length; i++) {
		const difference = Math.abs(a[i]! - b[i]!);
		if (!(difference <= most)) most = difference; // NaN stays
	}
	return most;
}
