import { z } from 'zod';
import type { CollaborativeModel } from '../cf/collaborative-model.js';
import type { Dataset } from '../data/dataset.js';
import { NegativeSampler, SeededRandom, unseenItems } from '../data/sampling.js';
import type { Split } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { atOnce, blocks, inTurns, nextTurn, type Steps, turnIsOver } from '../event-loop.js';
import { parseJson } from '../files/read.js';
import type { AlignmentBatch, AlignmentConfig, NativeAlignment, Ragged } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import {
	guard,
	type Keep,
	loaded,
	opening,
	raggedSteps,
	run,
	runOrCancel,
	type Session,
	takeRows,
} from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { itemText } from '../text/item-text.js';
import type { SentenceEncoder } from '../text/sentence-encoder.js';
import type { Texts, TokenStore } from '../text/tokenizer.js';
import { type LoopResult, trainLoop } from '../training/loop.js';

/** Stage 1's options, with the paper's defaults. */
export const alignmentSchema = z.strictObject({
	/** d', the width of the joint space. */
	jointSize: z.int().min(1).default(128),
	/** On the encoders' outputs. */
	activation: z.enum(['none', 'relu', 'leaky_relu', 'gelu', 'sigmoid', 'tanh']).default('sigmoid'),
	/** Weight of L_matching; 0 for the ablation. */
	matching: z.number().min(0).default(1),
	/** α, weight of L_item-recon. */
	alpha: z.number().min(0).default(0.5),
	/** β, weight of L_text-recon. */
	beta: z.number().min(0).default(0.5),
	/** Weight of L_rec. */
	recommendation: z.number().min(0).default(1),
	/** `last`: each user's last training item; `all`: every training item with a history (the paper's A-LLMRec_all). */
	items: z.enum(['last', 'all']).default('last'),
	/** Leave the sentence encoder as it is; texts are then encoded once. */
	freezeEncoder: z.boolean().default(false),
	batchSize: z.int().min(1).default(32),
	learningRate: z.number().positive().default(1e-4),
	beta1: z.number().min(0).lt(1).default(0.9),
	beta2: z.number().min(0).lt(1).default(0.98),
	epochs: z.int().min(0).default(10),
	validateEvery: z.int().min(0).default(1),
	/** Validations without a lower loss after which training stops. */
	patience: z.int().min(1).default(3),
	/** Losses as the authors' code has them; see SPEC. */
	referenceCompat: z.boolean().default(false),
	seed: z.int().min(0).default(0),
});

export type AlignmentOptions = z.input<typeof alignmentSchema>;

export interface AlignmentTrainOptions extends LongCallOptions {
	split: Split;
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	session: Session;
}

/** Which latent stands for an item: e_i where it has interactions, q_i where it has not. */
export interface JointOptions {
	/** Items with fewer training interactions than this take q_i. Default 1; Infinity = q_i for all. */
	coldThreshold?: number | undefined;
}

/** Vectors of all items by dense id; row 0 is padding (zeros). */
export interface ItemLatents {
	/** d' */
	size: number;
	/** e (numItems + 1, d') of the collaborative vectors. */
	e: Float32Array;
	/** q (numItems + 1, d') of the texts. */
	q: Float32Array;
}

/** Stage 1: two autoencoders that meet in a joint space of collaborative and textual knowledge. */
export class Alignment {
	readonly config: Readonly<AlignmentConfig>;
	readonly training: LoopResult | undefined;
	/** @internal */
	readonly native: NativeAlignment;

	private constructor(native: NativeAlignment, config: AlignmentConfig, training?: LoopResult) {
		this.native = native;
		this.config = config;
		this.training = training;
	}

