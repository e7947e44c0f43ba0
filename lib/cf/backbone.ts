import { z } from 'zod';
import type { Dataset } from '../data/dataset.js';
import type { Split } from '../data/split.js';
import { leaveLastOut } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { metricValues, type TargetRanks } from '../evaluation/metrics.js';
import { parseJson } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { BackboneConfig, NativeBackbone, Ragged } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { type DeviceOptions, guard, loaded, ragged, run, runOrCancel, Session } from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { type LoopResult, trainLoop } from '../training/loop.js';
import type { CollaborativeModel } from './collaborative-model.js';

/** Options that every trained backbone has; those of the reference's SASRec where a paper says nothing. */
export const trainingOptions = {
	/** Users of a step, or interactions of one. */
	batchSize: z.int().min(1).default(128),
	learningRate: z.number().positive().default(1e-3),
	beta1: z.number().min(0).lt(1).default(0.9),
	beta2: z.number().min(0).lt(1).default(0.98),
	/** Most epochs. */
	epochs: z.int().min(0).default(200),
	/** Epochs between validations. */
	validateEvery: z.int().min(0).default(10),
	/** Validations without a better NDCG@10 after which training stops. */
	patience: z.int().min(1).default(5),
	seed: z.int().min(0).default(0),
};

/** How backbones that read histories learn the next item. */
export const sequenceLossOptions = {
	/**
	 * `bce`: one uniform negative per position, as SASRec's reference; `softmax`: cross-entropy over the whole catalogue;
	 * `sampledSoftmax`: the same over the next item and uniform negatives that all positions of a step share;
	 * `gbce`: generalised binary cross-entropy (gSASRec), with negatives shared likewise.
	 */
	loss: z.enum(['bce', 'softmax', 'sampledSoftmax', 'gbce']).default('bce'),
	/** Negatives of `sampledSoftmax` and `gbce`. */
	negatives: z.int().min(1).default(256),
	/** t of `gbce`: 0 = scores of the plain loss, 1 = scores that estimate probabilities. */
	calibration: z.number().min(0).max(1).default(0.75),
};

/** Widths and counts in a file that was not written here. */
export const storedSize = z
	.int()
	.min(1)
	.max(2 ** 31 - 1);

type TrainingOptions = z.output<z.ZodObject<typeof trainingOptions>>;

/** A backbone: its native class and what configures it. */
export interface BackboneDefinition<Options extends TrainingOptions = TrainingOptions> {
	/** Name of the native class. */
	kind: string;
	/** As people call it. */
	title: string;
	/** What a user gives, {@link trainingOptions} among it. */
	schema: z.ZodType<Options>;
	/** What the native class is made with; written beside its weights. */
	config(options: Options, dataset: Dataset): BackboneConfig;
	/** What a file may say of that; numbers out of range are found by the native class. */
	stored: z.ZodType<BackboneConfig>;
	/** Numbers in the weights, about: a file that promises more than it holds is refused before memory is taken. */
	weights(config: BackboneConfig): number;
	/** What the native class reads to be trained, beside the optimizer's options. */
	training(options: Options): Record<string, number | string>;
	/** What an epoch goes through. Default `sequences`. */
	unit?: 'sequences' | 'interactions';
	/** What scores are: products of a user's and an item's vector (default), or the backbone's own. */
	scoring?: 'product' | 'own';
}

export interface BackboneTrainOptions extends LongCallOptions, DeviceOptions {
	/** Default: leave-last-out. */
	split?: Split | undefined;
	/** Folder for checkpoints; training goes on from what it holds. */
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	/** @internal */
	session?: Session | undefined;
}

export interface BackboneLoadOptions extends DeviceOptions {
	/** Aborting rejects with the signal's reason. */
	signal?: AbortSignal | undefined;
	/** @internal */
	session?: Session | undefined;
}

/** Name of the item table in a backbone whose scores are its own, and in a plain table. */
const ITEMS = 'item_embedding.weight';

/** Key of a file's metadata with the backbone's configuration. */
export const BACKBONE_METADATA = 'a-llmrec.backbone';

/** A recommender of stage 0 computed natively. */
export class Backbone implements CollaborativeModel {
	readonly config: Readonly<BackboneConfig>;
	readonly size: number;
	readonly #scoring: 'product' | 'own';
	/** How training went; undefined for a loaded model. */
	readonly training: LoopResult | undefined;
	readonly #native: NativeBackbone;
	readonly #session: Session;
	readonly #metadata: Record<string, string>;
	#disposed = false;

