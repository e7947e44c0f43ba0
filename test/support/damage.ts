import { execFileSync } from 'node:child_process';
import { copyFile, cp, mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import { ALLMRecError, type ErrorCode } from '../../lib/errors.js';
import { freshPath } from '../data/folders.js';

/** A damaged file: what was done, and the bytes that are left. */
export interface Damage {
	what: string;
	bytes: Buffer;
}

/** Every length class: nothing, a byte, a header, quarters, the last byte, ends of lines and within characters. */
export function* truncations(bytes: Buffer): Generator<Damage> {
	const lengths = new Set([0, 1, 2, 4, 8, 16, 64]);
	for (const share of [1, 2, 3]) lengths.add(Math.floor((bytes.length * share) / 4));
	for (const back of [1, 2, 8]) lengths.add(bytes.length - back);
	const lines = positions(bytes, (byte) => byte === 10);
	for (const at of [lines[0], lines[lines.length >> 1], lines.at(-2)])
		if (at !== undefined) for (const by of [0, 1]) lengths.add(at + by);
	const inside = positions(bytes, (byte) => (byte & 0xc0) === 0x80);
	for (const at of [inside[0], inside.at(-1)]) if (at !== undefined) lengths.add(at);
	for (const length of lengths)
		if (length >= 0 && length < bytes.length)
			yield { what: `cut to ${length} of ${bytes.length} bytes`, bytes: bytes.subarray(0, length) };
}

function positions(bytes: Buffer, matches: (byte: number) => boolean): number[] {
	const found: number[] = [];
	for (let at = 0; at < bytes.length; at++) if (matches(bytes[at]!)) found.push(at);
	return found;
}

/** Bits and bytes changed at seeded places; `count` or more than the file has bits: every bit of it. */
export function* flips(bytes: Buffer, count: number, random: SeededRandom): Generator<Damage> {
	const changed = (at: number, value: number): Damage => {
		const copy = Buffer.from(bytes);
		copy[at] = value;
		return { what: `byte ${at} is ${value} instead of ${bytes[at]}`, bytes: copy };
	};
	if (bytes.length === 0) return;
	if (count >= bytes.length * 8) {
		for (let at = 0; at < bytes.length; at++)
			for (let bit = 0; bit < 8; bit++) yield changed(at, bytes[at]! ^ (1 << bit));
		return;
	}
	for (let i = 0; i < count; i++) {
		const at = random.int(bytes.length);
		const other = (bytes[at]! + 1 + random.int(255)) % 256;
		yield changed(at, i % 2 === 0 ? bytes[at]! ^ (1 << random.int(8)) : other);
	}
}

/** Lines left out, twice, and in each other's place; blocks of zeros and of other bytes. */
export function* rearrangements(bytes: Buffer, count: number, random: SeededRandom): Generator<Damage> {
	const lines = bytes.toString('latin1').split('\n');
	const from = (what: string, made: readonly string[]): Damage => ({
		what,
		bytes: Buffer.from(made.join('\n'), 'latin1'),
	});
	for (let i = 0; i < count; i++) {
		const [a, b] = [random.int(lines.length), random.int(lines.length)];
		const swapped = [...lines];
		[swapped[a], swapped[b]] = [lines[b]!, lines[a]!];
		yield from(`without line ${a + 1}`, [...lines.slice(0, a), ...lines.slice(a + 1)]);
		yield from(`line ${a + 1} twice`, [...lines.slice(0, a + 1), ...lines.slice(a)]);
		yield from(`lines ${a + 1} and ${b + 1} swapped`, swapped);
		const at = random.int(Math.max(1, bytes.length));
		const length = 1 + random.int(64);
		const zeros = Buffer.from(bytes);
		zeros.subarray(at, at + length).fill(0);
		yield { what: `zeros from byte ${at} to ${at + length}`, bytes: zeros };
		yield {
			what: `bytes ${at} to ${at + length} left out`,
			bytes: Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]),
		};
	}
}