	/** Trains the alignment and, unless frozen, the sentence encoder, which is changed in place. */
	static train(
		dataset: Dataset,
		cf: CollaborativeModel,
		encoder: SentenceEncoder,
		options: AlignmentOptions,
		calls: AlignmentTrainOptions,
	): Promise<Alignment> {
		return opening((keep) => Alignment.#train(keep, dataset, cf, encoder, options, calls));
	}

	static async #train(
		keep: Keep,
		dataset: Dataset,
		cf: CollaborativeModel,
		encoder: SentenceEncoder,
		options: AlignmentOptions,
		{ split, folder, checkpointSeconds, session, signal, onProgress }: AlignmentTrainOptions,
	): Promise<Alignment> {
		const o = parseOptions(alignmentSchema, options, 'the alignment');
		const config: AlignmentConfig = {
			itemSize: cf.size,
			textSize: encoder.size,
			jointSize: o.jointSize,
			activation: o.activation,
			matchingWeight: o.matching,
			itemReconstructionWeight: o.alpha,
			textReconstructionWeight: o.beta,
			recommendationWeight: o.recommendation,
			referenceCompat: o.referenceCompat,
		};
		const native = keep(guard(() => new session.addon.Alignment(session.engine, config)));
		await run((cancel) => native.initialise(o.seed, cancel), signal);
		const texts = await encoder.tokenize(itemTexts(dataset, o.referenceCompat), { signal, onProgress });
		const examples = await Examples.build(dataset, split, cf, o, signal);
		if (examples.train.length === 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_DATASET',
				'No user has a training item with a history before it and an item never interacted with to tell it from, so stage 1 has nothing to learn from; users need four interactions or more, and the catalogue more items.',
			);
		const batches = new Batches(
			examples,
			cf.size,
			encoder.size,
			await cf.itemTable(),
			texts,
			o.referenceCompat,
		);
		if (o.freezeEncoder) batches.textVectors = await encoder.encode(texts, { signal });
		const trainer = guard(
			() =>
				new session.addon.AlignmentTrainer(native, o.freezeEncoder ? null : encoder.native, {
					learningRate: o.learningRate,
					beta1: o.beta1,
					beta2: o.beta2,
					trainEncoder: !o.freezeEncoder,
					seed: o.seed,
				}),
		);
		const stepsPerEpoch = Math.ceil(examples.train.length / o.batchSize);
		try {
			const result = await trainLoop(
				{
					name: 'align',
					stepsPerEpoch,
					unit: 'items',
					unitsPerEpoch: examples.train.length,
					run: async (first, count) => {
						const sums: Record<string, number> = {};
						const before = trainer.steps();
						for (let made = 0; made < count && !signal?.aborted; made++) {
							// To its end: an abort is looked for between steps, whose number has to be known.
							const rows = await examples.batch(first + made, stepsPerEpoch, o.batchSize);
							const losses = await runOrCancel((cancel) => trainer.step(batches.build(rows), cancel), signal);
							if (!losses) break;
							for (const [name, value] of Object.entries(losses)) sums[name] = (sums[name] ?? 0) + value;
						}
						const steps = trainer.steps() - before;
						for (const name of Object.keys(sums)) sums[name]! /= steps;
						return { steps, losses: steps > 0 ? sums : undefined };
					},
					validate: async () => {
						const sums: Record<string, number> = {};
						const { validation } = examples;
						for (let first = 0; first < validation.length; first += VALIDATION_BATCH) {
							signal?.throwIfAborted();
							const rows = validation.slice(first, first + VALIDATION_BATCH);
							const losses = await run((cancel) => trainer.evaluate(batches.build(rows), cancel), signal);
							for (const [name, value] of Object.entries(losses))
								sums[name] = (sums[name] ?? 0) + (value * rows.length) / validation.length;
						}
						const metrics = Object.fromEntries(
							Object.entries(sums).map(([name, value]) => [`validation ${name}`, value]),
						);
						return { score: -(sums.loss ?? 0), metrics };
					},
					saveWeights: (path) => saveBoth(native, o.freezeEncoder ? undefined : encoder, path, config),
					loadWeights: (path) => loadBoth(native, o.freezeEncoder ? undefined : encoder, path, signal),
					saveOptimizer: (path) => run(() => trainer.saveOptimizer(path, {})),
					loadOptimizer: (path) => run((cancel) => trainer.loadOptimizer(path, cancel), signal),
				},
				{
					epochs: o.epochs,
					validateEvery: examples.validation.length > 0 ? o.validateEvery : 0,
					patience: o.patience,
					folder,
					checkpointSeconds,
					signal,
					onProgress,
				},
				JSON.stringify({
					...o,
					encoder: encoder.config,
					maxTokens: encoder.maxTokens,
					split: split.toJSON(),
				}),
			);
			return new Alignment(native, config, result);
		} catch (error) {
			native.dispose();
			throw error;
		} finally {
			trainer.dispose();
		}
	}

