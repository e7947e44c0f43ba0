import type { Steps } from './event-loop.js';

/** Bytes that are parsed at once; `JSON.parse` takes a fraction of a millisecond for them. */
const PIECE = 1 << 16;
/** Containers deeper than this are parsed as one piece, so that no nesting makes reading slow. */
const DEEPEST = 8;

const [QUOTE, BACKSLASH, COMMA, COLON] = [0x22, 0x5c, 0x2c, 0x3a];
const [OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * What `JSON.parse` makes of a UTF-8 text, for texts of any size: long lists and objects are cut between their members,
 * and the pieces are parsed by `JSON.parse`.
 *
 * @throws SyntaxError
 */
export function jsonSteps(text: Uint8Array, { maps = false }: ParseOptions = {}): Steps<unknown> {
	const bytes = Buffer.from(text.buffer, text.byteOffset, text.byteLength);
	return value({ bytes, maps }, 0, bytes.length, 0);
}

export interface ParseOptions {
	/** Objects of more than 1,024 members and 64 KiB become maps, which are made and read far sooner. Default false. */
	maps?: boolean | undefined;
}

const MAP_MEMBERS = 1024;

interface Source {
	readonly bytes: Buffer;
	readonly maps: boolean;
}

function* value(source: Source, from: number, to: number, depth: number): Steps<unknown> {
	const { bytes } = source;
	const [begin, end] = trim(bytes, from, to);
	const isList = bytes[begin] === OPEN_LIST;
	const cut = isList || bytes[begin] === OPEN_OBJECT;
	if (!cut || end - begin <= PIECE || depth > DEEPEST) return JSON.parse(bytes.toString('utf8', begin, end));
	if (bytes[end - 1] !== (isList ? CLOSE_LIST : CLOSE_OBJECT)) throw malformed();
	if (holdsNothing(bytes, begin + 1, end - 1)) return isList ? [] : {};
	return yield* isList
		? list(source, begin + 1, end - 1, depth + 1)
		: object(source, begin + 1, end - 1, depth + 1);
}

function* list(source: Source, from: number, to: number, depth: number): Steps<unknown[]> {
	const { bytes } = source;
	const all: unknown[] = [];
	const cutter = new Cutter(bytes, from, to);
	for (let run = cutter.next(); run; run = cutter.next()) {
		if (run.long) all.push(yield* value(source, run.begin, run.end, depth));
		else if (run.end >= 0) {
			const members = JSON.parse(`[${bytes.toString('utf8', run.begin, run.end)}]`) as unknown[];
			if (members.length === 0) throw malformed();
			for (let i = 0; i < members.length; i++) all.push(members[i]);
		}
		yield;
	}
	return all;
}

function* object(source: Source, from: number, to: number, depth: number): Steps<unknown> {
	const { bytes } = source;
	const all = new Map<string, unknown>();
	const cutter = new Cutter(bytes, from, to);
	for (let run = cutter.next(); run; run = cutter.next()) {
		if (run.long) {
			const colon = endOfKey(bytes, run.begin, run.end);
			const key: unknown = JSON.parse(bytes.toString('utf8', run.begin, colon));
			if (typeof key !== 'string') throw malformed();
			all.set(key, yield* value(source, colon + 1, run.end, depth));
		} else if (run.end >= 0) {
			const members = JSON.parse(`{${bytes.toString('utf8', run.begin, run.end)}}`) as object;
			const entries = Object.entries(members);
			if (entries.length === 0) throw malformed();
			for (const [key, member] of entries) all.set(key, member);
		}
		yield;
	}
	if (source.maps && all.size > MAP_MEMBERS) return all;
	const record: Record<string, unknown> = {};
	for (const [key, member] of all) set(record, key, member);
	return record;
}

/** As `JSON.parse` sets it, `__proto__` too. */
function set(into: Record<string, unknown>, key: string, member: unknown): void {
	if (key !== '__proto__') into[key] = member;
	else
		Object.defineProperty(into, key, { value: member, enumerable: true, configurable: true, writable: true });
}

/** Members of a container, commas between them included. */
interface Run {
	begin: number;
	/** −1: a piece of the text has been passed, and the run does not end in it. */
	end: number;
	/** One member alone, longer than a piece. */
	long: boolean;
}

/** Cuts a container between its members into runs of about a piece, and longer members apart. */
class Cutter {
	readonly #bytes: Buffer;
	readonly #to: number;
	readonly #place: Place;
	/** Where the run begins. */
	#begin: number;
	/** Where its members end so far; −1 without any. */
	#end = -1;

	constructor(bytes: Buffer, from: number, to: number) {
		this.#bytes = bytes;
		this.#to = to;
		this.#place = { at: from, depth: 0 };
		this.#begin = from;
	}

	/** The next run; undefined at the end. Looks at about one piece of the text. */
	next(): Run | undefined {
		const begin = this.#begin;
		const place = this.#place;
		if (begin > this.#to) return undefined;
		const stop = Math.min(this.#to, place.at + PIECE);
		while (toComma(this.#bytes, place, stop, this.#to)) {
			if (place.at - begin > PIECE && this.#end < 0) return this.#cut(place.at, true);
			if (place.at - begin > PIECE) return this.#cut(this.#end, false);
			this.#end = place.at++;
		}
		if (place.at < this.#to) return { begin, end: -1, long: false };
		if (place.depth !== 0) throw malformed();
		if (this.#end >= 0 && place.at - begin > PIECE) return this.#cut(this.#end, false);
		return this.#cut(place.at, place.at - begin > PIECE);
	}

	#cut(end: number, long: boolean): Run {
		const begin = this.#begin;
		this.#begin = end + 1;
		this.#end = -1;
		this.#place.at = end + 1; // a member that was too much is looked at again
		this.#place.depth = 0;
		return { begin, end, long };
	}
}

/** How far a container has been looked through. */
interface Place {
	at: number;
	/** Of containers inside it. */
	depth: number;
}

/** Goes on to the next comma between members; false where `stop` comes before it. Texts are passed whole. */
function toComma(bytes: Buffer, place: Place, stop: number, to: number): boolean {
	let { at, depth } = place;
	let found = false;
	for (; at < stop; at++) {
		const byte = bytes[at]!;
		if (byte === QUOTE) at = endOfText(bytes, at, to);
		else if (byte === COMMA) {
			found = depth === 0;
			if (found) break;
		} else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
		else if (byte === CLOSE_LIST || byte === CLOSE_OBJECT) {
			depth--;
			if (depth < 0) throw malformed();
		}
	}
	place.at = at;
	place.depth = depth;
	return found;
}

/** Where the quote is that closes the text opened at `from`. */
function endOfText(bytes: Buffer, from: number, to: number): number {
	for (let at = bytes.indexOf(QUOTE, from + 1); at >= 0 && at < to; at = bytes.indexOf(QUOTE, at + 1)) {
		let before = at - 1;
		while (bytes[before] === BACKSLASH) before--;
		if ((at - before) % 2 === 1) return at;
	}
	throw malformed();
}

/** Where the colon behind a member's key is. */
function endOfKey(bytes: Buffer, from: number, to: number): number {
	const colon = bytes.indexOf(COLON, endOfText(bytes, trim(bytes, from, to)[0], to));
	if (colon < 0 || colon >= to) throw malformed();
	return colon;
}

/** A range without the white space at its ends. */
function trim(bytes: Buffer, from: number, to: number): [begin: number, end: number] {
	let [begin, end] = [from, to];
	while (begin < end && isBlank(bytes[begin]!)) begin++;
	while (end > begin && isBlank(bytes[end - 1]!)) end--;
	return [begin, end];
}

/** Whether there is nothing but white space. */
function holdsNothing(bytes: Buffer, from: number, to: number): boolean {
	const [begin, end] = trim(bytes, from, to);
	return begin === end;
}

function isBlank(byte: number): boolean {
	return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

function malformed(): SyntaxError {
	return new SyntaxError('The text is not JSON.');
}
