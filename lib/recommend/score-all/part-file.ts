import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { ALLMRecError } from '../../errors.js';
import { writing } from '../../files/write-error.js';

const compress = promisify(gzip);

/** A file that is appended to in chunks and can be cut back to where it was at a checkpoint. */
export class PartFile {
	readonly #path: string;
	readonly #file: FileHandle;
	readonly #gzip: boolean;
	#bytes: number;

	private constructor(path: string, file: FileHandle, bytes: number, gzipped: boolean) {
		this.#path = path;
		this.#file = file;
		this.#bytes = bytes;
		this.#gzip = gzipped;
	}

	/** @param bytes what is kept of the file that is there; 0 makes a new one */
	static async open(
		path: string,
		bytes: number,
		{ gzip: gzipped = false }: { gzip?: boolean } = {},
	): Promise<PartFile> {
		const file = await writing(path, () =>
			open(path, bytes > 0 ? 'r+' : 'w').catch((cause: NodeJS.ErrnoException) => {
				if (bytes > 0 && cause.code === 'ENOENT') return undefined;
				throw cause;
			}),
		);
		const size = file ? (await file.stat()).size : 0;
		if (!file || size < bytes) {
			await file?.close();
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${path} has ${size} bytes where the state beside it counts ${bytes}; start over with \`restart\`.`,
			);
		}
		try {
			await writing(path, () => file.truncate(bytes));
		} catch (error) {
			await file.close().catch(() => {});
			throw error;
		}
		return new PartFile(path, file, bytes, gzipped);
	}

	/** Bytes appended so far. */
	get bytes(): number {
		return this.#bytes;
	}

	/** Appends a chunk; of a gzipped file, as a member of its own. */
	async append(text: string): Promise<void> {
		if (text === '') return;
		const data = this.#gzip ? await compress(text) : Buffer.from(text);
		await writing(this.#path, async () => {
			for (let at = 0; at < data.length; ) {
				const { bytesWritten } = await this.#file.write(data, at, data.length - at, this.#bytes + at);
				at += bytesWritten;
			}
		});
		this.#bytes += data.length;
	}

	/** Waits until what was appended is on the disk. */
	async sync(): Promise<void> {
		await writing(this.#path, () => this.#file.datasync());
	}

	async close(): Promise<void> {
		await writing(this.#path, () => this.#file.close());
	}
}
