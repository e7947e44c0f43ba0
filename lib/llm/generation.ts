import { ALLMRecError, invalidArgument } from '../errors.js';
import { nextTurn, turnIsOver } from '../event-loop.js';
import type { NativeGeneratedSequence, NativeGenerationRequest } from '../native/addon.js';
import { ragged } from '../native/session.js';
import type { Tokenizer } from '../text/tokenizer.js';
import type { GenerationQueue } from './generation-queue.js';
import type { Stops } from './generation-text.js';
import { TextStream, textOf } from './generation-text.js';
import type { TokenTrie } from './token-trie.js';

/** Why a text ended: the end token, a stop sequence, `maxNewTokens` or the last position, an abort. */
export type FinishReason = 'eos' | 'stop' | 'length' | 'abort';

/** How a text is generated: greedily, unless `numBeams` or `doSample` ask for more. Names as in transformers. */
export interface GenerateOptions {
	/** Default 32. */
	maxNewTokens?: number | undefined;
	/** As in transformers; 1 (default) = none. The prompt's tokens count as seen, its soft tokens do not. */
	repetitionPenalty?: number | undefined;
	/** Token that ends a text. Default: the tokenizer's. −1: none. */
	eosId?: number | undefined;
	/**
	 * Sequences that end a text, as text or as tokens. Text is found wherever it begins and ends within tokens. The
	 * result's `ids` hold it, its `text` ends before it.
	 */
	stop?: readonly (string | readonly number[])[] | undefined;
	/** Only these answers; see {@link TokenTrie}. */
	trie?: TokenTrie | undefined;
	/** Beams of a beam search; 1 (default) = none. */
	numBeams?: number | undefined;
	/** A beam's score is its log-probability / length^lengthPenalty. Default 1. */
	lengthPenalty?: number | undefined;
	/** When a beam search ends before its length, as in transformers. Default false. */
	earlyStopping?: boolean | 'never' | undefined;
	/** Draw tokens instead of taking the likeliest. Default false. */
	doSample?: boolean | undefined;
	/** Logits are divided by it. Default 1. */
	temperature?: number | undefined;
	/** Draw among the likeliest so many; 0 (default) = all. */
	topK?: number | undefined;
	/** Draw among the likeliest whose probabilities reach it; 1 (default) = all. */
	topP?: number | undefined;
	/**
	 * Of what is drawn, 0 … 2^53 − 1; default 0. The same seed and prompt give the same text, whatever is generated
	 * beside. Prompts of one call draw the same numbers.
	 */
	seed?: number | undefined;
	/** Texts for each prompt: up to `numBeams`, or so many drawn. Default 1. */
	numReturnSequences?: number | undefined;
	signal?: AbortSignal | undefined;
	/** What an abort does: `throw` (default) the signal's reason, or `return` what there is by then. */
	onAbort?: 'throw' | 'return' | undefined;
}

/** Tokens with soft tokens between them. */
export interface TokenPrompt {
	/** ≥ 0 a token; −k − 1 stands for row k of `soft`. */
	ids: ArrayLike<number>;
	/** (S · tokenSize) */
	soft?: Float32Array | undefined;
}

export interface GeneratedText {
	text: string;
	/** All that was generated, with the end token or stop sequence that ended it. */
	ids: Int32Array;
	finishReason: FinishReason;
	/**
	 * Σ log p of the tokens, by the model's own probabilities: before penalty, temperature and cuts. With a trie they
	 * are normalised over the children of each node, so that a token without alternative has log p = 0.
	 */
	logProb: number;
	/** Of a beam search: log-probabilities with repetition penalty, / length^lengthPenalty. Else `logProb`. */
	score: number;
	/** With a trie: which of its answers it is; undefined when it was cut off. */
	entry: number | undefined;
}

export interface Generation extends GeneratedText {
	/** The further sequences asked for by `numReturnSequences`: of a beam search in descending order of their scores. */
	others: GeneratedText[];
}

export interface GeneratedPiece {
	id: number;
	/** What the token adds to the text; empty while a character or what may be a stop sequence is not complete. */
	text: string;
	logProb: number;
	/** On the last piece alone. */
	finishReason?: FinishReason;
}

