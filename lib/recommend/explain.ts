import { ALLMRecError } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder, PromptSlot } from '../llm/prompt.js';
import { packBatch, packTraining } from '../llm/prompt-packing.js';
import { run } from '../native/session.js';
import { toLlmBatch } from '../projection/projection.js';
import type { Catalogue } from './catalogue.js';

export interface ExplainOptions {
	/** Id of the item whose score is explained. Default: the one with the best score. */
	item?: string | undefined;
	/** How many of the nearest tokens are given; 0 = none. Default 8. */
	nearest?: number | undefined;
	/** Aborting rejects with the signal's reason. */
	signal?: AbortSignal | undefined;
}

/** What one part of a prompt did for an item's score. */
export interface ExplainedPart {
	/** The user vector, or an item of the history. */
	part: 'user' | 'history';
	/** Its id; of an item of the history. */
	item?: string | undefined;
	title?: string | undefined;
	/** The score minus the score with this soft token at its baseline. */
	leaveOneOut: number;
	/** The gradient of the score by this soft token, times what the token differs from its baseline: the first order of that. */
	gradientTimesInput: number | null;
}

/** A token of the language model's vocabulary. */
export interface NearToken {
	id: number;
	text: string;
	/** Cosine, −1 … 1. */
	similarity: number;
}

/** Why an item has the score that it has. */
export interface Explanation {
	item: string;
	title: string;
	/** Log-likelihood of the item's title behind the prompt, as lists have it. */
	score: number;
	/** In the order of the prompt: the user, then the history, oldest first. */
	parts: ExplainedPart[];
	/** Tokens nearest to what the language model is given: of the user, the history's items and the item itself. */
	tokens: { part: 'user' | 'history' | 'item'; item?: string; title?: string; nearest: NearToken[] }[];
}

export interface ExplainScoreInputs {
	llm: CausalLM;
	prompts: PromptBuilder;
	/** Dense ids, oldest first. */
	history: Int32Array;
	/** Those of the item's prompt, itself among them. */
	candidates: Int32Array;
	item: number;
	/** O_u (tokenSize) and what stands for not knowing the user. */
	user: { token: Float32Array; baseline: Float32Array } | undefined;
	/** O_i (items, tokenSize) and their mean. */
	items: { tokens: Float32Array; baseline: Float32Array };
	normalisation: 'mean' | 'sum';
}

/** A slot of the prompt that is explained, with its two measures. */
export interface ExplainedSlot {
	slot: PromptSlot;
	leaveOneOut: number;
	gradientTimesInput: number | null;
}

/** The score of one answer and what the user's and the history's soft tokens did for it. */
export async function explainScore(
	{ llm, prompts, history, candidates, item, user, items, normalisation }: ExplainScoreInputs,
	signal?: AbortSignal | undefined,
): Promise<{ score: number; slots: ExplainedSlot[] }> {
	const sequence = packTraining(prompts.build({ history, candidates }), prompts.answer(item));
	const width = llm.tokenSize;
	const { slots } = sequence;
	const row = (slot: PromptSlot) =>
		slot.kind === 'user' ? user!.token : items.tokens.subarray(slot.item * width, (slot.item + 1) * width);
	const soft = new Float32Array(slots.length * width);
	for (const [k, slot] of slots.entries()) soft.set(row(slot), k * width);
	const explained = [...slots.keys()].filter((k) => slots[k]!.kind !== 'candidate');
	const baseline = (k: number) => (slots[k]!.kind === 'user' ? user!.baseline : items.baseline);

	// The prompt as it is, then once more with each of the soft tokens at its baseline.
	const batch = packBatch([sequence, ...explained.map(() => sequence)]);
	const all = new Float32Array(soft.length * (1 + explained.length));
	for (let s = 0; s <= explained.length; s++) {
		all.set(soft, s * soft.length);
		const k = explained[s - 1];
		if (k !== undefined) all.set(baseline(k), s * soft.length + k * width);
	}
	const own = sequence.rows.length;
	const pairs = Int32Array.from(batch.rowTargets.keys());
	const logProbs = await llm.logProbs(toLlmBatch(batch), all, batch.rows, pairs, batch.rowTargets, signal);
	const scale = normalisation === 'mean' ? 1 / own : 1;
	const scores = Array.from({ length: 1 + explained.length }, (_, s) => {
		const values = logProbs.subarray(s * own, (s + 1) * own);
		return scale * values.reduce((sum, value) => sum + value, 0);
	});

	const gradient = await softGradient(llm, sequence, soft, signal);
	return {
		score: scores[0]!,
		slots: explained.map((k, s) => {
			const from = baseline(k);
			let product = 0;
			for (let c = 0; gradient && c < width; c++)
				product += gradient[k * width + c]! * (soft[k * width + c]! - from[c]!);
			return {
				slot: slots[k]!,
				leaveOneOut: scores[0]! - scores[s + 1]!,
				gradientTimesInput: gradient ? product * own * scale : null,
			};
		}),
	};
}