	/** Reads a file written by {@link Alignment.save}. */
	static async load(path: string, session: Session, signal?: AbortSignal): Promise<Alignment> {
		const file = guard(() => session.addon.openTensorFile(path));
		let config: AlignmentConfig;
		try {
			const text = file.metadata()[METADATA];
			if (!text)
				throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} is no alignment network of a-llmrec.`);
			config = parseJson(text, configSchema, path, { code: 'ERR_ALLMREC_CHECKPOINT' });
		} finally {
			file.close();
		}
		const { itemSize, textSize, jointSize } = config;
		const described = makeDescribed(
			path,
			{
				weights: jointSize * (itemSize + textSize),
				files: [path],
				rules: { code: 'ERR_ALLMREC_CHECKPOINT' },
			},
			() => new session.addon.Alignment(session.engine, config),
		);
		const native = await loaded(await described, [path], signal);
		return new Alignment(native, config);
	}

	/** e (rows, d') of collaborative vectors (rows, d). */
	encodeItems(items: Float32Array): Promise<Float32Array> {
		return run(() => this.native.encodeItems(items));
	}

	/** q (rows, d') of text vectors (rows, d_t). */
	encodeTexts(texts: Float32Array): Promise<Float32Array> {
		return run(() => this.native.encodeTexts(texts));
	}

	/** ê (rows, d) of latents (rows, d'): an item in the recommender's space. */
	decodeItems(latents: Float32Array): Promise<Float32Array> {
		return run(() => this.native.decodeItems(latents));
	}

	/** Q̂ (rows, d_t) of latents (rows, d'). */
	decodeTexts(latents: Float32Array): Promise<Float32Array> {
		return run(() => this.native.decodeTexts(latents));
	}

	/** Both latents of every item of the catalogue, computed once. */
	async latents(
		dataset: Dataset,
		cf: CollaborativeModel,
		encoder: SentenceEncoder,
		options: LongCallOptions = {},
	): Promise<ItemLatents> {
		const { signal } = options;
		const vectors = await cf.itemTable();
		const e = await run((cancel) => this.native.encodeItems(vectors, cancel), signal);
		const encoded = await encoder.encode(itemTexts(dataset, this.config.referenceCompat), options);
		const q = await run((cancel) => this.native.encodeTexts(encoded, cancel), signal);
		const size = this.config.jointSize;
		e.fill(0, 0, size);
		q.fill(0, 0, size);
		return { size, e, q };
	}

	/** Safetensors with the authors' tensor names. */
	save(path: string): Promise<void> {
		return run(() => this.native.save(path, { [METADATA]: JSON.stringify(this.config) }));
	}

	dispose(): void {
		this.native.dispose();
	}
}

/** By dense id. */
function itemTexts({ items }: Dataset, referenceCompat: boolean): Texts {
	return { length: items.length, at: (item) => itemText(items[item]!, { referenceCompat }) };
}

/** One vector (d') for every item, by the one rule. */
export function jointEmbeddings(
	latents: ItemLatents,
	trainingCounts: ArrayLike<number>,
	options: JointOptions = {},
): Float32Array {
	return atOnce(jointSteps(latents, trainingCounts, options));
}

/** {@link jointEmbeddings} in steps. @internal */
export function* jointSteps(
	{ size, e, q }: ItemLatents,
	trainingCounts: ArrayLike<number>,
	{ coldThreshold = 1 }: JointOptions = {},
): Steps<Float32Array> {
	const joint = new Float32Array(e.length);
	yield* blocks(e.length / size, Math.ceil(JOINT_BLOCK / size), (from, to) => {
		joint.set(e.subarray(from * size, to * size), from * size);
		for (let item = Math.max(1, from); item < Math.min(to, trainingCounts.length); item++)
			if (trainingCounts[item]! < coldThreshold)
				joint.set(q.subarray(item * size, (item + 1) * size), item * size);
	});
	return joint;
}

/** Numbers of one step. */
const JOINT_BLOCK = 1 << 18;

const METADATA = 'a-llmrec.alignment';

const size = z
	.int()
	.min(1)
	.max(2 ** 31 - 1);
const weight = z.number().min(0);
/** What is written there. */
const configSchema: z.ZodType<AlignmentConfig> = z.strictObject({
	itemSize: size,
	textSize: size,
	jointSize: size,
	activation: z.enum(['none', 'relu', 'leaky_relu', 'gelu', 'sigmoid', 'tanh']),
	matchingWeight: weight,
	itemReconstructionWeight: weight,
	textReconstructionWeight: weight,
	recommendationWeight: weight,
	referenceCompat: z.boolean(),
});
const VALIDATION_BATCH = 64;
const VALIDATION_USERS = 2000;

type ParsedOptions = z.output<typeof alignmentSchema>;

/** One example: a user's representation, the item that follows it, and a negative. */
interface Example {
	/** Row of `users`. */
	user: number;
	item: number;
	/** Index of the user in the data set, for negatives. */
	owner: number;
}

class Examples {
	readonly #dataset: Dataset;
	readonly #seed: number;
	readonly users: Float32Array;
	readonly train: Example[];
	readonly validation: { example: Example; negative: number }[] = [];
	#order = new Int32Array(0);
	#orderEpoch = -1;
	readonly #sampler: NegativeSampler;

	private constructor(
		dataset: Dataset,
		seed: number,
		users: Float32Array,
		train: Example[],
		sampler: NegativeSampler,
	) {
		this.#dataset = dataset;
		this.#seed = seed;
		this.users = users;
		this.train = train;
		this.#sampler = sampler;
	}

	static async build(
		dataset: Dataset,
		split: Split,
		cf: CollaborativeModel,
		o: ParsedOptions,
		signal: AbortSignal | undefined,
	): Promise<Examples> {
		const { histories, train, validation } = await inTurns(listExamples(dataset, split, o), signal);
		const vectors = await cf.userVectors(await inTurns(raggedSteps(histories), signal), signal);
		const examples = new Examples(dataset, o.seed, vectors, train, new NegativeSampler(dataset.numItems));
		for (const example of validation) {
			if (turnIsOver()) await nextTurn(signal);
			examples.validation.push({ example, negative: examples.#negative(example, VALIDATION_STREAM) });
		}
		return examples;
	}

	/** The examples of a step; depends on the seed and the step alone. */
	async batch(
		step: number,
		stepsPerEpoch: number,
		batchSize: number,
	): Promise<{ example: Example; negative: number }[]> {
		const epoch = Math.floor(step / stepsPerEpoch);
		if (epoch !== this.#orderEpoch) {
			this.#order = Int32Array.from(this.train.keys());
			await inTurns(new SeededRandom(this.#seed, ORDER_STREAM, epoch).shuffleSteps(this.#order));
			this.#orderEpoch = epoch;
		}
		const first = (step % stepsPerEpoch) * batchSize;
		return Array.from(this.#order.subarray(first, first + batchSize), (i) => {
			const example = this.train[i]!;
			return { example, negative: this.#negative(example, epoch) };
		});
	}

	#negative({ user, owner }: Example, stream: number): number {
		const drawn = new Int32Array(1);
		const random = new SeededRandom(this.#seed, NEGATIVE_STREAM, stream, user);
		this.#sampler.draw(random, this.#dataset.sequence(owner), drawn);
		return drawn[0]!;
	}
}

function* listExamples(
	dataset: Dataset,
	split: Split,
	o: ParsedOptions,
): Steps<{ histories: Int32Array[]; train: Example[]; validation: Example[] }> {
	const histories: Int32Array[] = [];
	const train: Example[] = [];
	const validation: Example[] = [];
	const unseen = yield* unseenItems(dataset);
	for (let u = 0; u < dataset.numUsers; u++) {
		if (u % 64 === 0) yield;
		const items = split.trainSequence(u);
		if (unseen[u] === 0) continue; // no negative
		// A user with one training item has no history before it, and trains nothing.
		for (let at = o.items === 'all' ? 1 : Math.max(1, items.length - 1); at < items.length; at++) {
			train.push({ user: histories.length, item: items[at]!, owner: u });
			histories.push(items.subarray(0, at));
		}
	}
	const users = split.users('validation');
	const stride = Math.max(1, Math.ceil(users.length / VALIDATION_USERS));
	for (let i = 0; i < users.length; i += stride) {
		const u = users[i]!;
		if (unseen[u] === 0) continue;
		validation.push({ user: histories.length, item: split.validation[u]!, owner: u });
		histories.push(split.history(u, 'validation'));
	}
	return { histories, train, validation };
}

const ORDER_STREAM = 11;
const NEGATIVE_STREAM = 12;
const VALIDATION_STREAM = 0xffff;

class Batches {
	/** (numItems + 1, d_t) when the encoder is frozen. */
	textVectors: Float32Array | undefined;

	constructor(
		readonly examples: Examples,
		readonly size: number,
		readonly textSize: number,
		readonly items: Float32Array,
		readonly texts: TokenStore,
		readonly both: boolean,
	) {}

	build(rows: readonly { example: Example; negative: number }[]): AlignmentBatch {
		const positives = rows.map(({ example }) => example.item);
		const negatives = rows.map(({ negative }) => negative);
		const batch: AlignmentBatch = {
			users: takeRows(
				this.examples.users,
				this.size,
				rows.map(({ example }) => example.user),
			),
			positiveItems: takeRows(this.items, this.size, positives),
			negativeItems: takeRows(this.items, this.size, negatives),
		};
		// The negative's text takes part in the authors' losses only.
		const negativeTexts = this.both ? negatives : [];
		if (this.textVectors) {
			batch.positiveTexts = takeRows(this.textVectors, this.textSize, positives);
			batch.negativeTexts = takeRows(this.textVectors, this.textSize, negativeTexts);
		} else {
			batch.positiveTokens = this.#tokens(positives);
			batch.negativeTokens = this.#tokens(negativeTexts);
		}
		return batch;
	}

	#tokens(items: readonly number[]): Ragged {
		const { offsets, ids } = this.texts;
		const result: Ragged = { offsets: new Int32Array(items.length + 1), values: new Int32Array(0) };
		for (const [i, item] of items.entries())
			result.offsets[i + 1] = result.offsets[i]! + offsets[item + 1]! - offsets[item]!;
		result.values = new Int32Array(result.offsets[items.length]!);
		for (const [i, item] of items.entries())
			result.values.set(ids.subarray(offsets[item], offsets[item + 1]), result.offsets[i]);
		return result;
	}
}

/** Alignment and fine-tuned encoder beside each other: `<name>.safetensors` and `<name>.encoder.safetensors`. */
async function saveBoth(
	native: NativeAlignment,
	encoder: SentenceEncoder | undefined,
	path: string,
	config: AlignmentConfig,
): Promise<void> {
	if (encoder) await run(() => encoder.native.save(encoderPath(path), { format: 'pt' }, 'F32'));
	await run(() => native.save(path, { [METADATA]: JSON.stringify(config) }, 'F32'));
}

async function loadBoth(
	native: NativeAlignment,
	encoder: SentenceEncoder | undefined,
	path: string,
	signal: AbortSignal | undefined,
): Promise<void> {
	if (encoder) await run((cancel) => encoder.native.load([encoderPath(path)], cancel), signal);
	await run((cancel) => native.load([path], cancel), signal);
}

function encoderPath(path: string): string {
	return path.replace(/\.safetensors$/, '.encoder.safetensors');
}
