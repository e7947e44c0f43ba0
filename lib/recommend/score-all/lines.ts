import { isUtf8 } from 'node:buffer';
import { createReadStream, type ReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { pipeline } from 'node:stream';
import * as zlib from 'node:zlib';
import { expectReadWhole } from '../../data/gzip.js';
import { ALLMRecError } from '../../errors.js';
import { assertReadable } from '../../files/read.js';
import type { InputPosition } from './rows.js';

/** A line of a text without its end. */
export interface Line {
	text: string;
	/** What stood behind it. */
	ending: '\n' | '\r\n' | '';
	/** From 1. */
	number: number;
	/** Where the next line begins, in bytes of the decompressed text. */
	end: number;
	/** Why it cannot be used; of a line too long to be held `text` is the beginning. */
	problem: string | undefined;
}

export type Compression = 'none' | 'gzip' | 'zstd';

/** Longest line that is read, in bytes. */
export const MAX_LINE_BYTES = 16 << 20;
const CHUNK_BYTES = 1 << 18;
const NEWLINE = 10;
const SHORTER = 'it ends before the row to go on from';

/** The lines of a UTF-8 text, compressed or not, from any position on. Holds a chunk and a line at most. */
export class LineReader {
	readonly #path: string;
	readonly #compression: Compression;
	readonly #signal: AbortSignal | undefined;
	#file: ReadStream | undefined;
	#fileBytes = 1;
	/** Where #file's reading began; texts that are not compressed are entered in their middle. */
	#entry = 0;
	#textBytes = 0;

	constructor(path: string, compression: Compression, signal?: AbortSignal) {
		this.#path = path;
		this.#compression = compression;
		this.#signal = signal;
	}

	/** The share of the file that lies before a byte of its text; of a compressed file an estimate. */
	share(bytes: number): number {
		const read = this.#entry + (this.#file?.bytesRead ?? 0);
		return Math.min(1, (bytes * read) / Math.max(1, this.#textBytes * this.#fileBytes));
	}

	/** @throws ERR_ALLMREC_FILE_FORMAT where the file cannot be read to its end */
	async *lines(from: InputPosition): AsyncGenerator<Line[]> {
		const plain = this.#compression === 'none';
		await assertReadable(this.#path);
		this.#fileBytes = (await stat(this.#path)).size;
		this.#entry = plain ? from.bytes : 0;
		const decompressor = plain ? undefined : this.#decompressor();
		this.#file = createReadStream(this.#path, { start: this.#entry, highWaterMark: CHUNK_BYTES });
		// The reader below gets the pipeline's error too.
		const input = decompressor ? pipeline(this.#file, decompressor, () => {}) : this.#file;
		this.#textBytes = this.#entry;
		const cutter = new LineCutter(from);
		try {
			if (plain && from.bytes > this.#fileBytes) throw new Error(SHORTER);
			for await (const chunk of input) {
				this.#signal?.throwIfAborted();
				const start = this.#textBytes;
				this.#textBytes += (chunk as Buffer).length;
				// A compressed text is read from its beginning and passed over up to the position.
				const skip = Math.max(0, from.bytes - start);
				if (skip < (chunk as Buffer).length) yield cutter.cut((chunk as Buffer).subarray(skip));
			}
			if (this.#compression === 'gzip') expectReadWhole(decompressor as zlib.Gunzip, this.#fileBytes);
			if (this.#textBytes < from.bytes) throw new Error(SHORTER);
			yield cutter.rest();
		} catch (cause) {
			this.#signal?.throwIfAborted();
			if (cause instanceof ALLMRecError) throw cause;
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${this.#path} cannot be read to its end (${(cause as Error).message}).`,
				{ cause },
			);
		} finally {
			this.#file.destroy();
		}
	}

	#decompressor() {
		if (this.#compression === 'gzip') return zlib.createGunzip({ chunkSize: CHUNK_BYTES });
		// In Node.js from 22.15 on.
		const { createZstdDecompress } = zlib as unknown as {
			createZstdDecompress?: () => ReturnType<typeof zlib.createGunzip>;
		};
		if (createZstdDecompress) return createZstdDecompress();
		throw new ALLMRecError(
			'ERR_ALLMREC_UNSUPPORTED',
			`Node.js ${process.versions.node} cannot read zstd; take 22.15 or later, or compress ${this.#path} with gzip.`,
		);
	}
}

/** Cuts chunks of bytes into lines. */
class LineCutter {
	#pending: Buffer = Buffer.alloc(0);
	/** The beginning of a line that is too long, while its rest is passed over. */
	#dropped: Buffer | undefined;
	#number: number;
	#end: number;

	constructor({ rows, bytes }: InputPosition) {
		this.#number = rows;
		this.#end = bytes;
	}

	cut(chunk: Buffer): Line[] {
		const lines: Line[] = [];
		const data = this.#pending.length > 0 ? Buffer.concat([this.#pending, chunk]) : chunk;
		let begin = 0;
		// What was pending holds no end of line.
		for (
			let end = data.indexOf(NEWLINE, this.#pending.length);
			end >= 0;
			end = data.indexOf(NEWLINE, begin)
		) {
			lines.push(this.#line(data.subarray(begin, end), 1));
			begin = end + 1;
		}
		this.#pending = data.subarray(begin);
		if (this.#pending.length > MAX_LINE_BYTES || this.#dropped) {
			this.#dropped ??= Buffer.from(this.#pending.subarray(0, 4096));
			this.#end += this.#pending.length;
			this.#pending = Buffer.alloc(0);
		}
		return lines;
	}

	/** The last line, where the text does not end with a line's end. */
	rest(): Line[] {
		return this.#pending.length > 0 || this.#dropped ? [this.#line(this.#pending, 0)] : [];
	}

	#line(bytes: Buffer, newline: number): Line {
		this.#number++;
		this.#end += bytes.length + newline;
		const tooLong = this.#dropped !== undefined;
		const kept = this.#dropped ?? bytes;
		this.#dropped = undefined;
		// What is decoded all the same has other characters than the file.
		const problem = tooLong
			? `The line is longer than ${MAX_LINE_BYTES >> 20} MiB.`
			: isUtf8(bytes)
				? undefined
				: 'The line is not UTF-8.';
		let text = kept.toString('utf8');
		let ending: Line['ending'] = newline > 0 ? '\n' : '';
		if (text.endsWith('\r')) {
			text = text.slice(0, -1);
			ending = '\r\n';
		}
		if (this.#number === 1 && text.startsWith('\uFEFF')) text = text.slice(1);
		return { text, ending, number: this.#number, end: this.#end, problem };
	}
}
