import type { Steps } from './event-loop.js';

/** Numbers sorted at once. */
const BLOCK = 1 << 13;

/** A sorted copy, as `values.slice().sort(compare)` gives it: stable, and without `compare` by value with NaN at the end. */
export function* sorted<T extends Float64Array | Int32Array>(
	values: T,
	compare: ((a: number, b: number) => number) | undefined = undefined,
): Steps<T> {
	let runs = values.slice() as T;
	for (let from = 0; from < runs.length; from += BLOCK) {
		runs.subarray(from, from + BLOCK).sort(compare);
		yield;
	}
	if (runs.length <= BLOCK) return runs;
	let merged = values.slice() as T;
	const before = compare ? (a: number, b: number) => compare(a, b) < 0 : isLess;
	for (let width = BLOCK; width < runs.length; width *= 2) {
		for (let from = 0; from < runs.length; from += 2 * width) {
			const merge = new Merge(runs, from, width, merged, before);
			while (merge.go(BLOCK)) yield;
		}
		[runs, merged] = [merged, runs];
	}
	return runs;
}

function isLess(a: number, b: number): boolean {
	return a < b || (Number.isNaN(b) && !Number.isNaN(a));
}

/** Two sorted neighbours becoming one. */
class Merge {
	#left: number;
	#right: number;
	#at: number;
	readonly #middle: number;
	readonly #end: number;

	constructor(
		readonly from: Float64Array | Int32Array,
		begin: number,
		width: number,
		readonly into: Float64Array | Int32Array,
		readonly before: (a: number, b: number) => boolean,
	) {
		this.#left = begin;
		this.#at = begin;
		this.#middle = Math.min(begin + width, from.length);
		this.#right = this.#middle;
		this.#end = Math.min(begin + 2 * width, from.length);
	}

	/** Merges at most `count` more; whether there are any left. */
	go(count: number): boolean {
		const { from, into, before } = this;
		const stop = Math.min(this.#end, this.#at + count);
		let left = this.#left;
		let right = this.#right;
		for (let at = this.#at; at < stop; at++) {
			const takeRight = right < this.#end && (left >= this.#middle || before(from[right]!, from[left]!));
			into[at] = takeRight ? from[right++]! : from[left++]!;
		}
		this.#left = left;
		this.#right = right;
		this.#at = stop;
		return stop < this.#end;
	}
}
