import { invalidArgument } from '../errors.js';
import { itemPopularity } from '../evaluation/slices.js';
import { atOnce, blocks, type Steps } from '../event-loop.js';
import { sorted } from '../sorting.js';
import type { Dataset } from './dataset.js';
import { rejectUnknownOptions } from './options.js';
import { SeededRandom } from './random.js';

/** Which of a user's held-out items is asked for. */
export type Phase = 'validation' | 'test';

export interface TrainSequences {
	/** (numUsers + 1): user u has the entries `offsets[u]` … `offsets[u + 1]`, possibly none. */
	offsets: Int32Array;
	/** Dense item ids, by time. */
	items: Int32Array;
}

export interface TrainingOptions {
	/** Keep users with exactly three interactions out of training (SPEC section 4, cold users). Default: false. */
	excludeColdUsers?: boolean | undefined;
	/** Train on this many users only, drawn at random (few-shot). Default: all. */
	trainUsers?: number | undefined;
	/** Seed of that draw. Default: 0. */
	seed?: number | undefined;
}

export interface TemporalOptions extends TrainingOptions {
	/** Share of all interactions, the last ones in time, that the test period holds. Default: 0.1. */
	testShare?: number | undefined;
	/** Share of all interactions in the validation period, just before. Default: 0.1. */
	validationShare?: number | undefined;
}

/** Items by how often they occur in training; every array has numItems + 1 entries of 0 or 1. */
export interface ItemSlices {
	warm: Uint8Array;
	/** The never-seen are cold too. */
	cold: Uint8Array;
	/** Without training interactions. */
	unseen: Uint8Array;
}

/** What JSON keeps of a split: enough to make it again from the data set, and to notice when it is another one. */
export interface SplitRecord {
	kind: 'leaveLastOut' | 'temporal';
	options: Record<string, number | boolean>;
	dataset: { name: string; numUsers: number; numItems: number; numInteractions: number };
	counts: { train: number; validation: number; test: number; coldUsers: number; unseenItems: number };
}

/** Training sequences and held-out targets of one data set. Made by {@link leaveLastOut} or {@link temporalSplit}. */
export class Split {
	readonly dataset: Dataset;
	readonly kind: SplitRecord['kind'];
	readonly options: Record<string, number | boolean>;
	readonly train: TrainSequences;
	/** (numUsers), the validation item of each user; 0 = none. */
	readonly validation: Int32Array;
	/** (numUsers), the test item of each user; 0 = none. */
	readonly test: Int32Array;
	/** Users with exactly three interactions, in training or not. */
	readonly coldUsers: Int32Array;
	/** (numItems + 1), training interactions of each item. */
	readonly itemCounts: Int32Array;
	/** (numUsers), where in the data set's `sequences.items` the targets stand; −1 = none. */
	readonly #positions: Record<Phase, Int32Array>;

	private constructor(
		dataset: Dataset,
		kind: SplitRecord['kind'],
		options: Record<string, number | boolean>,
		positions: Record<Phase, Int32Array>,
		of: Pick<Split, 'train' | 'validation' | 'test' | 'coldUsers' | 'itemCounts'>,
	) {
		this.dataset = dataset;
		this.kind = kind;
		this.options = options;
		this.#positions = positions;
		this.train = of.train;
		this.validation = of.validation;
		this.test = of.test;
		this.coldUsers = of.coldUsers;
		this.itemCounts = of.itemCounts;
	}