/** A text in other encodings, with marks, other line ends, NUL, bytes that are no UTF-8, and no end of line. */
export function* encodings(bytes: Buffer): Generator<Damage> {
	const text = bytes.toString('utf8');
	const utf16 = Buffer.from(`\ufeff${text}`, 'utf16le');
	const half = bytes.length >> 1;
	const inside = (inserted: Buffer) =>
		Buffer.concat([bytes.subarray(0, half), inserted, bytes.subarray(half)]);
	yield { what: 'a byte-order mark', bytes: Buffer.from(`\ufeff${text}`) };
	yield { what: 'UTF-16, little end first', bytes: utf16 };
	yield { what: 'UTF-16, big end first', bytes: Buffer.from(utf16).swap16() };
	yield { what: 'UTF-16 without a mark', bytes: utf16.subarray(2) };
	yield { what: 'CRLF', bytes: Buffer.from(text.replaceAll('\n', '\r\n')) };
	yield { what: 'CR', bytes: Buffer.from(text.replaceAll('\n', '\r')) };
	yield { what: 'NUL inside', bytes: inside(Buffer.alloc(1)) };
	yield { what: 'NUL throughout', bytes: Buffer.alloc(bytes.length) };
	for (const hex of ['ff', 'c0af', 'eda080', 'f4908080', 'e282'])
		yield { what: `${hex} inside, which is no UTF-8`, bytes: inside(Buffer.from(hex, 'hex')) };
	yield { what: 'spaces alone', bytes: Buffer.from('   \n\t\n') };
	yield { what: 'an open quote', bytes: inside(Buffer.from('"')) };
	yield { what: 'a line of a million characters inside', bytes: inside(Buffer.alloc(1 << 20, 0x61)) };
	yield { what: 'the file twice', bytes: Buffer.concat([bytes, bytes]) };
	yield { what: 'bytes behind its end', bytes: Buffer.concat([bytes, Buffer.from('\0\xff trailing')]) };
}

/** JSON text that takes a value's place. `1e400` is what no number holds; a key twice is written by hand. */
const REPLACEMENTS: readonly (readonly [what: string, json: string])[] = [
	['null', 'null'],
	['true', 'true'],
	['a text', '"surprise"'],
	['an empty text', '""'],
	['a text with NUL', '"\\u0000"'],
	['a lone surrogate', '"\\ud800"'],
	['a path out of the folder', '"../../../../etc/passwd"'],
	['the text NaN', '"NaN"'],
	['the text constructor', '"constructor"'],
	['zero', '0'],
	['minus one', '-1'],
	['a half', '0.5'],
	['2^31', '2147483648'],
	['2^53', '9007199254740992'],
	['1e308', '1e308'],
	['1e400', '1e400'],
	['minus zero', '-0'],
	['an empty list', '[]'],
	['a list', '[1, "a", null]'],
	['an empty object', '{}'],
	['an object', '{"a": {"b": 1}}'],
	[
		'a polluting object',
		'{"__proto__": {"polluted": true}, "constructor": {"prototype": {"polluted": true}}}',
	],
	['100,000 lists in each other', `${'['.repeat(100_000)}${']'.repeat(100_000)}`],
	['100,000 objects in each other', `${'{"a":'.repeat(100_000)}1${'}'.repeat(100_000)}`],
];

type Path = readonly (string | number)[];

/** Structure-aware: each value of a JSON text replaced by each kind of value, removed, and its key given twice. */
export function* jsonDamages(bytes: Buffer, count: number, random: SeededRandom): Generator<Damage> {
	const value = JSON.parse(bytes.toString('utf8')) as unknown;
	const paths = [...walk(value)];
	const all = paths.length * (REPLACEMENTS.length + 4);
	const chosen = count >= all ? undefined : count;
	for (let i = 0; i < (chosen ?? all); i++) {
		const place = chosen === undefined ? i : random.int(all);
		const path = paths[Math.floor(place / (REPLACEMENTS.length + 4))]!;
		const kind = place % (REPLACEMENTS.length + 4);
		const at = `$${path.map((part) => `[${JSON.stringify(part)}]`).join('')}`;
		const made = alter(value, path, kind);
		if (made) yield { what: `${at}: ${made[0]}`.slice(0, 300), bytes: Buffer.from(made[1]) };
	}
}

