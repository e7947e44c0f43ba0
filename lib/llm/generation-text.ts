import type { Steps } from '../event-loop.js';
import type { Tokenizer } from '../text/tokenizer.js';
import { byteLevelBytes } from './tokenizer.js';

/** Stop sequences by kind. */
export interface Stops {
	readonly tokens: readonly (readonly number[])[];
	readonly strings: readonly string[];
}

/** The bytes of text of every token, as a text is decoded: none for special tokens. */
export function* tokenBytes(tokenizer: Tokenizer): Steps<{ offsets: Int32Array; bytes: Uint8Array }> {
	const parts: Uint8Array[] = [];
	const offsets = new Int32Array(tokenizer.vocabSize + 1);
	for (let id = 0; id < tokenizer.vocabSize; id++) {
		const bytes = bytesOf(tokenizer, id);
		parts.push(bytes);
		offsets[id + 1] = offsets[id]! + bytes.length;
		if (id % 256 === 0) yield;
	}
	return { offsets, bytes: Uint8Array.from(Buffer.concat(parts)) };
}

function bytesOf(tokenizer: Tokenizer, id: number): Uint8Array {
	const token = tokenizer.isSpecial(id) ? undefined : tokenizer.tokenOf(id);
	return token === undefined ? new Uint8Array(0) : byteLevelBytes(token);
}

/**
 * Text of tokens that come one by one. A character of several tokens is given when it is whole; what may be the
 * beginning of a stop sequence is held back until it is known not to be one.
 */
export class TextStream {
	readonly #tokenizer: Tokenizer;
	readonly #stops: Stops;
	readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
	#heldTokens: number[] = [];
	#held = '';

	constructor(tokenizer: Tokenizer, stops: Stops) {
		this.#tokenizer = tokenizer;
		this.#stops = stops;
	}

	/** Text that is certain now. */
	push(id: number): string {
		this.#heldTokens.push(id);
		const keep = longestBeginning(this.#heldTokens, this.#stops.tokens);
		this.#held += this.#decode(this.#heldTokens.splice(0, this.#heldTokens.length - keep));
		const certain = this.#held.length - longestBeginning(this.#held, this.#stops.strings);
		const text = this.#held.slice(0, certain);
		this.#held = this.#held.slice(certain);
		return text;
	}

	/** The rest, behind the last token; the stop sequence, if one ended it, is left out. */
	finish(reason: 'eos' | 'stop' | 'length' | 'abort', last: string): string {
		const stopped = reason === 'stop';
		const byTokens = stopped && this.#stops.tokens.some((stop) => endsWith(this.#heldTokens, stop));
		const rest = byTokens ? '' : this.#decode(this.#heldTokens);
		const text = last + this.#held + rest + this.#decoder.decode();
		if (!stopped || byTokens) return text;
		const places = this.#stops.strings.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
		return text.slice(0, Math.min(text.length, ...places));
	}

	#decode(ids: readonly number[]): string {
		const bytes = Buffer.concat(ids.map((id) => bytesOf(this.#tokenizer, id)));
		return this.#decoder.decode(bytes, { stream: true });
	}
}

/** The text of a whole answer, as its pieces add up to. */
export function textOf(
	tokenizer: Tokenizer,
	ids: ArrayLike<number>,
	reason: 'eos' | 'stop' | 'length' | 'abort',
	stops: Stops,
): string {
	const stream = new TextStream(tokenizer, stops);
	let text = '';
	for (let i = 0; i + 1 < ids.length; i++) text += stream.push(ids[i]!);
	const last = ids.length > 0 ? stream.push(ids[ids.length - 1]!) : '';
	return text + stream.finish(reason, last);
}

/** Length of the longest end of `sequence` that one of the stops begins with. */
function longestBeginning(
	sequence: string | readonly number[],
	stops: readonly (string | readonly number[])[],
): number {
	let longest = 0;
	for (const stop of stops) {
		for (let length = Math.min(stop.length, sequence.length); length > longest; length--) {
			const from = sequence.length - length;
			let equal = true;
			for (let i = 0; equal && i < length; i++) equal = sequence[from + i] === stop[i];
			if (equal) longest = length;
		}
	}
	return longest;
}

function endsWith(sequence: readonly number[], end: readonly number[]): boolean {
	const from = sequence.length - end.length;
	return from >= 0 && end.every((id, i) => sequence[from + i] === id);
}
