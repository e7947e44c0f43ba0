import { join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import { copyFileAtomic, makeFolder, writeFileAtomic } from '../files/atomic.js';
import { expectKnown } from '../known-options.js';
import type { EncoderConfig, NativeSentenceEncoder } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { type DeviceOptions, loaded, run, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import {
	CHECKPOINT_RULES,
	ConfigReader,
	expectVocabulary,
	readModelConfig,
	weightFiles,
} from './checkpoint.js';
import { resolveCheckpoint } from './hub.js';
import type { Texts, Tokenizer, TokenStore } from './tokenizer.js';
import { loadSentenceTokenizer } from './word-piece.js';

/** What a sentence encoder can compute in. */
export type EncoderDtype = 'float32' | 'bfloat16';

export const ENCODER_DTYPES: readonly EncoderDtype[] = ['float32', 'bfloat16'];

export interface SentenceEncoderOptions extends DeviceOptions, LongCallOptions {
	/** Most tokens of a text, special tokens included; the end is cut. Default: 128, or the encoder's positions if fewer. */
	maxTokens?: number | undefined;
	/** Dropout while the encoder learns. Default: the checkpoint's. */
	dropoutRate?: number | undefined;
	/**
	 * Of activations; default `float32`. With `bfloat16` weights stay float32 and products round what they read; on the
	 * CPU activations are kept in float32.
	 */
	dtype?: EncoderDtype | undefined;
	/** @internal */
	session?: Session | undefined;
}

/** Files of a tokenizer that travel with an encoder when it is saved. */
const TOKENIZER_FILES = [
	'tokenizer.json',
	'tokenizer_config.json',
	'vocab.txt',
	'special_tokens_map.json',
	'added_tokens.json',
];

/** DistilBERT or BERT with mean pooling (Sentence-BERT, Reimers and Gurevych, 2019): Q_i of an item's text. */
export class SentenceEncoder {
	readonly config: Readonly<EncoderConfig>;
	readonly tokenizer: Tokenizer;
	readonly maxTokens: number;
	/** @internal */
	readonly native: NativeSentenceEncoder;
	readonly #session: Session;
	readonly #folder: string;
	#disposed = false;

	private constructor(
		session: Session,
		native: NativeSentenceEncoder,
		config: EncoderConfig,
		tokenizer: Tokenizer,
		folder: string,
		maxTokens: number,
	) {
		this.#session = session;
		this.native = native;
		this.config = config;
		this.tokenizer = tokenizer;
		this.#folder = folder;
		this.maxTokens = maxTokens;
	}

	/**
	 * Loads a Hugging Face folder, or downloads the checkpoint of a Hub id (`owner/name`).
	 *
	 * @throws ERR_ALLMREC_CHECKPOINT for another kind of model, ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_DOWNLOAD.
	 */
	static async load(source: string, options: SentenceEncoderOptions = {}): Promise<SentenceEncoder> {
		expectKnown('sentenceEncoder', options);
		const { maxTokens, dropoutRate, dtype, signal, onProgress, session: given, ...device } = options;
		const folder = await resolveCheckpoint(source, { signal, onProgress });
		const config = encoderConfig(await readModelConfig(folder), folder);
		if (dropoutRate !== undefined) config.dropoutRate = dropoutRate;
		if (dtype !== undefined) config.activationDtype = dtype;
		const tokenizer = await loadSentenceTokenizer(folder);
		expectVocabulary(folder, tokenizer.vocabSize, config.vocabSize);
		const files = await weightFiles(folder);
		const session = given?.share() ?? Session.open(device);
		try {
			const described = makeDescribed(
				join(folder, 'config.json'),
				{ weights: leastWeights(config), files, rules: CHECKPOINT_RULES },
				() => new session.addon.SentenceEncoder(session.engine, config),
			);
			const native = await loaded(await described, files, signal);
			const limit = Math.min(maxTokens ?? 128, config.maxPositions);
			return new SentenceEncoder(session, native, config, tokenizer, folder, limit);
		} catch (error) {
			session.release();
			throw error;
		}
	}

	/** d_t */
	get size(): number {
		return this.config.hiddenSize;
	}

	/** Tokens of texts, cut to {@link maxTokens}, with the special tokens around them. */
	tokenize(texts: Texts, options: LongCallOptions = {}): Promise<TokenStore> {
		return this.tokenizer.encodeMany(texts, { ...options, sequence: true, maxTokens: this.maxTokens });
	}

	/** Mean-pooled vectors (texts, d_t). */
	async encode(texts: Texts | TokenStore, options: LongCallOptions = {}): Promise<Float32Array> {
		expectKnown('longCall', options);
		const { offsets, ids } = 'offsets' in texts ? texts : await this.tokenize(texts, options);
		return run(
			(cancel) => this.native.encode({ offsets, values: ids }, TOKENS_PER_BATCH, cancel),
			options.signal,
		);
	}

	/** Writes a Hugging Face folder that {@link SentenceEncoder.load} and transformers read. */
	async save(folder: string): Promise<void> {
		await makeFolder(folder);
		await run(() => this.native.save(join(folder, 'model.safetensors'), { format: 'pt' }));
		await writeFileAtomic(join(folder, 'config.json'), [
			`${JSON.stringify(huggingFaceConfig(this.config), null, 2)}\n`,
		]);
		await copyTokenizerFiles(this.#folder, folder);
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

/** Those that are there, from one folder into another. */
export async function copyTokenizerFiles(from: string, to: string): Promise<void> {
	for (const name of TOKENIZER_FILES)
		await copyFileAtomic(join(from, name), join(to, name)).catch((error: NodeJS.ErrnoException) => {
			if (error.code !== 'ENOENT') throw error;
		});
}

/** Without biases, norms and positions. */
function leastWeights({ vocabSize, hiddenSize, numLayers, intermediateSize }: EncoderConfig): number {
	return hiddenSize * (vocabSize + numLayers * (4 * hiddenSize + 2 * intermediateSize));
}

const TOKENS_PER_BATCH = 2048;

/** Of a Hugging Face `config.json`. @throws ERR_ALLMREC_CHECKPOINT for a model that is neither DistilBERT nor BERT. */
export function encoderConfig(json: Record<string, unknown>, folder: string): EncoderConfig {
	const c = new ConfigReader(json, folder);
	const type = c.text('model_type');
	const activation = (name: string) => {
		const value = c.text(name, 'gelu');
		if (value === 'gelu' || value === 'relu') return value;
		if (value === 'gelu_new' || value === 'gelu_pytorch_tanh') return 'gelu_tanh';
		throw unsupported(folder, `the activation \`${value}\``);
	};
	if (type === 'distilbert')
		return {
			kind: 'distilbert',
			vocabSize: c.integer('vocab_size'),
			hiddenSize: c.integer('dim'),
			numLayers: c.integer('n_layers'),
			numHeads: c.integer('n_heads'),
			intermediateSize: c.integer('hidden_dim'),
			maxPositions: c.integer('max_position_embeddings'),
			typeVocabSize: 0,
			layerNormEps: 1e-12,
			activation: activation('activation'),
			dropoutRate: c.fraction('dropout', 0.1),
		};
	if (type !== 'bert') throw unsupported(folder, `the model type \`${type}\``);
	const positions = c.text('position_embedding_type', 'absolute');
	if (positions !== 'absolute') throw unsupported(folder, `the position embedding \`${positions}\``);
	return {
		kind: 'bert',
		vocabSize: c.integer('vocab_size'),
		hiddenSize: c.integer('hidden_size'),
		numLayers: c.integer('num_hidden_layers'),
		numHeads: c.integer('num_attention_heads'),
		intermediateSize: c.integer('intermediate_size'),
		maxPositions: c.integer('max_position_embeddings'),
		typeVocabSize: c.integer('type_vocab_size', 2),
		layerNormEps: c.fraction('layer_norm_eps', 1e-12),
		activation: activation('hidden_act'),
		dropoutRate: c.fraction('hidden_dropout_prob', 0.1),
	};
}

/** The `config.json` of an encoder. */
export function huggingFaceConfig(c: EncoderConfig): Record<string, unknown> {
	if (c.kind === 'distilbert')
		return {
			architectures: ['DistilBertModel'],
			model_type: 'distilbert',
			activation: c.activation === 'gelu_tanh' ? 'gelu_new' : c.activation,
			attention_dropout: c.dropoutRate,
			dim: c.hiddenSize,
			dropout: c.dropoutRate,
			hidden_dim: c.intermediateSize,
			max_position_embeddings: c.maxPositions,
			n_heads: c.numHeads,
			n_layers: c.numLayers,
			pad_token_id: 0,
			sinusoidal_pos_embds: false,
			tie_weights_: true,
			vocab_size: c.vocabSize,
		};
	return {
		architectures: ['BertModel'],
		model_type: 'bert',
		attention_probs_dropout_prob: c.dropoutRate,
		hidden_act: c.activation === 'gelu_tanh' ? 'gelu_new' : c.activation,
		hidden_dropout_prob: c.dropoutRate,
		hidden_size: c.hiddenSize,
		intermediate_size: c.intermediateSize,
		layer_norm_eps: c.layerNormEps,
		max_position_embeddings: c.maxPositions,
		num_attention_heads: c.numHeads,
		num_hidden_layers: c.numLayers,
		pad_token_id: 0,
		type_vocab_size: c.typeVocabSize,
		vocab_size: c.vocabSize,
	};
}

function unsupported(folder: string, what: string): ALLMRecError {
	return new ALLMRecError(
		'ERR_ALLMREC_CHECKPOINT',
		`${join(folder, 'config.json')} has ${what}; sentence encoders can be DistilBERT or BERT.`,
	);
}
