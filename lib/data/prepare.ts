import { readdir, rm, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { writeJson } from '../files/atomic.js';
import { type FileRecords, recordFiles, sealed } from '../files/integrity.js';
import { writeFolder } from '../files/pending-folder.js';
import { assertReadable } from '../files/read.js';
import { writing } from '../files/write-error.js';
import type { LongCallOptions } from '../progress.js';
import { writeItemText } from './catalogue/item-text.js';
import { filterCore } from './core-filter.js';
import { Database, literal } from './database.js';
import { assertReplaceable, DATASET_FORMAT, isFolder, MANIFEST } from './folder.js';
import { verifyGzip } from './gzip.js';
import { rejectUnknownOptions } from './options.js';
import { amazonSource } from './readers/amazon.js';
import { csvSource } from './readers/csv.js';
import { movielensSource } from './readers/movielens.js';
import { recboleSource } from './readers/recbole.js';
import { type ColumnNames, type LogSource, usualNames } from './readers/source.js';
import type { PreparationSummary } from './summary.js';

export type LogFormat = 'amazon' | 'movielens' | 'recbole' | 'csv';

export interface PrepareOptions extends LongCallOptions {
	/**
	 * Layout of the files: `amazon` (JSON lines of Amazon Reviews 2018 or 2023), `movielens` (a folder, or its
	 * ratings file), `recbole` (atomic files) or `csv` (CSV or Parquet with named columns).
	 */
	format: LogFormat;
	/** Files of interactions, read in this order. */
	interactions: string[];
	/**
	 * Files of items. Default: none; `movielens` finds its own. An item without a title is named by its id; one without
	 * a description gets its genres or categories, or its brand, where the files have such a column.
	 */
	items?: string[] | undefined;
	/** Column names of `csv` and `recbole` files, where they are not the usual ones. */
	columns?: ColumnNames | undefined;
	/** Interactions that each user and each item must have. Default: 5; 1 keeps all. */
	kCore?: number | undefined;
	/** Count once, as the authors' code does, instead of until nothing changes. Default: false. */
	singlePass?: boolean | undefined;
	/** Least rating of an interaction to be kept. Default: none. */
	minRating?: number | undefined;
	/** What to do with a further interaction of the same user and item. Default: `drop`, the earliest stays. */
	duplicates?: 'keep' | 'drop' | undefined;
	/** Folder of the data set. It may exist only if it is empty or a data set, which is then replaced. */
	out: string;
	/** Name of the data set. Default: the name of `out`. */
	name?: string | undefined;
	/** Memory for DuckDB, with unit; the rest is spilled to the disk of `out`. Default: `1GB`. */
	memoryLimit?: string | undefined;
	/** Threads. Default: one per core. */
	threads?: number | undefined;
}

/** Contents of `dataset.json`. */
export interface DatasetManifest {
	format: typeof DATASET_FORMAT;
	version: 1;
	name: string;
	numUsers: number;
	numItems: number;
	numInteractions: number;
	density: number;
	options: Record<string, unknown>;
	/** The files it was made of, by name, with their size in bytes. */
	sources: { name: string; bytes: number }[];
	summary: PreparationSummary;
	/** Its tables as they were written; `open` finds out when they are others. */
	files: FileRecords;
	/** Seal of this file. */
	sha256: string;
}

const known: Record<keyof PrepareOptions, true> = {
	format: true,
	interactions: true,
	items: true,
	columns: true,
	kCore: true,
	singlePass: true,
	minRating: true,
	duplicates: true,
	out: true,
	name: true,
	memoryLimit: true,
	threads: true,
	signal: true,
	onProgress: true,
};

const readers = {
	amazon: amazonSource,
	movielens: movielensSource,
	recbole: recboleSource,
	csv: csvSource,
};

/** The tables of a data set folder. */
const TABLES = ['interactions.parquet', 'items.parquet', 'users.parquet'];

/** Lines that may be malformed before the file is taken to be of another format: ten, or one in a hundred. */
const toleratedLines = (lines: number) => Math.max(10, lines / 100);

/**
 * Reads a log and writes the data set folder: k-core filtered, with dense ids and clean texts. Everything heavy
 * happens in DuckDB, out of core. The folder is written beside its place and renamed at the end.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, ERR_ALLMREC_INVALID_ARGUMENT,
 * ERR_ALLMREC_EMPTY_DATASET if nothing is left, ERR_ALLMREC_OUT_OF_MEMORY if neither memory nor disk suffice,
 * ERR_ALLMREC_WRITE, ERR_ALLMREC_LOCKED while another call or process writes the same folder.
 */
export async function writeDataset(options: PrepareOptions): Promise<DatasetManifest> {
	validate(options);
	const { format, interactions, items = [], columns = {}, out } = options;
	for (const file of [...interactions, ...items])
		if (format !== 'movielens' || !(await isFolder(file))) await assertReadable(file);
	const source = await readers[format]({
		interactions: interactions.map((file) => resolve(file)),
		items: items.map((file) => resolve(file)),
		columns,
	});
	if (options.minRating !== undefined && !source.hasRating)
		invalidArgument('minRating', 'left out, for the files have no ratings', options.minRating);
	return writeFolder(out, `The data set ${out}`, assertReplaceable, (folder) =>
		writeInto(folder, source, options),
	);
}

async function writeInto(
	folder: string,
	source: LogSource,
	options: PrepareOptions,
): Promise<DatasetManifest> {
	const { signal } = options;
	const work = join(folder, 'work');
	const database = await Database.open({
		path: `${work}.duckdb`,
		output: folder,
		memoryLimit: options.memoryLimit ?? '1GB',
		spillFolder: `${work}.spill`,
		...(options.threads && { threads: options.threads }),
		signal,
	});
	let manifest: DatasetManifest;
	try {
		manifest = await fill(database, source, folder, options);
	} finally {
		database.close();
	}
	await removeWork(folder);
	signal?.throwIfAborted();
	return manifest;
}

async function fill(database: Database, source: LogSource, folder: string, options: PrepareOptions) {
	const { kCore = 5, singlePass = false, duplicates = 'drop', minRating } = options;
	const report = new StepReport(database, options);
	await report.step('reading interactions', async () => {
		// Both to their end, so that nothing still runs when one of them fails.
		const [read, verified] = await Promise.allSettled([
			database.run(`CREATE TABLE raw AS ${source.interactions}`, source.files),
			verifyGzip(source.files, options.signal),
		]);
		for (const outcome of [verified, read]) if (outcome.status === 'rejected') throw outcome.reason;
	});
	const counts = await rawCounts(database, source, minRating);
	// From here on order is a column, so DuckDB may do without it, in less memory.
	await database.run('SET preserve_insertion_order = false');
	await report.step('numbering users and items', () => encode(database, minRating));
	if (duplicates === 'drop') await report.step('dropping duplicates', () => dropDuplicates(database));
	const [afterDuplicates = 0] = await database.numbers('SELECT count(*) FROM log');
	const coreRounds = await report.step('filtering to the k-core', () =>
		filterCore(database, kCore, { singlePass, onRound: (round) => report.note(`round ${round}`) }),
	);
	const [left = 0] = await database.numbers('SELECT count(*) FROM log');
	if (left === 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_EMPTY_DATASET',
			`No interaction is left: ${counts.rawLines} lines, ${counts.malformedLines} of them malformed, ${counts.afterRating} after the rating threshold, none after the ${kCore}-core; lower \`kCore\` or \`minRating\`, or check the columns.`,
		);
	await report.step('writing interactions', () => writeInteractions(database, folder));
	const catalogue = await report.step('cleaning item texts', async () => {
		const before = await rejectedLines(database);
		const { unreadableLines, ...texts } = await writeItemText(database, source);
		const rejected = (await rejectedLines(database)) - before;
		const malformedItemLines = rejected + unreadableLines;
		if (source.items && malformedItemLines > 0) {
			const [read = 0] = await database.numbers(`SELECT count(*) FROM (${source.items})`, source.files);
			expectWellFormed(malformedItemLines, read + rejected, { file: source.itemFile, lacks: 'no id' });
		}
		await copy(
			database,
			`SELECT item_text.*, n AS interactions FROM item_text JOIN item_index USING (item) ORDER BY item`,
			join(folder, 'items.parquet'),
		);
		return { ...texts, malformedItemLines };
	});
	const [users = 0, items = 0, medianLength = 0] = await database.numbers(
		'SELECT (SELECT count(*) FROM user_index), (SELECT count(*) FROM item_index), (SELECT median(n) FROM user_index)',
	);
	const summary: PreparationSummary = {
		...counts,
		afterDuplicates,
		coreRounds,
		users,
		items,
		interactions: left,
		density: left / (users * items),
		meanLength: left / users,
		medianLength,
		...catalogue,
	};
	const manifest: DatasetManifest = sealed({
		format: DATASET_FORMAT,
		version: 1 as const,
		name: options.name ?? basename(resolve(options.out)),
		numUsers: users,
		numItems: items,
		numInteractions: left,
		density: summary.density,
		options: {
			format: options.format,
			kCore,
			singlePass,
			duplicates,
			...(minRating !== undefined && { minRating }),
			...(options.columns && { columns: options.columns }),
		},
		sources: await Promise.all(
			source.files.map(async (file) => ({ name: basename(file), bytes: (await stat(file)).size })),
		),
		summary,
		files: await recordFiles(folder, TABLES),
	});
	await writeJson(join(folder, MANIFEST), manifest);
	report.done();
	return manifest;
}

async function rawCounts(database: Database, source: LogSource, minRating: number | undefined) {
	const rejected = await rejectedLines(database);
	const [lines = 0, wellFormed = 0, rated = 0] = await database.numbers(`SELECT count(*),
		count(*) FILTER (WHERE ${wellFormedRow}), count(*) FILTER (WHERE ${wellFormedRow} ${ratingFilter(minRating)}) FROM raw`);
	const rawLines = lines + rejected;
	const malformedLines = rawLines - wellFormed;
	expectWellFormed(malformedLines, rawLines, {
		file: source.files[0]!,
		lacks: 'no user, item or time',
		present: source.presentFields,
	});
	return { rawLines, malformedLines, afterRating: rated };
}

/** @throws ERR_ALLMREC_FILE_FORMAT where more lines are malformed than a file of the right format has */
function expectWellFormed(
	malformed: number,
	lines: number,
	{ file, lacks, present }: { file: string | undefined; lacks: string; present?: string[] },
): void {
	if (malformed === 0 || (malformed <= toleratedLines(lines) && malformed < lines)) return;
	const first = present?.join(', ') || 'nothing that could be read';
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_FORMAT',
		`${malformed} of ${lines} lines of ${file} are malformed (${lacks}, or not to be parsed); check \`format\` and the columns.${present ? ` The first line has: ${first.length <= 1000 ? first : `${first.slice(0, 1000)}…`}.` : ''}`,
	);
}