function* walk(value: unknown, path: Path = [], room = { left: 2000 }): Generator<Path> {
	if (room.left-- <= 0) return;
	yield path;
	if (typeof value !== 'object' || value === null) return;
	for (const [key, inner] of Object.entries(value))
		yield* walk(inner, [...path, Array.isArray(value) ? Number(key) : key], room);
}

const MARK = '\u0001here\u0001';

function alter(root: unknown, path: Path, kind: number): [what: string, json: string] | undefined {
	const copy = { root: structuredClone(root) } as Record<string, unknown>;
	let holder = copy;
	const keys = ['root', ...path];
	for (const key of keys.slice(0, -1)) holder = holder[key] as Record<string, unknown>;
	const last = keys.at(-1)!;
	const replaced = REPLACEMENTS[kind];
	const text = () => JSON.stringify(copy.root) ?? '';
	if (replaced) {
		holder[last] = MARK;
		return [replaced[0], text().replace(JSON.stringify(MARK), () => replaced[1])];
	}
	const extra = kind - REPLACEMENTS.length;
	if (extra === 0) {
		if (path.length === 0) return undefined;
		if (Array.isArray(holder)) holder.splice(Number(last), 1);
		else delete holder[last];
		return ['removed', text()];
	}
	const own = holder[last];
	if (extra === 1) {
		if (path.length === 0 || Array.isArray(holder)) return undefined;
		holder[last] = MARK;
		const twice = `${JSON.stringify(own)},${JSON.stringify(last)}:"second"`;
		return ['its key twice', text().replace(JSON.stringify(MARK), () => twice)];
	}
	if (typeof own !== 'object' || own === null || Array.isArray(own)) return undefined;
	const key = extra === 2 ? '__proto__' : 'constructor';
	const json = JSON.stringify(own);
	holder[last] = MARK;
	const inner = `{${JSON.stringify(key)}:{"polluted":true}${json === '{}' ? '}' : `,${json.slice(1)}`}`;
	return [`with ${key}`, text().replace(JSON.stringify(MARK), () => inner)];
}

/** What may stand in a file's place. Each puts something at a path that is free. */
export const IMPOSTORS: readonly (readonly [what: string, put: (path: string) => Promise<void>])[] = [
	['nothing', async () => {}],
	['a folder', async (path) => void (await mkdir(path))],
	['/dev/zero', (path) => symlink('/dev/zero', path)],
	['a pipe nobody writes to', async (path) => void execFileSync('mkfifo', [path])],
	['a link to itself', (path) => symlink(path, path)],
	['a link to nothing', (path) => symlink(`${path}.gone`, path)],
];

export interface Reader {
	/** For messages. */
	name: string;
	/** The valid file or folder. It is never changed. */
	source: string;
	/** The file that is damaged, within a folder; empty: `source` itself. */
	file?: string;
	/**
	 * Reads what stands at a path and throws a plain `Error` where what it read is not consistent.
	 *
	 * @returns anything but undefined to have it compared with what the undamaged file gives
	 */
	read: (path: string) => Promise<unknown>;
	/** Codes that damage may be answered with. */
	codes: readonly ErrorCode[];
	/** Whether a message must have the damaged file's name. Default true. */
	named?: boolean;
	/** Whether any change of the file has to be found. Default false. */
	sealed?: boolean;
	/** Milliseconds for one file. Default 10,000. */
	limit?: number;
}

/** What became of the inputs tried. */
export interface Tally {
	tried: number;
	rejected: number;
	read: number;
	slowest: number;
	/** What must not be. */
	failures: string[];
}

export function newTally(): Tally {
	return { tried: 0, rejected: 0, read: 0, slowest: 0, failures: [] };
}

