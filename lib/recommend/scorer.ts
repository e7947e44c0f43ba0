import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import { type PackedSequence, packBatch, packCandidates } from '../llm/prompt-packing.js';
import type { LongCallOptions } from '../progress.js';
import { toLlmBatch } from '../projection/projection.js';

/** One user's candidates to score. */
export interface ScoreRequest {
	/** Dense item ids, oldest first. */
	history: ArrayLike<number>;
	/** Dense item ids. */
	candidates: ArrayLike<number>;
	/** O_u (tokenSize); not needed by a prompt without a user slot. */
	user?: Float32Array | undefined;
}

/** Log-likelihoods of the candidates' answers, one number per candidate, request by request. */
export interface CandidateScores {
	/** Σ log p of the answer's tokens. */
	sum: Float32Array;
	/** The same divided by the number of tokens. */
	mean: Float32Array;
}

export interface CandidateScorerOptions {
	/** O_i (numItems + 1, tokenSize) of every item; not needed by prompts without item slots. */
	itemTokens?: Float32Array | undefined;
	/** Packed tokens of one pass through the language model, about. Default 4096. */
	tokensPerBatch?: number | undefined;
}

/**
 * Scores candidates by their titles' log-likelihood behind the user's prompt, which is computed once for all of them.
 */
export class CandidateScorer {
	readonly #llm: CausalLM;
	readonly #prompts: PromptBuilder;
	readonly #tokensPerBatch: number;
	itemTokens: Float32Array;

	constructor(
		llm: CausalLM,
		prompts: PromptBuilder,
		{ itemTokens = new Float32Array(0), tokensPerBatch = 4096 }: CandidateScorerOptions = {},
	) {
		this.#llm = llm;
		this.#prompts = prompts;
		this.itemTokens = itemTokens;
		this.#tokensPerBatch = tokensPerBatch;
	}

	/** @throws ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_EMPTY_HISTORY, or the signal's reason. */
	async score(
		requests: readonly ScoreRequest[],
		{ signal, onProgress }: LongCallOptions = {},
	): Promise<CandidateScores> {
		const count = requests.reduce((n, { candidates }) => n + candidates.length, 0);
		const scores: CandidateScores = { sum: new Float32Array(count), mean: new Float32Array(count) };
		const begun = performance.now();
		let at = 0;
		for (let first = 0; first < requests.length; ) {
			signal?.throwIfAborted();
			const sequences: PackedSequence[] = [];
			let tokens = 0;
			while (
				first + sequences.length < requests.length &&
				(sequences.length === 0 || tokens < this.#tokensPerBatch)
			) {
				const request = requests[first + sequences.length]!;
				const prompt = this.#prompts.build(request);
				const sequence = packCandidates(
					prompt,
					Array.from(request.candidates, (item) => this.#prompts.answer(item)),
				);
				sequences.push(sequence);
				tokens += sequence.ids.length;
			}
			const users = requests.slice(first, first + sequences.length).map(({ user }) => user);
			at += await this.#pass(sequences, users, scores, at, signal);
			first += sequences.length;
			const rate = (1000 * first) / (performance.now() - begun);
			onProgress?.({
				stage: 'score',
				done: first,
				total: requests.length,
				unit: 'users',
				rate,
				secondsLeft: (requests.length - first) / rate,
			});
		}
		return scores;
	}

	async #pass(
		sequences: PackedSequence[],
		users: (Float32Array | undefined)[],
		scores: CandidateScores,
		at: number,
		signal: AbortSignal | undefined,
	): Promise<number> {
		const packed = packBatch(sequences);
		const width = this.#llm.tokenSize;
		const soft = new Float32Array(packed.slots.length * width);
		let sequence = 0;
		for (const [k, slot] of packed.slots.entries()) {
			while (k >= packed.slotOffsets[sequence + 1]!) sequence++;
			const row =
				slot.kind === 'user'
					? users[sequence]!
					: this.itemTokens.subarray(slot.item * width, (slot.item + 1) * width);
			soft.set(row, k * width);
		}
		const { logitRows, pairRows, rowTargets } = packed;
		const logProbs = await this.#llm.logProbs(
			toLlmBatch(packed),
			soft,
			logitRows,
			pairRows,
			rowTargets,
			signal,
		);
		const total = packed.candidateOffsets.at(-1)!;
		const lengths = new Int32Array(total);
		for (const [pair, candidate] of packed.rowCandidate.entries()) {
			scores.sum[at + candidate]! += logProbs[pair]!;
			lengths[candidate]!++;
		}
		for (let c = 0; c < total; c++) scores.mean[at + c] = scores.sum[at + c]! / lengths[c]!;
		return total;
	}
}
