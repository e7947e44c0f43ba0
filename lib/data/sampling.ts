import { z } from 'zod';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { atOnce, blocks, inTurns, type Steps } from '../event-loop.js';
import { writeFileAtomic } from '../files/atomic.js';
import { type FileRules, LARGEST_TEXT_BYTES, readJson, unusable } from '../files/read.js';
import type { Dataset } from './dataset.js';
import { rejectUnknownOptions } from './options.js';
import { SeededRandom } from './random.js';
import type { Phase, Split, SplitRecord } from './split.js';

export { SeededRandom } from './random.js';

export interface CandidateOptions {
	/** A whole number from 0. */
	seed: number;
	/** Negatives of each user. Default: 19. */
	negatives?: number | undefined;
	/** Whose item is the target. Default: `test`. */
	phase?: Phase | undefined;
	/** Users to draw for, each with a target. Default: all that have one. */
	users?: ArrayLike<number> | undefined;
}

/** One shuffled row of items for each user: the target and its negatives. */
export interface Candidates {
	phase: Phase;
	seed: number;
	negatives: number;
	/** (rows), user indices. */
	users: Int32Array;
	/** (rows × (1 + negatives)), dense item ids. */
	candidates: Int32Array;
	/** (rows), where in its row the target stands. */
	targets: Int32Array;
}

/**
 * Draws negatives uniformly from the items a user never interacted with, training, validation and test included,
 * without repetition. A user's row depends on the seed, the phase and the user only.
 *
 * @throws ERR_ALLMREC_TOO_FEW_ITEMS if a user has left fewer than `negatives` items.
 */
export function sampleCandidates(split: Split, options: CandidateOptions): Candidates {
	return atOnce(sampleSteps(split, options));
}

/** {@link sampleCandidates} in steps. @internal */
export function* sampleSteps(split: Split, options: CandidateOptions): Steps<Candidates> {
	rejectUnknownOptions(options, { seed: true, negatives: true, phase: true, users: true });
	const { seed, negatives = 19, phase = 'test' } = options;
	if (phase !== 'test' && phase !== 'validation') invalidArgument('phase', '`test` or `validation`', phase);
	if (!Number.isInteger(negatives) || negatives < 1)
		invalidArgument('negatives', 'a whole number from 1', negatives);
	const users = options.users ? Int32Array.from(options.users) : split.users(phase);
	const targetItems = split.targets(phase);
	const width = negatives + 1;
	const candidates = new Int32Array(users.length * width);
	const targets = new Int32Array(users.length);
	const sampler = new NegativeSampler(split.dataset.numItems);
	for (const [row, user] of users.entries()) {
		const target = targetItems[user];
		if (!target) invalidArgument(`users[${row}]`, `a user with a ${phase} item`, user);
		const random = new SeededRandom(seed, phase === 'test' ? 1 : 0, user);
		const items = candidates.subarray(row * width, (row + 1) * width);
		items[0] = target;
		if (!sampler.draw(random, split.dataset.sequence(user), items.subarray(1)))
			throw new ALLMRecError(
				'ERR_ALLMREC_TOO_FEW_ITEMS',
				`User ${user} has interacted with all but fewer than ${negatives} of ${split.dataset.numItems} items; ask for fewer \`negatives\`, or leave the user out with \`users\`.`,
			);
		random.shuffle(items);
		targets[row] = items.indexOf(target);
		yield;
	}
	return { phase, seed, negatives, users, candidates, targets };
}

/** Uniform draws without repetition from the items outside a sequence. */
export class NegativeSampler {
	readonly #numItems: number;
	/** (numItems + 1), the draw an item was last excluded in. */
	readonly #excludedIn: Int32Array;
	#draw = 0;

	constructor(numItems: number) {
		this.#numItems = numItems;
		this.#excludedIn = new Int32Array(numItems + 1);
	}