/** Of the mean log-likelihood; null where the language model's activations carry no gradients. */
async function softGradient(
	llm: CausalLM,
	sequence: ReturnType<typeof packTraining>,
	soft: Float32Array,
	signal: AbortSignal | undefined,
): Promise<Float32Array | null> {
	const batch = toLlmBatch(packBatch([sequence]));
	const targets = { rows: sequence.rows, tokens: sequence.rowTargets };
	try {
		return (await run((cancel) => llm.native.softGradient(batch, soft, targets, cancel), signal)).gradient;
	} catch (error) {
		if (error instanceof ALLMRecError && error.code === 'ERR_ALLMREC_UNSUPPORTED') return null;
		throw error;
	}
}

export interface ExplainItemInputs {
	inputs: ExplainScoreInputs;
	catalogue: Catalogue;
	vocabulary: Vocabulary;
	nearest: number;
	signal: AbortSignal | undefined;
}

/** {@link explainScore} in the words of the catalogue, with the nearest tokens. */
export async function explainItem({
	inputs,
	catalogue,
	vocabulary,
	nearest,
	signal,
}: ExplainItemInputs): Promise<Explanation> {
	const { score, slots } = await explainScore(inputs, signal);
	const named = (item: number) => {
		const { id, title } = catalogue.items[item]!;
		return { item: id, title };
	};
	const parts = slots.map(
		({ slot, ...measures }): ExplainedPart =>
			slot.kind === 'user'
				? { part: 'user', ...measures }
				: { part: 'history', ...named(slot.item), ...measures },
	);
	const width = inputs.llm.tokenSize;
	const tokens: Explanation['tokens'] = [];
	const near = (vector: Float32Array) => vocabulary.nearest(vector, nearest, signal);
	const ofItem = (item: number) => near(inputs.items.tokens.subarray(item * width, (item + 1) * width));
	const hasItems = slots.some(({ slot }) => slot.kind === 'history');
	if (nearest > 0) {
		if (inputs.user) tokens.push({ part: 'user', nearest: await near(inputs.user.token) });
		for (const { slot } of slots)
			if (slot.kind === 'history')
				tokens.push({ part: 'history', ...named(slot.item), nearest: await ofItem(slot.item) });
		if (hasItems) tokens.push({ part: 'item', ...named(inputs.item), nearest: await ofItem(inputs.item) });
	}
	return { ...named(inputs.item), score, parts, tokens };
}

/** The mean of some rows. */
export function* meanRow(rows: Float32Array, width: number, first = 0): Steps<Float32Array> {
	const sum = new Float64Array(width);
	const count = rows.length / width - first;
	for (let at = first * width; at < rows.length; at += width) {
		for (let c = 0; c < width; c++) sum[c]! += rows[at + c]!;
		if ((at / width) % 1024 === 0) yield;
	}
	return Float32Array.from(sum, (value) => value / Math.max(1, count));
}

/** The language model's vocabulary as unit vectors, to look near a soft token. */
export class Vocabulary {
	readonly #llm: CausalLM;
	readonly #unit: Float32Array;

	private constructor(llm: CausalLM, unit: Float32Array) {
		this.#llm = llm;
		this.#unit = unit;
	}

	/** @throws ERR_ALLMREC_UNSUPPORTED where token embeddings are not kept as numbers that can be read */
	static async of(llm: CausalLM, signal?: AbortSignal | undefined): Promise<Vocabulary> {
		const table = await run(() => llm.native.getParameter('model.decoder.embed_tokens.weight'));
		return new Vocabulary(llm, await inTurns(unitRows(table, llm.tokenSize), signal));
	}

	/** The k tokens of the largest cosine; rows behind the tokenizer's vocabulary and special tokens are left out. */
	nearest(vector: Float32Array, k: number, signal?: AbortSignal | undefined): Promise<NearToken[]> {
		return inTurns(this.#nearest(vector, k), signal);
	}

	*#nearest(vector: Float32Array, k: number): Steps<NearToken[]> {
		const width = this.#llm.tokenSize;
		const { tokenizer } = this.#llm;
		const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0)) || 1;
		const tokens = Math.min(this.#unit.length / width, tokenizer.vocabSize);
		const near: { id: number; similarity: number }[] = [];
		for (let id = 0; id < tokens; id++) {
			let dot = 0;
			for (let c = 0; c < width; c++) dot += this.#unit[id * width + c]! * vector[c]!;
			const similarity = dot / length;
			if (near.length === k && similarity <= near[k - 1]!.similarity) continue;
			if (tokenizer.isSpecial(id)) continue;
			const place = near.findIndex((other) => similarity > other.similarity);
			near.splice(place < 0 ? near.length : place, 0, { id, similarity });
			near.length = Math.min(near.length, k);
			if (id % 1024 === 0) yield;
		}
		return near.map(({ id, similarity }) => ({ id, text: tokenizer.decode([id]), similarity }));
	}
}

function* unitRows(rows: Float32Array, width: number): Steps<Float32Array> {
	for (let at = 0; at < rows.length; at += width) {
		let square = 0;
		for (let c = 0; c < width; c++) square += rows[at + c]! ** 2;
		const length = Math.sqrt(square) || 1;
		for (let c = 0; c < width; c++) rows[at + c]! /= length;
		if ((at / width) % 1024 === 0) yield;
	}
	return rows;
}
