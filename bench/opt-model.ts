import { SeededRandom } from '../lib/data/random.js';
import type { LlmBatch, LlmDtype, NativeOpt, OptConfig } from '../lib/native/addon.js';
import { addon, engineOf } from './devices.js';
import { atLimit, gigaflopsOf, type Limits } from './limits.js';

/** OPT's shapes; `small` is for trying a benchmark out. */
export const optConfigs = {
	small: opt(1000, 64, 2, 4, 256),
	'opt-125m': opt(50_272, 768, 12, 12, 3072),
	'opt-1.3b': opt(50_272, 2048, 24, 32, 8192),
};

function opt(
	vocabSize: number,
	hiddenSize: number,
	numLayers: number,
	numHeads: number,
	ffnSize: number,
): OptConfig {
	return {
		vocabSize,
		hiddenSize,
		embedSize: hiddenSize,
		numLayers,
		numHeads,
		ffnSize,
		maxPositions: 2048,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
	};
}

/** Norms are 1, biases 0, matrices small random numbers: a block of them, repeated. */
export async function newModel(config: OptConfig, dtype: LlmDtype, threads: number): Promise<NativeOpt> {
	const model = new (addon().Opt)(engineOf(threads), { ...config, dtype });
	const random = new SeededRandom(4);
	const block = Float32Array.from(
		{ length: 1_000_003 },
		() => 0.04 * (random.uniform() - 0.5) * Math.sqrt(3),
	);
	for (const { name, shape } of model.parameters()) {
		const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
		if (name.includes('norm.weight')) values.fill(1);
		else if (shape.length > 1)
			for (let at = 0; at < values.length; at += block.length)
				values.set(block.subarray(0, Math.min(block.length, values.length - at)), at);
		await model.setParameter(name, values);
	}
	return model;
}

export function generate(model: NativeOpt, prompts: LlmBatch, maxNewTokens: number) {
	const seen = { offsets: new Int32Array(prompts.offsets.length), values: new Int32Array(0) };
	return model.generate(prompts, new Float32Array(0), seen, {
		maxNewTokens,
		repetitionPenalty: 1,
		eosId: -1,
	});
}

export function randomPrompts(batch: number, length: number, vocabSize: number): LlmBatch {
	const random = new SeededRandom(7);
	return {
		ids: Int32Array.from({ length: batch * length }, () => 4 + random.int(vocabSize - 4)),
		offsets: Int32Array.from({ length: batch + 1 }, (_, b) => b * length),
	};
}

export function causalPairs(length: number): number {
	return (length * (length + 1)) / 2;
}

/** FLOPs of a forward pass. */
export interface OptWork {
	/** Of products with weights. */
	weights: number;
	attention: number;
}

/**
 * pairs: of a query and a key it sees; of the last layer only keys and values are needed at all tokens, the rest at
 * `lastRows`; `logitRows` reach the head.
 */
export function optWork(
	{ hiddenSize: c, ffnSize: f, numLayers, vocabSize }: OptConfig,
	{ pairs, tokens, lastRows, logitRows }: Record<'pairs' | 'tokens' | 'lastRows' | 'logitRows', number>,
): OptWork {
	const rest = 2 * c * c + 2 * c * f;
	const layers = (numLayers - 1) * 2 * tokens * (2 * c * c + rest);
	const last = 2 * (tokens * 2 * c * c + lastRows * rest);
	return {
		weights: layers + last + 2 * logitRows * c * vocabSize,
		attention: 4 * pairs * c * (numLayers - 1 + lastRows / tokens),
	};
}

/** Least seconds: products with weights in the model's dtype, attention at most in bfloat16. */
export function optFloor({ weights, attention }: OptWork, dtype: LlmDtype, limits: Limits): number | null {
	const products = atLimit(weights, gigaflopsOf(dtype, limits));
	const pairs = atLimit(attention, gigaflopsOf(dtype === 'float32' ? 'float32' : 'bfloat16', limits));
	return products === null || pairs === null ? null : products + pairs;
}

/** Bytes one step of decoding reads: every weight but the table of positions, and `keys` keys and values. */
export function decodeBytes(
	{ hiddenSize: c, ffnSize: f, numLayers, vocabSize }: OptConfig,
	dtype: LlmDtype,
	keys: number,
): number {
	// A row of int8 has a scale of four bytes, 32 numbers of int4 one of two.
	const matrix = (rows: number, columns: number) =>
		rows *
		(dtype === 'float32'
			? 4 * columns
			: dtype === 'int8'
				? columns + 4
				: dtype === 'int4'
					? columns / 2 + columns / 16
					: 2 * columns);
	const layer = 4 * matrix(c, c) + matrix(f, c) + matrix(c, f);
	return matrix(vocabSize, c) + numLayers * (layer + keys * 2 * c * (dtype === 'float32' ? 4 : 2));
}