const wellFormedRow = 'user_id IS NOT NULL AND item_id IS NOT NULL AND time IS NOT NULL';

function ratingFilter(minRating: number | undefined): string {
	return minRating === undefined ? '' : `AND rating >= ${minRating}`;
}

/** Table `log`: codes instead of ids, and the line of the file, which breaks ties in time. */
async function encode(database: Database, minRating: number | undefined): Promise<void> {
	const valid = `FROM raw WHERE ${wellFormedRow} ${ratingFilter(minRating)}`;
	for (const side of ['user', 'item'])
		await database.run(`CREATE TABLE ${side}_code AS SELECT ${side}_id AS id, row_number() OVER ()::INTEGER AS ${side}_code
			FROM (SELECT DISTINCT ${side}_id ${valid})`);
	await database.run(`CREATE TABLE log AS SELECT user_code, item_code, time, rating::FLOAT AS rating, line
		FROM (SELECT user_id, item_id, time, rating, rowid AS line ${valid}) AS valid
		JOIN user_code ON user_code.id = user_id JOIN item_code ON item_code.id = item_id`);
	await database.run('DROP TABLE raw');
}

async function dropDuplicates(database: Database): Promise<void> {
	await database.run(`CREATE TEMP TABLE repeated AS SELECT user_code, item_code FROM log
		GROUP BY user_code, item_code HAVING count(*) > 1`);
	await database.run(`DELETE FROM log WHERE line IN (SELECT line FROM (
		SELECT line, row_number() OVER (PARTITION BY user_code, item_code ORDER BY time, line) AS nth
		FROM log SEMI JOIN repeated USING (user_code, item_code)) WHERE nth > 1)`);
	await database.run('DROP TABLE repeated');
}