	/** Takes ownership of both. @internal */
	constructor(
		session: Session,
		native: NativeBackbone,
		config: BackboneConfig,
		{
			training,
			metadata,
			scoring = 'product',
		}: { training?: LoopResult; metadata?: Record<string, string>; scoring?: 'product' | 'own' } = {},
	) {
		this.#session = session;
		this.#native = native;
		this.config = config;
		this.size = Number(config.hiddenUnits);
		this.training = training;
		this.#scoring = scoring;
		this.#metadata = metadata ?? { [BACKBONE_METADATA]: JSON.stringify(config) };
	}

	get numItems(): number {
		return this.config.numItems;
	}

	itemTable(): Promise<Float32Array> {
		return run((cancel) => this.#native.itemTable(cancel));
	}

	userVectors(
		histories: ArrayLike<ArrayLike<number>> | Ragged,
		signal?: AbortSignal,
		users?: Int32Array,
	): Promise<Float32Array> {
		const packed = 'offsets' in histories ? histories : ragged(histories);
		return run((cancel) => this.#native.userVectors(packed, users, cancel), signal);
	}

	scoreCandidates(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array> {
		return run(() => this.#native.scoreCandidates(users, candidates, perUser));
	}

	scoreVectors(users: Float32Array, items: Float32Array, perUser: number): Promise<Float32Array> {
		return run(() => this.#native.scoreVectors(users, items, perUser));
	}

	async withItems(items: Float32Array): Promise<Backbone> {
		const parameters = guard(() => this.#native.parameters());
		if (this.#scoring === 'product') return Backbone.ofTable(this.#session, items, this.size);
		const config = { ...this.config, numItems: items.length / this.size - 1 };
		const native = guard(() => new this.#session.addon.Backbone(this.#session.engine, config));
		try {
			for (const { name } of parameters)
				await run(async () =>
					native.setParameter(name, name === ITEMS ? items : await this.#native.getParameter(name)),
				);
			return new Backbone(this.#session.share(), native, config, { scoring: this.#scoring });
		} catch (error) {
			native.dispose();
			throw error;
		}
	}

	/** Item vectors (count + 1, size) that are scored by products; it knows no users. @internal */
	static async ofTable(session: Session, items: Float32Array, size: number): Promise<Backbone> {
		const config = { kind: 'table', numItems: items.length / size - 1, hiddenUnits: size };
		const native = guard(() => new session.addon.Backbone(session.engine, config));
		try {
			await run(() => native.setParameter(ITEMS, items));
			return new Backbone(session.share(), native, config);
		} catch (error) {
			native.dispose();
			throw error;
		}
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

	/** Writes a safetensors file with the configuration in its metadata. */
	save(path: string): Promise<void> {
		return run(() => this.#native.save(path, this.#metadata, 'F32'));
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

/** What a trained or loaded backbone is made from. */
export type MakeBackbone<T extends Backbone> = (
	session: Session,
	native: NativeBackbone,
	config: BackboneConfig,
	training?: LoopResult,
) => T;

/**
 * Trains on the training part of a split, validating by NDCG@10 over the whole catalogue; the best weights are kept.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT for unusable options, ERR_ALLMREC_EMPTY_DATASET without anything to learn,
 * ERR_ALLMREC_NUMERIC if the loss is not finite.
 */
export async function trainDefined<Options extends TrainingOptions, T extends Backbone>(
	definition: BackboneDefinition<Options>,
	make: MakeBackbone<T>,
	dataset: Dataset,
	options: z.input<z.ZodType<Options>>,
	settings: BackboneTrainOptions,
): Promise<T> {
	expectKnown('trainBackbone', settings);
	const {
		split = leaveLastOut(dataset),
		folder,
		checkpointSeconds,
		signal,
		onProgress,
		session: given,
		...device
	} = settings;
	const o = parseOptions(definition.schema, options, definition.title);
	const config = definition.config(o, dataset);
	const unit = definition.unit ?? 'sequences';
	const training = definition.training(o);
	expectExamples(definition.title, dataset, split, unit, training);
	const session = given?.share() ?? Session.open(device);
	let made: NativeBackbone | undefined;
	try {
		const native = guard(() => new session.addon.Backbone(session.engine, config));
		made = native;
		await run((cancel) => native.initialise(o.seed, cancel), signal);
		const train: Ragged = { offsets: split.train.offsets, values: split.train.items };
		const known: Ragged = { offsets: dataset.sequences.offsets, values: dataset.sequences.items };
		const trainer = guard(
			() =>
				new session.addon.BackboneTrainer(native, train, known, {
					batchSize: o.batchSize,
					seed: o.seed,
					learningRate: o.learningRate,
					beta1: o.beta1,
					beta2: o.beta2,
					...training,
				}),
		);
		try {
			const model = make(session, native, config);
			const validation = validationTask(split);
			const result = await trainLoop(
				{
					name: 'cf',
					stepsPerEpoch: trainer.stepsPerEpoch(),
					unit,
					unitsPerEpoch: trainer.examplesPerEpoch(),
					run: async (_first, count, s) => {
						const before = trainer.steps();
						const loss = await runOrCancel((cancel) => trainer.run(count, cancel), s);
						return { steps: trainer.steps() - before, losses: loss === undefined ? undefined : { loss } };
					},
					validate: async (s) => {
						const users = await model.userVectors(validation.histories, s, validation.users);
						const ranks = await model.rankTargets(users, validation.targets, validation.histories, s);
						const ndcg = mean(metricValues(ranks, 'ndcg@10'));
						return {
							score: ndcg,
							metrics: { 'NDCG@10': ndcg, 'HR@10': mean(metricValues(ranks, 'hit@10')) },
						};
					},
					saveWeights: (path) => model.save(path),
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
				JSON.stringify({ kind: definition.kind, ...o, split: split.toJSON() }),
			);
			return make(session, native, config, result);
		} finally {
			trainer.dispose();
		}
	} catch (error) {
		made?.dispose();
		session.release();
		throw error;
	}
}

/** Reads a file written by {@link Backbone.save}, when its metadata is of one of these. */
export async function loadDefined(
	definitions: readonly BackboneDefinition[],
	path: string,
	{ session: given, signal, ...device }: BackboneLoadOptions,
): Promise<Backbone | undefined> {
	const session = given?.share() ?? Session.open(device);
	try {
		const file = guard(() => session.addon.openTensorFile(path));
		let text: string | undefined;
		try {
			text = file.metadata()[BACKBONE_METADATA];
		} finally {
			file.close();
		}
		if (text === undefined) {
			session.release();
			return undefined;
		}
		const code = 'ERR_ALLMREC_CHECKPOINT';
		const { kind } = parseJson(text, z.looseObject({ kind: z.string() }), path, { code });
		const definition = definitions.find((each) => each.kind === kind);
		if (!definition)
			throw new ALLMRecError(
				code,
				`${path} is a backbone of the kind \`${kind.slice(0, 40)}\`, which this version does not know.`,
			);
		const config = parseJson(text, definition.stored, path, { code });
		const described = makeDescribed(
			path,
			{ weights: definition.weights(config), files: [path], rules: { code } },
			() => new session.addon.Backbone(session.engine, config),
		);
		const native = await loaded(await described, [path], signal);
		return new Backbone(session, native, config, { scoring: definition.scoring ?? 'product' });
	} catch (error) {
		session.release();
		throw error;
	}
}

/** @throws ERR_ALLMREC_EMPTY_DATASET */
function expectExamples(
	title: string,
	dataset: Dataset,
	split: Split,
	unit: 'sequences' | 'interactions',
	{ loss }: Record<string, number | string>,
): void {
	const least = unit === 'sequences' ? 2 : 1;
	const needsNegative = loss === undefined || loss === 'bce';
	let longEnough = false;
	for (let u = 0; u < dataset.numUsers; u++) {
		if (split.trainSequence(u).length < least) continue;
		longEnough = true;
		if (!needsNegative || new Set(dataset.sequence(u)).size < dataset.numItems) return;
	}
	const users = least === 2 ? 'two training items or more' : 'a training item';
	const reason = longEnough
		? `Every user with ${users} has interacted with all ${dataset.numItems} items, so there is no negative to tell theirs from and nothing to train ${title} on; prepare a larger data set.`
		: `No user has ${users}, so there is nothing to train ${title} on; beside the validation and the test item a user needs ${least === 2 ? 'two interactions' : 'an interaction'}, so prepare a data set with longer histories.`;
	throw new ALLMRecError('ERR_ALLMREC_EMPTY_DATASET', reason);
}

const VALIDATION_USERS = 10_000;

/** At most 10,000 users, drawn evenly. */
function validationTask(split: Split): { users: Int32Array; histories: Int32Array[]; targets: Int32Array } {
	const all = split.users('validation');
	const stride = Math.max(1, Math.ceil(all.length / VALIDATION_USERS));
	const users = all.filter((_, i) => i % stride === 0);
	return {
		users,
		histories: Array.from(users, (u) => split.history(u, 'validation')),
		targets: users.map((u) => split.validation[u]!),
	};
}

function mean(values: Float64Array): number {
	return values.length === 0 ? 0 : values.reduce((a, b) => a + b, 0) / values.length;
}