export interface GenerationContext {
	queue: GenerationQueue;
	tokenizer: Tokenizer;
	tokenSize: number;
	maxPositions: number;
}

/** Prompts prepared without making way: a few join the batch when the call is made. */
export const AT_ONCE = 16;

/** One result per prompt. */
export async function generateAll(
	context: GenerationContext,
	prompts: readonly TokenPrompt[],
	options: GenerateOptions,
	logProbs: boolean,
): Promise<NativeGeneratedSequence[][]> {
	const { signal, onAbort = 'throw' } = options;
	if (onAbort !== 'throw' && onAbort !== 'return') invalidArgument('onAbort', '`throw` or `return`', onAbort);
	signal?.throwIfAborted();
	const requests: NativeGenerationRequest[] = [];
	for (const [i, prompt] of prompts.entries()) {
		if (i % AT_ONCE === AT_ONCE - 1 && turnIsOver()) await nextTurn(signal);
		requests.push(requestOf(context, prompt, options, { logProbs, stream: false }));
	}
	if (stopsOf(options.stop).strings.length > 0) await context.queue.prepareStops(signal);
	return new Promise((resolve, reject) => {
		const results = new Array<NativeGeneratedSequence[]>(prompts.length);
		let left = prompts.length;
		let numbers: number[] = [];
		const end = (settle: () => void) => {
			signal?.removeEventListener('abort', abort);
			settle();
		};
		const abort = () => {
			for (const number of numbers)
				if (onAbort === 'throw') context.queue.drop(number);
				else context.queue.abort(number);
			if (onAbort === 'throw') end(() => reject(signal!.reason));
		};
		if (left === 0) return resolve([]);
		numbers = context.queue.submit(requests, (i) => ({
			finished(sequences) {
				results[i] = sequences;
				if (--left === 0) end(() => resolve(results));
			},
			failed: (error) => end(() => reject(error)),
		}));
		signal?.addEventListener('abort', abort, { once: true });
	});
}

export function generationOf(
	tokenizer: Tokenizer,
	sequences: readonly NativeGeneratedSequence[],
	{ stop }: GenerateOptions,
): Generation {
	const stops = stopsOf(stop);
	const [first, ...others] = sequences.map(({ ids, reason, logProb, score, entry }) => ({
		text: textOf(tokenizer, ids, reason, stops),
		ids,
		finishReason: reason,
		logProb,
		score,
		entry: entry < 0 ? undefined : entry,
	}));
	return { ...first!, others };
}

/** Pieces of one text as they come; leaving the loop early ends the request. */
export async function* streamOf(
	context: GenerationContext,
	prompt: TokenPrompt,
	options: GenerateOptions,
): AsyncGenerator<GeneratedPiece, void, undefined> {
	const { signal, onAbort = 'throw' } = options;
	signal?.throwIfAborted();
	const request = requestOf(context, prompt, options, { logProbs: true, stream: true });
	if (stopsOf(options.stop).strings.length > 0) await context.queue.prepareStops(signal);
	const text = new TextStream(context.tokenizer, stopsOf(options.stop));
	const pieces: GeneratedPiece[] = [];
	let done = false;
	let failure: { error: unknown } | undefined;
	let wake: (() => void) | undefined;
	const tell = () => wake?.();
	const [number] = context.queue.submit([request], () => ({
		token(id, logProb) {
			pieces.push({ id, text: text.push(id), logProb });
			tell();
		},
		finished([sequence]) {
			// The last token came with this; what an abort holds back has no token to go with.
			const last = pieces.at(-1);
			if (last && sequence && sequence.reason !== 'abort') {
				last.text = text.finish(sequence.reason, last.text);
				last.finishReason = sequence.reason;
			}
			done = true;
			tell();
		},
		failed(error) {
			failure = { error };
			tell();
		},
	}));
	const abort = () => {
		if (onAbort === 'throw') {
			failure = { error: signal!.reason };
			context.queue.drop(number!);
		} else context.queue.abort(number!);
		tell();
	};
	signal?.addEventListener('abort', abort, { once: true });
	try {
		for (;;) {
			if (failure) throw failure.error;
			const piece = pieces.shift();
			if (piece) yield piece;
			else if (done) return;
			else
				await new Promise<void>((resolve) => {
					wake = resolve;
				});
		}
	} finally {
		signal?.removeEventListener('abort', abort);
		context.queue.drop(number!);
	}
}

