import { join, resolve } from 'node:path';
import type { DuckDBListValue } from '@duckdb/node-api';
import { z } from 'zod';
import { ALLMRecError } from '../errors.js';
import { nextTurn, turnIsOver } from '../event-loop.js';
import { fileRecordsSchema, readSealed, sealSchema, verifyFiles } from '../files/integrity.js';
import { assertReadable, type FileRules, unusable } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import { Database, fileList } from './database.js';
import { DATASET_FORMAT, isFolder, MANIFEST } from './folder.js';
import { nearest, shownId } from './nearest.js';

export type { LogFormat, PrepareOptions } from './prepare.js';

import { type PrepareOptions, writeDataset } from './prepare.js';
import type { PreparationSummary } from './summary.js';

export interface CatalogueItem {
	/** Id in the source; empty for the padding item. */
	id: string;
	/** The id, where the source has no title. */
	title: string;
	/** Genres or brand, where the source has no description; empty without those. */
	description: string;
	genres: readonly string[];
}

/** Every user's interactions, one after the other, ordered by time; ties by the order of the file. */
export interface Sequences {
	/** (numUsers + 1): user u has the entries `offsets[u]` … `offsets[u + 1]`. */
	offsets: Int32Array;
	/** (numInteractions), dense item ids from 1. */
	items: Int32Array;
	/** (numInteractions), as in the source: seconds for Amazon and MovieLens. */
	times: Float64Array;
}

export interface DatasetContents {
	name: string;
	/** By dense id; entry 0 is the padding item. */
	items: CatalogueItem[];
	/** By dense index. */
	userIds: string[];
	sequences: Sequences;
	/** What `prepare` did, for data sets it wrote. */
	summary?: PreparationSummary;
}

export interface OpenOptions {
	signal?: AbortSignal | undefined;
}

const count = z.int().min(0);
const manifestSchema = z.strictObject({
	format: z.literal(DATASET_FORMAT),
	version: z.literal(1),
	name: z.string(),
	numUsers: count,
	numItems: count,
	numInteractions: count,
	density: z.number().optional(),
	options: z.unknown(),
	sources: z.unknown(),
	summary: z.custom<PreparationSummary>((value) => typeof value === 'object' && value !== null),
	/** Not in those of earlier versions. */
	files: fileRecordsSchema.optional(),
	sha256: sealSchema,
});

/** What a damaged data set is answered with. */
const RULES: FileRules = { remedy: 'prepare the data set again' };

const padding: CatalogueItem = { id: '', title: '', description: '', genres: [] };

/**
 * A log with dense ids (items 1 … `numItems` with 0 as padding, users 0 … `numUsers − 1`, both in order of first
 * appearance), a catalogue with clean texts, and one sequence per user. Held in memory; the folder is not needed after `open`.
 */
export class Dataset {
	readonly name: string;
	/** Catalogue by dense id; entry 0 is the padding item. */
	readonly items: readonly CatalogueItem[];
	/** Ids of the source by user index. */
	readonly userIds: readonly string[];
	readonly sequences: Sequences;
	/** What `prepare` read, dropped and kept; undefined for a data set made in memory. */
	readonly summary: PreparationSummary | undefined;
	#itemIndices: Map<string, number> | undefined;
	#userIndices: Map<string, number> | undefined;

	/** Of contents in memory. Most callers want {@link Dataset.open}. */
	constructor({ name, items, userIds, sequences, summary }: DatasetContents) {
		const { offsets } = sequences;
		if (offsets.length !== userIds.length + 1 || offsets[userIds.length] !== sequences.items.length)
			throw new ALLMRecError(
				'ERR_ALLMREC_INVALID_ARGUMENT',
				`Expected \`sequences.offsets\` to have ${userIds.length + 1} entries and to end at ${sequences.items.length}, got ${offsets.length} ending at ${offsets.at(-1)}.`,
			);
		this.name = name;
		this.items = items;
		this.userIds = userIds;
		this.sequences = sequences;
		this.summary = summary;
	}

