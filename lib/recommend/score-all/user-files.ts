import { type Cell, Database, fileList, identifier } from '../../data/database.js';
import { ALLMRecError, invalidArgument } from '../../errors.js';
import { nextTurn, turnIsOver } from '../../event-loop.js';
import { assertReadable, parseShallow } from '../../files/read.js';
import { csvRows } from './csv-rows.js';
import { type Compression, LineReader } from './lines.js';
import { badRow, type InputPosition, type InputRow, inputRow } from './rows.js';

/** Layout of a file of users. */
export type UserFormat = 'jsonl' | 'csv' | 'parquet';

export interface UserFileOptions {
	/**
	 * Default: by the file's name (`.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.parquet`, `.pq`, and texts with `.gz`
	 * or `.zst` behind).
	 */
	inputFormat?: UserFormat | undefined;
	/** Between the ids of a list in a CSV cell that is no JSON array. Default `|`. */
	listSeparator?: string | undefined;
}

/** Users of a file, in its order. */
export interface UserFile {
	/** Row by row, in chunks, from a position on. */
	rows(from?: InputPosition): AsyncGenerator<InputRow[]>;
	/** The share of the file that lies before a position, 0 … 1. */
	share(position: InputPosition): number;
}

/** Rows of a table that are given at once. */
const ROWS_AT_ONCE = 256;
const START: InputPosition = { rows: 0, bytes: 0 };

/** @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_INVALID_ARGUMENT for a name that tells no format */
export async function openUsers(
	path: string,
	{ inputFormat, listSeparator = '|', signal }: UserFileOptions & { signal?: AbortSignal | undefined } = {},
): Promise<UserFile> {
	await assertReadable(path);
	if (listSeparator === '') invalidArgument('listSeparator', 'at least one character', listSeparator);
	const [bare, compression] = uncompressed(path);
	const format = inputFormat ?? userFormatOf(bare);
	if (format === 'parquet') return new ParquetUsers(path, signal);
	if (format !== 'csv' && format !== 'jsonl')
		invalidArgument('inputFormat', '`jsonl`, `csv` or `parquet`', format);
	const reader = new LineReader(path, compression, signal);
	return {
		rows: (from = START) =>
			format === 'csv' ? csvRows(reader, path, from, listSeparator) : jsonRows(reader, from),
		share: ({ bytes }) => reader.share(bytes),
	};
}

/** A file's name without what tells its compression. */
function uncompressed(path: string): [name: string, Compression] {
	const match = /\.(gz|zst)$/i.exec(path);
	if (!match) return [path, 'none'];
	return [path.slice(0, match.index), match[1]!.toLowerCase() === 'gz' ? 'gzip' : 'zstd'];
}

function userFormatOf(name: string): UserFormat {
	const ending = /\.(\w+)$/.exec(name)?.[1]?.toLowerCase() ?? '';
	if (['jsonl', 'ndjson', 'json'].includes(ending)) return 'jsonl';
	if (['csv', 'tsv'].includes(ending)) return 'csv';
	if (['parquet', 'pq'].includes(ending)) return 'parquet';
	return invalidArgument(
		'inputFormat',
		'given (`jsonl`, `csv` or `parquet`) where the name does not tell',
		name,
	);
}

async function* jsonRows(reader: LineReader, from: InputPosition): AsyncGenerator<InputRow[]> {
	for await (const lines of reader.lines(from)) {
		const rows: InputRow[] = [];
		for (const { text, number, end, problem } of lines) {
			const behind = { rows: number, bytes: end };
			if (problem) rows.push(badRow(problem, number, text, behind));
			else if (text.trim() !== '') rows.push(parseJsonRow(text, number, behind));
		}
		yield rows;
	}
}

function parseJsonRow(text: string, number: number, end: InputPosition): InputRow {
	let value: unknown;
	try {
		value = parseShallow(text);
	} catch {
		return badRow('The line is not JSON.', number, text, end);
	}
	return inputRow(value, number, text, end);
}

/** A Parquet file with the column `history` and perhaps `user` and `candidates`; lists are LIST or JSON text. */
class ParquetUsers implements UserFile {
	readonly #path: string;
	readonly #signal: AbortSignal | undefined;
	#total = 1;

	constructor(path: string, signal: AbortSignal | undefined) {
		this.#path = path;
		this.#signal = signal;
	}

	share({ rows }: InputPosition): number {
		return rows / Math.max(1, this.#total);
	}

	async *rows(from = START): AsyncGenerator<InputRow[]> {
		const file = fileList([this.#path]);
		// One thread reads far faster than a language model scores, and in the file's order.
		const database = await Database.open({ memoryLimit: '512MB', threads: 1, signal: this.#signal });
		try {
			const types = columnTypes(
				await database.rows(`DESCRIBE SELECT * FROM read_parquet(${file})`, [this.#path]),
			);
			if (!types.has('history'))
				throw new ALLMRecError(
					'ERR_ALLMREC_FILE_FORMAT',
					`${this.#path} has no column \`history\`; its columns are ${[...types.keys()].join(', ')}.`,
				);
			[this.#total = 0] = await database.numbers(`SELECT count(*) FROM read_parquet(${file})`, [this.#path]);
			const query = `SELECT file_row_number, ${userColumn(types)}, ${listColumn(types, 'history')},
				${listColumn(types, 'candidates')}
				FROM read_parquet(${file}, file_row_number = true) WHERE file_row_number >= ${from.rows}`;
			for await (const chunk of database.chunks(query, [this.#path])) {
				const columns = [0, 1, 2, 3].map((column) => chunk.getColumnVector(column));
				for (let first = 0; first < chunk.rowCount; first += ROWS_AT_ONCE) {
					const rows: InputRow[] = [];
					for (let row = first; row < Math.min(chunk.rowCount, first + ROWS_AT_ONCE); row++) {
						if (turnIsOver()) await nextTurn(this.#signal);
						rows.push(tableRow(columns.map((column) => column.getItem(row) as string | bigint | null)));
					}
					yield rows;
				}
			}
		} finally {
			database.close();
		}
	}
}

/** By lower-case name. */
function columnTypes(rows: readonly Cell[][]): Map<string, { name: string; type: string }> {
	return new Map(
		rows.map(([name, type]) => [String(name).toLowerCase(), { name: String(name), type: String(type) }]),
	);
}

type ColumnTypes = ReturnType<typeof columnTypes>;

function userColumn(types: ColumnTypes): string {
	const column = types.get('user');
	return column ? `to_json(${identifier(column.name)}::VARCHAR)::VARCHAR` : 'NULL';
}

function listColumn(types: ColumnTypes, name: string): string {
	const column = types.get(name);
	if (!column) return 'NULL';
	const quoted = identifier(column.name);
	return column.type.endsWith('[]') ? `to_json(${quoted}::VARCHAR[])::VARCHAR` : `${quoted}::VARCHAR`;
}

function tableRow([index, user, history, candidates]: (string | bigint | null)[]): InputRow {
	const row = Number(index) + 1;
	const end = { rows: row, bytes: 0 };
	// As JSON, for DuckDB's client takes a byte order mark away.
	const name = typeof user === 'string' ? (JSON.parse(user) as string) : undefined;
	const raw = `${name ?? ''}\t${history ?? ''}\t${candidates ?? ''}`;
	const list = (cell: string | bigint | null | undefined): unknown => {
		if (cell === null || cell === undefined) return undefined;
		try {
			return parseShallow(String(cell));
		} catch {
			return cell;
		}
	};
	return inputRow({ user: name, history: list(history), candidates: list(candidates) }, row, raw, end);
}
