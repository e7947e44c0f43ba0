import { z } from 'zod';
import type { Alignment } from '../alignment/alignment.js';
import type { CollaborativeModel } from '../cf/collaborative-model.js';
import type { Dataset } from '../data/dataset.js';
import { NegativeSampler, SeededRandom, unseenItems } from '../data/sampling.js';
import type { Split } from '../data/split.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { blocks, inTurns, type Steps } from '../event-loop.js';
import { parseJson } from '../files/read.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import { type PackedBatch, packBatch, packTraining } from '../llm/prompt-packing.js';
import type {
	LlmBatch,
	NativeProjector,
	ProjectorConfig,
	SoftInputs,
	TokenTargets,
} from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import {
	guard,
	type Keep,
	loaded,
	opening,
	run,
	runOrCancel,
	type Session,
	takeRows,
} from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { type LoopResult, trainLoop } from '../training/loop.js';

/** Stage 2's options, with the paper's defaults. */
export const projectionSchema = z.strictObject({
	/** `mlp`: the paper's; `linear`: one layer. */
	projector: z.enum(['mlp', 'linear']).default('mlp'),
	/**
	 * `xavier`: the paper's. `shared`: both projections start as one map of the recommender's space, the item's through
	 * stage 1's decoder, and give soft tokens as long as the language model's own embeddings; see `shareMap`.
	 */
	initialisation: z.enum(['xavier', 'shared']).default('xavier'),
	/** Multiplies the last layers' initial weights (`xavier`), or the soft tokens' initial length (`shared`). */
	initialScale: z.number().positive().default(1),
	/** Candidates of a training prompt, the target included. */
	candidates: z.int().min(2).default(20),
	/** `last`: each user's last training item; `all`: in every epoch another of the user's training items. */
	items: z.enum(['last', 'all']).default('last'),
	batchSize: z.int().min(1).default(4),
	/**
	 * Prompts that pass through the language model at once; a batch of more is done in parts whose gradients add up to
	 * the same step, in the memory of one part. Default: the whole batch.
	 */
	microBatchSize: z.int().min(1).optional(),
	learningRate: z.number().positive().default(1e-4),
	beta1: z.number().min(0).lt(1).default(0.9),
	beta2: z.number().min(0).lt(1).default(0.98),
	/** Gradients are scaled down to this norm; 0 = never. */
	clipNorm: z.number().min(0).default(0),
	epochs: z.int().min(0).default(5),
	validateEvery: z.int().min(0).default(1),
	/** Users the validation loss is taken over, at most. */
	validationUsers: z.int().min(1).default(500),
	/** Validations without a lower loss after which training stops. */
	patience: z.int().min(1).default(3),
	seed: z.int().min(0).default(0),
});

export type ProjectionOptions = z.input<typeof projectionSchema>;

export interface ProjectionTrainOptions extends LongCallOptions {
	split: Split;
	/** (numItems + 1, d') */
	joint: Float32Array;
	/** Writes the prompts. */
	prompts: PromptBuilder;
	/** Of stage 1; `shared` starts from its decoder, or, without one, from the recommender's own items. */
	alignment?: Alignment | undefined;
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	session: Session;
}

/** Stage 2: user representations and joint embeddings into the language model's token space. */
export class Projection {
	readonly config: Readonly<ProjectorConfig>;
	readonly training: LoopResult | undefined;
	/** @internal */
	readonly native: NativeProjector;

	private constructor(native: NativeProjector, config: ProjectorConfig, training?: LoopResult) {
		this.native = native;
		this.config = config;
		this.training = training;
	}

