import type { Hash } from 'node:crypto';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { access, copyFile, mkdir, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { readText } from '../files/read.js';

/** A file of a repository as the Hub's tree lists it. */
export interface RemoteFile {
	path: string;
	/** bytes */
	size: number;
	/** The blob's name in the cache: sha256 for large files, git's sha1 for others, as huggingface_hub names it. */
	etag: string;
}

/** One repository in the cache layout of huggingface_hub: `blobs/`, `refs/`, `snapshots/<commit>/`. */
export class RepositoryCache {
	readonly folder: string;

	constructor(cacheFolder: string, name: string) {
		this.folder = join(cacheFolder, `models--${name.replaceAll('/', '--')}`);
	}

	snapshot(commit: string): string {
		return join(this.folder, 'snapshots', commit);
	}

	/** The commit a branch or tag had when it was last looked up. */
	async readRef(revision: string): Promise<string | undefined> {
		try {
			return (await readText(join(this.folder, 'refs', revision), { limit: 1024 })).trim();
		} catch {
			return undefined;
		}
	}

	async writeRef(revision: string, commit: string): Promise<void> {
		const path = join(this.folder, 'refs', revision);
		await mkdir(dirname(path), { recursive: true });
		await writeFile(path, commit);
	}

	async has(commit: string, path: string): Promise<boolean> {
		return exists(join(this.snapshot(commit), path));
	}

	/** Bytes of an earlier, unfinished download. */
	async partialSize({ etag }: RemoteFile): Promise<number> {
		return (await stat(this.#partial(etag)).catch(() => undefined))?.size ?? 0;
	}

	/** Links a blob that is already there into the snapshot; false where there is none. */
	async linkExisting(commit: string, file: RemoteFile): Promise<boolean> {
		const blob = this.#blob(file.etag);
		if ((await stat(blob).catch(() => undefined))?.size !== file.size) return false;
		await this.#link(commit, file.path, blob);
		return true;
	}

	/**
	 * Writes (or goes on writing) a file, checks size and hash, and moves it into place.
	 *
	 * @param open gives the content from a byte on
	 * @throws CorruptDownload when what came is not what the Hub announced; the partial file is gone then
	 */
	async download(
		commit: string,
		file: RemoteFile,
		open: (from: number) => Promise<ReadableStream<Uint8Array>>,
		{ signal, onBytes }: { signal?: AbortSignal | undefined; onBytes: (count: number) => void },
	): Promise<void> {
		const partial = this.#partial(file.etag);
		await mkdir(dirname(partial), { recursive: true });
		let from = await this.partialSize(file);
		if (from > file.size) {
			await rm(partial);
			from = 0;
		}
		const hash = hashFor(file);
		if (from > 0 && hash) await pipeline(createReadStream(partial), hash, { end: false, signal });
		let received = from;
		if (file.size === 0) await writeFile(partial, '');
		else if (from < file.size) {
			const counter = new Transform({
				transform(chunk: Buffer, _encoding, done) {
					received += chunk.length;
					// A server that ignores the range would send the file from its beginning again.
					if (received > file.size)
						return done(new CorruptDownload(file, `more than ${file.size} bytes came`));
					hash?.update(chunk);
					onBytes(chunk.length);
					done(null, chunk);
				},
			});
			const content = Readable.fromWeb(await open(from));
			try {
				await pipeline(content, counter, createWriteStream(partial, { flags: from > 0 ? 'a' : 'w' }), {
					signal,
				});
			} catch (error) {
				if (error instanceof CorruptDownload) await rm(partial, { force: true });
				throw error;
			}
		}
		// Short: the connection ended early; what came stays for the next attempt.
		if (received < file.size) throw new Error(`the connection ended after ${received} of ${file.size} bytes`);
		if (hash && hash.digest('hex') !== file.etag) {
			await rm(partial, { force: true });
			throw new CorruptDownload(file, 'its checksum differs from the one the Hub announced');
		}
		const blob = this.#blob(file.etag);
		await rename(partial, blob);
		await this.#link(commit, file.path, blob);
	}

	#blob(etag: string): string {
		return join(this.folder, 'blobs', etag);
	}

	#partial(etag: string): string {
		return `${this.#blob(etag)}.incomplete`;
	}

	async #link(commit: string, path: string, blob: string): Promise<void> {
		const pointer = join(this.snapshot(commit), path);
		await mkdir(dirname(pointer), { recursive: true });
		await rm(pointer, { force: true });
		try {
			await symlink(relative(dirname(pointer), blob), pointer);
		} catch {
			await copyFile(blob, pointer);
		}
	}
}

/** What came is not the announced file. */
export class CorruptDownload extends Error {
	constructor(file: RemoteFile, reason: string) {
		super(`${file.path}: ${reason}`);
	}
}

/** sha256 of a large file's content, git's sha1 of a small one; nothing for other names (Xet hashes). */
function hashFor({ etag, size }: RemoteFile): Hash | undefined {
	if (/^[0-9a-f]{64}$/.test(etag)) return createHash('sha256');
	if (/^[0-9a-f]{40}$/.test(etag)) return createHash('sha1').update(`blob ${size}\0`);
	return undefined;
}

export async function exists(path: string): Promise<boolean> {
	return access(path).then(
		() => true,
		() => false,
	);
}
