import { nextTurn, turnIsOver } from '../event-loop.js';
import type { CausalLM } from '../llm/causal-lm.js';
import { planMicroBatches } from '../llm/micro-batches.js';
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

/** A request whose prompt has been built. */
export interface PackedRequest {
	sequence: PackedSequence;
	user: Float32Array | undefined;
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

/** Passes queued at the device: one runs while the next is packed and the one before is unpacked. */
const IN_FLIGHT = 2;
/** Passes whose prompts are built ahead, so that like lengths find each other. */
const WINDOW_BATCHES = 16;

/**
 * Scores candidates by their titles' log-likelihood behind the user's prompt, which is computed once for all of them.
 * A score's bits do not depend on what else is in a batch.
 */
export class CandidateScorer {
	readonly #llm: CausalLM;
	readonly prompts: PromptBuilder;
	readonly tokensPerBatch: number;
	readonly #passes = new Turnstile(IN_FLIGHT);
	itemTokens: Float32Array;

	constructor(
		llm: CausalLM,
		prompts: PromptBuilder,
		{ itemTokens = new Float32Array(0), tokensPerBatch = 4096 }: CandidateScorerOptions = {},
	) {
		this.#llm = llm;
		this.prompts = prompts;
		this.itemTokens = itemTokens;
		this.tokensPerBatch = tokensPerBatch;
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
		let done = 0;
		const report = (finished: number) => {
			done += finished;
			const rate = (1000 * done) / (performance.now() - begun);
			onProgress?.({
				stage: 'score',
				done,
				total: requests.length,
				unit: 'users',
				rate,
				secondsLeft: (requests.length - done) / rate,
			});
		};
		for (let first = 0; first < requests.length; ) {
			signal?.throwIfAborted();
			const window: PackedRequest[] = [];
			for (
				let tokens = 0;
				first < requests.length && tokens < WINDOW_BATCHES * this.tokensPerBatch;
				first++
			) {
				if (turnIsOver()) await nextTurn(signal);
				const packed = this.pack(requests[first]!);
				tokens += packed.sequence.ids.length;
				window.push(packed);
			}
			const part = await this.scorePacked(window, { signal, onBatch: report });
			scores.sum.set(part.sum, at);
			scores.mean.set(part.mean, at);
			at += part.sum.length;
		}
		return scores;
	}

	/** @throws ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_EMPTY_HISTORY */
	pack(request: ScoreRequest): PackedRequest {
		const prompt = this.prompts.build(request);
		const answers: Int32Array[] = [];
		for (let i = 0; i < request.candidates.length; i++)
			answers.push(this.prompts.answer(request.candidates[i]!));
		return { sequence: packCandidates(prompt, answers), user: request.user };
	}

	/** Scores all requests in micro-batches. @param onBatch gets the number of requests a batch has finished */
	async scorePacked(
		requests: readonly PackedRequest[],
		{
			signal,
			onBatch,
			tokensPerBatch = this.tokensPerBatch,
		}: {
			signal?: AbortSignal | undefined;
			onBatch?: ((requests: number) => void) | undefined;
			tokensPerBatch?: number | undefined;
		} = {},
	): Promise<CandidateScores> {
		const first = new Int32Array(requests.length + 1);
		for (let r = 0; r < requests.length; r++) first[r + 1] = first[r]! + requests[r]!.sequence.candidates;
		const count = first[requests.length]!;
		const scores: CandidateScores = { sum: new Float32Array(count), mean: new Float32Array(count) };
		const lengths = Int32Array.from(requests, ({ sequence }) => sequence.ids.length);
		let failed = false;
		const passes = planMicroBatches(lengths, tokensPerBatch).map((indices) =>
			this.#passes.through(async () => {
				if (failed) return;
				try {
					signal?.throwIfAborted();
					await this.#pass(
						Array.from(indices, (r) => requests[r]!),
						indices,
						first,
						scores,
						signal,
					);
					if (!failed) onBatch?.(indices.length);
				} catch (error) {
					failed = true;
					throw error;
				}
			}),
		);
		// All to their end, so that nothing still runs when one of them has failed.
		for (const outcome of await Promise.allSettled(passes))
			if (outcome.status === 'rejected') throw outcome.reason;
		return scores;
	}

	/** @param first of each request, its first candidate in `scores` */
	async #pass(
		requests: readonly PackedRequest[],
		indices: Int32Array,
		first: Int32Array,
		scores: CandidateScores,
		signal: AbortSignal | undefined,
	): Promise<void> {
		const packed = packBatch(requests.map(({ sequence }) => sequence));
		const { slots, slotOffsets, candidateOffsets, logitRows, pairRows, rowTargets, rowCandidate } = packed;
		const width = this.#llm.tokenSize;
		const soft = new Float32Array(slots.length * width);
		for (let s = 0; s < requests.length; s++)
			for (let k = slotOffsets[s]!; k < slotOffsets[s + 1]!; k++) {
				const slot = slots[k]!;
				const row =
					slot.kind === 'user'
						? requests[s]!.user!
						: this.itemTokens.subarray(slot.item * width, (slot.item + 1) * width);
				soft.set(row, k * width);
			}
		const batch = toLlmBatch(packed);
		const logProbs = await this.#llm.logProbs(batch, soft, logitRows, pairRows, rowTargets, signal);
		// Pairs are in the order of their candidates.
		let pair = 0;
		for (let s = 0; s < requests.length; s++) {
			const shift = first[indices[s]!]! - candidateOffsets[s]!;
			for (let c = candidateOffsets[s]!; c < candidateOffsets[s + 1]!; c++) {
				let sum = 0;
				const begin = pair;
				for (; pair < rowCandidate.length && rowCandidate[pair] === c; pair++) sum += logProbs[pair]!;
				scores.sum[shift + c] = sum;
				scores.mean[shift + c] = sum / (pair - begin);
			}
		}
	}
}

/** Lets so many through at a time, in the order they came. */
class Turnstile {
	#free: number;
	readonly #waiting: (() => void)[] = [];

	constructor(places: number) {
		this.#free = places;
	}

	async through<T>(work: () => Promise<T>): Promise<T> {
		if (this.#free > 0) this.#free--;
		else await new Promise<void>((resolve) => this.#waiting.push(resolve));
		try {
			return await work();
		} finally {
			const next = this.#waiting.shift();
			if (next) next();
			else this.#free++;
		}
	}
}
