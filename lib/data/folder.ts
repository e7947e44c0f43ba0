import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';

/** Name of the file that makes a folder a data set. */
export const MANIFEST = 'dataset.json';
export const DATASET_FORMAT = 'a-llmrec-dataset';

/**
 * A folder that is filled beside its final place and renamed when complete, so that a crash leaves either
 * the old data set or the new one. What a killed process leaves is named `.<name>.partial-…`, and is safe to delete.
 */
export class PendingFolder {
	private constructor(
		/** Where to write until {@link publish}. */
		readonly path: string,
		/** Where the folder will be. */
		readonly target: string,
	) {}

	/** @throws ERR_ALLMREC_INVALID_ARGUMENT if `target` is there and is not a data set. */
	static async create(target: string): Promise<PendingFolder> {
		const absolute = resolve(target);
		await assertReplaceable(absolute);
		const parent = dirname(absolute);
		await mkdir(parent, { recursive: true });
		const path = join(parent, `.${basename(absolute)}.partial-${randomBytes(4).toString('hex')}`);
		await mkdir(path);
		return new PendingFolder(path, absolute);
	}

	/** Puts the folder in its place; a data set that was there is replaced. */
	async publish(): Promise<void> {
		await assertReplaceable(this.target);
		const old = `${this.path}-old`;
		const replaces = await exists(this.target);
		if (replaces) await rename(this.target, old);
		try {
			await rename(this.path, this.target);
		} catch (cause) {
			if (replaces) await rename(old, this.target);
			throw cause;
		}
		if (replaces) await rm(old, { recursive: true, force: true });
	}

	async discard(): Promise<void> {
		await rm(this.path, { recursive: true, force: true });
	}
}

async function assertReplaceable(folder: string): Promise<void> {
	let entries: string[];
	try {
		entries = await readdir(folder);
	} catch (cause) {
		const { code } = cause as NodeJS.ErrnoException;
		if (code === 'ENOENT') return;
		if (code === 'ENOTDIR') return invalidArgument('out', 'a folder, not a file', folder);
		throw cause;
	}
	if (entries.length === 0) return;
	let format: unknown;
	try {
		format = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')).format;
	} catch {}
	if (format !== DATASET_FORMAT)
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`The folder ${folder} is not empty and not a data set, so it is not overwritten; choose another \`out\`, or empty it first.`,
		);
}

/** Writes a file beside its place and renames it, so that readers never see half of it. */
export async function writeFileAtomic(path: string, parts: Iterable<string | Uint8Array>): Promise<void> {
	await mkdir(dirname(resolve(path)), { recursive: true });
	const partial = join(dirname(path), `.${basename(path)}.partial-${randomBytes(4).toString('hex')}`);
	const file = await open(partial, 'wx');
	try {
		for (const part of parts) await file.writeFile(part);
		await file.sync();
		await file.close();
		await rename(partial, path);
	} catch (cause) {
		await file.close().catch(() => {});
		await rm(partial, { force: true });
		throw cause;
	}
}

/** @throws ERR_ALLMREC_FILE_NOT_FOUND if the file is not there or may not be read. */
export async function assertReadable(path: string): Promise<void> {
	try {
		await access(path, constants.R_OK);
	} catch (cause) {
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The file ${path} is not there or may not be read; check the path.`,
			{ cause },
		);
	}
}

export async function isFolder(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}

async function exists(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined)) !== undefined;
}
