import { join } from 'node:path';
import type { Dataset } from '../data/dataset.js';
import { leaveLastOut, type Split } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { makeFolder, writeJson } from '../files/atomic.js';
import { readJson } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { NativeRecFormer, RecFormerConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { type DeviceOptions, guard, type Keep, loaded, opening, run, Session } from '../native/session.js';
import { parseOptions } from '../options.js';
import type { LongCallOptions } from '../progress.js';
import { resolveCheckpoint } from '../text/hub.js';
import { copyTokenizerFiles, SentenceEncoder } from '../text/sentence-encoder.js';
import { loadSentenceTokenizer } from '../text/word-piece.js';
import { type LoopResult, trainLoop } from '../training/loop.js';
import { ItemTable, recFormerOf, TEXTS_PER_WINDOW, unitVectors } from './recformer-model.js';
import {
	configSchema,
	type RecFormerFile,
	type RecFormerOptions,
	recFormerSchema,
} from './recformer-options.js';
import { ItemSentences } from './recformer-text.js';
import { Examples, ITEMS, PARTS, type Part, PartStage, type Parts } from './recformer-training.js';
import { type BaselineRequest, checkRequest } from './request.js';

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
const RULES = { code: 'ERR_ALLMREC_CHECKPOINT' } as const;
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
	readonly #config: RecFormerFile;
	/** Folder of the tokenizer's files. */
	readonly #tokenizer: string;
	#disposed = false;

	private constructor(parts: Parts, config: RecFormerFile, training?: RecFormerTraining) {
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
			encoder: source,
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
		const config: RecFormerFile = {
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
