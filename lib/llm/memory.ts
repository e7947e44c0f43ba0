import { availableParallelism } from 'node:os';
import { invalidArgument } from '../errors.js';
import { expectKnown } from '../known-options.js';
import { type LlmDtype, loadAddon, type OptConfig } from '../native/addon.js';
import { guard } from '../native/session.js';
import { resolveCheckpoint } from '../text/hub.js';
import { openOptCheckpoint } from './opt-checkpoint.js';
import { LLM_DTYPES } from './opt-config.js';

export interface LanguageModelMemoryOptions {
	/** Default: as {@link CausalLM.load} would take. */
	dtype?: LlmDtype | undefined;
	/** Packed tokens of a scoring pass. Default 4096, the scorer's. */
	tokens?: number | undefined;
	/** Of these, the ones whose logits are wanted: the candidates'. Default all, which is the most. */
	rows?: number | undefined;
	/** Prompts that are continued at once. Default 1. */
	batch?: number | undefined;
	/** Positions of each in the cache of keys and values. Default: all the model has. */
	context?: number | undefined;
	/** Whether on the CPU, where activations are float32 whatever the weights are. Default true. */
	onCpu?: boolean | undefined;
	/** Default: as many as the process may use. */
	threads?: number | undefined;
}

/** Bytes beyond those of a process that has loaded the library. */
export interface MemoryUse {
	weights: number;
	/** Keys and values. */
	cache: number;
	/** Activations and logits of one pass. */
	arena: number;
	/** Operands that products pack. */
	work: number;
	/** The sum of all: what the process has at its peak. */
	peak: number;
}

/** What a language model needs, as {@link languageModelMemory} predicts it. */
export interface LanguageModelMemory {
	/** Numbers in all weights. */
	parameters: number;
	dtype: LlmDtype;
	/** Bytes of the weights in each dtype the model can be kept in. */
	weights: Partial<Record<LlmDtype, number>>;
	/** A pass of `tokens` packed tokens that scores candidates. */
	scoring: MemoryUse;
	/** Continuing `batch` prompts of `context` positions. */
	generation: MemoryUse;
}

/**
 * Predicts the memory of a checkpoint, a folder or a Hub id, from its configuration and the headers of its files. Of the
 * Hub only the configuration is downloaded.
 *
 * Peak = weights + cache + arena + work. The weights are exact: matrices in their dtype, with a float32 scale a row
 * (int8) or a float16 scale for 32 numbers (int4); norms, biases and positions in float32. The cache holds
 * 2 · hiddenSize numbers for every layer and position, float32 beside float32 weights, else half. With T packed tokens,
 * C and F the hidden and the feed-forward width, the arena holds x and the larger half of one layer,
 * T · (C + max(5 C, C + F)) numbers (F twice with gelu), three vectors for each row that logits are wanted of, and a
 * block of logits. Loading adds nothing to it: tensors are converted from the files in blocks.
 *
 * @throws what `CausalLM.load` throws for a checkpoint it cannot load; ERR_ALLMREC_INVALID_ARGUMENT
 */
export async function languageModelMemory(
	source: string,
	options: LanguageModelMemoryOptions = {},
): Promise<LanguageModelMemory> {
	expectKnown('languageModelMemory', options);
	const folder = await resolveCheckpoint(source, { weights: false });
	const { config } = await openOptCheckpoint(folder, { dtype: options.dtype, withoutWeights: true });
	return memoryOf(config, options);
}

/** The same for a configuration. @internal */
export function memoryOf(
	config: OptConfig & { dtype: LlmDtype },
	{
		tokens = 4096,
		rows = tokens,
		batch = 1,
		context = config.maxPositions,
		onCpu = true,
		threads = availableParallelism(),
	}: LanguageModelMemoryOptions = {},
): LanguageModelMemory {
	for (const [name, value] of Object.entries({ tokens, rows, batch, context, threads }))
		if (!Number.isInteger(value) || value < 1) invalidArgument(name, 'a whole number of at least 1', value);
	if (context > config.maxPositions)
		invalidArgument('context', `at most the model's ${config.maxPositions} positions`, context);
	const { optMemory } = loadAddon();
	const use = (pass: { tokens: number; rows: number; sequences: number; capacity: number }) => {
		const { weights, cache, arena, work } = guard(() => optMemory(config, { ...pass, onCpu, threads }));
		return { weights, cache, arena, work, peak: weights + cache + arena + work };
	};
	const pass = { tokens: 0, rows: 0, sequences: 1, capacity: 0, onCpu, threads };
	const weights: Partial<Record<LlmDtype, number>> = {};
	for (const dtype of LLM_DTYPES)
		if (dtype !== 'int4' || fitsInt4(config))
			weights[dtype] = guard(() => optMemory({ ...config, dtype }, pass)).weights;
	return {
		parameters: guard(() => optMemory(config, pass)).parameters,
		dtype: config.dtype,
		weights,
		scoring: use({ tokens, rows, sequences: 1, capacity: 0 }),
		generation: use({ tokens: batch * context, rows: batch, sequences: batch, capacity: context }),
	};
}

function fitsInt4({ hiddenSize, embedSize, ffnSize }: OptConfig): boolean {
	return [hiddenSize, embedSize, ffnSize].every((width) => width % 32 === 0);
}
