import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { writing } from './write-error.js';

// Every file that counts is written under another name beside its own, flushed to the disk, and renamed: a crash, a
// full disk or a power cut leaves either the old file or the new one. The native core does the same.

/** What is being written, of `path`. */
export function temporaryName(path: string): string {
	return `${path}.tmp-${randomBytes(6).toString('hex')}`;
}

/** Names of {@link temporaryName} and of the native core. */
const TEMPORARY = /\.tmp-[0-9a-f]+(-\d+)?$/;

/** Writes a file whole or not at all. Folders on the way to it are made. @throws ERR_ALLMREC_WRITE */
export async function writeFileAtomic(path: string, parts: Iterable<string | Uint8Array>): Promise<void> {
	await makeFolder(dirname(resolve(path)));
	const temporary = temporaryName(path);
	await writing(path, async () => {
		let file: FileHandle | undefined;
		try {
			file = await open(temporary, 'wx');
			for (const part of parts) await file.writeFile(part);
			await file.sync();
			await file.close();
			await rename(temporary, path);
		} catch (error) {
			await file?.close().catch(() => {});
			await rm(temporary, { force: true }).catch(() => {});
			throw error;
		}
		await syncFolder(dirname(resolve(path)));
	});
}

/** @throws ERR_ALLMREC_WRITE */
export async function writeJson(path: string, value: unknown): Promise<void> {
	await writeFileAtomic(path, [`${JSON.stringify(value, null, '\t')}\n`]);
}

/** For small files. @throws ERR_ALLMREC_WRITE; what reading throws */
export async function copyFileAtomic(from: string, to: string): Promise<void> {
	await writeFileAtomic(to, [await readFile(from)]);
}

/** Renames what is on the disk already, so that the new name outlives a power cut. @throws ERR_ALLMREC_WRITE */
export async function renameDurably(from: string, to: string): Promise<void> {
	await writing(to, async () => {
		await rename(from, to);
		await syncFolder(dirname(resolve(to)));
	});
}

/** Makes a folder and those on the way to it. @throws ERR_ALLMREC_WRITE */
export async function makeFolder(path: string): Promise<void> {
	await writing(path, async () => {
		const first = await mkdir(path, { recursive: true });
		if (first) await syncFolder(dirname(first));
	});
}

/** Waits until a file is on the disk. */
export async function syncFile(path: string): Promise<void> {
	const file = await open(path, 'r+');
	try {
		await file.sync();
	} finally {
		await file.close();
	}
}

/** Waits until a folder's names are on the disk. Some file systems cannot; their own order has to do there. */
export async function syncFolder(path: string): Promise<void> {
	const folder = await open(path, 'r').catch(() => undefined);
	try {
		await folder?.sync();
	} catch (error) {
		const { code = '' } = error as NodeJS.ErrnoException;
		if (['EIO', 'ENOSPC', 'EDQUOT'].includes(code)) throw error;
	} finally {
		await folder?.close();
	}
}

/**
 * Deletes what dead processes left half written in a folder, all of it or of the files whose names begin with `prefix`.
 * For the owner of the lock alone.
 */
export async function removeTemporaries(folder: string, prefix = ''): Promise<void> {
	for (const name of await readdir(folder).catch(() => []))
		if (name.startsWith(prefix) && TEMPORARY.test(name)) await rm(join(folder, name), { force: true });
}

/** {@link removeTemporaries} of one file. */
export function removeTemporariesOf(path: string): Promise<void> {
	return removeTemporaries(dirname(resolve(path)), basename(path));
}
