import type { Steps } from '../event-loop.js';

const BLOCK = 1 << 14;

/** A sorted copy, as `values.slice().sort()` gives it. */
export function* sorted(values: Float64Array): Steps<Float64Array> {
	let runs = values.slice();
	for (let from = 0; from < runs.length; from += BLOCK) {
		runs.subarray(from, from + BLOCK).sort();
		yield;
	}
	let merged = runs.length > BLOCK ? new Float64Array(runs.length) : runs;
	for (let width = BLOCK; width < runs.length; width *= 2) {
		for (let from = 0; from < runs.length; from += 2 * width) {
			const pair = new Merge(runs, from, Math.min(from + width, runs.length), 2 * width, merged);
			while (pair.go(BLOCK)) yield;
		}
		[runs, merged] = [merged, runs];
	}
	return runs;
}

/** Two sorted neighbours becoming one. */
class Merge {
	#left: number;
	#right: number;
	#at: number;
	readonly #middle: number;
	readonly #end: number;

	constructor(
		readonly from: Float64Array,
		begin: number,
		middle: number,
		length: number,
		readonly into: Float64Array,
	) {
		this.#left = begin;
		this.#at = begin;
		this.#right = middle;
		this.#middle = middle;
		this.#end = Math.min(begin + length, from.length);
	}

	/** Merges at most `count` more; whether there are any left. */
	go(count: number): boolean {
		const { from, into } = this;
		const stop = Math.min(this.#end, this.#at + count);
		let left = this.#left;
		let right = this.#right;
		for (let at = this.#at; at < stop; at++) {
			const takeRight =
				right < this.#end &&
				(left >= this.#middle || from[right]! < from[left]! || Number.isNaN(from[left]!)); // NaN comes last
			into[at] = takeRight ? from[right++]! : from[left++]!;
		}
		this.#left = left;
		this.#right = right;
		this.#at = stop;
		return stop < this.#end;
	}
}
