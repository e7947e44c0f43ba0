import { Database, literal } from '../../data/database.js';
import { invalidArgument } from '../../errors.js';
import { syncFile } from '../../files/atomic.js';
import { writing } from '../../files/write-error.js';
import type { Recommendation } from '../lists.js';

/** Layout of the results. */
export type ResultFormat =
	/** A line for each user: `{"user": …, "recommendations": [{"id": …, …}]}`. */
	| 'jsonl'
	/** A row for each place of a list: user, rank, item, score, cf, llm, fused. */
	| 'parquet';

/** By the file's name. @throws ERR_ALLMREC_INVALID_ARGUMENT for a name that tells none */
export function resultFormatOf(path: string): { format: ResultFormat; gzip: boolean } {
	if (/\.(parquet|pq)$/i.test(path)) return { format: 'parquet', gzip: false };
	if (/\.(jsonl|ndjson|json)(\.gz)?$/i.test(path)) return { format: 'jsonl', gzip: /\.gz$/i.test(path) };
	return invalidArgument('outputFormat', 'given (`jsonl` or `parquet`) where the name does not tell', path);
}

/** Lines of one user in the partial file. For Parquet, whose texts are UTF-8, lone surrogates become U+FFFD. */
export function resultLines(
	format: ResultFormat,
	user: string,
	recommendations: readonly Recommendation[],
): string {
	if (format === 'jsonl') return `${JSON.stringify({ user, recommendations })}\n`;
	let lines = '';
	const name = wellFormed(user);
	for (const { id, rank, score, cf, llm, fused } of recommendations)
		lines += `${JSON.stringify({ user: name, rank, item: wellFormed(id), score, cf, llm, fused })}\n`;
	return lines;
}

function wellFormed(text: string): string {
	return /\p{Cs}/u.test(text) ? Buffer.from(text).toString() : text;
}

const COLUMNS = {
	user: 'VARCHAR',
	rank: 'INTEGER',
	item: 'VARCHAR',
	score: 'FLOAT',
	cf: 'FLOAT',
	llm: 'FLOAT',
	fused: 'FLOAT',
};

/** Writes the lines of a partial file as Parquet, in their order, with bounded memory. */
export async function writeParquet(
	lines: string,
	path: string,
	signal: AbortSignal | undefined,
): Promise<void> {
	const columns = Object.entries(COLUMNS).map(([name, type]) => `"${name}": ${literal(type)}`);
	const files = literal(lines.replaceAll(/[*?[]/g, '[$&]'));
	// One thread: row groups are cut at the same rows every time.
	const database = await Database.open({ output: path, memoryLimit: '1GB', threads: 1, signal });
	try {
		await database.run(
			`COPY (SELECT * FROM read_json(${files}, format = 'newline_delimited', columns = {${columns.join(', ')}}))
			TO ${literal(path)} (FORMAT parquet, COMPRESSION zstd)`,
		);
	} finally {
		database.close();
	}
	await writing(path, () => syncFile(path));
}
