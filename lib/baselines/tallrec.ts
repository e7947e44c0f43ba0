import { join } from 'node:path';
import { z } from 'zod';
import type { Dataset } from '../data/dataset.js';
import { NegativeSampler, SeededRandom, unseenItems } from '../data/sampling.js';
import type { Split } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { inTurns, nextTurn, turnIsOver } from '../event-loop.js';
import { writeJson } from '../files/atomic.js';
import { readJson } from '../files/read.js';
import type { CausalLM } from '../llm/causal-lm.js';
import { LoraAdapter, loraSchema } from '../llm/lora.js';
import { planMicroBatches } from '../llm/micro-batches.js';
import type { PackedSequence } from '../llm/prompt-packing.js';
import { PROMPT_WORDS, type PromptDomain } from '../llm/prompt-template.js';
import type { NativeLoraTrainer } from '../native/addon.js';
import { guard, type Keep, opening, run, runOrCancel, type Session } from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { Catalogue } from '../recommend/catalogue.js';
import { type LoopResult, type StepsDone, trainLoop } from '../training/loop.js';
import { type BaselineRequest, checkRequest } from './request.js';
import { TallrecPrompts } from './tallrec-prompts.js';

const word = z.string().min(1);
const words = z.union([
	z.enum(Object.keys(PROMPT_WORDS) as [PromptDomain, ...PromptDomain[]]),
	z.strictObject({ past: word, noun: word, verb: word }),
]);

