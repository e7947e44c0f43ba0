import { join } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { inTurns, nextTurn, turnIsOver } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import type { LlmBatch, LlmDtype, NativeOpt, OptConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { type DeviceOptions, guard, loaded, raggedSteps, run, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { CHECKPOINT_RULES } from '../text/checkpoint.js';
import { resolveCheckpoint } from '../text/hub.js';
import type { Tokenizer } from '../text/tokenizer.js';
import {
	AT_ONCE,
	type GeneratedPiece,
	type GenerateOptions,
	type Generation,
	type GenerationContext,
	generateAll,
	generationOf,
	streamOf,
	type TokenPrompt,
} from './generation.js';
import { GenerationQueue } from './generation-queue.js';
import { tokenBytes } from './generation-text.js';
import { LoraAdapter } from './lora.js';
import { openOptCheckpoint } from './opt-checkpoint.js';
import { TokenTrie } from './token-trie.js';
import { loadLanguageTokenizer } from './tokenizer.js';

export interface CausalLMOptions extends DeviceOptions, LongCallOptions {
	/**
	 * How the weights are kept in memory; default that of a folder written by `quantizeCheckpoint`, else `float32`.
	 * Checkpoints in another dtype are converted as they are read, those stored in int8 or int4 excepted. Stage 2
	 * trains through `float32` and `bfloat16` alone.
	 */
	dtype?: LlmDtype | undefined;
	/** `dtype` where neither it nor the folder names one. @internal */
	otherwise?: LlmDtype | undefined;
	/**
	 * Sequences generated at once, a beam and a sample counting as one each; further requests wait for their turn.
	 * Bounds the memory of the key-value cache. Default 32.
	 */
	generationSlots?: number | undefined;
	/** Folder of a LoRA of the query and value projections, in PEFT's layout. */
	adapter?: string | undefined;
	/**
	 * Whether the adapter becomes part of the weights, which costs nothing later, or stays beside them. Default: true
	 * but for int8 and int4, where it cannot.
	 */
	mergeAdapter?: boolean | undefined;
	/** @internal */
	session?: Session | undefined;
}

export interface ScoreCandidatesOptions {
	/** Soft tokens (S, tokenSize) that the prompt refers to. */
	soft?: Float32Array | undefined;
	/**
	 * Tokens computed at once, about: memory follows from it, whatever the number of candidates. Default 4096.
	 */
	tokensPerBatch?: number | undefined;
	signal?: AbortSignal | undefined;
}

/** Log-likelihoods, one number a candidate. */
export interface CandidateLikelihoods {
	/** Σ log p of the candidate's tokens. */
	sum: Float32Array;
	/** The same divided by the number of tokens. */
	mean: Float32Array;
}

/** A frozen causal language model of the OPT family (Zhang et al., 2022). */
export class CausalLM {
	readonly config: Readonly<OptConfig>;
	readonly tokenizer: Tokenizer;
	/** Where it was loaded from: a folder, or a Hub id. */
	readonly source: string;
	/** @internal */
	readonly native: NativeOpt;
	readonly #session: Session;
	readonly #slots: number;
	#queue: GenerationQueue | undefined;
	#disposed = false;

	private constructor(
		session: Session,
		native: NativeOpt,
		config: OptConfig,
		tokenizer: Tokenizer,
		source: string,
		slots: number,
	) {
		this.#session = session;
		this.native = native;
		this.config = config;
		this.tokenizer = tokenizer;
		this.source = source;
		this.#slots = slots;
	}

	/**
	 * Loads a Hugging Face folder, or downloads the checkpoint of a Hub id such as `facebook/opt-125m`.
	 *
	 * @throws ERR_ALLMREC_CHECKPOINT for another kind of model, ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_DOWNLOAD.
	 */
	static async load(source: string, options: CausalLMOptions = {}): Promise<CausalLM> {
		expectKnown('causalLM', options);
		const {
			signal,
			onProgress,
			session: given,
			dtype,
			otherwise,
			generationSlots = 32,
			adapter,
			mergeAdapter,
			...device
		} = options;
		const folder = await resolveCheckpoint(source, { signal, onProgress });
		const tokenizer = await loadLanguageTokenizer(folder);
		const { config, files } = await openOptCheckpoint(folder, {
			dtype,
			otherwise,
			tokens: tokenizer.vocabSize,
		});
		const session = given?.share() ?? Session.open(device);
		try {
			const described = makeDescribed(
				join(folder, 'config.json'),
				{ weights: leastWeights(config), files, rules: CHECKPOINT_RULES },
				() => new session.addon.Opt(session.engine, config),
			);
			const native = await loaded(await described, files, signal);
			if (adapter !== undefined)
				await adapt(native, config, session, adapter, mergeAdapter, signal).catch((error) => {
					native.dispose();
					throw error;
				});
			return new CausalLM(session, native, config, tokenizer, source, generationSlots);
		} catch (error) {
			session.release();
			throw error;
		}
	}

	/** Width of a soft token: d_token. */
	get tokenSize(): number {
		return this.config.embedSize;
	}

	/** Longest sequence. */
	get maxPositions(): number {
		return this.config.maxPositions;
	}

	/** log p of pairs; see the native mirror. @internal */
	logProbs(
		batch: LlmBatch,
		soft: Float32Array,
		rows: Int32Array,
		pairRows: Int32Array,
		pairTargets: Int32Array,
		signal?: AbortSignal,
		adapter: LoraAdapter | null = null,
	): Promise<Float32Array> {
		return run(
			(cancel) =>
				this.native.logProbs(batch, soft, rows, pairRows, pairTargets, cancel, adapter?.native ?? null),
			signal,
		);
	}

	/**
	 * Log-likelihoods of any number of candidates as continuations of one prompt, each as if it stood there alone. The
	 * prompt is computed once.
	 *
	 * A prompt that leaves no room for the longest candidate is cut: its first token (BOS) stays, the tokens behind it
	 * go, the foremost first.
	 *
	 * @param prompt text, or ids where −k − 1 stands for row k of `soft`
	 * @param candidates texts, whose tokens are followed by EOS, or ids as they are
	 * @throws ERR_ALLMREC_PROMPT_TOO_LONG where a candidate alone exceeds the language model's positions
	 */
	async scoreCandidates(
		prompt: string | ArrayLike<number>,
		candidates: readonly (string | ArrayLike<number>)[],
		options: ScoreCandidatesOptions = {},
	): Promise<CandidateLikelihoods> {
		expectKnown('scoreCandidates', options);
		const { soft = new Float32Array(0), tokensPerBatch = 4096, signal } = options;
		if (!Number.isInteger(tokensPerBatch) || tokensPerBatch < 1)
			invalidArgument('tokensPerBatch', 'a whole number from 1', tokensPerBatch);
		const { tokenizer } = this;
		const eos = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
		const told = Int32Array.from(typeof prompt === 'string' ? tokenizer.encodeWithSpecials(prompt) : prompt);
		if (told.length === 0) invalidArgument('prompt', 'at least one token', prompt);
		// The caller's arrays may change from the first turn on.
		const own = candidates.map((each) => (typeof each === 'string' ? each : Int32Array.from(each)));
		const vectors = soft.slice();
		const answers: ArrayLike<number>[] = [];
		for (const [i, candidate] of own.entries()) {
			if (turnIsOver()) await nextTurn(signal);
			const ids = typeof candidate === 'string' ? [...tokenizer.encodeText(candidate), ...eos] : candidate;
			if (ids.length === 0) invalidArgument(`candidates[${i}]`, 'at least one token', candidate);
			answers.push(ids);
		}
		// The last token of a candidate is predicted but not read.
		const longest = answers.reduce((most, { length }) => Math.max(most, length - 1), 0);
		const room = this.maxPositions - longest;
		if (room < 1)
			throw new ALLMRecError(
				'ERR_ALLMREC_PROMPT_TOO_LONG',
				`A candidate of ${longest + 1} tokens leaves no position of the language model's ${this.maxPositions} for a prompt.`,
			);
		const kept = cutPrompt(told, room);
		const rows = await inTurns(raggedSteps(answers), signal);
		return run((cancel) => this.native.scoreAnswers(kept, vectors, rows, tokensPerBatch, cancel), signal);
	}

	/**
	 * Continuations of packed prompts, as token ids; each ends with the end token if it came.
	 *
	 * @param prompts rows of ids; −k − 1 stands for row k of `soft` (S · tokenSize)
	 */
	async generateIds(
		prompts: readonly ArrayLike<number>[],
		soft: Float32Array = new Float32Array(0),
		options: GenerateOptions = {},
	): Promise<Int32Array[]> {
		const vectors = soft.slice(); // the caller's arrays may change from here on
		const rows = prompts.map((ids) => ({ ids: Int32Array.from(ids), soft: vectors }));
		const results = await generateAll(this.#generation(), rows, options, false);
		return results.map(([best]) => best!.ids);
	}

	/**
	 * Continues texts, or tokens with soft tokens between them. All calls share one running batch: a request joins it
	 * as soon as another has ended, so calls of several users at a time cost little more than one.
	 *
	 * @throws ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_INVALID_ARGUMENT; the signal's reason when aborted
	 */
	generate(prompt: string | TokenPrompt, options?: GenerateOptions): Promise<Generation>;
	generate(prompts: readonly (string | TokenPrompt)[], options?: GenerateOptions): Promise<Generation[]>;
	async generate(
		prompts: string | TokenPrompt | readonly (string | TokenPrompt)[],
		options: GenerateOptions = {},
	): Promise<Generation | Generation[]> {
		expectKnown('generate', options);
		const many = Array.isArray(prompts);
		const given: readonly (string | TokenPrompt)[] = many ? prompts : [prompts as string | TokenPrompt];
		const list = given.map(ownPrompt); // the caller's arrays may change from the first turn on
		const rows: TokenPrompt[] = [];
		for (const [i, prompt] of list.entries()) {
			if (i % AT_ONCE === AT_ONCE - 1 && turnIsOver()) await nextTurn(options.signal);
			rows.push(this.#prompt(prompt));
		}
		const results = await generateAll(this.#generation(), rows, options, true);
		const generations = results.map((sequences) => generationOf(this.tokenizer, sequences, options));
		return many ? generations : generations[0]!;
	}

	/**
	 * Continues one text and gives its tokens as they come. Leaving the loop ends the work.
	 *
	 * @throws as {@link generate}, at the first step of the loop
	 */
	stream(
		prompt: string | TokenPrompt,
		options: GenerateOptions = {},
	): AsyncGenerator<GeneratedPiece, void, undefined> {
		expectKnown('generate', options);
		// It begins at the first step of the loop; until then the caller's arrays may change.
		return streamOf(this.#generation(), this.#prompt(ownPrompt(prompt)), options);
	}

	/**
	 * A tree of answers for {@link GenerateOptions.trie}: texts as they would stand behind the prompt, its leading
	 * space included, or their token ids. Each is followed by the tokenizer's end token.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT for an empty answer, or one that holds the end token
	 */
	async trie(answers: readonly (string | ArrayLike<number>)[]): Promise<TokenTrie> {
		this.#assertLive();
		const { addon, engine } = this.#session;
		const native = guard(() => new addon.TokenTrie(engine));
		const ids: ArrayLike<number>[] = [];
		for (const one of answers) {
			if (turnIsOver()) await nextTurn();
			ids.push(typeof one === 'string' ? this.tokenizer.encodeText(one) : one);
		}
		return TokenTrie.build(native, ids, this.tokenizer.eosId);
	}

	#prompt(prompt: string | TokenPrompt): TokenPrompt {
		return typeof prompt === 'string' ? { ids: this.tokenizer.encodeWithSpecials(prompt) } : prompt;
	}

	#generation(): GenerationContext {
		this.#assertLive();
		this.#queue ??= new GenerationQueue(this.#session.addon, this.native, { slots: this.#slots }, () =>
			tokenBytes(this.tokenizer),
		);
		const { tokenizer, tokenSize, maxPositions } = this;
		return { queue: this.#queue, tokenizer, tokenSize, maxPositions };
	}

	#assertLive(): void {
		if (this.#disposed)
			throw new ALLMRecError('ERR_ALLMREC_DISPOSED', 'This language model is used after dispose().');
	}

	/** Idempotent. */
	dispose(): void {
		if (this.#disposed) return;
		this.#disposed = true;
		this.#queue?.close();
		this.native.dispose();
		this.#session.release();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.dispose();
	}
}

/** Merges an adapter's folder into the weights, or lets the model compute with it. */
async function adapt(
	native: NativeOpt,
	config: OptConfig,
	session: Session,
	folder: string,
	merge: boolean | undefined,
	signal: AbortSignal | undefined,
): Promise<void> {
	const adapter = await LoraAdapter.load(folder, session, config, signal);
	try {
		const quantized = config.dtype === 'int8' || config.dtype === 'int4';
		if (merge ?? !quantized) await run(() => adapter.native.mergeInto(native), signal);
		else await run(() => native.setAdapter(adapter.native), signal);
	} finally {
		adapter.dispose();
	}
}

/** Without biases, norms and positions. */
function leastWeights({ vocabSize, embedSize, hiddenSize, numLayers, ffnSize }: OptConfig): number {
	return vocabSize * embedSize + hiddenSize * numLayers * (4 * hiddenSize + 2 * ffnSize);
}

/** The first token and the last ones. */
function cutPrompt(ids: Int32Array, room: number): Int32Array {
	if (ids.length <= room) return ids;
	const kept = ids.slice(ids.length - room);
	kept[0] = ids[0]!;
	return kept;
}

/** A copy of a prompt's arrays. */
function ownPrompt(prompt: string | TokenPrompt): string | TokenPrompt {
	if (typeof prompt === 'string') return prompt;
	return { ids: Int32Array.from(prompt.ids), soft: prompt.soft?.slice() };
}
