import { dirname, join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from '../data/dataset.js';
import { SeededRandom } from '../data/random.js';
import { leaveLastOut, type Split } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { makeFolder, writeJson } from '../files/atomic.js';
import { readJson } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { NativeRecFormer, NativeRecFormerTrainer, RecFormerConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import {
	type DeviceOptions,
	guard,
	type Keep,
	loaded,
	opening,
	run,
	runOrCancel,
	Session,
} from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { resolveCheckpoint } from '../text/hub.js';
import { copyTokenizerFiles, SentenceEncoder } from '../text/sentence-encoder.js';
import { loadSentenceTokenizer } from '../text/word-piece.js';
import { type LoopResult, type Stage, type StepsDone, trainLoop } from '../training/loop.js';
import { ItemTable, recFormerOf, TEXTS_PER_WINDOW, unitVectors } from './recformer-model.js';
import { batchOf, ItemSentences } from './recformer-text.js';
import { type BaselineRequest, checkRequest } from './request.js';

const limits = {
	/** Tokens of a history, [CLS] included; the oldest are cut. Default 1024. */
	maxTokens: z
		.int()
		.min(2)
		.max(1 << 20)
		.default(1024),
	/** Tokens of an item's attribute, its name included. Default 32. */
	maxItemTokens: z.int().min(2).default(32),
	/** The last so many items of a history are read. Default 50. */
	maxItems: z
		.int()
		.min(1)
		.max(1 << 20)
		.default(50),
};
/** Of the cosines, in the loss and in scores. */
const temperature = z.number().positive();
const window = z
	.int()
	.min(2)
	.max(1 << 20)
	.multipleOf(2);

/** RecFormer's options; where the paper leaves a choice open, see docs/baselines.md. */
export const recFormerSchema = z.strictObject({
	...limits,
	/** Tokens that each token sees around itself, half of them before it. Default 64. */
	window: window.default(64),
	/** Default 0.05. */
	temperature: temperature.default(0.05),
	/** Default 5e-5. */
	learningRate: z.number().positive().default(5e-5),
	/** Users of a step. Default 16. */
	batchSize: z.int().min(1).default(16),
	/** Gradients are scaled down to this norm; 0 = never. Default 1. */
	clipNorm: z.number().min(0).default(1),
	/** Dropout while it learns. Default: the encoder's. */
	dropoutRate: z.number().min(0).lt(1).optional(),
	/** Epochs in which histories and items learn together, against the other items of a step. Default 3. */
	pretrainEpochs: z.int().min(0).default(3),
	/** Most epochs of each of the two stages behind. Default 20. */
	epochs: z.int().min(0).default(20),
	/** Epochs between validations. */
	validateEvery: z.int().min(0).default(1),
	/** Users that validate, at most. */
	validationUsers: z.int().min(1).default(500),
	/** Validations without a better NDCG@10 after which a stage stops. Default 5. */
	patience: z.int().min(1).default(5),
	seed: z.int().min(0).default(0),
});

export type RecFormerOptions = z.input<typeof recFormerSchema>;
type Options = z.output<typeof recFormerSchema>;

export interface RecFormerTrainOptions extends LongCallOptions, DeviceOptions {
	/** Default: leave-last-out. */
	split?: Split | undefined;
	/** For checkpoints and logs, a folder for each stage; a training that was interrupted goes on from there. */
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	/** @internal */
	session?: Session | undefined;
}

export interface RecFormerLoadOptions extends DeviceOptions {
	/** Aborting rejects with the signal's reason. */
	signal?: AbortSignal | undefined;
	/** @internal */
	session?: Session | undefined;
}

const CONFIG = 'recformer.json';
const WEIGHTS = 'model.safetensors';
const ITEMS = 'items.safetensors';
const RULES = { code: 'ERR_ALLMREC_CHECKPOINT' } as const;
/** Histories of one pass of a validation. */
const VALIDATION_BATCH = 16;
const ORDER_STREAM = 41;
const EXAMPLE_STREAM = 42;

const size = z
	.int()
	.min(1)
	.max(1 << 24);
const configSchema = z.strictObject({
	version: z.literal(1),
	maxTokens: limits.maxTokens,
	maxItemTokens: limits.maxItemTokens,
	maxItems: limits.maxItems,
	temperature,
	/** SHA-256 of the items' sentences. */
	items: z.string(),
	model: z.strictObject({
		kind: z.enum(['distilbert', 'bert']),
		vocabSize: size,
		hiddenSize: size,
		numLayers: z.int().min(0).max(1024),
		numHeads: size,
		intermediateSize: size,
		maxPositions: size,
		typeVocabSize: z
			.int()
			.min(0)
			.max(1 << 24),
		layerNormEps: z.number().min(0).max(1),
		activation: z.enum(['gelu', 'gelu_tanh', 'relu']),
		dropoutRate: z.number().min(0).max(1),
		window,
		maxItems: limits.maxItems,
	}),
});
type Config = z.output<typeof configSchema>;

/** How each part of the training went. */
export interface RecFormerTraining {
	pretraining: LoopResult;
	stage1: LoopResult;
	stage2: LoopResult;
}

/**
 * RecFormer (Li et al., KDD 2023): items and histories are text alone, read by one encoder with a window of attention;
 * a user likes the items whose vectors point where theirs does. An item needs no interactions.
 */
export class RecFormer {
	/** How training went; undefined for a loaded model. */
	readonly training: RecFormerTraining | undefined;
	/** @internal */
	readonly native: NativeRecFormer;
	readonly #session: Session;
	readonly #table: ItemTable;
	readonly #sentences: ItemSentences;
	readonly #config: Config;
	/** Folder of the tokenizer's files. */
	readonly #tokenizer: string;
	#disposed = false;

	private constructor(parts: Parts, config: Config, training?: RecFormerTraining) {
		this.#session = parts.session;
		this.native = parts.native;
		this.#table = parts.table;
		this.#sentences = parts.sentences;
		this.#tokenizer = parts.tokenizer;
		this.#config = config;
		this.training = training;
	}

	/**
	 * Trains from the weights of a BERT or DistilBERT.
	 *
	 * @param encoder its folder or Hub id
	 * @throws ERR_ALLMREC_CHECKPOINT, ERR_ALLMREC_EMPTY_DATASET, ERR_ALLMREC_NUMERIC, and as `trainLoop`
	 */
	static train(
		dataset: Dataset,
		encoder: string,
		options: RecFormerOptions = {},
		calls: RecFormerTrainOptions = {},
	): Promise<RecFormer> {
		expectKnown('trainRecFormer', calls);
		return opening((keep) => RecFormer.#train(keep, dataset, encoder, options, calls));
	}

	static async #train(
		keep: Keep,
		dataset: Dataset,
		source: string,
		options: RecFormerOptions,
		calls: RecFormerTrainOptions,
	): Promise<RecFormer> {
		const o = parseOptions(recFormerSchema, options, 'RecFormer');
		const {
			split = leaveLastOut(dataset),
			session: given,
			folder,
			checkpointSeconds,
			signal,
			onProgress,
		} = calls;
		const examples = new Examples(split, o);
		if (examples.users.length === 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_DATASET',
				'No user has two training items, so RecFormer has nothing to learn from; prepare a larger data set.',
			);
		const session = given?.share() ?? Session.open(calls);
		keep({ dispose: () => session.release() });
		const tokenizer = await resolveCheckpoint(source, { signal, onProgress });
		const { dropoutRate } = o;
		const encoder = await SentenceEncoder.load(tokenizer, { session, dropoutRate, signal });
		let native: NativeRecFormer;
		let sentences: ItemSentences;
		const model: RecFormerConfig = {
			...encoder.config,
			maxPositions: o.maxTokens,
			window: o.window,
			maxItems: o.maxItems,
		};
		try {
			sentences = await ItemSentences.create(encoder.tokenizer, dataset.items, o, signal);
			native = await recFormerOf(keep, session, encoder, model, o.seed, signal);
		} finally {
			encoder.dispose();
		}
		const table = keep(new ItemTable(session, dataset.numItems, model.hiddenSize));
		const parts: Parts = { session, native, table, sentences, tokenizer };
		const loop = { checkpointSeconds, signal, onProgress };
		const fingerprint = JSON.stringify({
			...o,
			model,
			items: sentences.fingerprint,
			split: split.toJSON(),
		});
		const train = async (part: Part, epochs: number, validateEvery: number) => {
			const { learningRate, clipNorm, temperature, seed } = o;
			const trainer = guard(
				() =>
					new session.addon.RecFormerTrainer(native, {
						learningRate,
						clipNorm,
						temperature,
						beta2: 0.999,
						seed: seed + PARTS.indexOf(part),
					}),
			);
			try {
				return await trainLoop(
					new PartStage(part, parts, trainer, examples, signal),
					{ ...loop, epochs, validateEvery, patience: o.patience, folder: folder && join(folder, part) },
					fingerprint,
				);
			} finally {
				trainer.dispose();
			}
		};
		const validateEvery = examples.validation.length > 0 ? o.validateEvery : 0;
		const pretraining = await train('pretraining', o.pretrainEpochs, 0);
		// Stages without an epoch encode no items.
		if (o.epochs === 0) await table.encode(native, sentences, signal);
		const training = {
			pretraining,
			stage1: await train('stage1', o.epochs, validateEvery),
			stage2: await train('stage2', o.epochs, validateEvery),
		};
		const { maxTokens, maxItemTokens, maxItems, temperature } = o;
		const config: Config = {
			version: 1,
			maxTokens,
			maxItemTokens,
			maxItems,
			temperature,
			items: sentences.fingerprint,
			model,
		};
		return new RecFormer(parts, config, training);
	}

	/**
	 * Reads a folder written by {@link RecFormer.save}, for the data set it was trained with.
	 *
	 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_CHECKPOINT for a damaged folder, or items with other texts
	 */
	static load(folder: string, dataset: Dataset, options: RecFormerLoadOptions = {}): Promise<RecFormer> {
		expectKnown('loadRecFormer', options);
		const { session: given, signal } = options;
		return opening(async (keep) => {
			const path = join(folder, CONFIG);
			const config = await readJson(path, configSchema, RULES);
			const { model } = config;
			const tokenizer = await loadSentenceTokenizer(folder);
			const sentences = await ItemSentences.create(tokenizer, dataset.items, config, signal);
			if (sentences.fingerprint !== config.items)
				throw new ALLMRecError(
					'ERR_ALLMREC_CHECKPOINT',
					`${path} is of a RecFormer that knows other items, or other texts of them, than data set ${dataset.name} has; train it on this data set.`,
				);
			const session = given?.share() ?? Session.open(options);
			keep({ dispose: () => session.release() });
			const files = [join(folder, WEIGHTS)];
			const weights =
				model.hiddenSize *
				(model.vocabSize +
					model.maxPositions +
					model.maxItems +
					2 * model.numLayers * model.intermediateSize);
			const made = await makeDescribed(
				path,
				{ weights, files, rules: RULES },
				() => new session.addon.RecFormer(session.engine, model),
			);
			const native = keep(await loaded(made, files, signal));
			const table = keep(new ItemTable(session, dataset.numItems, model.hiddenSize));
			await run((cancel) => table.native.load([join(folder, ITEMS)], cancel), signal);
			return new RecFormer({ session, native, table, sentences, tokenizer: folder }, config);
		});
	}

	/** Writes weights, item vectors, options and the tokenizer's files. */
	async save(folder: string): Promise<void> {
		await makeFolder(folder);
		await run(() => this.native.save(join(folder, WEIGHTS), { format: 'pt' }));
		await run(() => this.#table.native.save(join(folder, ITEMS), {}));
		await copyTokenizerFiles(this.#tokenizer, folder);
		await writeJson(join(folder, CONFIG), this.#config);
	}

	/**
	 * (users × width) cosines of the user's and the items' vectors over the temperature.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM, ERR_ALLMREC_EMPTY_HISTORY, the signal's reason
	 */
	async score(request: BaselineRequest, { signal, onProgress }: LongCallOptions = {}): Promise<Float32Array> {
		checkRequest(request);
		const { histories, candidates, width } = request;
		const scores = new Float32Array(candidates.length);
		const begun = performance.now();
		const total = histories.length;
		for (let first = 0; first < total; first += TEXTS_PER_WINDOW) {
			const done = Math.min(total, first + TEXTS_PER_WINDOW);
			const packed = histories.slice(first, done).map((history, i) => {
				if (history.length === 0)
					throw new ALLMRecError(
						'ERR_ALLMREC_EMPTY_HISTORY',
						`User ${request.users[first + i]} has no history; RecFormer knows users by nothing else.`,
					);
				return this.#sentences.pack(history);
			});
			const users = await unitVectors(this.native, packed, this.#config.model.hiddenSize, signal);
			const scaled = users.map((x) => x / this.#config.temperature);
			const part = candidates.subarray(first * width, done * width);
			scores.set(
				await run((cancel) => this.#table.native.scoreCandidates(scaled, part, width, cancel), signal),
				first * width,
			);
			const rate = (1000 * done) / (performance.now() - begun);
			onProgress?.({ stage: 'score', done, total, unit: 'users', rate, secondsLeft: (total - done) / rate });
		}
		return scores;
	}

	/** Idempotent. */
	dispose(): void {
		if (this.#disposed) return;
		this.#disposed = true;
		this.native.dispose();
		this.#table.dispose();
		this.#session.release();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.dispose();
	}
}

interface Parts {
	session: Session;
	native: NativeRecFormer;
	table: ItemTable;
	sentences: ItemSentences;
	/** Folder of the tokenizer's files. */
	tokenizer: string;
}

const PARTS = ['pretraining', 'stage1', 'stage2'] as const;
type Part = (typeof PARTS)[number];

/**
 * `pretraining`: histories and the items that came next are encoded in one step. `stage1`: item vectors are encoded anew
 * in every epoch. `stage2`: they stay as the best epoch of stage 1 had them.
 */
class PartStage implements Stage {
	readonly name: string;
	readonly stepsPerEpoch: number;
	readonly unit = 'users';
	readonly unitsPerEpoch: number;
	/** The trainer has the table's vectors. */
	#itemsAreSet = false;

	constructor(
		readonly part: Part,
		readonly parts: Parts,
		readonly trainer: NativeRecFormerTrainer,
		readonly examples: Examples,
		readonly signal: AbortSignal | undefined,
	) {
		this.name = `recformer ${part}`;
		this.stepsPerEpoch = examples.stepsPerEpoch;
		this.unitsPerEpoch = examples.users.length;
	}

	async run(first: number, count: number): Promise<StepsDone> {
		let sum = 0;
		let steps = 0;
		try {
			if (this.part !== 'pretraining') await this.#items(first);
			for (; steps < count; steps++) {
				const { batch, targets } = this.#batch(first + steps);
				const losses = await runOrCancel(
					(cancel) =>
						this.part === 'pretraining'
							? this.trainer.contrast(batch, targets, cancel)
							: this.trainer.step(batch, targets, cancel),
					this.signal,
				);
				if (!losses) break;
				sum += losses.loss!;
			}
		} catch (error) {
			// What was done before an abort stands.
			if (!this.signal?.aborted || error !== this.signal.reason) throw error;
		}
		return { steps, losses: steps > 0 ? { crossEntropy: sum / steps } : undefined };
	}

	async validate(): Promise<{ score: number; metrics: Record<string, number> }> {
		await this.#items(1);
		const { validation } = this.examples;
		const sums = { loss: 0, ndcg: 0 };
		for (let first = 0; first < validation.length; first += VALIDATION_BATCH) {
			const part = validation.slice(first, first + VALIDATION_BATCH);
			const { loss, ndcg } = await run(
				(cancel) => this.trainer.evaluate(this.#histories(part), targetsOf(part), cancel),
				this.signal,
			);
			sums.loss += loss! * part.length;
			sums.ndcg += ndcg! * part.length;
		}
		const score = sums.ndcg / validation.length;
		return {
			score,
			metrics: { 'validation NDCG@10': score, 'validation crossEntropy': sums.loss / validation.length },
		};
	}

	/** The item vectors of a step. */
	async #items(step: number): Promise<void> {
		const { native, table, sentences } = this.parts;
		if (this.part === 'stage1' && step % this.stepsPerEpoch === 0) {
			await table.encode(native, sentences, this.signal);
			this.#itemsAreSet = false;
		}
		if (this.#itemsAreSet) return;
		const vectors = await table.vectors();
		await run(() => this.trainer.setItems(vectors));
		this.#itemsAreSet = true;
	}

	#histories(examples: readonly Example[]) {
		return batchOf(examples.map(({ history }) => this.parts.sentences.pack(history)));
	}

	#batch(step: number) {
		const examples = this.examples.batch(step, this.part);
		if (this.part !== 'pretraining')
			return { batch: this.#histories(examples), targets: targetsOf(examples) };
		const items = [...new Set(examples.map(({ target }) => target))];
		const { sentences } = this.parts;
		return {
			batch: batchOf([
				...examples.map(({ history }) => sentences.pack(history)),
				...items.map((item) => sentences.pack([item])),
			]),
			targets: Int32Array.from(examples, ({ target }) => items.indexOf(target)),
		};
	}

	// Behind the pre-training the table belongs to the weights: it is of an epoch's begin, or of the stage before.
	async saveWeights(path: string): Promise<void> {
		await run(() => this.parts.native.save(path, { format: 'pt' }));
		if (this.part === 'pretraining') return;
		await run(() => this.parts.table.native.save(join(dirname(path), ITEMS), {}));
	}

	async loadWeights(path: string): Promise<void> {
		await run((cancel) => this.parts.native.load([path], cancel), this.signal);
		if (this.part === 'pretraining') return;
		await run((cancel) => this.parts.table.native.load([join(dirname(path), ITEMS)], cancel), this.signal);
		this.#itemsAreSet = false;
	}

	saveOptimizer(path: string): Promise<void> {
		return run(() => this.trainer.saveOptimizer(path, {}));
	}

	loadOptimizer(path: string): Promise<void> {
		return run((cancel) => this.trainer.loadOptimizer(path, cancel), this.signal);
	}
}

/** A user's history and the item after it. */
interface Example {
	history: Int32Array;
	target: number;
}

/** Rows of the items' vectors. */
function targetsOf(examples: readonly Example[]): Int32Array {
	return Int32Array.from(examples, ({ target }) => target - 1);
}

/** Each user gives one place of their training sequence in every epoch. */
class Examples {
	/** Users that train. */
	readonly users: Int32Array;
	readonly validation: Example[];
	readonly stepsPerEpoch: number;
	readonly #split: Split;
	readonly #options: Options;
	#order = new Int32Array(0);
	#orderOf = '';

	constructor(split: Split, options: Options) {
		this.#split = split;
		this.#options = options;
		this.users = Int32Array.from({ length: split.dataset.numUsers }, (_, u) => u).filter(
			(u) => split.trainSequence(u).length >= 2,
		);
		this.stepsPerEpoch = Math.ceil(this.users.length / options.batchSize);
		const held = split.users('validation').filter((u) => split.history(u, 'validation').length > 0);
		const stride = Math.max(1, Math.ceil(held.length / options.validationUsers));
		this.validation = Array.from(
			held.filter((_, i) => i % stride === 0),
			(u) => ({ history: split.history(u, 'validation'), target: split.validation[u]! }),
		);
	}

	/** Depends on the seed, the part and the step alone. */
	batch(step: number, part: Part): Example[] {
		const { seed, batchSize } = this.#options;
		const epoch = Math.floor(step / this.stepsPerEpoch);
		const stream = PARTS.indexOf(part);
		if (this.#orderOf !== `${part} ${epoch}`) {
			this.#order = this.users.slice();
			new SeededRandom(seed, ORDER_STREAM, stream, epoch).shuffle(this.#order);
			this.#orderOf = `${part} ${epoch}`;
		}
		const first = (step % this.stepsPerEpoch) * batchSize;
		return Array.from(this.#order.subarray(first, first + batchSize), (user) => {
			const items = this.#split.trainSequence(user);
			const at = 1 + new SeededRandom(seed, EXAMPLE_STREAM, stream, epoch, user).int(items.length - 1);
			return { history: items.slice(0, at), target: items[at]! };
		});
	}
}
