import { ALLMRecError, invalidArgument } from '../errors.js';
import { atOnce, blocks, type Steps } from '../event-loop.js';
import { rowWidth } from './metrics.js';

/**
 * The two measures of over-smoothing (SPEC section 4). Matching alone may pull all items to one point: then the cosine
 * goes to 1 and the reconstruction errors stay high.
 */
export interface OverSmoothing {
	/** Mean cosine between the latents of two different items, −1 … 1. */
	meanCosine: number;
	/** MSE(E_i, ê_i), where given. */
	itemReconstruction?: number;
	/** MSE(Q_i, Q̂_i), where given. */
	textReconstruction?: number;
}

/** A matrix and what the decoder made of it, same shape. */
export interface Reconstruction {
	original: Float32Array;
	reconstructed: Float32Array;
}

/**
 * @param latents (items × width), e_i or q_i
 * @param items rows of `latents`
 */
export function overSmoothing(
	latents: Float32Array,
	items: number,
	reconstructions: { item?: Reconstruction | undefined; text?: Reconstruction | undefined } = {},
): OverSmoothing {
	const { item, text } = reconstructions;
	return {
		meanCosine: atOnce(meanPairwiseCosine(latents, items)),
		...(item && { itemReconstruction: atOnce(reconstructionError(item)) }),
		...(text && { textReconstruction: atOnce(reconstructionError(text)) }),
	};
}

/**
 * Mean cosine over all pairs of different rows, exact and in one pass: with unit rows x̂, ‖Σ x̂‖² = n + Σ_{i≠j} <x̂_i, x̂_j>,
 * so the mean is (‖Σ x̂‖² − n) / (n (n − 1)). Rows of zeros have no direction and are left out; fewer than two others are an
 * error.
 *
 * @param rows (count × width)
 */
export function* meanPairwiseCosine(rows: Float32Array, count: number): Steps<number> {
	const width = rowWidth('rows', rows.length, count);
	const sum = new Float64Array(width);
	let directed = 0;
	const add = (row: number) => {
		const start = row * width;
		let square = 0;
		for (let column = 0; column < width; column++) square += rows[start + column]! ** 2;
		if (!Number.isFinite(square))
			throw new ALLMRecError('ERR_ALLMREC_NUMERIC', `Expected finite latents, got others in row ${row}.`);
		if (square === 0) return;
		directed++;
		const scale = 1 / Math.sqrt(square);
		for (let column = 0; column < width; column++) sum[column]! += rows[start + column]! * scale;
	};
	yield* blocks(count, Math.ceil(BLOCK / Math.max(1, width)), (from, to) => {
		for (let row = from; row < to; row++) add(row);
	});
	if (directed < 2) invalidArgument('rows', 'at least two rows that are not zero', directed);
	const square = sum.reduce((total, value) => total + value * value, 0);
	return (square - directed) / (directed * (directed - 1));
}

/** Mean squared difference over all entries. */
export function* reconstructionError({ original, reconstructed }: Reconstruction): Steps<number> {
	if (original.length === 0) invalidArgument('original', 'at least one entry', original);
	if (reconstructed.length !== original.length)
		invalidArgument('reconstructed', `as long as \`original\` (${original.length})`, reconstructed.length);
	let total = 0;
	yield* blocks(original.length, BLOCK, (from, to) => {
		for (let at = from; at < to; at++) total += (original[at]! - reconstructed[at]!) ** 2;
	});
	if (!Number.isFinite(total))
		throw new ALLMRecError('ERR_ALLMREC_NUMERIC', 'Expected finite matrices, got NaN or an infinity.');
	return total / original.length;
}

/** Numbers of one step. */
const BLOCK = 1 << 18;
