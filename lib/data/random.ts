import { invalidArgument } from '../errors.js';
import type { Steps } from '../event-loop.js';

/**
 * Seeded random numbers: xoshiro128** (Blackman and Vigna 2018). A seed and a list of stream numbers name one
 * sequence, the same on every machine; streams of one seed are independent of each other.
 */
export class SeededRandom {
	#a: number;
	#b: number;
	#c: number;
	#d: number;
	#spare: number | undefined;

	/**
	 * @param seed whole number from 0 to 2^53 − 1
	 * @param streams further whole numbers, e.g. a user's index, each giving a sequence of its own
	 */
	constructor(seed: number, ...streams: number[]) {
		for (const word of [seed, ...streams])
			if (!Number.isSafeInteger(word) || word < 0) invalidArgument('seed', 'a whole number from 0', word);
		let state = 0x9e3779b9;
		for (const word of [seed, ...streams]) {
			state = mix(state ^ (word >>> 0));
			state = mix(state ^ Math.floor(word / 2 ** 32) ^ 0x85ebca6b);
		}
		const next = () => {
			state = (state + 0x9e3779b9) | 0;
			return mix(state);
		};
		this.#a = next();
		this.#b = next();
		this.#c = next();
		this.#d = next() | 1;
	}

	/** A whole number from 0 to 2^32 − 1. */
	next(): number {
		const scrambled = Math.imul(this.#b, 5);
		const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9);
		const shifted = this.#b << 9;
		this.#c ^= this.#a;
		this.#d ^= this.#b;
		this.#b ^= this.#c;
		this.#a ^= this.#d;
		this.#c ^= shifted;
		this.#d = (this.#d << 11) | (this.#d >>> 21);
		return result >>> 0;
	}

	/** A number in [0, 1), of 53 random bits. */
	uniform(): number {
		const high = this.next() >>> 5;
		return (high * 2 ** 26 + (this.next() >>> 6)) / 2 ** 53;
	}

	/** A whole number from 0 to `bound − 1`, without bias; `bound` is at most 2^32. */
	int(bound: number): number {
		if (!(bound >= 1 && bound <= 2 ** 32)) invalidArgument('bound', 'between 1 and 2^32', bound);
		const limit = 2 ** 32 - (2 ** 32 % bound);
		let value = this.next();
		while (value >= limit) value = this.next();
		return value % bound;
	}

	/** A standard normal number (Marsaglia's polar method). */
	normal(): number {
		if (this.#spare !== undefined) {
			const spare = this.#spare;
			this.#spare = undefined;
			return spare;
		}
		for (;;) {
			const x = 2 * this.uniform() - 1;
			const y = 2 * this.uniform() - 1;
			const square = x * x + y * y;
			if (square >= 1 || square === 0) continue;
			const scale = Math.sqrt((-2 * Math.log(square)) / square);
			this.#spare = y * scale;
			return x * scale;
		}
	}

	/** Shuffles in place (Fisher and Yates) and returns the same array. */
	shuffle<T extends { length: number; [index: number]: unknown }>(array: T): T {
		this.#shuffle(array, array.length - 1, 0);
		return array;
	}

	/** {@link shuffle} in steps. @internal */
	*shuffleSteps(array: { length: number; [index: number]: unknown }): Steps<void> {
		for (let last = array.length - 1; last > 0; last -= SHUFFLED) {
			this.#shuffle(array, last, Math.max(0, last - SHUFFLED));
			yield;
		}
	}

	/** The places `last` … `end + 1`. */
	#shuffle(array: { [index: number]: unknown }, last: number, end: number): void {
		for (let i = last; i > end; i--) {
			const j = this.int(i + 1);
			const held = array[i];
			array[i] = array[j];
			array[j] = held;
		}
	}

	/** One of the elements, each as likely as its weight; without weights all alike. */
	choice<T>(from: ArrayLike<T>, weights?: ArrayLike<number>): T {
		if (!weights) return from[this.int(from.length)]!;
		let total = 0;
		for (let i = 0; i < from.length; i++) total += weights[i]!;
		let left = this.uniform() * total;
		let last = 0;
		for (let i = 0; i < from.length; i++) {
			if (weights[i]! <= 0) continue;
			last = i;
			left -= weights[i]!;
			if (left < 0) break;
		}
		return from[last]!;
	}
}

/** Places of one step of a shuffle. */
const SHUFFLED = 1 << 14;

/** The finaliser of MurmurHash3. */
function mix(word: number): number {
	let h = word | 0;
	h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
	h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
	return h ^ (h >>> 16);
}
