import { isUtf8 } from 'node:buffer';
import { constants } from 'node:fs';
import { type FileHandle, open, stat } from 'node:fs/promises';
import type { z } from 'zod';
import { ALLMRecError, type ErrorCode } from '../errors.js';
import { atOnce, inTurns, type Steps } from '../event-loop.js';
import { jsonSteps, type ParseOptions } from '../json.js';

/** What is said of a file that cannot be used, and how large it may be. */
export interface FileRules {
	/** Code of a file that is there and is not what it should be. Default `ERR_ALLMREC_FILE_FORMAT`. */
	code?: ErrorCode | undefined;
	/** Code of a file that is missing, may not be read, or is no file. Default `ERR_ALLMREC_FILE_NOT_FOUND`. */
	missing?: ErrorCode | undefined;
	/** Most bytes. Default 64 MiB. */
	limit?: number | undefined;
	/** What to do about it, without a full stop: the end of the message. */
	remedy?: string | undefined;
}

/** Bytes of a file that grows with a vocabulary. */
export const VOCABULARY_BYTES = 1 << 28;
/** What one JavaScript string can hold: bytes of a file that grows with a catalogue or with the users. */
export const LARGEST_TEXT_BYTES = 0x1fff_ffe8;
const DEFAULT_BYTES = 1 << 26;
/** Levels of lists and objects within each other. What walks a deeper value would run out of stack. */
const MAX_DEPTH = 100;

/**
 * The text of a UTF-8 file, without a byte-order mark. Only regular files are read: a pipe may never end, and a device
 * never does.
 *
 * @throws `rules.missing` and `rules.code`, with the file's name
 */
export async function readText(path: string, rules: FileRules = {}): Promise<string> {
	const text = await tryReadText(path, rules);
	if (text === undefined) throw missing(path, 'is not there', rules);
	return text;
}

/** {@link readText}, or undefined where there is no such file. */
export async function tryReadText(path: string, rules: FileRules = {}): Promise<string | undefined> {
	return (await tryReadUtf8(path, rules))?.toString('utf8');
}

/** The bytes of a UTF-8 file, without a byte-order mark. */
async function tryReadUtf8(path: string, rules: FileRules): Promise<Buffer | undefined> {
	const bytes = await readRegular(path, rules);
	if (bytes === undefined) return undefined;
	const [first, second] = bytes;
	if ((first === 0xff && second === 0xfe) || (first === 0xfe && second === 0xff))
		throw unusable(path, 'it is UTF-16, not UTF-8', rules);
	if (!isUtf8(bytes)) throw unusable(path, 'it is not UTF-8 text', rules);
	return bytes.subarray(first === 0xef && second === 0xbb && bytes[2] === 0xbf ? 3 : 0);
}

/**
 * The value of a JSON file, whatever it is, or undefined where there is no such file. Large files are parsed in turns of
 * the event loop.
 *
 * @throws as {@link readText}, the signal's reason
 */
export async function tryReadValue(
	path: string,
	rules: FileRules = {},
	{ signal, ...options }: ParseOptions & { signal?: AbortSignal | undefined } = {},
): Promise<unknown> {
	const bytes = await tryReadUtf8(path, rules);
	if (bytes === undefined) return undefined;
	try {
		await inTurns(expectShallow(bytes), signal);
		return await inTurns(jsonSteps(bytes, options), signal);
	} catch (cause) {
		signal?.throwIfAborted();
		throw noJson(path, bytes.length, rules, cause);
	}
}

/** The value of a JSON file that fits a schema. @throws as {@link readText}, with the field that is wrong */
export async function readJson<T extends z.ZodType>(
	path: string,
	schema: T,
	rules: FileRules = {},
): Promise<z.output<T>> {
	const value = await tryReadValue(path, rules);
	if (value === undefined) throw missing(path, 'is not there', rules);
	return fit(value, schema, path, rules);
}

/** {@link readJson}, or undefined where there is no such file. */
export async function tryReadJson<T extends z.ZodType>(
	path: string,
	schema: T,
	rules: FileRules = {},
): Promise<z.output<T> | undefined> {
	const value = await tryReadValue(path, rules);
	return value === undefined ? undefined : fit(value, schema, path, rules);
}

/** The value of a file's JSON text that fits a schema. @param path for messages */
export function parseJson<T extends z.ZodType>(
	text: string,
	schema: T,
	path: string,
	rules: FileRules = {},
): z.output<T> {
	return fit(jsonValue(text, path, rules), schema, path, rules);
}

/** The value of a file's JSON text, whatever it is. */
export function jsonValue(text: string, path: string, rules: FileRules = {}): unknown {
	try {
		return parseShallow(text);
	} catch (cause) {
		throw noJson(path, text.length, rules, cause);
	}
}

