import { z } from 'zod';
import { type BaselineRequest, checkRequest } from '../../baselines/request.js';
import type { Split } from '../../data/split.js';
import { inTurns, type Steps } from '../../event-loop.js';
import { parseOptions } from '../../options.js';
import type { LongCallOptions } from '../../progress.js';

const schema = z.strictObject({
	/** k: most similar items that are kept of each item. */
	neighbours: z.int().min(1).default(100),
	/** Added to the product of the norms, so that items few users chose are not alike by accident. */
	shrinkage: z.number().min(0).default(10),
});

export type ItemKnnOptions = z.input<typeof schema>;

/** Entries of one step of work. */
const STEP = 1 << 14;

/**
 * Item-based nearest neighbours (Sarwar et al., 2001): the similarity of two items is the cosine of the sets of users who
 * chose them in the training part, with shrinkage; an item's score is the sum of its similarities to the items of the
 * history among its k nearest.
 */
export class ItemKnn {
	/** Neighbours of item i are entries `offsets[i]` … `offsets[i + 1]`, most similar first. */
	readonly #offsets: Int32Array;
	readonly #items: Int32Array;
	readonly #similarities: Float32Array;

	private constructor(offsets: Int32Array, items: Int32Array, similarities: Float32Array) {
		this.#offsets = offsets;
		this.#items = items;
		this.#similarities = similarities;
	}

	/**
	 * Time grows with the sum of the squared lengths of the users' sequences, memory with items × neighbours.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT
	 */
	static async train(
		split: Split,
		options: ItemKnnOptions = {},
		{ signal }: LongCallOptions = {},
	): Promise<ItemKnn> {
		return inTurns(ItemKnn.#train(split, parseOptions(schema, options, 'ItemKnn')), signal);
	}

	static *#train(split: Split, { neighbours, shrinkage }: z.output<typeof schema>): Steps<ItemKnn> {
		const { numItems, numUsers } = split.dataset;
		const { sequences, users } = yield* distinct(split, numUsers, numItems);
		const count = (item: number) => users.offsets[item + 1]! - users.offsets[item]!;
		const offsets = new Int32Array(numItems + 2);
		const items: number[] = [];
		const similarities: number[] = [];
		const together = new Int32Array(numItems + 1);
		let work = 0;
		for (let item = 1; item <= numItems; item++) {
			const met: number[] = [];
			for (let at = users.offsets[item]!; at < users.offsets[item + 1]!; at++) {
				const user = users.values[at]!;
				for (let i = sequences.offsets[user]!; i < sequences.offsets[user + 1]!; i++) {
					const other = sequences.values[i]!;
					if (other === item) continue;
					if (together[other]!++ === 0) met.push(other);
				}
				work += sequences.offsets[user + 1]! - sequences.offsets[user]!;
				if (work > STEP) {
					work = 0;
					yield;
				}
			}
			const similarity = (other: number) =>
				together[other]! / (Math.sqrt(count(item) * count(other)) + shrinkage);
			const nearest = met.map((other) => ({ other, value: similarity(other) }));
			nearest.sort((a, b) => b.value - a.value || a.other - b.other);
			for (const { other, value } of nearest.slice(0, neighbours)) {
				items.push(other);
				similarities.push(value);
			}
			for (const other of met) together[other] = 0;
			offsets[item + 1] = items.length;
		}
		return new ItemKnn(offsets, Int32Array.from(items), Float32Array.from(similarities));
	}

	/** Neighbours of an item, most similar first. */
	neighbours(item: number): { item: number; similarity: number }[] {
		const [from, to] = [this.#offsets[item]!, this.#offsets[item + 1]!];
		return Array.from(this.#items.subarray(from, to), (other, i) => ({
			item: other,
			similarity: this.#similarities[from + i]!,
		}));
	}

	/** (users × width) sums of similarities. @throws ERR_ALLMREC_INVALID_ARGUMENT, ERR_ALLMREC_UNKNOWN_ITEM */
	async score(request: BaselineRequest, { signal }: LongCallOptions = {}): Promise<Float32Array> {
		checkRequest(request, this.#offsets.length - 2);
		return inTurns(this.#scores(request), signal);
	}

	*#scores({ histories, candidates, width }: BaselineRequest): Steps<Float32Array> {
		const scores = new Float32Array(candidates.length);
		let work = 0;
		for (const [user, history] of histories.entries()) {
			const known = new Set(Array.from(history));
			for (let at = user * width; at < (user + 1) * width; at++) {
				const [from, to] = [this.#offsets[candidates[at]!]!, this.#offsets[candidates[at]! + 1]!];
				let sum = 0;
				for (let i = from; i < to; i++) if (known.has(this.#items[i]!)) sum += this.#similarities[i]!;
				scores[at] = sum;
				work += to - from;
			}
			if (work > STEP) {
				work = 0;
				yield;
			}
		}
		return scores;
	}
}

interface Rows {
	offsets: Int32Array;
	values: Int32Array;
}

/** Each user's training items, each once, and each item's users. */
function* distinct(
	split: Split,
	numUsers: number,
	numItems: number,
): Steps<{ sequences: Rows; users: Rows }> {
	const offsets = new Int32Array(numUsers + 1);
	const values: number[] = [];
	const counts = new Int32Array(numItems + 2);
	for (let user = 0; user < numUsers; user++) {
		for (const item of new Set(split.trainSequence(user))) {
			values.push(item);
			counts[item + 1]!++;
		}
		offsets[user + 1] = values.length;
		if (user % 256 === 255) yield;
	}
	for (let item = 0; item <= numItems; item++) counts[item + 1]! += counts[item]!;
	const next = counts.slice();
	const users = new Int32Array(values.length);
	for (let user = 0; user < numUsers; user++) {
		for (let i = offsets[user]!; i < offsets[user + 1]!; i++) users[next[values[i]!]!++] = user;
		if (user % 256 === 255) yield;
	}
	return {
		sequences: { offsets, values: Int32Array.from(values) },
		users: { offsets: counts, values: users },
	};
}
