import { z } from 'zod';
import type { Dataset } from '../data/dataset.js';
import type { Split } from '../data/split.js';
import { leaveLastOut } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { metricValues, type TargetRanks } from '../evaluation/metrics.js';
import { parseJson } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { NativeSasRec, NativeTensorFile, Ragged, SasRecConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { type DeviceOptions, guard, loaded, ragged, run, runOrCancel, Session } from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { type LoopResult, trainLoop } from '../training/loop.js';

/** Hyperparameters of {@link SASRec}, with the reference's defaults. */
export const sasRecSchema = z.strictObject({
	/** Latest items of a history that are used. */
	maxLength: z.int().min(1).default(50),
	/** d, the width of item and user vectors. */
	hiddenUnits: z.int().min(1).default(50),
	numBlocks: z.int().min(0).default(2),
	numHeads: z.int().min(1).default(1),
	dropoutRate: z.number().min(0).lt(1).default(0.5),
	batchSize: z.int().min(1).default(128),
	learningRate: z.number().positive().default(1e-3),
	beta1: z.number().min(0).lt(1).default(0.9),
	beta2: z.number().min(0).lt(1).default(0.98),
	/** Most epochs. */
	epochs: z.int().min(0).default(200),
	/** `bce`: one uniform negative per position, as the reference; `softmax`: cross-entropy over the whole catalogue. */
	loss: z.enum(['bce', 'softmax']).default('bce'),
	/** The reference's `l2_emb`. */
	l2Embedding: z.number().min(0).default(0),
	/** Epochs between validations. */
	validateEvery: z.int().min(0).default(10),
	/** Validations without a better NDCG@10 after which training stops. */
	patience: z.int().min(1).default(5),
	seed: z.int().min(0).default(0),
});

export type SASRecOptions = z.input<typeof sasRecSchema>;

export interface SASRecTrainOptions extends LongCallOptions, DeviceOptions {
	/** Default: leave-last-out. */
	split?: Split | undefined;
	/** Folder for checkpoints; training goes on from what it holds. */
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	/** @internal */
	session?: Session | undefined;
}

export interface SASRecLoadOptions extends DeviceOptions {
	/**
	 * The layout of pmixer's later versions, where the file does not say. Default: they are read as post-norm, which is
	 * their own default.
	 */
	normFirst?: boolean | undefined;
	/** Default: what the file says, else 1. */
	numHeads?: number | undefined;
	/** Aborting rejects with the signal's reason. */
	signal?: AbortSignal | undefined;
	/** @internal */
	session?: Session | undefined;
}

/** What a backbone of stage 0 offers the stages after it. */
export interface CollaborativeModel {
	/** d */
	readonly size: number;
	readonly numItems: number;
	/** E (numItems + 1, d); row 0 is padding. */
	itemTable(): Promise<Float32Array>;
	/** x^u (users, d) of histories of dense item ids, oldest first; an empty history gives zeros. */
	userVectors(histories: ArrayLike<ArrayLike<number>> | Ragged, signal?: AbortSignal): Promise<Float32Array>;
	/** <x^u, E_i> for candidates (users × perUser). */
	scoreCandidates(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array>;
	/** Best items of the whole catalogue, those of `exclude` left out; −1 where there are fewer than k. */
	retrieve(
		users: Float32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		k: number,
		signal?: AbortSignal,
	): Promise<{ items: Int32Array; scores: Float32Array }>;
	/** Where each target ranks among the catalogue without the user's `exclude` items. */
	rankTargets(
		users: Float32Array,
		targets: Int32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		signal?: AbortSignal,
	): Promise<TargetRanks>;
	save(path: string): Promise<void>;
	dispose(): void;
}

/** SASRec (Kang and McAuley, 2018), as its reference trains it. Train one with {@link SASRec.train}, or load a checkpoint. */
export class SASRec implements CollaborativeModel {
	readonly config: Readonly<SasRecConfig>;
	/** How training went; undefined for a loaded model. */
	readonly training: LoopResult | undefined;
	readonly #native: NativeSasRec;
	readonly #session: Session;
	#disposed = false;

	private constructor(session: Session, native: NativeSasRec, config: SasRecConfig, training?: LoopResult) {
		this.#session = session;
		this.#native = native;
		this.config = config;
		this.training = training;
	}

	/**
	 * Trains on the training part of a split, validating by NDCG@10 over the whole catalogue; the best weights are kept.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT for unusable options, ERR_ALLMREC_EMPTY_DATASET without anything to learn,
	 * ERR_ALLMREC_NUMERIC if the loss is not finite.
	 */
	static async train(
		dataset: Dataset,
		options: SASRecOptions = {},
		settings: SASRecTrainOptions = {},
	): Promise<SASRec> {
		expectKnown('trainSASRec', settings);
		const {
			split = leaveLastOut(dataset),
			folder,
			checkpointSeconds,
			signal,
			onProgress,
			session: given,
			...device
		} = settings;
		const o = parseOptions(sasRecSchema, options, 'SASRec');
		const config: SasRecConfig = {
			numItems: dataset.numItems,
			maxLength: o.maxLength,
			hiddenUnits: o.hiddenUnits,
			numBlocks: o.numBlocks,
			numHeads: o.numHeads,
			dropoutRate: o.dropoutRate,
			variant: 'reference',
		};
		expectExamples(dataset, split, o.loss);
		const session = given?.share() ?? Session.open(device);
		let made: NativeSasRec | undefined;
		try {
			const native = guard(() => new session.addon.SasRec(session.engine, config));
			made = native;
			await run((cancel) => native.initialise(o.seed, cancel), signal);
			const train: Ragged = { offsets: split.train.offsets, values: split.train.items };
			const known: Ragged = { offsets: dataset.sequences.offsets, values: dataset.sequences.items };
			const trainer = guard(
				() =>
					new session.addon.SasRecTrainer(native, train, known, {
						batchSize: o.batchSize,
						loss: o.loss,
						l2Embedding: o.l2Embedding,
						seed: o.seed,
						learningRate: o.learningRate,
						beta1: o.beta1,
						beta2: o.beta2,
					}),
			);
			try {
				const model = new SASRec(session, native, config);
				const validation = validationTask(split);
				const result = await trainLoop(
					{
						name: 'cf',
						stepsPerEpoch: trainer.stepsPerEpoch(),
						unit: 'sequences',
						unitsPerEpoch: trainer.sequencesPerEpoch(),
						run: async (_first, count, s) => {
							const before = trainer.steps();
							const loss = await runOrCancel((cancel) => trainer.run(count, cancel), s);
							return {
								steps: trainer.steps() - before,
								losses: loss === undefined ? undefined : { loss },
							};
						},
						validate: async (s) => {
							const users = await model.userVectors(validation.histories, s);
							const ranks = await model.rankTargets(users, validation.targets, validation.histories, s);
							const ndcg = mean(metricValues(ranks, 'ndcg@10'));
							return {
								score: ndcg,
								metrics: { 'NDCG@10': ndcg, 'HR@10': mean(metricValues(ranks, 'hit@10')) },
							};
						},
						saveWeights: (path) => saveModel(native, config, path),
						loadWeights: (path) => run((cancel) => native.load([path], cancel), signal),
						saveOptimizer: (path) => run(() => trainer.saveOptimizer(path, {})),
						loadOptimizer: (path) => run((cancel) => trainer.loadOptimizer(path, cancel), signal),
					},
					{
						epochs: o.epochs,
						validateEvery: validation.targets.length > 0 ? o.validateEvery : 0,
						patience: o.patience,
						folder,
						checkpointSeconds,
						signal,
						onProgress,
					},
					JSON.stringify({ ...o, split: split.toJSON() }),
				);
				return new SASRec(session, native, config, result);
			} catch (error) {
				native.dispose();
				throw error;
			} finally {
				trainer.dispose();
			}
		} catch (error) {
			made?.dispose();
			session.release();
			throw error;
		}
	}

	/**
	 * Loads a model saved by {@link SASRec.save}, the authors' `.pth`, or a state dict of pmixer/SASRec.pytorch.
	 *
	 * @throws ERR_ALLMREC_CHECKPOINT if it is no SASRec.
	 */
	static async load(path: string, options: SASRecLoadOptions = {}): Promise<SASRec> {
		expectKnown('loadSASRec', options);
		const { normFirst, numHeads, session: given, signal, ...device } = options;
		const session = given?.share() ?? Session.open(device);
		try {
			const file = guard(() => session.addon.openTensorFile(path));
			let config: SasRecConfig;
			try {
				config = readConfig(file, path, { normFirst, numHeads });
			} finally {
				file.close();
			}
			const { numItems, hiddenUnits, numBlocks, maxLength } = config;
			const described = makeDescribed(
				path,
				{
					weights: hiddenUnits * (numItems + maxLength + 6 * numBlocks * hiddenUnits),
					files: [path],
					rules: { code: 'ERR_ALLMREC_CHECKPOINT' },
				},
				() => new session.addon.SasRec(session.engine, config),
			);
			const native = await loaded(await described, [path], signal);
			return new SASRec(session, native, config);
		} catch (error) {
			session.release();
			throw error;
		}
	}

	get size(): number {
		return this.config.hiddenUnits;
	}

	get numItems(): number {
		return this.config.numItems;
	}

	itemTable(): Promise<Float32Array> {
		return run(() => this.#native.getParameter('item_emb.weight'));
	}

	userVectors(histories: ArrayLike<ArrayLike<number>> | Ragged, signal?: AbortSignal): Promise<Float32Array> {
		const packed = 'offsets' in histories ? histories : ragged(histories);
		return run((cancel) => this.#native.userVectors(packed, cancel), signal);
	}

	scoreCandidates(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array> {
		return run(() => this.#native.scoreCandidates(users, candidates, perUser));
	}

	async retrieve(
		users: Float32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		k: number,
		signal?: AbortSignal,
	): Promise<{ items: Int32Array; scores: Float32Array }> {
		const result = await run(
			(cancel) => this.#native.rankCatalogue(users, new Int32Array(0), ragged(exclude), k, cancel),
			signal,
		);
		return { items: result.top, scores: result.topScores };
	}

	async rankTargets(
		users: Float32Array,
		targets: Int32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		signal?: AbortSignal,
	): Promise<TargetRanks> {
		const { greater, ties } = await run(
			(cancel) => this.#native.rankCatalogue(users, targets, ragged(exclude), 0, cancel),
			signal,
		);
		return { greater, ties };
	}

	/** Writes a safetensors file with the reference's tensor names and the configuration in its metadata. */
	save(path: string): Promise<void> {
		return saveModel(this.#native, this.config, path);
	}

	/** Idempotent. */
	dispose(): void {
		if (this.#disposed) return;
		this.#disposed = true;
		this.#native.dispose();
		this.#session.release();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.dispose();
	}
}

/** @throws ERR_ALLMREC_EMPTY_DATASET */
function expectExamples(dataset: Dataset, split: Split, loss: 'bce' | 'softmax'): void {
	let longEnough = false;
	for (let u = 0; u < dataset.numUsers; u++) {
		if (split.trainSequence(u).length < 2) continue;
		longEnough = true;
		// The binary loss needs a negative.
		if (loss === 'softmax' || new Set(dataset.sequence(u)).size < dataset.numItems) return;
	}
	const reason = longEnough
		? `Every user with two training items or more has interacted with all ${dataset.numItems} items, so there is no negative to tell theirs from and nothing to train SASRec on; prepare a larger data set.`
		: 'No user has two training items or more, so there is nothing to train SASRec on; beside the validation and the test item a user needs two interactions, so prepare a data set with longer histories.';
	throw new ALLMRecError('ERR_ALLMREC_EMPTY_DATASET', reason);
}

function saveModel(native: NativeSasRec, config: SasRecConfig, path: string): Promise<void> {
	return run(() => native.save(path, { 'a-llmrec.sasrec': JSON.stringify(config) }, 'F32'));
}

const VALIDATION_USERS = 10_000;

/** At most 10,000 users, drawn evenly. */
function validationTask(split: Split): { histories: Int32Array[]; targets: Int32Array } {
	const users = split.users('validation');
	const stride = Math.max(1, Math.ceil(users.length / VALIDATION_USERS));
	const chosen = users.filter((_, i) => i % stride === 0);
	return {
		histories: Array.from(chosen, (u) => split.history(u, 'validation')),
		targets: chosen.map((u) => split.validation[u]!),
	};
}

function mean(values: Float64Array): number {
	return values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;
}

const size = z
	.int()
	.min(1)
	.max(2 ** 31 - 1);
/** What {@link SASRec.save} writes. */
const configSchema: z.ZodType<SasRecConfig> = z.strictObject({
	numItems: size,
	maxLength: size,
	hiddenUnits: size,
	numBlocks: size.min(0),
	numHeads: size,
	dropoutRate: z.number().min(0).lt(1),
	variant: z.enum(['reference', 'preNorm', 'postNorm']),
});

function readConfig(
	file: NativeTensorFile,
	path: string,
	{ normFirst, numHeads }: { normFirst: boolean | undefined; numHeads: number | undefined },
): SasRecConfig {
	const metadata = file.metadata();
	const own = metadata['a-llmrec.sasrec'];
	if (own) return parseJson(own, configSchema, path, { code: 'ERR_ALLMREC_CHECKPOINT' });
	const shapes = new Map(file.tensors().map(({ name, shape }) => [name, shape]));
	const items = shapes.get('item_emb.weight');
	const positions = shapes.get('pos_emb.weight');
	if (!items || !positions || items.length !== 2)
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${path} is no SASRec: it lacks \`item_emb.weight\` or \`pos_emb.weight\`.`,
		);
	const number = (name: string) => {
		const text = metadata[name] ?? metadata[`args.${name}`];
		return text === undefined || !Number.isFinite(Number(text)) ? undefined : Number(text);
	};
	let numBlocks = 0;
	while (shapes.has(`attention_layernorms.${numBlocks}.weight`)) numBlocks++;
	// The reference has a position for each place in the window; pmixer's later versions one more, for padding.
	const trainedLength = number('maxlen');
	const rows = positions[0]!;
	const says = metadata.norm_first ?? metadata['args.norm_first'];
	const reference =
		normFirst === undefined && (trainedLength === undefined ? rows % 2 === 0 : trainedLength === rows);
	return {
		numItems: items[0]! - 1,
		maxLength: reference ? rows : rows - 1,
		hiddenUnits: items[1]!,
		numBlocks,
		numHeads: numHeads ?? number('num_heads') ?? 1,
		dropoutRate: number('dropout_rate') ?? 0,
		variant: reference ? 'reference' : (normFirst ?? says === 'true') ? 'preNorm' : 'postNorm',
	};
}