function noJson(path: string, length: number, rules: FileRules, cause: unknown): ALLMRecError {
	const reason = length === 0 ? 'it is empty' : `it is not JSON, or cut off (${(cause as Error).message})`;
	return unusable(path, reason, rules, cause);
}

/** Expects a file's value to fit a schema; the error names the field that does not. */
export function fit<T extends z.ZodType>(
	value: unknown,
	schema: T,
	path: string,
	rules: FileRules = {},
): z.output<T> {
	const parsed = schema.safeParse(value);
	if (parsed.success) return parsed.data;
	const [issue] = parsed.error.issues;
	const field = issue?.path.map(String).join('.');
	const reason = field ? `\`${shorten(field)}\`: ${issue?.message}` : String(issue?.message);
	throw unusable(path, reason, rules, parsed.error);
}

/** `JSON.parse` of text that may be hostile: one that is nested too deeply is refused before memory goes into it. */
export function parseShallow(text: string): unknown {
	atOnce(expectShallow(Buffer.from(text)));
	return JSON.parse(text);
}

/** Refuses JSON that is nested more than {@link MAX_DEPTH} levels deep. */
function* expectShallow(bytes: Buffer): Steps<void> {
	let depth = 0;
	let next = DEPTH_BLOCK;
	for (let i = 0; i < bytes.length; i++) {
		const c = bytes[i]!;
		if (c === QUOTE) {
			for (i++; i < bytes.length && bytes[i] !== QUOTE; i++) if (bytes[i] === BACKSLASH) i++;
		} else if (c === OPEN_LIST || c === OPEN_OBJECT) {
			if (++depth > MAX_DEPTH)
				throw new SyntaxError(`nested more than ${MAX_DEPTH} levels deep at byte ${i}`);
		} else if (c === CLOSE_LIST || c === CLOSE_OBJECT) depth--;
		if (i < next) continue;
		yield;
		next = i + DEPTH_BLOCK;
	}
}

/** Bytes of one step. */
const DEPTH_BLOCK = 1 << 18;

const [QUOTE, BACKSLASH, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [
	...Array.from('"\\[]{}', (c) => c.charCodeAt(0)),
] as [number, number, number, number, number, number];

/** *`path` cannot be used: reason; remedy.* */
export function unusable(path: string, reason: string, rules: FileRules = {}, cause?: unknown): ALLMRecError {
	const { code = 'ERR_ALLMREC_FILE_FORMAT', remedy } = rules;
	return new ALLMRecError(code, `${path} cannot be used: ${shorten(reason)}${remedy ? `; ${remedy}` : ''}.`, {
		cause,
	});
}

/**
 * Expects a regular file that may be read.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND
 */
export async function assertReadable(path: string): Promise<void> {
	const file = await openRegular(path, {});
	if (!file) throw missing(path, 'is not there', {});
	await file.close();
}

/** Whether the path leads to a regular file. */
export async function isFile(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined))?.isFile() ?? false;
}

function missing(path: string, what: string, { missing, remedy }: FileRules, cause?: unknown): ALLMRecError {
	const code = missing ?? 'ERR_ALLMREC_FILE_NOT_FOUND';
	return new ALLMRecError(code, `The file ${path} ${what}; ${remedy ?? 'check the path'}.`, { cause });
}

async function readRegular(path: string, rules: FileRules): Promise<Buffer | undefined> {
	const file = await openRegular(path, rules);
	if (!file) return undefined;
	try {
		const { size } = await file.stat();
		const { limit = DEFAULT_BYTES } = rules;
		if (size > limit) throw unusable(path, `it has ${size} bytes, more than the ${limit} expected`, rules);
		const bytes = Buffer.alloc(size);
		let length = 0;
		for (;;) {
			const { bytesRead } = await file.read(bytes, length, size - length);
			length += bytesRead;
			if (bytesRead === 0 || length === size) return bytes.subarray(0, length);
		}
	} catch (cause) {
		if (cause instanceof ALLMRecError) throw cause;
		throw missing(path, `cannot be read (${(cause as Error).message})`, rules, cause);
	} finally {
		await file.close();
	}
}

/** Undefined where there is no such file. */
async function openRegular(path: string, rules: FileRules): Promise<FileHandle | undefined> {
	let file: FileHandle;
	try {
		// A pipe that nobody writes to would keep `open` waiting.
		file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
	} catch (cause) {
		const { code, message } = cause as NodeJS.ErrnoException;
		if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
		throw missing(path, `cannot be read (${message})`, rules, cause);
	}
	const info = await file.stat();
	if (info.isFile()) return file;
	await file.close();
	const kind = info.isDirectory() ? 'is a folder' : 'is a pipe or a device';
	throw missing(path, `${kind}, not a regular file`, rules);
}

function shorten(text: string): string {
	return text.length <= 500 ? text : `${text.slice(0, 500)}…`;
}
