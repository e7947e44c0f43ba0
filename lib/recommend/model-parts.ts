import type { ItemLatents } from '../alignment/alignment.js';
import { jointSteps } from '../alignment/alignment.js';
import { blocks, type Steps } from '../event-loop.js';
import type { CausalLM } from '../llm/causal-lm.js';
import { PromptBuilder, type PromptBuilderOptions } from '../llm/prompt.js';
import type { PromptTemplate } from '../llm/prompt-template.js';
import { TitleStore } from '../llm/title-store.js';
import type { LongCallOptions } from '../progress.js';
import type { Catalogue } from './catalogue.js';

/** How items are given to the language model. */
export type JointSource =
	/** e_i where an item has interactions, q_i where it has not. */
	| 'aligned'
	/** q_i for all: the paper's A-LLMRec (SBERT). */
	| 'text'
	/** Ablation: fixed random vectors. */
	| 'random'
	/** Ablation: prompts without vectors of items, so that the table is not used. */
	| 'none';

/** The joint embedding of every item (size, d') by source. */
export function* jointTable(
	latents: ItemLatents,
	trainingCounts: ArrayLike<number>,
	source: JointSource,
	coldThreshold = 1,
): Steps<Float32Array> {
	if (source === 'random') return yield* randomTable(latents);
	return yield* jointSteps(latents, trainingCounts, {
		coldThreshold: source === 'text' ? Number.POSITIVE_INFINITY : coldThreshold,
	});
}

/** Normal numbers with each column's mean and deviation of e, so that only the meaning is gone. */
function* randomTable({ size, e }: ItemLatents): Steps<Float32Array> {
	const rows = e.length / size;
	const table = new Float32Array(e.length);
	let state = 0x2545f491;
	const uniform = () => {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
		return (state + 0.5) / 2 ** 32;
	};
	const fill = (c: number) => {
		let sum = 0;
		let square = 0;
		for (let r = 1; r < rows; r++) {
			const value = e[r * size + c]!;
			sum += value;
			square += value * value;
		}
		const mean = sum / Math.max(1, rows - 1);
		const deviation = Math.sqrt(Math.max(0, square / Math.max(1, rows - 1) - mean * mean));
		for (let r = 1; r < rows; r++)
			table[r * size + c] =
				mean + deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
	};
	yield* blocks(size, 1, fill);
	return table;
}

/** A prompt builder over a catalogue's titles. */
export async function createPrompts(
	llm: CausalLM,
	catalogue: Catalogue,
	template: PromptTemplate,
	options: Omit<PromptBuilderOptions, 'maxPositions'> = {},
	calls: LongCallOptions = {},
): Promise<PromptBuilder> {
	const titles = await TitleStore.create(
		llm.tokenizer,
		catalogue.items.map(({ title }) => title),
		template,
		calls,
	);
	return new PromptBuilder(titles, { ...options, maxPositions: llm.maxPositions });
}
