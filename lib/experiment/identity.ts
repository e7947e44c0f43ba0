import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isFolder } from '../data/folder.js';
import { resolveEmbedded } from '../recommend/embedded.js';

/** Sixteen digits of the SHA-256 of a value, whatever the order of its fields. */
export function contentHash(value: unknown): string {
	return createHash('sha256')
		.update(JSON.stringify(ordered(value)))
		.digest('hex')
		.slice(0, 16);
}

function ordered(value: unknown): unknown {
	if (Array.isArray(value)) return value.map(ordered);
	if (typeof value !== 'object' || value === null) return value;
	return Object.fromEntries(
		Object.entries(value)
			.filter(([, field]) => field !== undefined)
			.sort(([a], [b]) => (a < b ? -1 : 1))
			.map(([key, field]) => [key, ordered(field)]),
	);
}

/**
 * What tells a checkpoint from another: the names and sizes of its files, and when they were written, but for the
 * embedded ones. What is no folder (an id of the hub) is known by its name.
 */
export async function checkpointIdentity(source: string): Promise<unknown> {
	const folder = resolveEmbedded(source);
	if (!(await isFolder(folder))) return source;
	const files: unknown[] = [];
	for (const name of (await readdir(folder)).sort()) {
		const file = await stat(join(folder, name));
		if (file.isFile()) files.push([name, file.size, ...(folder === source ? [file.mtimeMs] : [])]);
	}
	return files;
}

/** Of a folder written by `prepare`: its seal and with it the checksums of its tables. */
export async function datasetIdentity(folder: string): Promise<unknown> {
	return contentHash(await readFile(join(folder, 'dataset.json'), 'utf8'));
}