/** Dense ids in order of first appearance, and the two tables of the data set that need them. */
async function writeInteractions(database: Database, folder: string): Promise<void> {
	for (const [side, first] of [
		['user', 0],
		['item', 1],
	] as const)
		await database.run(`CREATE TABLE ${side}_index AS
			SELECT (row_number() OVER (ORDER BY first_line) - 1 + ${first})::INTEGER AS ${side}, id, n, ${side}_code
			FROM (SELECT ${side}_code, min(line) AS first_line, count(*)::INTEGER AS n FROM log GROUP BY ${side}_code)
			JOIN ${side}_code USING (${side}_code)`);
	await copy(
		database,
		`SELECT u."user", i.item, time, rating FROM log JOIN user_index AS u USING (user_code) JOIN item_index AS i USING (item_code)
		ORDER BY u."user", time, line`,
		join(folder, 'interactions.parquet'),
	);
	await copy(
		database,
		'SELECT "user", id, n AS interactions FROM user_index ORDER BY "user"',
		join(folder, 'users.parquet'),
	);
}

function copy(database: Database, query: string, file: string): Promise<void> {
	return database.run(
		`COPY (${query}) TO ${literal(file)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880, PRESERVE_ORDER true)`,
	);
}

/** Lines that DuckDB's CSV reader has refused so far in this database. */
async function rejectedLines(database: Database): Promise<number> {
	const [present = 0] = await database.numbers(
		`SELECT count(*) FROM duckdb_tables() WHERE table_name = 'reject_errors'`,
	);
	if (present === 0) return 0;
	const [lines = 0] = await database.numbers(
		// A quote that is never closed takes all lines behind it along; each of them is one.
		`SELECT coalesce(sum(lines), 0) FROM (SELECT 1 + coalesce(max(length(rtrim(csv_line, chr(10))) - length(replace(rtrim(csv_line, chr(10)), chr(10), ''))), 0) AS lines
			FROM reject_errors GROUP BY scan_id, file_id, line)`,
	);
	return lines;
}