	/** Trains the projector through the frozen language model. */
	static train(
		dataset: Dataset,
		cf: CollaborativeModel,
		llm: CausalLM,
		options: ProjectionOptions,
		calls: ProjectionTrainOptions,
	): Promise<Projection> {
		return opening((keep) => Projection.#train(keep, dataset, cf, llm, options, calls));
	}

	static async #train(
		keep: Keep,
		dataset: Dataset,
		cf: CollaborativeModel,
		llm: CausalLM,
		options: ProjectionOptions,
		{
			split,
			joint,
			prompts,
			alignment,
			folder,
			checkpointSeconds,
			session,
			signal,
			onProgress,
		}: ProjectionTrainOptions,
	): Promise<Projection> {
		const o = parseOptions(projectionSchema, options, 'the projection');
		const config: ProjectorConfig = {
			kind: o.projector,
			userSize: cf.size,
			jointSize: joint.length / (dataset.numItems + 1),
			tokenSize: llm.tokenSize,
		};
		const examples = await inTurns(Examples.list(dataset, split, cf, o), signal);
		if (examples.train.length === 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_DATASET',
				`No user has a training item with a history and ${o.candidates - 1} other items to tell it from, so stage 2 has nothing to learn from; lower \`projection.candidates\`, or prepare a larger data set.`,
			);
		const native = keep(guard(() => new session.addon.Projector(session.engine, config)));
		const scale = o.initialisation === 'xavier' ? o.initialScale : 1;
		await run((cancel) => native.initialise(o.seed, scale, cancel), signal);
		if (o.initialisation === 'shared') {
			const held = split.users('validation');
			const users = (held.length > 0 ? held : examples.train).subarray(0, 200);
			const vectors = await cf.userVectors(Array.from(users, (user) => split.history(user, 'validation')));
			const length = (await meanLength(llm)) * o.initialScale;
			await shareMap(native, config, alignment, { seed: o.seed, vectors, length });
		}
		const batches = new Batches(prompts, joint, config.jointSize);
		const jointChecksum = await inTurns(checksum(joint), signal);
		const trainer = guard(
			() =>
				new session.addon.ProjectionTrainer(native, llm.native, {
					learningRate: o.learningRate,
					beta1: o.beta1,
					beta2: o.beta2,
					clipNorm: o.clipNorm,
					seed: o.seed,
				}),
		);
		const stepsPerEpoch = Math.ceil(examples.train.length / o.batchSize);
		try {
			const result = await trainLoop(
				{
					name: 'project',
					stepsPerEpoch,
					unit: 'prompts',
					unitsPerEpoch: examples.train.length,
					run: async (first, count) => {
						const before = trainer.steps();
						let sum = 0;
						let steps = 0;
						while (steps < count && !signal?.aborted) {
							// To its end: an abort is looked for between steps, whose number has to be known.
							const batch = await examples.batch(first + steps, stepsPerEpoch, o.batchSize);
							const size = o.microBatchSize ?? batch.length;
							const parts = Array.from({ length: Math.ceil(batch.length / size) }, (_, p) =>
								batches.build(batch.slice(p * size, (p + 1) * size)),
							);
							const total = parts.reduce((n, { targets }) => n + targets.rows.length, 0);
							let loss = 0;
							for (const [p, { llm, soft, targets }] of parts.entries()) {
								const last = p + 1 === parts.length;
								const losses = await runOrCancel(
									(cancel) =>
										last
											? trainer.step(llm, soft, targets, total, cancel)
											: trainer.accumulate(llm, soft, targets, total, cancel),
									signal,
								);
								if (!losses) break;
								loss += losses.loss ?? 0;
							}
							// What was accumulated before an abort is forgotten, and the step not made.
							if (trainer.steps() === before + steps) break;
							sum += loss;
							steps++;
						}
						return { steps, losses: steps > 0 ? { crossEntropy: sum / steps } : undefined };
					},
					validate: async () => {
						let sum = 0;
						let tokens = 0;
						for (let first = 0; first < examples.validation.length; first += VALIDATION_BATCH) {
							signal?.throwIfAborted();
							const rows = examples.validation.slice(first, first + VALIDATION_BATCH);
							const { llm, soft, targets } = batches.build(await examples.complete(rows, VALIDATION_STREAM));
							sum +=
								((await run((cancel) => trainer.evaluate(llm, soft, targets, cancel), signal)).loss ?? 0) *
								targets.rows.length;
							tokens += targets.rows.length;
						}
						return { score: -sum / tokens, metrics: { 'validation crossEntropy': sum / tokens } };
					},
					saveWeights: (path) => saveProjector(native, path, config),
					loadWeights: (path) => run((cancel) => native.load([path], cancel), signal),
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
					llm: llm.config,
					template: prompts.template,
					joint: jointChecksum,
					split: split.toJSON(),
				}),
			);
			return new Projection(native, config, result);
		} catch (error) {
			native.dispose();
			throw error;
		} finally {
			trainer.dispose();
		}
	}

	/** Reads a file written by {@link Projection.save}. */
	static async load(path: string, session: Session, signal?: AbortSignal): Promise<Projection> {
		const file = guard(() => session.addon.openTensorFile(path));
		let config: ProjectorConfig;
		try {
			const text = file.metadata()[METADATA];
			if (!text) throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} is no projector of a-llmrec.`);
			config = parseJson(text, configSchema, path, { code: 'ERR_ALLMREC_CHECKPOINT' });
		} finally {
			file.close();
		}
		const { userSize, jointSize, tokenSize } = config;
		const described = makeDescribed(
			path,
			{
				weights: tokenSize * (userSize + jointSize),
				files: [path],
				rules: { code: 'ERR_ALLMREC_CHECKPOINT' },
			},
			() => new session.addon.Projector(session.engine, config),
		);
		const native = await loaded(await described, [path], signal);
		return new Projection(native, config);
	}

	/** O_u (users, tokenSize) of user representations (users, d). */
	users(x: Float32Array): Promise<Float32Array> {
		return run(() => this.native.users(x));
	}

	/** O_i (items, tokenSize) of joint embeddings (items, d'). */
	items(joint: Float32Array): Promise<Float32Array> {
		return run(() => this.native.items(joint));
	}

	/** Safetensors with the authors' tensor names. */
	save(path: string): Promise<void> {
		return saveProjector(this.native, path, this.config);
	}

	dispose(): void {
		this.native.dispose();
	}
}

/**
 * Starts F_I as F_U of the item's reconstruction: its first layer is F_U's times stage 1's item decoder, the layers
 * after it are F_U's. Without stage 1 the items are the recommender's own and the decoder is the identity. And F_U starts near an isometry: orthonormal layers, and a layer-norm bias that keeps the
 * activation in its straight part. So O_u and O_i are as near each other as user and item are in the recommender's
 * space, and training begins from there instead of having to find two maps that agree.
 *
 * @param vectors (users, d), whose soft tokens get the mean length `length`
 */
async function shareMap(
	native: NativeProjector,
	{ kind, userSize, jointSize, tokenSize }: ProjectorConfig,
	alignment: Alignment | undefined,
	{ seed, vectors, length }: { seed: number; vectors: Float32Array; length: number },
): Promise<void> {
	const get = (name: string) => run(() => native.getParameter(name));
	const set = (name: string, values: Float32Array) => run(() => native.setParameter(name, values));
	const random = new SeededRandom(seed, MAP_STREAM);
	const first = await inTurns(orthonormal(random, tokenSize, userSize));
	const layer = kind === 'mlp' ? '.0' : '';
	await set(`log_emb_proj${layer}.weight`, first);
	if (!alignment && jointSize !== userSize)
		invalidArgument('joint', `as wide as the recommender's items (${userSize}) without stage 1`, jointSize);
	// (d, d')
	const decoder = alignment
		? await run(() => alignment.native.getParameter('mlp.fc2.weight'))
		: identity(userSize);
	const decoderBias = alignment
		? await run(() => alignment.native.getParameter('mlp.fc2.bias'))
		: new Float32Array(userSize);
	const composed = new Float32Array(tokenSize * jointSize);
	const bias = new Float32Array(tokenSize);
	const compose = (h: number) => {
		for (let c = 0; c < userSize; c++) {
			const w = first[h * userSize + c]!;
			bias[h]! += w * decoderBias[c]!;
			for (let j = 0; j < jointSize; j++) composed[h * jointSize + j]! += w * decoder[c * jointSize + j]!;
		}
	};
	await inTurns(blocks(tokenSize, 1, compose));
	await set(`item_emb_proj${layer}.weight`, composed);
	await set(`item_emb_proj${layer}.bias`, bias);
	if (kind === 'mlp') {
		const last = await inTurns(orthonormal(random, tokenSize, tokenSize));
		const undo = new Float32Array(tokenSize);
		await inTurns(
			blocks(last.length, LENGTH_BLOCK, (from, to) => {
				for (let i = from; i < to; i++) undo[Math.floor(i / tokenSize)]! -= STRAIGHT * last[i]!;
			}),
		);
		for (const name of ['log_emb_proj', 'item_emb_proj']) {
			await set(`${name}.1.bias`, new Float32Array(tokenSize).fill(STRAIGHT));
			await set(`${name}.3.weight`, last);
			await set(`${name}.3.bias`, undo);
		}
	}
	const tokens = await run(() => native.users(vectors));
	const scale = length / Math.max(await inTurns(rowLength(tokens, tokenSize)), 1e-6);
	for (const name of ['log_emb_proj', 'item_emb_proj'])
		for (const part of kind === 'mlp' ? ['.3.weight', '.3.bias'] : ['.weight', '.bias'])
			await set(
				name + part,
				(await get(name + part)).map((w) => w * scale),
			);
}