/** Lays each damaged file before its reader and notes what is not as promised. */
export async function tryDamages(
	reader: Reader,
	damages: Iterable<Damage>,
	tally: Tally = newTally(),
): Promise<Tally> {
	const place = await stage(reader);
	const whole = await readFile(place.file);
	const expected = JSON.stringify(await reader.read(place.root));
	for (const { what, bytes } of damages) {
		const same = bytes.equals(whole);
		await writeFile(place.file, bytes);
		await attempt(reader, place, what, tally, same ? undefined : expected);
	}
	await rm(place.home, { recursive: true, force: true });
	return tally;
}

/** Lays what is no file before a reader. */
export async function tryImpostors(reader: Reader, tally: Tally = newTally()): Promise<Tally> {
	const place = await stage(reader);
	for (const [what, put] of IMPOSTORS) {
		await rm(place.file, { recursive: true, force: true });
		await put(place.file);
		await attempt(reader, place, what, tally, undefined);
	}
	await rm(place.home, { recursive: true, force: true });
	return tally;
}

interface Place {
	home: string;
	/** What the reader is given. */
	root: string;
	/** What is damaged. */
	file: string;
}

async function stage({ source, file = '' }: Reader): Promise<Place> {
	const home = freshPath('damaged');
	await mkdir(home, { recursive: true });
	const root = join(home, source.split('/').at(-1)!);
	if (file === '') await copyFile(source, root);
	else await cp(source, root, { recursive: true, dereference: true });
	return { home, root, file: join(root, file) };
}

async function attempt(
	reader: Reader,
	{ root, file }: Place,
	what: string,
	tally: Tally,
	expected: string | undefined,
): Promise<void> {
	const { name, read, codes, named = true, sealed = false, limit = 10_000 } = reader;
	const fail = (why: string) => tally.failures.push(`${name}, ${what}: ${why}`);
	tally.tried++;
	const begun = performance.now();
	let timer: NodeJS.Timeout | undefined;
	const late = new Promise<never>((_, reject) => {
		timer = setTimeout(() => reject(new Error(`no answer in ${limit} ms`)), limit);
	});
	try {
		const result = await Promise.race([read(root), late]);
		tally.read++;
		if (sealed && expected !== undefined && JSON.stringify(result) !== expected)
			fail('was read, though it gives something else');
	} catch (error) {
		tally.rejected++;
		if (!(error instanceof ALLMRecError))
			fail(`${error instanceof Error ? error.stack?.slice(0, 600) : error}`);
		else if (!codes.includes(error.code)) fail(`${error.code}: ${error.message.slice(0, 300)}`);
		else if (error.message.length > 2000) fail(`a message of ${error.message.length} characters`);
		else if (named && !error.message.includes(file.split('/').at(-1)!))
			fail(`does not name the file: ${error.message.slice(0, 300)}`);
	} finally {
		clearTimeout(timer);
	}
	const took = performance.now() - begun;
	tally.slowest = Math.max(tally.slowest, took);
	if (took > limit) fail(`took ${Math.round(took)} ms`);
	if ('polluted' in {}) {
		fail('Object.prototype was changed');
		Reflect.deleteProperty(Object.prototype, 'polluted');
	}
}

/** All kinds of damage that suit a text. */
export function* textDamages(bytes: Buffer, seed: number, { flipped, json = 0 }: Counts): Generator<Damage> {
	const random = new SeededRandom(seed);
	yield* truncations(bytes);
	yield* encodings(bytes);
	yield* rearrangements(bytes, Math.ceil(flipped / 10), random);
	yield* flips(bytes, flipped, random);
	if (json > 0) yield* jsonDamages(bytes, json, random);
}

/** Some of what there is, evenly, so that each kind is among them. */
export function some(damages: Iterable<Damage>, count: number): Damage[] {
	const all = [...damages];
	if (count >= all.length) return all;
	return Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)]!);
}

/** How many of the kinds that are endless. */
export interface Counts {
	flipped: number;
	/** Values of a JSON text. Default 0: it is none. */
	json?: number;
}

/** The figures of a table row. */
export function figures({
	tried,
	read,
	rejected,
	slowest,
	failures,
}: Tally): Record<string, number | string> {
	return {
		'inputs tried': tried,
		'rejected with a code': rejected,
		'read and consistent': read,
		'slowest, ms': Math.round(slowest),
		failures: failures.length,
	};
}
