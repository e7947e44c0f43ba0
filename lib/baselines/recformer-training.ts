import { dirname, join } from 'node:path';
import { SeededRandom } from '../data/random.js';
import type { Split } from '../data/split.js';
import type { NativeRecFormer, NativeRecFormerTrainer } from '../native/addon.js';
import { run, runOrCancel, type Session } from '../native/session.js';
import type { Stage, StepsDone } from '../training/loop.js';
import type { ItemTable } from './recformer-model.js';
import type { ParsedRecFormerOptions } from './recformer-options.js';
import { batchOf, type ItemSentences } from './recformer-text.js';

/** File of the item vectors, beside the weights. */
export const ITEMS = 'items.safetensors';
/** Histories of one pass of a validation. */
const VALIDATION_BATCH = 16;
const ORDER_STREAM = 41;
const EXAMPLE_STREAM = 42;

/** What a training makes. */
export interface Parts {
	session: Session;
	native: NativeRecFormer;
	table: ItemTable;
	sentences: ItemSentences;
	/** Folder of the tokenizer's files. */
	tokenizer: string;
}

export const PARTS = ['pretraining', 'stage1', 'stage2'] as const;
export type Part = (typeof PARTS)[number];

/**
 * `pretraining`: histories and the items that came next are encoded in one step. `stage1`: item vectors are encoded anew
 * in every epoch. `stage2`: they stay as the best epoch of stage 1 had them.
 */
export class PartStage implements Stage {
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
export class Examples {
	/** Users that train. */
	readonly users: Int32Array;
	readonly validation: Example[];
	readonly stepsPerEpoch: number;
	readonly #split: Split;
	readonly #options: ParsedRecFormerOptions;
	#order = new Int32Array(0);
	#orderOf = '';

	constructor(split: Split, options: ParsedRecFormerOptions) {
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