/** Where GELU and LeakyReLU are straight for all that a layer norm gives. */
const STRAIGHT = 3;

function identity(size: number): Float32Array {
	return Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) === 0 ? 1 : 0));
}

/** (rows, cols): orthonormal columns, or rows where there are fewer of them. */
function* orthonormal(random: SeededRandom, rows: number, cols: number): Steps<Float32Array> {
	const size = Math.max(rows, cols);
	const basis: Float64Array[] = [];
	while (basis.length < Math.min(rows, cols)) {
		const vector = Float64Array.from({ length: size }, () => random.normal());
		for (const other of basis) {
			let dot = 0;
			for (let i = 0; i < size; i++) dot += vector[i]! * other[i]!;
			for (let i = 0; i < size; i++) vector[i]! -= dot * other[i]!;
		}
		yield;
		const norm = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
		basis.push(vector.map((x) => x / norm));
	}
	const matrix = new Float32Array(rows * cols);
	yield* blocks(rows, 64, (from, to) => {
		for (let r = from; r < to; r++)
			for (let c = 0; c < cols; c++) matrix[r * cols + c] = rows >= cols ? basis[c]![r]! : basis[r]![c]!;
	});
	return matrix;
}

/** Mean length of the language model's token embeddings. */
async function meanLength(llm: CausalLM): Promise<number> {
	const table = await run(() => llm.native.getParameter('model.decoder.embed_tokens.weight'));
	return inTurns(rowLength(table, llm.tokenSize));
}

