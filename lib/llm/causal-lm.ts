import { join } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';
import type { LlmBatch, LlmDtype, NativeOpt, OptConfig } from '../native/addon.js';
import { type DeviceOptions, guard, ragged, run, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { ConfigReader, readModelConfig, weightFiles } from '../text/checkpoint.js';
import { resolveCheckpoint } from '../text/hub.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { loadLanguageTokenizer } from './tokenizer.js';

export interface CausalLMOptions extends DeviceOptions, LongCallOptions {
	/**
	 * How the weights are kept in memory; default `float32`. Checkpoints in another dtype are converted as they are
	 * read. Stage 2 trains through `float32` and `bfloat16` alone.
	 */
	dtype?: LlmDtype | undefined;
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
		const { signal, onProgress, session: given, dtype, ...device } = options;
		const folder = await resolveCheckpoint(source, { signal, onProgress });
		const config = { ...optConfig(await readModelConfig(folder), folder), ...(dtype ? { dtype } : {}) };
		const tokenizer = await loadLanguageTokenizer(folder);
		if (tokenizer.vocabSize > config.vocabSize)
			throw new ALLMRecError(
				'ERR_ALLMREC_CHECKPOINT',
				`${folder}: the tokenizer has ${tokenizer.vocabSize} tokens, the model only ${config.vocabSize}; they are not of one checkpoint.`,
			);
		const files = await weightFiles(folder);
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
		{ soft = new Float32Array(0), tokensPerBatch = 4096, signal }: ScoreCandidatesOptions = {},
	): Promise<CandidateLikelihoods> {
		if (!Number.isInteger(tokensPerBatch) || tokensPerBatch < 1)
			invalidArgument('tokensPerBatch', 'a whole number from 1', tokensPerBatch);
		const { tokenizer } = this;
		const eos = tokenizer.eosId === undefined ? [] : [tokenizer.eosId];
		const answers = candidates.map((candidate, i) => {
			const ids = typeof candidate === 'string' ? [...tokenizer.encodeText(candidate), ...eos] : candidate;
			if (ids.length === 0) invalidArgument(`candidates[${i}]`, 'at least one token', candidate);
			return ids;
		});
		const told = Int32Array.from(typeof prompt === 'string' ? tokenizer.encodeWithSpecials(prompt) : prompt);
		if (told.length === 0) invalidArgument('prompt', 'at least one token', prompt);
		// The last token of a candidate is predicted but not read.
		const longest = answers.reduce((most, { length }) => Math.max(most, length - 1), 0);
		const room = this.maxPositions - longest;
		if (room < 1)
			throw new ALLMRecError(
				'ERR_ALLMREC_PROMPT_TOO_LONG',
				`A candidate of ${longest + 1} tokens leaves no position of the language model's ${this.maxPositions} for a prompt.`,
			);
		const kept = cutPrompt(told, room);
		return run(
			(cancel) => this.native.scoreAnswers(kept, soft, ragged(answers), tokensPerBatch, cancel),
			signal,
		);
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

/** The first token and the last ones. */
function cutPrompt(ids: Int32Array, room: number): Int32Array {
	if (ids.length <= room) return ids;
	const kept = ids.slice(ids.length - room);
	kept[0] = ids[0]!;
	return kept;
}

/** Of a Hugging Face `config.json`. @throws ERR_ALLMREC_CHECKPOINT for a model that is not OPT. */
export function optConfig(json: Record<string, unknown>, folder: string): OptConfig {
	const c = new ConfigReader(json, folder);
	const fail = (what: string) => {
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${join(folder, 'config.json')} has ${what}; language models can be of the OPT family (facebook/opt-125m … opt-66b).`,
		);
	};
	const type = c.text('model_type');
	if (type !== 'opt') fail(`the model type \`${type}\``);
	if (!c.boolean('enable_bias', true)) fail('layers without bias');
	if (!c.boolean('layer_norm_elementwise_affine', true)) fail('layer norms without weights');
	const activation = c.text('activation_function', 'relu');
	if (activation !== 'relu' && activation !== 'gelu') fail(`the activation \`${activation}\``);
	const hiddenSize = c.integer('hidden_size');
	return {
		vocabSize: c.integer('vocab_size'),
		hiddenSize,
		embedSize: c.integer('word_embed_proj_dim', hiddenSize),
		numLayers: c.integer('num_hidden_layers'),
		numHeads: c.integer('num_attention_heads'),
		ffnSize: c.integer('ffn_dim'),
		maxPositions: c.integer('max_position_embeddings'),
		normBefore: c.boolean('do_layer_norm_before', true),
		finalNorm: !c.boolean('_remove_final_layer_norm', false),
		activation: activation as 'relu' | 'gelu',
	};
}

/** The `config.json` of a language model. */
export function huggingFaceOptConfig(c: OptConfig): Record<string, unknown> {
	return {
		_remove_final_layer_norm: !c.finalNorm,
		activation_function: c.activation,
		architectures: ['OPTForCausalLM'],
		attention_dropout: 0,
		bos_token_id: 2,
		do_layer_norm_before: c.normBefore,
		dropout: 0,
		eos_token_id: 2,
		ffn_dim: c.ffnSize,
		hidden_size: c.hiddenSize,
		max_position_embeddings: c.maxPositions,
		model_type: 'opt',
		num_attention_heads: c.numHeads,
		num_hidden_layers: c.numLayers,
		pad_token_id: 1,
		vocab_size: c.vocabSize,
		word_embed_proj_dim: c.embedSize,
	};
}
