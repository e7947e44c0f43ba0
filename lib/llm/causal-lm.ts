import { ALLMRecError } from '../errors.js';
import type { LlmBatch, LlmDtype, NativeOpt, OptConfig } from '../native/addon.js';
import { type DeviceOptions, guard, ragged, run, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { resolveCheckpoint } from '../text/hub.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { openOptCheckpoint } from './opt-checkpoint.js';
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
	/** @internal */
	session?: Session | undefined;
}

export interface GenerateOptions {
	/** Default 32. */
	maxNewTokens?: number | undefined;
	/** As in transformers; 1 (default) = none. The prompt's tokens count as seen. */
	repetitionPenalty?: number | undefined;
	/** Token that ends a text. Default: the tokenizer's. −1: none. */
	eosId?: number | undefined;
	signal?: AbortSignal | undefined;
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
	#disposed = false;

	private constructor(
		session: Session,
		native: NativeOpt,
		config: OptConfig,
		tokenizer: Tokenizer,
		source: string,
	) {
		this.#session = session;
		this.native = native;
		this.config = config;
		this.tokenizer = tokenizer;
		this.source = source;
	}

	/**
	 * Loads a Hugging Face folder, or downloads the checkpoint of a Hub id such as `facebook/opt-125m`.
	 *
	 * @throws ERR_ALLMREC_CHECKPOINT for another kind of model, ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_DOWNLOAD.
	 */
	static async load(source: string, options: CausalLMOptions = {}): Promise<CausalLM> {
		const { signal, onProgress, session: given, dtype, otherwise, ...device } = options;
		const folder = await resolveCheckpoint(source, { signal, onProgress });
		const tokenizer = await loadLanguageTokenizer(folder);
		const { config, files } = await openOptCheckpoint(folder, {
			dtype,
			otherwise,
			tokens: tokenizer.vocabSize,
		});
		const session = given?.share() ?? Session.open(device);
		try {
			const native = guard(() => new session.addon.Opt(session.engine, config));
			await run(() => native.load(files), signal);
			return new CausalLM(session, native, config, tokenizer, source);
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
	): Promise<Float32Array> {
		return run((cancel) => this.native.logProbs(batch, soft, rows, pairRows, pairTargets, cancel), signal);
	}

	/**
	 * Greedy continuation of packed prompts, as token ids; each ends with the end token if it came.
	 *
	 * @param prompts rows of ids; −k − 1 stands for row k of `soft` (S · tokenSize)
	 */
	async generateIds(
		prompts: readonly ArrayLike<number>[],
		soft: Float32Array = new Float32Array(0),
		options: GenerateOptions = {},
	): Promise<Int32Array[]> {
		const { maxNewTokens = 32, repetitionPenalty = 1, eosId = this.tokenizer.eosId ?? -1, signal } = options;
		const { offsets, values } = ragged(prompts);
		const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
		if (longest + 1 > this.maxPositions)
			throw new ALLMRecError(
				'ERR_ALLMREC_PROMPT_TOO_LONG',
				`A prompt of ${longest} tokens leaves nothing of the language model's ${this.maxPositions} positions; shorten it.`,
			);
		const room = Math.min(maxNewTokens, this.maxPositions - longest);
		const result = await run(
			(cancel) =>
				this.native.generate(
					{ ids: values, offsets },
					soft,
					{ offsets, values: values.map((id) => Math.max(id, -1)) },
					{ maxNewTokens: room, repetitionPenalty, eosId },
					cancel,
				),
			signal,
		);
		return Array.from({ length: prompts.length }, (_, i) =>
			result.values.slice(result.offsets[i], result.offsets[i + 1]),
		);
	}

	/** Greedy continuation of a text. */
	async generate(prompt: string, options: GenerateOptions = {}): Promise<string> {
		const [ids] = await this.generateIds([this.tokenizer.encodeWithSpecials(prompt)], undefined, options);
		return this.tokenizer.decode(ids!);
	}

	/** Idempotent. */
	dispose(): void {
		if (this.#disposed) return;
		this.#disposed = true;
		this.native.dispose();
		this.#session.release();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.dispose();
	}
}