function requestOf(
	{ tokenizer, tokenSize, maxPositions }: GenerationContext,
	prompt: TokenPrompt,
	options: GenerateOptions,
	{ logProbs, stream }: { logProbs: boolean; stream: boolean },
): NativeGenerationRequest {
	const { maxNewTokens = 32, repetitionPenalty = 1, numBeams = 1, doSample = false, trie } = options;
	const { eosId = trie?.eosId ?? tokenizer.eosId ?? -1, numReturnSequences = 1 } = options;
	const ids = Int32Array.from(prompt.ids);
	if (ids.length + 1 > maxPositions)
		throw new ALLMRecError(
			'ERR_ALLMREC_PROMPT_TOO_LONG',
			`A prompt of ${ids.length} tokens leaves nothing of the language model's ${maxPositions} positions; shorten it.`,
		);
	const request: NativeGenerationRequest = {
		...withOwnSoft(ids, prompt.soft ?? new Float32Array(0), tokenSize),
		seen: ids.filter((id) => id >= 0),
		maxNewTokens,
		eosId,
		repetitionPenalty,
		sequences: numReturnSequences,
		stream,
		logProbs,
	};
	if (numBeams !== 1) {
		const { lengthPenalty = 1, earlyStopping = false } = options;
		if (earlyStopping !== 'never' && typeof earlyStopping !== 'boolean')
			invalidArgument('earlyStopping', 'true, false or `never`', earlyStopping);
		const early = earlyStopping === 'never' ? 'never' : earlyStopping ? 'yes' : 'no';
		request.beam = { beams: numBeams, lengthPenalty, earlyStopping: early };
	} else forbid(options, ['lengthPenalty', 'earlyStopping'], 'numBeams', 'more than 1');
	if (doSample) {
		const { temperature = 1, topK = 0, topP = 1, seed = 0 } = options;
		request.sampling = { temperature, topK, topP, seed };
	} else forbid(options, ['temperature', 'topK', 'topP', 'seed'], 'doSample', 'true');
	const { tokens, strings } = stopsOf(options.stop);
	if (tokens.length > 0) request.stopTokens = ragged(tokens);
	if (strings.length > 0) request.stopStrings = [...strings];
	if (trie) request.trie = trie.native;
	return request;
}

/** Options that would do nothing are mistakes. */
function forbid(
	options: GenerateOptions,
	names: (keyof GenerateOptions)[],
	needed: keyof GenerateOptions,
	value: string,
): void {
	for (const name of names)
		if (options[name] !== undefined)
			invalidArgument(needed, `${value} where \`${name}\` is given`, options[needed]);
}

/** The rows of `soft` that a prompt names, numbered anew. */
function withOwnSoft(
	ids: Int32Array,
	soft: Float32Array,
	width: number,
): { ids: Int32Array; soft: Float32Array } {
	const places = new Map<number, number>();
	const rows: Float32Array[] = [];
	const renumbered = ids.map((id) => {
		if (id >= 0 || (-id - 1) * width >= soft.length) return id;
		const row = -id - 1;
		if (!places.has(row)) {
			places.set(row, rows.length);
			rows.push(soft.subarray(row * width, (row + 1) * width));
		}
		return -places.get(row)! - 1;
	});
	const own = new Float32Array(rows.reduce((sum, { length }) => sum + length, 0));
	let at = 0;
	for (const row of rows) {
		own.set(row, at);
		at += row.length;
	}
	return { ids: renumbered, soft: own };
}

function stopsOf(stop: GenerateOptions['stop'] = []): Stops {
	const tokens: (readonly number[])[] = [];
	const strings: string[] = [];
	for (const one of stop) {
		if (one.length === 0) invalidArgument('stop', 'sequences of at least one character or token', one);
		if (typeof one === 'string') strings.push(one);
		else tokens.push(one);
	}
	return { tokens, strings };
}