	/** Items of the catalogue, the padding item not counted. */
	get numItems(): number {
		return this.items.length - 1;
	}

	get numUsers(): number {
		return this.userIds.length;
	}

	get numInteractions(): number {
		return this.sequences.items.length;
	}

	/**
	 * Reads a log, writes the data set folder `options.out` and opens it. See {@link PrepareOptions} for formats and defaults.
	 *
	 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, ERR_ALLMREC_INVALID_ARGUMENT,
	 * ERR_ALLMREC_EMPTY_DATASET if nothing is left, ERR_ALLMREC_OUT_OF_MEMORY if neither memory nor disk suffice.
	 */
	static async prepare(options: PrepareOptions): Promise<Dataset> {
		await writeDataset(options);
		return Dataset.open(options.out, { signal: options.signal });
	}

	/**
	 * Loads a folder written by `prepare`.
	 *
	 * @throws ERR_ALLMREC_FILE_NOT_FOUND if it is not a data set, ERR_ALLMREC_FILE_FORMAT if it is damaged.
	 */
	static async open(folder: string, options: OpenOptions = {}): Promise<Dataset> {
		expectKnown('open', options);
		const { signal } = options;
		const path = resolve(folder);
		const manifest = await readManifest(path);
		const { numItems, numUsers, numInteractions } = manifest;
		if (manifest.files) await verifyFiles(path, manifest.files, RULES, signal);
		const database = await Database.open({ signal, memoryLimit: '1GB' });
		try {
			// The tables count their rows themselves, so that nothing is made room for that is not there.
			const table = async (name: string, rows: number) => {
				const file = join(path, name);
				await assertReadable(file);
				const from = `read_parquet(${fileList([file])})`;
				const [present] = await database.numbers(`SELECT count(*) FROM ${from}`, [file]);
				if (present !== rows)
					throw unusable(file, `it has ${present} rows instead of the ${rows} of ${MANIFEST}`, RULES);
				return { file, from };
			};
			const items = await readItems(database, await table('items.parquet', numItems));
			const userIds = await readUserIds(database, await table('users.parquet', numUsers));
			const sequences = await readSequences(
				database,
				await table('interactions.parquet', numInteractions),
				manifest,
			);
			return new Dataset({ name: manifest.name, items, userIds, sequences, summary: manifest.summary });
		} finally {
			database.close();
		}
	}

	/**
	 * Dense id of an item of the source.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM, with the nearest known id.
	 */
	itemIndex(id: string): number {
		this.#itemIndices ??= new Map(this.items.map((item, index) => [item.id, index]));
		const index = id === '' ? undefined : this.#itemIndices.get(id);
		if (index !== undefined) return index;
		const titled = this.items.find(({ title }) => title !== '' && title.toLowerCase() === id.toLowerCase());
		const near = titled?.id ?? nearest(id, this.#itemIndices.keys());
		const hint = !near
			? ''
			: titled
				? ` It is the title of item ${shownId(near)}.`
				: ` Did you mean ${shownId(near)}?`;
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_ITEM',
			`Item ${shownId(id)} is not in data set ${this.name}.${hint}`,
		);
	}

	/**
	 * Index of a user of the source.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_USER, with the nearest known id.
	 */
	userIndex(id: string): number {
		this.#userIndices ??= new Map(this.userIds.map((user, index) => [user, index]));
		const index = this.#userIndices.get(id);
		if (index !== undefined) return index;
		const near = nearest(id, this.userIds);
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_USER',
			`User ${shownId(id)} is not in data set ${this.name}.${near ? ` Did you mean ${shownId(near)}?` : ''}`,
		);
	}

	/** Dense item ids of one user, by time. A view, not a copy. */
	sequence(user: number): Int32Array {
		const { offsets, items } = this.sequences;
		return items.subarray(offsets[user], offsets[user + 1]);
	}
}

/** {@link Dataset.prepare}. */
export function prepare(options: PrepareOptions): Promise<Dataset> {
	return Dataset.prepare(options);
}

type Manifest = z.output<typeof manifestSchema>;