/** Mean Euclidean length of rows. */
function* rowLength(rows: Float32Array, width: number): Steps<number> {
	let total = 0;
	yield* blocks(rows.length / width, Math.ceil(LENGTH_BLOCK / width), (from, to) => {
		for (let row = from; row < to; row++) {
			let square = 0;
			for (let at = row * width; at < (row + 1) * width; at++) square += rows[at]! ** 2;
			total += Math.sqrt(square);
		}
	});
	return (total * width) / Math.max(1, rows.length);
}

/** Numbers of one step. */
const LENGTH_BLOCK = 1 << 18;

const METADATA = 'a-llmrec.projector';

const size = z
	.int()
	.min(1)
	.max(2 ** 31 - 1);
/** What is written there. */
const configSchema: z.ZodType<ProjectorConfig> = z.strictObject({
	kind: z.enum(['mlp', 'linear']),
	userSize: size,
	jointSize: size,
	tokenSize: size,
});
const VALIDATION_BATCH = 16;
const ORDER_STREAM = 21;
const EXAMPLE_STREAM = 22;
const MAP_STREAM = 24;
const VALIDATION_STREAM = 0xffff;

type ParsedOptions = z.output<typeof projectionSchema>;

function saveProjector(native: NativeProjector, path: string, config: ProjectorConfig): Promise<void> {
	return run(() => native.save(path, { [METADATA]: JSON.stringify(config) }, 'F32'));
}

/** A user's history and the item after it. */
interface Example {
	user: number;
	history: Int32Array;
	target: number;
}

interface CompleteExample extends Example {
	/** x^u (d) */
	vector: Float32Array;
	/** The target among negatives, shuffled. */
	candidates: Int32Array;
}

class Examples {
	/** Users that train. */
	readonly train: Int32Array;
	readonly validation: Example[];
	readonly #split: Split;
	readonly #cf: CollaborativeModel;
	readonly #options: ParsedOptions;
	readonly #sampler: NegativeSampler;
	readonly #dataset: Dataset;
	#order = new Int32Array(0);
	#orderEpoch = -1;

	private constructor(
		dataset: Dataset,
		split: Split,
		cf: CollaborativeModel,
		options: ParsedOptions,
		train: Int32Array,
		validation: Example[],
	) {
		this.#dataset = dataset;
		this.#split = split;
		this.#cf = cf;
		this.#options = options;
		this.#sampler = new NegativeSampler(dataset.numItems);
		this.train = train;
		this.validation = validation;
	}

	static *list(
		dataset: Dataset,
		split: Split,
		cf: CollaborativeModel,
		options: ParsedOptions,
	): Steps<Examples> {
		const unseen = yield* unseenItems(dataset);
		const enough = (u: number) => unseen[u]! >= options.candidates - 1;
		const train = new Int32Array(dataset.numUsers);
		let count = 0;
		yield* blocks(dataset.numUsers, 1 << 12, (from, to) => {
			for (let u = from; u < to; u++) if (split.trainSequence(u).length >= 2 && enough(u)) train[count++] = u;
		});
		const users = split.users('validation').filter(enough);
		const stride = Math.max(1, Math.ceil(users.length / options.validationUsers));
		const validation = Array.from(
			users.filter((_, i) => i % stride === 0),
			(user) => ({ user, history: split.history(user, 'validation'), target: split.validation[user]! }),
		);
		return new Examples(dataset, split, cf, options, train.slice(0, count), validation);
	}

