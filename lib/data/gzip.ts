import { createReadStream } from 'node:fs';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
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
		try {
			await pipeline(
				createReadStream(file, { highWaterMark: 1 << 20 }),
				createGunzip({ chunkSize: 1 << 20 }),
				nowhere,
				{ signal },
			);
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