/** A table of the folder. */
interface Table {
	file: string;
	/** The SQL that reads it. */
	from: string;
}

async function readManifest(path: string): Promise<Manifest> {
	const manifest = await readSealed(join(path, MANIFEST), manifestSchema, RULES);
	if (manifest) return manifest;
	const what = (await isFolder(path)) ? `has no ${MANIFEST}` : 'is not there';
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_NOT_FOUND',
		`The data set folder ${path} ${what}; make one with \`a-llmrec prepare --out ${path} …\`.`,
	);
}

async function readItems(database: Database, { file, from }: Table): Promise<CatalogueItem[]> {
	const items: CatalogueItem[] = [padding];
	const ids = new Set<string>();
	for await (const chunk of database.chunks(
		`SELECT item::INTEGER, id::VARCHAR, title::VARCHAR, description::VARCHAR, genres::VARCHAR[] FROM ${from} ORDER BY item`,
		[file],
	)) {
		const columns = [0, 1, 2, 3, 4].map((column) => chunk.getColumnVector(column));
		for (let row = 0; row < chunk.rowCount; row++) {
			if (turnIsOver()) await nextTurn();
			const [index, id, title, description, list] = columns.map((column) => column.getItem(row));
			const genres = (list as DuckDBListValue | null)?.items;
			if (
				index !== items.length ||
				!isId(id, ids) ||
				typeof title !== 'string' ||
				typeof description !== 'string' ||
				!genres?.every((genre) => typeof genre === 'string')
			)
				throw unusable(file, `item ${items.length} is missing, repeated or incomplete`, RULES);
			items.push({ id, title, description, genres });
		}
	}
	return items;
}

async function readUserIds(database: Database, { file, from }: Table): Promise<string[]> {
	const ids = new Set<string>();
	for await (const chunk of database.chunks(
		`SELECT "user"::INTEGER, id::VARCHAR FROM ${from} ORDER BY "user"`,
		[file],
	))
		for (const [index, id] of chunk.getRows())
			if (index !== ids.size || !isId(id, ids))
				throw unusable(file, `user ${ids.size} is missing, repeated or without an id`, RULES);
	return [...ids];
}

/** An id that is not among those before it, which it joins. */
function isId(id: unknown, known: Set<string>): id is string {
	if (typeof id !== 'string' || id === '' || known.has(id)) return false;
	known.add(id);
	return true;
}

async function readSequences(
	database: Database,
	{ file, from }: Table,
	{ numUsers, numItems, numInteractions }: Manifest,
): Promise<Sequences> {
	const offsets = new Int32Array(numUsers + 1);
	const items = new Int32Array(numInteractions);
	const times = new Float64Array(numInteractions);
	let row = 0;
	let [last, before] = [0, Number.NEGATIVE_INFINITY];
	// The file is in order, and DuckDB keeps the order of a scan.
	for await (const chunk of database.chunks(
		`SELECT "user"::INTEGER, item::INTEGER, time::DOUBLE FROM ${from}`,
		[file],
	)) {
		const [user, item, time] = [0, 1, 2].map((column) => chunk.getColumnVector(column));
		for (let i = 0; i < chunk.rowCount; i++, row++) {
			const u = user!.getItem(i) as number | null;
			const dense = item!.getItem(i) as number | null;
			const at = time!.getItem(i) as number | null;
			if (
				row >= numInteractions ||
				u === null ||
				u < last ||
				u >= numUsers ||
				dense === null ||
				!(dense >= 1 && dense <= numItems) ||
				at === null ||
				!Number.isFinite(at) ||
				(u === last && at < before)
			)
				throw unusable(file, `row ${row} is not in order, or not of the users and items`, RULES);
			[last, before] = [u, at];
			items[row] = dense;
			times[row] = at;
			offsets[u + 1]!++;
		}
	}
	if (row !== numInteractions)
		throw unusable(file, `it has ${row} rows instead of ${numInteractions}`, RULES);
	for (let u = 0; u < numUsers; u++) offsets[u + 1]! += offsets[u]!;
	return { offsets, items, times };
}