	/** Depends on the seed and the step alone. */
	async batch(step: number, stepsPerEpoch: number, batchSize: number): Promise<CompleteExample[]> {
		const epoch = Math.floor(step / stepsPerEpoch);
		if (epoch !== this.#orderEpoch) {
			this.#order = this.train.slice();
			const random = new SeededRandom(this.#options.seed, ORDER_STREAM, epoch);
			await inTurns(random.shuffleSteps(this.#order));
			this.#orderEpoch = epoch;
		}
		const first = (step % stepsPerEpoch) * batchSize;
		const examples = Array.from(this.#order.subarray(first, first + batchSize), (user) => {
			const items = this.#split.trainSequence(user);
			const random = new SeededRandom(this.#options.seed, EXAMPLE_STREAM, epoch, user);
			const at = this.#options.items === 'last' ? items.length - 1 : 1 + random.int(items.length - 1);
			return { user, history: items.subarray(0, at), target: items[at]! };
		});
		return this.complete(examples, epoch);
	}

	/** Adds user representations and candidates. */
	async complete(examples: readonly Example[], stream: number): Promise<CompleteExample[]> {
		const vectors = await this.#cf.userVectors(examples.map(({ history }) => history));
		const d = this.#cf.size;
		return examples.map((example, i) => {
			const candidates = new Int32Array(this.#options.candidates);
			candidates[0] = example.target;
			const random = new SeededRandom(this.#options.seed, EXAMPLE_STREAM + 1, stream, example.user);
			this.#sampler.draw(random, this.#dataset.sequence(example.user), candidates.subarray(1));
			random.shuffle(candidates);
			return { ...example, vector: vectors.subarray(i * d, (i + 1) * d), candidates };
		});
	}
}

class Batches {
	constructor(
		readonly prompts: PromptBuilder,
		readonly joint: Float32Array,
		readonly jointSize: number,
	) {}

	build(examples: readonly CompleteExample[]): { llm: LlmBatch; soft: SoftInputs; targets: TokenTargets } {
		const packed = packBatch(
			examples.map(({ history, candidates, target }) =>
				packTraining(this.prompts.build({ history, candidates }), this.prompts.answer(target)),
			),
		);
		const users: Float32Array[] = [];
		const items: number[] = [];
		for (const [s, { vector }] of examples.entries())
			for (const slot of packed.slots.slice(packed.slotOffsets[s], packed.slotOffsets[s + 1]))
				if (slot.kind === 'user') users.push(vector);
				else items.push(slot.item);
		const size = examples[0]!.vector.length;
		const soft: SoftInputs = {
			users: new Float32Array(users.length * size),
			items: takeRows(this.joint, this.jointSize, items),
		};
		for (const [u, vector] of users.entries()) soft.users.set(vector, u * size);
		return {
			llm: toLlmBatch(packed, softOrder(packed, users.length)),
			soft,
			targets: { rows: packed.rows, tokens: packed.rowTargets },
		};
	}
}

/** The soft token of each slot, users coming first. */
function softOrder({ slots }: PackedBatch, numUsers: number): Int32Array {
	let user = 0;
	let item = numUsers;
	return Int32Array.from(slots, ({ kind }) => (kind === 'user' ? user++ : item++));
}

/** The native form of a packed batch. `order`: the soft row of each slot; default the slots' own order. */
export function toLlmBatch(packed: PackedBatch, order?: Int32Array): LlmBatch {
	return {
		ids: order ? packed.ids.map((id) => (id < 0 ? -order[-id - 1]! - 1 : id)) : packed.ids,
		offsets: packed.offsets,
		positions: packed.positions,
		prefix: packed.prefix,
		ownBegin: packed.ownBegin,
	};
}

/** FNV-1a over the bits: tells whether the joint embeddings are those a checkpoint was trained with. */
function* checksum(values: Float32Array): Steps<number> {
	const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
	let hash = 0x811c9dc5;
	yield* blocks(words.length, 1 << 18, (from, to) => {
		for (let at = from; at < to; at++) hash = Math.imul(hash ^ words[at]!, 0x01000193) >>> 0;
	});
	return hash;
}
