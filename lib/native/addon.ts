/**
 * The one typed mirror of everything the native addon exports. Private: no public type mentions it.
 *
 * Every method that computes returns a promise and runs on the engine's executor thread, one job after another;
 * arrays are copied when the call is made. Rejections are errors with a `code` (`ERR_ALLMREC_…`). Letters: T packed
 * tokens, B sequences or texts, C hidden width, U users, P pairs.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ALLMRecError } from '../errors.js';

export interface DeviceDescription {
	backend: string;
	available: boolean;
	name: string;
	instruction: string;
	memoryBytes: number;
	threads: number;
	libraries: string;
	/** A reason code and a sentence when not available, else empty. */
	reason: string;
}

/**
 * The last argument of calls that may be long; `cancel()` makes them stop between two ops, or two tasks of one, and
 * reject with `ERR_ALLMREC_CANCELLED`.
 */
export interface NativeCancelFlag {
	cancel(): void;
}

/** Device memory in bytes; −1 where the device does not say. */
export interface NativeMemory {
	inUse: number;
	/** Kept for the next request. */
	cached: number;
	peak: number;
	free: number;
	total: number;
}

export interface NativeEngine {
	info(): DeviceDescription;
	memory(): Promise<NativeMemory>;
	/** Gives cached memory back once the calls before it are done. */
	trim(): void;
	/** Cancels what runs and drops the rest; nothing can be run any more. */
	stop(): void;
	/** Idempotent. Frees the device once running jobs have ended and models are disposed. */
	dispose(): void;
}

export interface NativeTensorInfo {
	name: string;
	/** F64, F32, F16, BF16, I64, I32, I16, I8, U8 or BOOL. */
	dtype: string;
	shape: number[];
}

export interface NativeTensorFile {
	readonly format: string;
	tensors(): NativeTensorInfo[];
	metadata(): Record<string, string>;
	/** Converted to float32. */
	readFloat32(name: string): Float32Array;
	/** Integer and BOOL tensors. */
	readInt64(name: string): BigInt64Array;
	close(): void;
}

export interface NativeTensorToWrite {
	name: string;
	dtype: 'F32' | 'F16' | 'BF16';
	shape: number[];
	data: Float32Array;
}

/** Variable-length rows: row r is values[offsets[r] … offsets[r + 1] − 1]. */
export interface Ragged {
	offsets: Int32Array;
	values: Int32Array;
}

export interface AdamOptions {
	learningRate: number;
	beta1?: number;
	beta2?: number;
	eps?: number;
	weightDecay?: number;
	/** 0 = none. */
	clipNorm?: number;
}

/** What all models share. */
export interface NativeModel {
	parameters(): { name: string; shape: number[] }[];
	/** Numbers in all weights. */
	parameterCount(): number;
	getParameter(name: string): Promise<Float32Array>;
	setParameter(name: string, values: Float32Array): Promise<void>;
	/** Zeros while frozen or before a backward. */
	getGradient(name: string): Promise<Float32Array>;
	/** Reads every weight from whichever file has it. */
	load(paths: string[], cancel?: NativeCancelFlag): Promise<void>;
	/**
	 * A safetensors file with the model's names; dtype of storage, default F32. `stored`: each weight in the dtype it
	 * has in memory, scales as `<name>.scales` beside quants.
	 */
	save(
		path: string,
		metadata: Record<string, string>,
		dtype?: 'F32' | 'F16' | 'BF16' | 'stored',
		cancel?: NativeCancelFlag,
	): Promise<void>;
	dispose(): void;
}

/** A lock that goes with the process, however it ends. The constructor does not wait. */
export interface NativeFileLock {
	readonly held: boolean;
	/** What the one who holds it wrote; empty if it has not yet. */
	readonly owner: string;
	release(): void;
}

/** What all trainers share: the optimizer's state, for resuming. */
export interface NativeTrainer {
	/** Optimizer steps done. */
	steps(): number;
	setLearningRate(value: number): void;
	/** Moments as `adam.m.<i>` and `adam.v.<i>` in the trainer's parameter order, with `adam.steps` in the metadata. */
	saveOptimizer(path: string, metadata: Record<string, string>, cancel?: NativeCancelFlag): Promise<void>;
	loadOptimizer(path: string, cancel?: NativeCancelFlag): Promise<void>;
	dispose(): void;
}