/** TALLRec's options; where the paper leaves a choice open, see docs/baselines.md. */
export const tallrecSchema = z.strictObject({
	...loraSchema.shape,
	/** The items' words in the prompts. Default `item`. */
	words: words.default('item'),
	/** The last so many items of a history are told. Default 10. */
	historyLength: z.int().min(1).default(10),
	/** Users of a step; each gives two prompts, of an item they chose and of one they did not. Default 8. */
	batchSize: z.int().min(1).default(8),
	/** Users whose prompts pass through the language model at once. Default: the whole batch. */
	microBatchSize: z.int().min(1).optional(),
	/** Default 1e-4. */
	learningRate: z.number().positive().default(1e-4),
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

export type TALLRecOptions = z.input<typeof tallrecSchema>;

export interface TALLRecTrainOptions extends LongCallOptions {
	split: Split;
	/** For checkpoints and the log; a training that was interrupted goes on from there. */
	folder?: string | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	/** The language model's. */
	session: Session;
}

const CONFIG = 'tallrec.json';
const configSchema = z.strictObject({ version: z.literal(1), words, historyLength: z.int().min(1) });
type Config = z.output<typeof configSchema>;

/** Packed tokens of one pass when scoring, about. */
const TOKENS_PER_PASS = 4096;
const VALIDATION_BATCH = 16;
const ORDER_STREAM = 31;
const EXAMPLE_STREAM = 32;
const VALIDATION_STREAM = 0xffff;

/**
 * TALLRec (Bao et al., RecSys 2023): a language model with a low-rank adapter answers *Yes* or *No* to whether a user
 * will like an item, all of it in words.
 */
export class TALLRec {
	readonly training: LoopResult | undefined;
	readonly adapter: LoraAdapter;
	readonly #llm: CausalLM;
	readonly #prompts: TallrecPrompts;
	readonly #config: Config;

	private constructor(
		llm: CausalLM,
		adapter: LoraAdapter,
		prompts: TallrecPrompts,
		config: Config,
		training?: LoopResult,
	) {
		this.#llm = llm;
		this.adapter = adapter;
		this.#prompts = prompts;
		this.#config = config;
		this.training = training;
	}

	/**
	 * Trains an adapter; the language model itself stays as it is.
	 *
	 * @throws ERR_ALLMREC_EMPTY_DATASET, ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_UNSUPPORTED for a language model whose
	 * activations carry no gradients, and as `trainLoop`
	 */
	static train(
		dataset: Dataset,
		llm: CausalLM,
		options: TALLRecOptions,
		calls: TALLRecTrainOptions,
	): Promise<TALLRec> {
		return opening((keep) => TALLRec.#train(keep, dataset, llm, options, calls));
	}

	static async #train(
		keep: Keep,
		dataset: Dataset,
		llm: CausalLM,
		options: TALLRecOptions,
		{ split, folder, checkpointSeconds, session, signal, onProgress }: TALLRecTrainOptions,
	): Promise<TALLRec> {
		const o = parseOptions(tallrecSchema, options, 'TALLRec');
		const catalogue = Catalogue.of(dataset, split.itemCounts);
		const prompts = await TallrecPrompts.create(llm, catalogue, o.words, o.historyLength, signal);
		const examples = new Examples(dataset, split, await inTurns(unseenItems(dataset), signal), o);
		if (examples.train.length === 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_DATASET',
				'No user has a training item with a history and an item to tell it from, so TALLRec has nothing to learn from; prepare a larger data set.',
			);
		const adapter = keep(
			await LoraAdapter.create(session, llm.config, o, { base: llm.source, seed: o.seed }),
		);
		const { native } = adapter;
		const { learningRate, clipNorm, seed } = o;
		const trainer = guard(
			() => new session.addon.LoraTrainer(native, llm.native, { learningRate, clipNorm, beta2: 0.999, seed }),
		);
		const stepsPerEpoch = Math.ceil(examples.train.length / o.batchSize);
		try {
			const result = await trainLoop(
				{
					name: 'tallrec',
					stepsPerEpoch,
					unit: 'users',
					unitsPerEpoch: examples.train.length,
					run: (first, count) =>
						steps(trainer, count, signal, async (step) => {
							const users = examples.batch(first + step, stepsPerEpoch);
							return { users, size: o.microBatchSize ?? users.length, prompts };
						}),
					validate: async () => {
						let sum = 0;
						for (let first = 0; first < examples.validation.length; first += VALIDATION_BATCH) {
							const part = examples.validation.slice(first, first + VALIDATION_BATCH);
							const { batch, targets } = training(prompts, part);
							const { loss } = await run(
								(cancel) => trainer.evaluate(batch, NO_SOFT, targets, cancel),
								signal,
							);
							sum += loss! * part.length;
						}
						const mean = sum / examples.validation.length;
						return { score: -mean, metrics: { 'validation crossEntropy': mean } };
					},
					saveWeights: (path) => run(() => native.save(path, { format: 'pt' }, 'F32')),
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
				JSON.stringify({ ...o, llm: llm.config, template: prompts.template, split: split.toJSON() }),
			);
			const config: Config = { version: 1, words: o.words, historyLength: o.historyLength };
			return new TALLRec(llm, adapter, prompts, config, result);
		} finally {
			trainer.dispose();
		}
	}

	/**
	 * Reads a folder written by {@link TALLRec.save}, for the language model and the data set it was trained with.
	 *
	 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_CHECKPOINT
	 */
	static async load(
		folder: string,
		dataset: Dataset,
		llm: CausalLM,
		{ session, signal }: { session: Session; signal?: AbortSignal | undefined },
	): Promise<TALLRec> {
		const config = await readJson(join(folder, CONFIG), configSchema, { code: 'ERR_ALLMREC_CHECKPOINT' });
		const catalogue = Catalogue.of(dataset, new Int32Array(dataset.items.length));
		const prompts = await TallrecPrompts.create(llm, catalogue, config.words, config.historyLength, signal);
		return new TALLRec(llm, await LoraAdapter.load(folder, session, llm.config, signal), prompts, config);
	}

	/** Writes the adapter in PEFT's layout, and beside it how prompts are written. */
	async save(folder: string): Promise<void> {
		await this.adapter.save(folder);
		await writeJson(join(folder, CONFIG), this.#config);
	}

	/**
	 * (users × width) log p(Yes) − log p(No): the logit of the softmax over both. A user's prompt is computed once for
	 * all candidates, up to their titles.
	 *
	 * @throws ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_UNKNOWN_ITEM, the signal's reason
	 */
	async score(request: BaselineRequest, { signal, onProgress }: LongCallOptions = {}): Promise<Float32Array> {
		checkRequest(request);
		const { histories, candidates, width } = request;
		const scores = new Float32Array(candidates.length);
		const begun = performance.now();
		// So many at a time that questions of like lengths find each other.
		for (let first = 0, done = 0; first < histories.length; first = done) {
			const window: PackedSequence[] = [];
			for (let tokens = 0; done < histories.length && tokens < 16 * TOKENS_PER_PASS; done++) {
				if (turnIsOver()) await nextTurn(signal);
				const list = candidates.subarray(done * width, (done + 1) * width);
				const sequence = this.#prompts.pack({ history: histories[done]!, candidates: list });
				tokens += sequence.ids.length;
				window.push(sequence);
			}
			const lengths = window.map(({ ids }) => ids.length);
			for (const indices of planMicroBatches(lengths, TOKENS_PER_PASS)) {
				const { batch, rows, pairRows, pairTargets } = this.#prompts.scoring(
					Array.from(indices, (i) => window[i]!),
				);
				const logProbs = await this.#llm.logProbs(
					batch,
					NO_SOFT,
					rows,
					pairRows,
					pairTargets,
					signal,
					this.adapter,
				);
				for (const [row, i] of indices.entries())
					for (let c = 0; c < width; c++) {
						const pair = 2 * (row * width + c);
						scores[(first + i) * width + c] = logProbs[pair]! - logProbs[pair + 1]!;
					}
			}
			const rate = (1000 * done) / (performance.now() - begun);
			const total = histories.length;
			onProgress?.({ stage: 'score', done, total, unit: 'users', rate, secondsLeft: (total - done) / rate });
		}
		return scores;
	}

	/** Idempotent. The language model stays. */
	dispose(): void {
		this.adapter.dispose();
	}
}

const NO_SOFT = new Float32Array(0);

/** A user's history, the item after it, and one that the user never had. */
interface Example {
	history: Int32Array;
	liked: number;
	other: number;
}

function training(prompts: TallrecPrompts, examples: readonly Example[]) {
	const questions = examples.flatMap(({ history, liked, other }) =>
		[liked, other].map((item) => prompts.pack({ history, candidates: [item] })),
	);
	return prompts.training(
		questions,
		questions.map((_, i) => i % 2 === 0),
	);
}

/** Makes steps, each of them in parts; a step that an abort has cut off is not made. */
async function steps(
	trainer: NativeLoraTrainer,
	count: number,
	signal: AbortSignal | undefined,
	batchOf: (step: number) => Promise<{ users: Example[]; size: number; prompts: TallrecPrompts }>,
): Promise<StepsDone> {
	const before = trainer.steps();
	let sum = 0;
	let done = 0;
	while (done < count && !signal?.aborted) {
		const { users, size, prompts } = await batchOf(done);
		const total = 2 * users.length;
		let loss = 0;
		for (let first = 0; first < users.length; first += size) {
			const { batch, targets } = training(prompts, users.slice(first, first + size));
			const last = first + size >= users.length;
			const losses = await runOrCancel(
				(cancel) =>
					last
						? trainer.step(batch, NO_SOFT, targets, total, cancel)
						: trainer.accumulate(batch, NO_SOFT, targets, total, cancel),
				signal,
			);
			if (!losses) break;
			loss += losses.loss!;
		}
		if (trainer.steps() === before + done) break;
		sum += loss;
		done++;
	}
	return { steps: done, losses: done > 0 ? { crossEntropy: sum / done } : undefined };
}

class Examples {
	/** Users that train. */
	readonly train: Int32Array;
	readonly validation: Example[];
	readonly #dataset: Dataset;
	readonly #split: Split;
	readonly #options: z.output<typeof tallrecSchema>;
	readonly #sampler: NegativeSampler;
	#order = new Int32Array(0);
	#orderEpoch = -1;

	constructor(dataset: Dataset, split: Split, unseen: Int32Array, options: z.output<typeof tallrecSchema>) {
		this.#dataset = dataset;
		this.#split = split;
		this.#options = options;
		this.#sampler = new NegativeSampler(dataset.numItems);
		this.train = Int32Array.from({ length: dataset.numUsers }, (_, u) => u).filter(
			(u) => unseen[u]! > 0 && split.trainSequence(u).length >= 2,
		);
		const held = split.users('validation').filter((u) => unseen[u]! > 0);
		const stride = Math.max(1, Math.ceil(held.length / options.validationUsers));
		this.validation = Array.from(
			held.filter((_, i) => i % stride === 0),
			(u) => this.#example(u, split.history(u, 'validation'), split.validation[u]!, VALIDATION_STREAM),
		);
	}

	/** Depends on the seed and the step alone. */
	batch(step: number, stepsPerEpoch: number): Example[] {
		const { seed, batchSize } = this.#options;
		const epoch = Math.floor(step / stepsPerEpoch);
		if (epoch !== this.#orderEpoch) {
			this.#order = this.train.slice();
			new SeededRandom(seed, ORDER_STREAM, epoch).shuffle(this.#order);
			this.#orderEpoch = epoch;
		}
		const first = (step % stepsPerEpoch) * batchSize;
		return Array.from(this.#order.subarray(first, first + batchSize), (user) => {
			const items = this.#split.trainSequence(user);
			const at = 1 + new SeededRandom(seed, EXAMPLE_STREAM, epoch, user).int(items.length - 1);
			return this.#example(user, items.subarray(0, at), items[at]!, epoch);
		});
	}

	#example(user: number, history: Int32Array, liked: number, stream: number): Example {
		const other = new Int32Array(1);
		const random = new SeededRandom(this.#options.seed, EXAMPLE_STREAM + 1, stream, user);
		this.#sampler.draw(random, this.#dataset.sequence(user), other);
		return { history, liked, other: other[0]! };
	}
}