	/** @internal */
	static *make(
		dataset: Dataset,
		kind: SplitRecord['kind'],
		options: Record<string, number | boolean>,
		{ positions, trainEnds }: HeldOut,
	): Steps<Split> {
		const { offsets, items } = dataset.sequences;
		const { numUsers } = dataset;
		const targets = (phase: Phase) => positions[phase].map((at) => (at < 0 ? 0 : items[at]!));
		const trainOffsets = new Int32Array(numUsers + 1);
		for (let u = 0; u < numUsers; u++) trainOffsets[u + 1] = trainOffsets[u]! + trainEnds[u]! - offsets[u]!;
		yield;
		const train: TrainSequences = { offsets: trainOffsets, items: new Int32Array(trainOffsets[numUsers]!) };
		const itemCounts = new Int32Array(dataset.numItems + 1);
		yield* blocks(numUsers, BLOCK, (from, to) => {
			for (let u = from; u < to; u++)
				train.items.set(items.subarray(offsets[u], trainEnds[u]), trainOffsets[u]);
		});
		yield* blocks(train.items.length, 16 * BLOCK, (from, to) => {
			for (let at = from; at < to; at++) itemCounts[train.items[at]!]!++;
		});
		const coldUsers = yield* usersWhere(numUsers, (u) => offsets[u + 1]! - offsets[u]! === 3);
		const [validation, test] = [targets('validation'), targets('test')];
		return new Split(dataset, kind, options, positions, { train, validation, test, coldUsers, itemCounts });
	}

	/** Training items of one user, by time. A view. */
	trainSequence(user: number): Int32Array {
		const { offsets, items } = this.train;
		return items.subarray(offsets[user], offsets[user + 1]);
	}

	/** (numUsers), target of each user; 0 = none. */
	targets(phase: Phase): Int32Array {
		return phase === 'test' ? this.test : this.validation;
	}

	/** Users that have a target, ascending. */
	users(phase: Phase): Int32Array {
		const targets = this.targets(phase);
		return atOnce(usersWhere(this.dataset.numUsers, (u) => targets[u] !== 0));
	}

	/**
	 * What is known of a user when the target is asked for: every earlier interaction, so the validation item
	 * belongs to the history of the test item, and users kept out of training have one. Without a target: everything. A view.
	 */
	history(user: number, phase: Phase): Int32Array {
		const { offsets, items } = this.dataset.sequences;
		const at = this.#positions[phase][user]!;
		return items.subarray(offsets[user], at < 0 ? offsets[user + 1] : at);
	}

	/**
	 * Warm and cold items: top and bottom `share` by training interactions, items with equal counts together.
	 *
	 * @param share default 0.35
	 */
	itemSlices(share = 0.35): ItemSlices {
		const { warm, cold } = itemPopularity(this.itemCounts, share);
		return {
			warm,
			cold,
			unseen: Uint8Array.from(this.itemCounts, (n, item) => (item > 0 && n === 0 ? 1 : 0)),
		};
	}

	toJSON(): SplitRecord {
		const { name, numUsers, numItems, numInteractions } = this.dataset;
		const present = (targets: Int32Array) => targets.reduce((n, item) => n + (item > 0 ? 1 : 0), 0);
		return {
			kind: this.kind,
			options: this.options,
			dataset: { name, numUsers, numItems, numInteractions },
			counts: {
				train: this.train.items.length,
				validation: present(this.validation),
				test: present(this.test),
				coldUsers: this.coldUsers.length,
				unseenItems: this.itemCounts.subarray(1).reduce((n, seen) => n + (seen === 0 ? 1 : 0), 0),
			},
		};
	}
}

/** Users of one step. */
const BLOCK = 1 << 12;

const trainingOptions = { excludeColdUsers: true, trainUsers: true, seed: true } as const;

interface HeldOut {
	positions: Record<Phase, Int32Array>;
	trainEnds: Int32Array;
}

/** Last item test, the one before validation, the rest training; users with fewer than three interactions only train. */
export function leaveLastOut(dataset: Dataset, options: TrainingOptions = {}): Split {
	return atOnce(leaveLastOutSteps(dataset, options));
}

/** {@link leaveLastOut} in steps. @internal */
export function* leaveLastOutSteps(dataset: Dataset, options: TrainingOptions = {}): Steps<Split> {
	rejectUnknownOptions(options, trainingOptions);
	const { offsets } = dataset.sequences;
	const held = emptyHeldOut(dataset);
	yield* blocks(dataset.numUsers, BLOCK, (from, to) => {
		for (let u = from; u < to; u++) {
			const end = offsets[u + 1]!;
			if (end - offsets[u]! < 3) continue;
			held.positions.test[u] = end - 1;
			held.positions.validation[u] = end - 2;
			held.trainEnds[u] = end - 2;
		}
	});
	const kept = yield* restrictTraining(dataset, held, options);
	return yield* Split.make(dataset, 'leaveLastOut', kept, held);
}

