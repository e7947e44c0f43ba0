import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, type Gunzip } from 'node:zlib';
import { ALLMRecError } from '../errors.js';

/**
 * Reads gzipped files to their end, one after the other; others are passed over. DuckDB takes a file that was cut
 * off for a shorter one, so a broken download would go unnoticed.
 *
 * @throws ERR_ALLMREC_FILE_FORMAT
 */
export async function verifyGzip(files: readonly string[], signal?: AbortSignal): Promise<void> {
	for (const file of files) {
		if (!file.endsWith('.gz')) continue;
		const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() });
		const gunzip = createGunzip({ chunkSize: 1 << 20 });
		try {
			await pipeline(createReadStream(file, { highWaterMark: 1 << 20 }), gunzip, nowhere, { signal });
			expectReadWhole(gunzip, (await stat(file)).size);
		} catch (cause) {
			signal?.throwIfAborted();
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${file} is cut off or damaged (${cause instanceof Error ? cause.message : cause}); fetch it again.`,
				{ cause },
			);
		}
	}
}

/**
 * Expects a decompressor to have read all of a file. It ends without an error at whatever does not begin as a further
 * member, so that behind one damaged header everything would be missing.
 *
 * @param size of the compressed file, in bytes
 */
export function expectReadWhole(gunzip: Gunzip, size: number): void {
	if (gunzip.bytesWritten < size)
		throw new Error(`what stands behind byte ${gunzip.bytesWritten} of ${size} is not gzip`);
}