async function removeWork(folder: string): Promise<void> {
	for (const entry of await readdir(folder))
		if (entry.startsWith('work.')) await writing(folder, () => rm(join(folder, entry), { recursive: true }));
}

function validate(options: PrepareOptions): void {
	rejectUnknownOptions(options, known);
	if (!Object.hasOwn(readers, options.format))
		invalidArgument('format', `one of ${Object.keys(readers).join(', ')}`, options.format);
	for (const name of ['interactions', 'items'] as const) {
		const files = options[name];
		if (files === undefined && name === 'items') continue;
		if (!Array.isArray(files) || files.some((file) => typeof file !== 'string'))
			invalidArgument(name, 'a list of files', files);
	}
	if (options.interactions.length === 0) invalidArgument('interactions', 'at least one file', undefined);
	for (const role of Object.keys(options.columns ?? {}))
		if (!(role in usualNames))
			invalidArgument('columns', `an object with keys among ${Object.keys(usualNames).join(', ')}`, role);
	const { kCore = 5, minRating, duplicates = 'drop', out, threads } = options;
	if (!Number.isInteger(kCore) || kCore < 1) invalidArgument('kCore', 'a whole number from 1', kCore);
	if (minRating !== undefined && !Number.isFinite(minRating))
		invalidArgument('minRating', 'a number', minRating);
	if (duplicates !== 'keep' && duplicates !== 'drop')
		invalidArgument('duplicates', '`keep` or `drop`', duplicates);
	if (typeof out !== 'string' || out === '') invalidArgument('out', 'a folder', out);
	if (threads !== undefined && (!Number.isInteger(threads) || threads < 1))
		invalidArgument('threads', 'a whole number from 1', threads);
	if (options.memoryLimit !== undefined && !/^\d+(\.\d+)?\s*([KMGT]i?B|%)$/i.test(options.memoryLimit))
		invalidArgument('memoryLimit', 'a size with its unit, like `1GB`', options.memoryLimit);
}

/** Progress in steps, with the fraction DuckDB reports for the running query. */
class StepReport {
	readonly #database: Database;
	readonly #onProgress: PrepareOptions['onProgress'];
	readonly #total: number;
	#finished = 0;
	#message = '';

	constructor(database: Database, { onProgress, duplicates = 'drop' }: PrepareOptions) {
		this.#database = database;
		this.#onProgress = onProgress;
		this.#total = duplicates === 'drop' ? 6 : 5;
	}

	async step<T>(message: string, work: () => Promise<T>): Promise<T> {
		this.#message = message;
		this.#report(0);
		const timer = setInterval(() => {
			const { percentage } = this.#database.connection.progress;
			if (percentage > 0 && percentage < 100) this.#report(percentage / 100);
		}, 500);
		try {
			return await work();
		} finally {
			clearInterval(timer);
			this.#finished++;
		}
	}

	/** A remark on the running step. */
	note(remark: string): void {
		this.#report(0, remark);
	}

	done(): void {
		this.#message = 'done';
		this.#report(0);
	}

	#report(fraction: number, remark?: string): void {
		this.#onProgress?.({
			stage: 'prepare',
			done: Math.min(this.#finished + fraction, this.#total),
			total: this.#total,
			unit: 'steps',
			message: remark ? `${this.#message}, ${remark}` : this.#message,
		});
	}
}