	/** Fills `into`; false, with `into` unfinished, if there are not enough items. */
	draw(random: SeededRandom, sequence: Int32Array, into: Int32Array): boolean {
		// Marks are int32: before the count of draws leaves that, those of old draws are forgotten.
		if (this.#draw === 0x7fffffff) {
			this.#excludedIn.fill(0);
			this.#draw = 0;
		}
		const draw = ++this.#draw;
		let free = this.#numItems;
		for (const item of sequence) if (this.#exclude(item, draw)) free--;
		if (free < into.length) return false;
		// Rejection is quick while most items are free; near the end the free ones are listed instead.
		if (free - into.length < this.#numItems / 4) return this.#drawFromList(random, draw, into);
		for (let i = 0; i < into.length; ) {
			const item = 1 + random.int(this.#numItems);
			if (this.#exclude(item, draw)) into[i++] = item;
		}
		return true;
	}

	#drawFromList(random: SeededRandom, draw: number, into: Int32Array): boolean {
		const free: number[] = [];
		for (let item = 1; item <= this.#numItems; item++) if (this.#excludedIn[item] !== draw) free.push(item);
		for (let i = 0; i < into.length; i++) {
			const j = i + random.int(free.length - i);
			into[i] = free[j]!;
			free[j] = free[i]!;
		}
		return true;
	}

	/** Whether the item was free until now. */
	#exclude(item: number, draw: number): boolean {
		if (this.#excludedIn[item] === draw) return false;
		this.#excludedIn[item] = draw;
		return true;
	}
}

/** (numUsers), how many items each user has never interacted with. */
export function* unseenItems({ numUsers, numItems, sequences }: Dataset): Steps<Int32Array> {
	const { offsets, items } = sequences;
	const unseen = new Int32Array(numUsers).fill(numItems);
	/** The user an item was last seen with, from 1. */
	const seenBy = new Int32Array(numItems + 1);
	yield* blocks(numUsers, 1 << 10, (from, to) => {
		for (let u = from; u < to; u++)
			for (let at = offsets[u]!; at < offsets[u + 1]!; at++) {
				const item = items[at]!;
				if (seenBy[item] === u + 1) continue;
				seenBy[item] = u + 1;
				unseen[u]!--;
			}
	});
	return unseen;
}

const FORMAT = 'a-llmrec-split';
const whole = z.int().min(0);
const RULES: FileRules = { limit: LARGEST_TEXT_BYTES, remedy: 'delete it to draw its candidates again' };
/** Lists are looked at apart: they are too long for it. */
const list = z.custom<unknown[]>(Array.isArray, 'expected a list');
const fileSchema = z.object({
	format: z.literal(FORMAT),
	version: z.literal(1),
	split: z.object({
		kind: z.enum(['leaveLastOut', 'temporal']),
		options: z.record(z.string(), z.union([z.number(), z.boolean()])),
		dataset: z.object({ name: z.string(), numUsers: whole, numItems: whole, numInteractions: whole }),
		counts: z.object({
			train: whole,
			validation: whole,
			test: whole,
			coldUsers: whole,
			unseenItems: whole,
		}),
	}),
	candidates: z.array(
		z.object({
			phase: z.enum(['validation', 'test']),
			seed: whole,
			negatives: whole,
			users: list,
			targets: list,
			rows: list,
		}),
	),
});

/** Writes `split.json`: the split's options and counts, and the candidates drawn for it, one line for each user. */
export async function saveCandidates(
	path: string,
	split: Split,
	drawn: readonly Candidates[],
): Promise<void> {
	await writeFileAtomic(path, serialise(split, drawn));
}

function* serialise(split: Split, drawn: readonly Candidates[]): Generator<string> {
	yield `{"format": "${FORMAT}", "version": 1,\n"split": ${JSON.stringify(split)},\n"candidates": [`;
	for (const [n, { phase, seed, negatives, users, targets, candidates }] of drawn.entries()) {
		yield `${n > 0 ? ',' : ''}\n${JSON.stringify({ phase, seed, negatives }).slice(0, -1)},"users":`;
		yield* numbers(users);
		yield ',"targets":';
		yield* numbers(targets);
		yield ',"rows": [';
		const width = negatives + 1;
		const batch = Math.max(1, Math.floor(PART / width));
		for (let first = 0; first < users.length; first += batch) {
			let text = '';
			for (let row = first; row < Math.min(first + batch, users.length); row++)
				text += `${row > 0 ? ',' : ''}\n[${candidates.subarray(row * width, (row + 1) * width).join(',')}]`;
			yield text;
		}
		yield '\n]}';
	}
	yield '\n]}\n';
}

/** Numbers of one part of the file. */
const PART = 1 << 14;

function* numbers(values: Int32Array): Generator<string> {
	yield '[';
	for (let from = 0; from < values.length; from += PART)
		yield `${from > 0 ? ',' : ''}${values.subarray(from, from + PART).join(',')}`;
	yield ']';
}

/**
 * Reads `split.json`.
 *
 * @param split if given, the file has to be of the same split
 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, or ERR_ALLMREC_RUN if it belongs to another split.
 */
export async function loadCandidates(
	path: string,
	split?: Split,
): Promise<{ split: SplitRecord; candidates: Candidates[] }> {
	const data = await readJson(path, fileSchema, RULES);
	if (split && canonical(data.split) !== canonical(split.toJSON()))
		throw new ALLMRecError(
			'ERR_ALLMREC_RUN',
			`${path} was saved for another split: it has ${canonical(data.split)}, expected ${canonical(split.toJSON())}. Use the data set and the options of the run.`,
		);
	const candidates: Candidates[] = [];
	for (const each of data.candidates)
		candidates.push(await inTurns(readDrawn(each, path, split, split?.dataset ?? data.split.dataset)));
	return { split: data.split, candidates };
}

type Drawn = z.output<typeof fileSchema>['candidates'][number];

function* readDrawn(
	{ phase, seed, negatives, users, targets, rows }: Drawn,
	path: string,
	split: Split | undefined,
	{ numUsers, numItems }: { numUsers: number; numItems: number },
): Steps<Candidates> {
	const fail = (what: string): never => {
		throw unusable(path, `of the ${phase} candidates ${what}`, RULES);
	};
	const width = negatives + 1;
	if (rows.length !== users.length || targets.length !== users.length)
		fail(`there are ${rows.length} rows and ${targets.length} targets for ${users.length} users`);
	const drawn: Candidates = {
		phase,
		seed,
		negatives,
		users: new Int32Array(users.length),
		candidates: new Int32Array(rows.length * width),
		targets: new Int32Array(targets.length),
	};
	const held = split?.targets(phase);
	for (const [row, members] of rows.entries()) {
		const [user, target] = [users[row], targets[row]] as [number, number];
		if (!isWhole(user, 0, numUsers - 1)) fail(`row ${row} is of user ${user}, of ${numUsers}`);
		if (!isWhole(target, 0, negatives)) fail(`the target of row ${row} is outside it`);
		if (!Array.isArray(members) || members.length !== width)
			return fail(`row ${row} is not ${width} items from 1 to ${numItems}`);
		for (let i = 0; i < width; i++) {
			if (!isWhole(members[i], 1, numItems)) fail(`row ${row} is not ${width} items from 1 to ${numItems}`);
			drawn.candidates[row * width + i] = members[i] as number;
		}
		if (held && held[user] !== members[target])
			fail(`row ${row} has the target ${members[target]}, user ${user} has ${held[user] || 'none'}`);
		drawn.users[row] = user;
		drawn.targets[row] = target;
		if (row % 64 === 0) yield;
	}
	return drawn;
}

function isWhole(value: unknown, least: number, most: number): boolean {
	return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

/** JSON with sorted keys, for comparison. The data set's name is left out: a copy may bear another. */
function canonical({ kind, options, dataset, counts }: SplitRecord): string {
	const sorted = (record: object) =>
		Object.fromEntries(
			Object.entries(record ?? {})
				.filter(([key]) => key !== 'name')
				.sort(([a], [b]) => (a < b ? -1 : 1)),
		);
	return JSON.stringify({ kind, ...sorted(options), ...sorted(dataset), ...sorted(counts) });
}