/**
 * One cut in time for all users: training before the validation period, and each user's first interaction in the
 * validation and the test period as targets, where there is one and something came before it.
 */
export function temporalSplit(dataset: Dataset, options: TemporalOptions = {}): Split {
	return atOnce(temporalSplitSteps(dataset, options));
}

/** {@link temporalSplit} in steps. @internal */
export function* temporalSplitSteps(dataset: Dataset, options: TemporalOptions = {}): Steps<Split> {
	rejectUnknownOptions(options, { ...trainingOptions, testShare: true, validationShare: true });
	const { testShare = 0.1, validationShare = 0.1 } = options;
	if (!(testShare > 0 && testShare < 1)) invalidArgument('testShare', 'between 0 and 1', testShare);
	if (!(validationShare > 0 && validationShare + testShare < 1))
		invalidArgument('validationShare', 'above 0 and, with `testShare`, below 1', validationShare);
	const { offsets, times } = dataset.sequences;
	const ascending = yield* sorted(times);
	const cut = (share: number) =>
		ascending[Math.floor(ascending.length * (1 - share))] ?? Number.POSITIVE_INFINITY;
	const validationStart = cut(testShare + validationShare);
	const testStart = cut(testShare);
	const held = emptyHeldOut(dataset);
	yield* blocks(dataset.numUsers, BLOCK, (from, to) => {
		for (let u = from; u < to; u++) {
			const [start, end] = [offsets[u]!, offsets[u + 1]!];
			let at = start;
			while (at < end && times[at]! < validationStart) at++;
			held.trainEnds[u] = at;
			if (at > start && at < end && times[at]! < testStart) held.positions.validation[u] = at;
			while (at < end && times[at]! < testStart) at++;
			if (at > start && at < end) held.positions.test[u] = at;
		}
	});
	const kept = yield* restrictTraining(dataset, held, options);
	return yield* Split.make(dataset, 'temporal', { ...kept, testShare, validationShare }, held);
}

function emptyHeldOut(dataset: Dataset): HeldOut {
	const none = () => new Int32Array(dataset.numUsers).fill(-1);
	return {
		positions: { validation: none(), test: none() },
		trainEnds: dataset.sequences.offsets.slice(1),
	};
}

/**
 * Takes the training part and the validation item from users that the options keep out, since choosing an epoch or a
 * fusion by them would be training on them too. Returns the options with their defaults.
 */
function* restrictTraining(
	dataset: Dataset,
	{ positions, trainEnds }: HeldOut,
	options: TrainingOptions,
): Steps<Record<string, number | boolean>> {
	const { excludeColdUsers = false, trainUsers, seed = 0 } = options;
	const { offsets } = dataset.sequences;
	const empty = (u: number) => {
		trainEnds[u] = offsets[u]!;
		positions.validation[u] = -1;
	};
	if (excludeColdUsers)
		for (let u = 0; u < dataset.numUsers; u++) if (offsets[u + 1]! - offsets[u]! === 3) empty(u);
	if (trainUsers === undefined) return { excludeColdUsers, seed };
	if (!Number.isInteger(trainUsers) || trainUsers < 1)
		invalidArgument('trainUsers', 'a whole number from 1', trainUsers);
	const eligible = yield* usersWhere(dataset.numUsers, (u) => trainEnds[u]! > offsets[u]!);
	yield* new SeededRandom(seed).shuffleSteps(eligible);
	for (const u of eligible.subarray(trainUsers)) empty(u);
	return { excludeColdUsers, seed, trainUsers };
}

function* usersWhere(numUsers: number, belongs: (user: number) => boolean): Steps<Int32Array> {
	const users = new Int32Array(numUsers);
	let count = 0;
	yield* blocks(numUsers, BLOCK, (from, to) => {
		for (let u = from; u < to; u++) if (belongs(u)) users[count++] = u;
	});
	return users.slice(0, count);
}
