import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { type FileRules, fit, tryReadValue, unusable } from './read.js';

/** What a file was when it was written. */
export interface FileRecord {
	bytes: number;
	/** Of its content, in hexadecimal digits. */
	sha256: string;
}

/** Files by their path within a folder, with `/` between its parts. */
export type FileRecords = Record<string, FileRecord>;

const digest = z.string().regex(/^[0-9a-f]{64}$/, 'expected a SHA-256');

/** Of the field that {@link sealed} fills. */
export const sealSchema = digest.optional();

/** No path leads out of the folder. */
export const fileRecordsSchema = z.record(
	z
		.string()
		.regex(/^(?!\.{0,2}(\/|$))[^\0\\]+$/)
		.refine((path) => !path.split('/').includes('..')),
	z.strictObject({ bytes: z.int().min(0), sha256: digest }),
);

/** Size and hash of a file. */
export async function recordOf(path: string, signal?: AbortSignal): Promise<FileRecord> {
	const hash = createHash('sha256');
	let bytes = 0;
	for await (const chunk of createReadStream(path, { highWaterMark: 1 << 18, signal })) {
		hash.update(chunk as Buffer);
		bytes += (chunk as Buffer).length;
	}
	return { bytes, sha256: hash.digest('hex') };
}

/** Size and hash of files of a folder; what is a folder itself counts with all files in it. */
export async function recordFiles(folder: string, names: readonly string[]): Promise<FileRecords> {
	const records: FileRecords = {};
	for (const name of [...names].sort()) {
		const path = join(folder, name);
		const info = await stat(path).catch(() => undefined);
		if (info?.isFile()) records[name] = await recordOf(path);
		else if (info?.isDirectory()) {
			const inside = (await readdir(path)).map((entry) => `${name}/${entry}`);
			Object.assign(records, await recordFiles(folder, inside));
		}
	}
	return records;
}

/**
 * Expects files to be what they were when they were recorded. Reads them once.
 *
 * @throws `rules.code` for one that is missing or another, the signal's reason
 */
export async function verifyFiles(
	folder: string,
	records: Readonly<FileRecords>,
	rules: FileRules,
	signal?: AbortSignal,
): Promise<void> {
	for (const [name, { bytes, sha256 }] of Object.entries(records)) {
		signal?.throwIfAborted();
		const path = join(folder, name);
		const info = await stat(path).catch(() => undefined);
		if (!info?.isFile()) throw unusable(path, 'the file is missing', rules);
		if (info.size !== bytes) throw unusable(path, `it has ${info.size} bytes instead of ${bytes}`, rules);
		let now: FileRecord;
		try {
			now = await recordOf(path, signal);
		} catch (cause) {
			signal?.throwIfAborted();
			throw unusable(path, (cause as Error).message, rules, cause);
		}
		if (now.sha256 !== sha256)
			throw unusable(path, 'its content is not what was written (its checksum differs)', rules);
	}
}

/** A hash of a value as JSON writes it. */
function sealOf(value: unknown): string {
	return createHash('sha256').update(JSON.stringify(value)).digest('hex');
}

/**
 * The value with a seal in its field `sha256`.
 *
 * @param part what is sealed of it; the rest may be changed by hand. Default: all.
 */
export function sealed<T extends object>(
	value: T,
	part: (value: T) => unknown = (all) => all,
): T & { sha256: string } {
	return { ...value, sha256: sealOf(part(value)) };
}

/**
 * Reads what {@link sealed} made; a file without a seal is of an earlier version, and only fitted to the schema.
 *
 * @throws as `readText`; `rules.code` where the content is not what was sealed
 */
export async function readSealed<T extends z.ZodType>(
	path: string,
	schema: T,
	rules: FileRules,
	part: (value: z.output<T>) => unknown = (all) => all,
): Promise<z.output<T> | undefined> {
	const value = await tryReadValue(path, rules);
	if (value === undefined) return undefined;
	const fitted = fit(value, schema, path, rules);
	// The value as it was written: a schema may order fields anew, and fill in those that a later version knows.
	const { sha256, ...written } = value as { sha256?: string };
	if (sha256 !== undefined && sha256 !== sealOf(part(written as z.output<T>)))
		throw unusable(path, 'its content is not what was written (its checksum differs)', rules);
	return fitted;
}