export type Losses = Record<string, number>;

export interface SasRecConfig {
	numItems: number;
	maxLength: number;
	hiddenUnits: number;
	numBlocks: number;
	numHeads: number;
	dropoutRate: number;
	/** `reference` (the paper's and the authors'), or pmixer's layouts. */
	variant: 'reference' | 'preNorm' | 'postNorm';
}

/** A backbone's kind, and the numbers and words that its native class reads. */
export interface BackboneConfig {
	kind: string;
	numItems: number;
	[name: string]: number | string;
}

/** A recommender of stage 0; d: the width of item and user vectors. */
export interface NativeBackbone extends NativeModel {
	initialise(seed: number, cancel?: NativeCancelFlag): Promise<void>;
	/** E (numItems + 1, d). */
	itemTable(cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** Features at every packed position (T, d), where the backbone knows an order. */
	features(histories: Ragged): Promise<Float32Array>;
	/** x^u (U, d). users: dense ids, −1 where not known. */
	userVectors(
		histories: Ragged,
		users?: Int32Array | undefined,
		cancel?: NativeCancelFlag,
	): Promise<Float32Array>;
	/** (U, perUser) for candidates (U · perUser). */
	scoreCandidates(
		users: Float32Array,
		candidates: Int32Array,
		perUser: number,
		cancel?: NativeCancelFlag,
	): Promise<Float32Array>;
	/** The same for item vectors (U · perUser, d). */
	scoreVectors(
		users: Float32Array,
		items: Float32Array,
		perUser: number,
		cancel?: NativeCancelFlag,
	): Promise<Float32Array>;
	/** targets: U items or empty. exclude: per user, items left out (the target never is). */
	rankCatalogue(
		users: Float32Array,
		targets: Int32Array,
		exclude: Ragged,
		k: number,
		cancel?: NativeCancelFlag,
	): Promise<{ greater: Int32Array; ties: Int32Array; top: Int32Array; topScores: Float32Array }>;
}

/** Beside these, the numbers and words that the backbone reads. */
export interface BackboneTrainOptions extends AdamOptions {
	/** Users, or interactions. */
	batchSize: number;
	seed: number;
	/** Default 0. */
	l2Embedding?: number;
	/** Of backbones that learn from sequences; default `bce`. */
	loss?: 'bce' | 'softmax' | 'gbce';
	/** Of `gbce`. */
	negatives?: number;
	/** Of `gbce`: t, from 0 to 1. */
	calibration?: number;
	[name: string]: number | string | undefined;
}

export interface NativeBackboneTrainer extends NativeTrainer {
	stepsPerEpoch(): number;
	/** Users, or interactions. */
	examplesPerEpoch(): number;
	/** Mean loss over `steps` steps. */
	run(steps: number, cancel?: NativeCancelFlag): Promise<number>;
	/** One step on given examples: histories (packed) or users, P positives, the negatives of the loss. */
	step(examples: Ragged | Int32Array, positives: Int32Array, negatives: Int32Array): Promise<Losses>;
	/** Loss and gradients without a step. */
	gradients(examples: Ragged | Int32Array, positives: Int32Array, negatives: Int32Array): Promise<Losses>;
}

export interface EncoderConfig {
	kind: 'distilbert' | 'bert';
	vocabSize: number;
	hiddenSize: number;
	numLayers: number;
	numHeads: number;
	intermediateSize: number;
	maxPositions: number;
	typeVocabSize: number;
	layerNormEps: number;
	activation: 'gelu' | 'gelu_tanh' | 'relu';
	dropoutRate: number;
	/** Of activations; bfloat16 trains with float32 weights that each product rounds. Default float32. */
	activationDtype?: 'float32' | 'bfloat16' | 'float16';
	/** Of weights that are not trained. Default float32. */
	weightDtype?: 'float32' | 'bfloat16' | 'float16';
}

export interface NativeSentenceEncoder extends NativeModel {
	initialise(seed: number, std: number, cancel?: NativeCancelFlag): Promise<void>;
	/** Hidden states of every token (T, C). */
	hiddenStates(texts: Ragged): Promise<Float32Array>;
	/** Mean-pooled (B, C); texts sorted by length and packed up to tokensPerBatch. */
	encode(texts: Ragged, tokensPerBatch: number, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** Gradients of Σ pooled · w + half · ½ Σ pooled²: for tests. w (B, C). */
	pooledGradients(texts: Ragged, w: Float32Array, half: number): Promise<Losses>;
}

/** Makes sentence encoders: InfoNCE over pairs of texts of one thing. */
export interface NativeContrastiveTrainer extends NativeTrainer {
	/** Texts 0 … B − 1 and their partners B … 2B − 1; gives `loss` and `accuracy`. */
	step(texts: Ragged, cancel?: NativeCancelFlag): Promise<Losses>;
}

export interface AlignmentConfig {
	/** d */ itemSize: number;
	/** d_t */ textSize: number;
	/** d' */ jointSize: number;
	activation: 'none' | 'relu' | 'leaky_relu' | 'gelu' | 'sigmoid' | 'tanh';
	matchingWeight: number;
	itemReconstructionWeight: number;
	textReconstructionWeight: number;
	recommendationWeight: number;
	referenceCompat: boolean;
}

export interface NativeAlignment extends NativeModel {
	initialise(seed: number, cancel?: NativeCancelFlag): Promise<void>;
	/** e (R, d') of item vectors (R, d). */
	encodeItems(items: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** ê (R, d) of latents (R, d'). */
	decodeItems(latents: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** q (R, d') of text vectors (R, d_t). */
	encodeTexts(texts: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
	decodeTexts(latents: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
}

export interface AlignmentBatch {
	/** x^u (B, d) */ users: Float32Array;
	/** (B, d) */ positiveItems: Float32Array;
	/** (B, d) */ negativeItems: Float32Array;
	/** Tokens of the items' texts, when the trainer has an encoder. */
	positiveTokens?: Ragged;
	negativeTokens?: Ragged;
	/** (B, d_t) vectors encoded before, when it has none. */
	positiveTexts?: Float32Array;
	negativeTexts?: Float32Array;
}

export interface NativeAlignmentTrainer extends NativeTrainer {
	/** `loss` and each term: recommendation, matching, itemReconstruction, textReconstruction. */
	step(batch: AlignmentBatch, cancel?: NativeCancelFlag): Promise<Losses>;
	evaluate(batch: AlignmentBatch, cancel?: NativeCancelFlag): Promise<Losses>;
	gradients(batch: AlignmentBatch): Promise<Losses>;
}

export interface OptConfig {
	vocabSize: number;
	hiddenSize: number;
	/** word_embed_proj_dim: the width of a soft token. */
	embedSize: number;
	numLayers: number;
	numHeads: number;
	ffnSize: number;
	maxPositions: number;
	/** do_layer_norm_before */
	normBefore: boolean;
	/** A final layer norm exists (pre-norm only). */
	finalNorm: boolean;
	activation: 'relu' | 'gelu' | 'gelu_tanh';
	/** Of attention's and the feed-forward's products (enable_bias); default true. */
	bias?: boolean;
	/** Norms have weights (layer_norm_elementwise_affine); default true. */
	normAffine?: boolean;
	/** Logits come from the token embedding, not from an lm_head of its own; default true. */
	tiedHead?: boolean;
	/** Of the weights; default float32. */
	dtype?: LlmDtype;
}

/**
 * How the language model's matrices are stored. `int8`: one scale a row; `int4`: one scale for 32 numbers, rows a
 * multiple of 32 long. Norms, biases and positions are always float32.
 */
export type LlmDtype = 'float32' | 'bfloat16' | 'float16' | 'int8' | 'int4';

/** Packed sequences; see LlmBatch in native/cpp/models/opt.h. */
export interface LlmBatch {
	/** ≥ 0 a token; −k − 1 = row k of the soft tokens. */
	ids: Int32Array;
	offsets: Int32Array;
	/** Default: 0, 1, 2, … in every sequence. */
	positions?: Int32Array;
	prefix?: Int32Array;
	ownBegin?: Int32Array;
}

export interface NativeOpt extends NativeModel {
	/** Logits (R, V) of the packed tokens `rows` (ascending). soft (S · embedSize). */
	logits(batch: LlmBatch, soft: Float32Array, rows: Int32Array): Promise<Float32Array>;
	/** log p of pairs: pairRows index into `rows`. */
	logProbs(
		batch: LlmBatch,
		soft: Float32Array,
		rows: Int32Array,
		pairRows: Int32Array,
		pairTargets: Int32Array,
		cancel?: NativeCancelFlag,
		adapter?: NativeLora | null,
	): Promise<Float32Array>;
	/**
	 * The mean log p of target tokens at rows of the batch, and its derivative by the soft tokens (S · embedSize), through the
	 * frozen weights. ERR_ALLMREC_UNSUPPORTED where activations carry no gradients.
	 */
	softGradient(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		cancel?: NativeCancelFlag,
	): Promise<{ meanLogProb: number; gradient: Float32Array }>;
	/** From now on every call computes with it, unmerged; null = none. It stays alive as long as the model. */
	setAdapter(adapter: NativeLora | null): Promise<void>;
	/** Of answers (each at least a token) behind one prompt, in passes of about tokensPerPass tokens. */
	scoreAnswers(
		prompt: Int32Array,
		soft: Float32Array,
		answers: Ragged,
		tokensPerPass: number,
		cancel?: NativeCancelFlag,
	): Promise<{ sum: Float32Array; mean: Float32Array }>;
	/**
	 * Greedy, all prompts in one batch. seen: per prompt, ids the repetition penalty counts at the start. stepSeconds:
	 * how long each round of new tokens took, the prompts being part of the first.
	 */
	generate(
		prompts: LlmBatch,
		soft: Float32Array,
		seen: Ragged,
		options: { maxNewTokens: number; repetitionPenalty: number; eosId: number },
		cancel?: NativeCancelFlag,
	): Promise<Ragged & { stepSeconds: Float64Array }>;
}

/** One pass of a language model without gradients. */
export interface OptPass {
	/** Packed. */
	tokens: number;
	/** Tokens whose logits are wanted. */
	rows: number;
	sequences: number;
	/** Positions of each sequence in a cache of keys and values; 0 = none. */
	capacity: number;
	onCpu: boolean;
	threads: number;
}

/** Bytes that a language model takes; see native/cpp/models/opt_memory.h for the formula. */
export interface OptMemory {
	/** Numbers in all weights. */
	parameters: number;
	weights: number;
	/** Keys and values. */
	cache: number;
	/** Activations and logits of one pass. */
	arena: number;
	/** Packed operands of products. */
	work: number;
}

/** What one request of a {@link NativeGenerator} asks for; see native/cpp/models/generation/request.h. */
export interface NativeGenerationRequest {
	/** ≥ 0 a token; −k − 1 = row k of `soft`. */
	ids: Int32Array;
	/** (S · embedSize) */
	soft: Float32Array;
	/** Ids the repetition penalty counts at the start. */
	seen: Int32Array;
	maxNewTokens: number;
	/** −1: none. */
	eosId: number;
	repetitionPenalty: number;
	/** That come back: up to `beams`, or samples. */
	sequences: number;
	/** Report every token; one sequence only. */
	stream: boolean;
	/** Of greedy decoding, where they cost a pass over the logits. */
	logProbs: boolean;
	/** topK 0 and topP 1: no cut. */
	sampling?: { temperature: number; topK: number; topP: number; seed: number };
	beam?: { beams: number; lengthPenalty: number; earlyStopping: 'no' | 'yes' | 'never' };
	stopTokens?: Ragged;
	/** Needs {@link NativeGenerator.setTokenBytes} before. */
	stopStrings?: string[];
	trie?: NativeTokenTrie;
}

export interface NativeGeneratedSequence {
	ids: Int32Array;
	reason: 'eos' | 'stop' | 'length' | 'abort';
	logProb: number;
	score: number;
	/** The trie's sequence it is, −1 for none. */
	entry: number;
}

export interface GenerationEvents {
	/** Of requests that stream, in order. */
	tokens: { request: number; id: number; logProb: number }[];
	finished: { request: number; sequences: NativeGeneratedSequence[] }[];
}

/** Generates the answers of many requests in one running batch. */
export interface NativeGenerator {
	/** The bytes of text of every token; none for special ones. */
	setTokenBytes(table: { offsets: Int32Array; bytes: Uint8Array }): void;
	/** Takes its place in the queue, at once; gives the request's number. */
	submit(request: NativeGenerationRequest): number;
	/** Ends a request at its next step, in the events as finished by `abort`. */
	abort(request: number): void;
	/**
	 * Goes on until there is something to tell, nothing to do, or another call waits for the device. When it rejects,
	 * all requests that it had taken up are gone; those submitted after `cancel` was used are not.
	 */
	advance(cancel?: NativeCancelFlag): Promise<GenerationEvents>;
	/** Idempotent; drops what still runs. */
	dispose(): void;
}

/** Token sequences an answer may be, each followed by the end token. */
export interface NativeTokenTrie {
	/** Once, before the first use. */
	build(rows: Ragged, eosId: number, cancel?: NativeCancelFlag): Promise<void>;
	size(): { nodes: number; entries: number; depth: number };
}

export interface TokenTargets {
	/** Packed tokens whose next token is predicted, ascending. */
	rows: Int32Array;
	tokens: Int32Array;
}

export interface NativeLlmTrainer extends NativeTrainer {
	step(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	evaluate(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	/** Gradients are left in the model; softGradient (S, embed). */
	gradients(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
	): Promise<{ losses: Losses; softGradient: Float32Array }>;
}

export interface ProjectorConfig {
	kind: 'mlp' | 'linear';
	/** d */ userSize: number;
	/** d' */ jointSize: number;
	/** The LLM's input width. */ tokenSize: number;
}

export interface NativeProjector extends NativeModel {
	initialise(seed: number, scale: number, cancel?: NativeCancelFlag): Promise<void>;
	/** O_u (U, tokenSize) */
	users(x: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** O_i (I, tokenSize) */
	items(e: Float32Array, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** Gradients of Σ users(x)·wx + Σ items(e)·we, those of the inputs returned: for tests. */
	gradients(
		x: Float32Array,
		wx: Float32Array,
		e: Float32Array,
		we: Float32Array,
	): Promise<{ x: Float32Array; e: Float32Array }>;
}

/** Soft token k: row k of users (U, d), then of items (I, d'). */
export interface SoftInputs {
	users: Float32Array;
	items: Float32Array;
}

export interface NativeProjectionTrainer extends NativeTrainer {
	/** totalTargets: target tokens of the whole step, when parts of it have been accumulated. Default: this part's. */
	step(
		batch: LlmBatch,
		soft: SoftInputs,
		targets: TokenTargets,
		totalTargets?: number,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	/** Adds a part's gradients, to be used by the next step. The parts' losses add up to the step's mean loss. */
	accumulate(
		batch: LlmBatch,
		soft: SoftInputs,
		targets: TokenTargets,
		totalTargets: number,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	evaluate(
		batch: LlmBatch,
		soft: SoftInputs,
		targets: TokenTargets,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	gradients(batch: LlmBatch, soft: SoftInputs, targets: TokenTargets): Promise<Losses>;
}

export interface LoraConfig {
	rank: number;
	/** What B·A is multiplied with is alpha / rank. */
	alpha: number;
	/** Of the adapter's input, in training. */
	dropout: number;
	hiddenSize: number;
	numLayers: number;
}

/** Low-rank adapters of the query and value projections; names are PEFT's. */
export interface NativeLora extends NativeModel {
	/** A uniform, B zero. */
	initialise(seed: number, cancel?: NativeCancelFlag): Promise<void>;
	/** Adds the adapter to the model's weights for good; not for int8 and int4. */
	mergeInto(llm: NativeOpt, cancel?: NativeCancelFlag): Promise<void>;
}

/** As NativeProjectionTrainer, with soft tokens (S · embedSize) as they are. */
export interface NativeLoraTrainer extends NativeTrainer {
	step(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		totalTargets?: number,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	accumulate(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		totalTargets: number,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	evaluate(
		batch: LlmBatch,
		soft: Float32Array,
		targets: TokenTargets,
		cancel?: NativeCancelFlag,
	): Promise<Losses>;
	gradients(batch: LlmBatch, soft: Float32Array, targets: TokenTargets): Promise<Losses>;
}

export interface RecFormerConfig extends EncoderConfig {
	/** Tokens that a token sees around itself, half of them before it. */
	window: number;
	/** Of a history. */
	maxItems: number;
}

/** Histories as text: [CLS], then the items' sentences. */
export interface RecFormerBatch {
	texts: Ragged;
	/** (T): 0 [CLS], 1 an attribute's name, 2 its value. */
	types: Int32Array;
	/** (T): 0 [CLS], 1 the first item, … */
	items: Int32Array;
}

/** A sentence encoder with a window of attention, whose vectors are the states of [CLS]. */
export interface NativeRecFormer extends NativeModel {
	initialise(seed: number, std: number, cancel?: NativeCancelFlag): Promise<void>;
	/** States of every token (T, C). */
	hiddenStates(batch: RecFormerBatch, cancel?: NativeCancelFlag): Promise<Float32Array>;
	/** (B, C), not normalised. */
	vectors(batch: RecFormerBatch, cancel?: NativeCancelFlag): Promise<Float32Array>;
}

export interface NativeRecFormerTrainer extends NativeTrainer {
	/** Item vectors (N, C) of the calls below but `contrast`; they do not learn. */
	setItems(vectors: Float32Array): Promise<void>;
	/** targets (B): rows of the items. */
	step(histories: RecFormerBatch, targets: Int32Array, cancel?: NativeCancelFlag): Promise<Losses>;
	/** Texts: B histories, then the items that the targets (B) count. */
	contrast(texts: RecFormerBatch, targets: Int32Array, cancel?: NativeCancelFlag): Promise<Losses>;
	/** `loss` and `ndcg`, NDCG@10 over all items; means. */
	evaluate(histories: RecFormerBatch, targets: Int32Array, cancel?: NativeCancelFlag): Promise<Losses>;
	gradients(histories: RecFormerBatch, targets: Int32Array, cancel?: NativeCancelFlag): Promise<Losses>;
}

/** PyTorch's GRU, for the parity of its op. */
export interface NativeGru extends NativeModel {
	/** x (B, S, I), h0 (L, B, H) → y (B, S, H) and hn (L, B, H), with the gradients of Σ y·wy + Σ hn·wh. */
	forwardBackward(
		x: Float32Array,
		h0: Float32Array,
		batch: number,
		steps: number,
		wy: Float32Array,
		wh: Float32Array,
	): Promise<{ y: Float32Array; hn: Float32Array; gradX: Float32Array; gradH0: Float32Array }>;
}

export interface NativeAddon {
	/** Of the package. */
	readonly version: string;
	listDevices(): DeviceDescription[];
	/** Instruction sets compiled in, the plainest first. */
	readonly instructionSets: string[];
	openTensorFile(path: string): NativeTensorFile;
	FileLock: new (path: string, owner: string) => NativeFileLock;
	/** Swaps two files or folders at one stroke; false where the system cannot. */
	exchangePaths(a: string, b: string): boolean;
	writeSafetensors(path: string, tensors: NativeTensorToWrite[], metadata: Record<string, string>): void;
	CancelFlag: new () => NativeCancelFlag;
	Engine: new (options: {
		device: string;
		threads: number;
		cudaLibrary?: string;
		cublasLt?: string;
		/** Print what every op took when the engine ends. */
		profile?: boolean;
	}) => NativeEngine;
	Backbone: new (engine: NativeEngine, config: BackboneConfig) => NativeBackbone;
	/** known: every item of each user that is never drawn as a negative. */
	BackboneTrainer: new (
		model: NativeBackbone,
		train: Ragged,
		known: Ragged,
		options: BackboneTrainOptions,
	) => NativeBackboneTrainer;
	SentenceEncoder: new (engine: NativeEngine, config: EncoderConfig) => NativeSentenceEncoder;
	ContrastiveTrainer: new (
		encoder: NativeSentenceEncoder,
		options: AdamOptions & { temperature: number; seed: number },
	) => NativeContrastiveTrainer;
	Alignment: new (engine: NativeEngine, config: AlignmentConfig) => NativeAlignment;
	AlignmentTrainer: new (
		alignment: NativeAlignment,
		encoder: NativeSentenceEncoder | null,
		options: AdamOptions & { trainEncoder: boolean; seed: number },
	) => NativeAlignmentTrainer;
	Opt: new (engine: NativeEngine, config: OptConfig) => NativeOpt;
	optMemory(config: OptConfig, pass: OptPass): OptMemory;
	/** slots: sequences in a step. cacheTokens: most in the key-value cache; default slots · positions. */
	Generator: new (
		model: NativeOpt,
		options: { slots: number; cacheTokens?: number; promptTokens?: number },
	) => NativeGenerator;
	TokenTrie: new (engine: NativeEngine) => NativeTokenTrie;
	/** frozen: names of weights that stay as they are. */
	LlmTrainer: new (
		model: NativeOpt,
		options: AdamOptions & { frozen?: string[] },
	) => NativeLlmTrainer;
	Projector: new (engine: NativeEngine, config: ProjectorConfig) => NativeProjector;
	ProjectionTrainer: new (
		projector: NativeProjector,
		llm: NativeOpt,
		options: AdamOptions & { seed: number },
	) => NativeProjectionTrainer;
	Lora: new (engine: NativeEngine, config: LoraConfig) => NativeLora;
	LoraTrainer: new (
		lora: NativeLora,
		llm: NativeOpt,
		options: AdamOptions & { seed: number },
	) => NativeLoraTrainer;
	RecFormer: new (engine: NativeEngine, config: RecFormerConfig) => NativeRecFormer;
	RecFormerTrainer: new (
		model: NativeRecFormer,
		options: AdamOptions & { temperature: number; seed: number },
	) => NativeRecFormerTrainer;
	Gru: new (
		engine: NativeEngine,
		config: { inputSize: number; hiddenSize: number; numLayers: number },
	) => NativeGru;
}

/** The addon, and where it came from. */
export interface LoadedAddon {
	addon: NativeAddon;
	/** Its file. */
	path: string;
	/** `built` here from source, or `prebuilt`: carried by the package. */
	origin: 'built' | 'prebuilt';
}

let loaded: LoadedAddon | undefined;

/** @throws ERR_ALLMREC_ADDON_NOT_FOUND with what was tried and the command that builds it */
export function loadAddon(): NativeAddon {
	return locateAddon().addon;
}

/**
 * Finds and loads the addon once: one that was built here before the package's own. The environment variable
 * `ALLMREC_ADDON` names the file of another build, such as one with sanitizers, and comes first.
 */
export function locateAddon(): LoadedAddon {
	loaded ??= load();
	return loaded;
}

function load(): LoadedAddon {
	const require = createRequire(import.meta.url);
	const root = packageRoot(require);
	const failures: string[] = [];
	let cause: unknown;
	try {
		const named = process.env.ALLMREC_ADDON;
		if (named)
			return { addon: require(resolve(named)) as NativeAddon, path: resolve(named), origin: 'built' };
		const bindings = require('bindings');
		const path = bindings({ bindings: 'allmrec', module_root: root, path: true }) as string;
		return { addon: require(path) as NativeAddon, path, origin: 'built' };
	} catch (error) {
		cause = error;
		// Where nothing was built there are a dozen places it is not in.
		const absent = (error as { tries?: string[] }).tries !== undefined;
		failures.push(absent ? `${join(root, 'build')}: nothing was built here` : firstLine(error));
	}
	for (const platform of prebuiltPlatforms()) {
		const path = join(root, 'prebuilds', platform, 'allmrec.node');
		try {
			if (existsSync(path)) return { addon: require(path) as NativeAddon, path, origin: 'prebuilt' };
			failures.push(`${path}: the package carries none for this platform`);
		} catch (error) {
			cause = error;
			failures.push(firstLine(error));
		}
	}
	throw new ALLMRecError(
		'ERR_ALLMREC_ADDON_NOT_FOUND',
		`The native addon of a-llmrec could not be loaded. Tried:\n  ${failures.join('\n  ')}\n` +
			`Build it, with a C++17 compiler, make and Python 3: ${buildCommand(root)}`,
		{ cause },
	);
}

/** Names of the folders under `prebuilds/` that may hold this platform's. */
function prebuiltPlatforms(): string[] {
	const platform = `${process.platform}-${process.arch}`;
	return process.platform === 'linux' ? [platform, `${platform}-musl`] : [platform];
}

function buildCommand(root: string): string {
	const installed = basename(dirname(root)) === 'node_modules';
	return installed ? 'npm explore a-llmrec -- npm run build:addon' : `(cd ${root} && npm run build:addon)`;
}

function firstLine(error: unknown): string {
	return (error as Error).message.split('\n')[0]!;
}

/** dist/lib/native → the package's folder. */
function packageRoot(require: NodeJS.Require): string {
	try {
		return dirname(require.resolve('a-llmrec/package.json'));
	} catch {
		return join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
	}
}
