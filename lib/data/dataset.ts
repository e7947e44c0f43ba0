import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { DuckDBListValue } from '@duckdb/node-api';
import { z } from 'zod';
import { ALLMRecError } from '../errors.js';
import { nextTurn, turnIsOver } from '../event-loop.js';
import { Database, fileList } from './database.js';
import { assertReadable, DATASET_FORMAT, isFolder, MANIFEST } from './folder.js';
import { nearest } from './nearest.js';

export type { LogFormat, PrepareOptions } from './prepare.js';

import { type DatasetManifest, type PrepareOptions, writeDataset } from './prepare.js';
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

const count = z.number().int().nonnegative();
const manifestSchema = z.object({
	format: z.literal(DATASET_FORMAT),
	version: z.literal(1),
	name: z.string(),
	numUsers: count,
	numItems: count,
	numInteractions: count,
	summary: z.custom<PreparationSummary>((value) => typeof value === 'object' && value !== null),
});

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
	static async open(folder: string, { signal }: OpenOptions = {}): Promise<Dataset> {
		const path = resolve(folder);
		const manifest = await readManifest(path);
		const database = await Database.open({ signal, memoryLimit: '1GB' });
		try {
			const from = async (file: string) => {
				await assertReadable(join(path, file));
				return `read_parquet(${fileList([join(path, file)])})`;
			};
			const items = await readItems(database, await from('items.parquet'));
			const userIds = await readUserIds(database, await from('users.parquet'));
			const sequences = await readSequences(database, await from('interactions.parquet'), manifest);
			if (items.length - 1 !== manifest.numItems || userIds.length !== manifest.numUsers)
				throw damaged(path, 'its files do not have the counts of its dataset.json');
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
		const hint = titled ? ` It is the title of item \`${near}\`.` : near ? ` Did you mean \`${near}\`?` : '';
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_ITEM',
			`Item \`${id}\` is not in data set ${this.name}.${hint}`,
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
			`User \`${id}\` is not in data set ${this.name}.${near ? ` Did you mean \`${near}\`?` : ''}`,
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

type Manifest = Pick<DatasetManifest, 'name' | 'numUsers' | 'numItems' | 'numInteractions' | 'summary'>;

async function readManifest(path: string): Promise<Manifest> {
	let text: string;
	try {
		text = await readFile(join(path, MANIFEST), 'utf8');
	} catch (cause) {
		const what = (await isFolder(path)) ? `has no ${MANIFEST}` : 'is not there';
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The data set folder ${path} ${what}; make one with \`a-llmrec prepare --out ${path} …\`.`,
			{ cause },
		);
	}
	let json: unknown;
	try {
		json = JSON.parse(text);
	} catch (cause) {
		throw damaged(path, `its ${MANIFEST} is not JSON`, cause);
	}
	const parsed = manifestSchema.safeParse(json);
	if (parsed.success) return parsed.data;
	const [issue] = parsed.error.issues;
	throw damaged(path, `\`${issue?.path.join('.')}\` of its ${MANIFEST}: ${issue?.message}`, parsed.error);
}

function damaged(path: string, what: string, cause?: unknown): ALLMRecError {
	return new ALLMRecError(
		'ERR_ALLMREC_FILE_FORMAT',
		`The data set ${path} cannot be used: ${what}; prepare it again.`,
		{ cause },
	);
}

async function readItems(database: Database, from: string): Promise<CatalogueItem[]> {
	const items: CatalogueItem[] = [padding];
	for await (const chunk of database.chunks(
		`SELECT id, title, description, genres FROM ${from} ORDER BY item`,
	)) {
		const [ids, titles, descriptions, genres] = [0, 1, 2, 3].map((column) => chunk.getColumnVector(column));
		for (let row = 0; row < chunk.rowCount; row++) {
			if (turnIsOver()) await nextTurn();
			items.push({
				id: ids!.getItem(row) as string,
				title: titles!.getItem(row) as string,
				description: descriptions!.getItem(row) as string,
				genres: (genres!.getItem(row) as DuckDBListValue).items as string[],
			});
		}
	}
	return items;
}

async function readUserIds(database: Database, from: string): Promise<string[]> {
	const ids: string[] = [];
	for await (const chunk of database.chunks(`SELECT id FROM ${from} ORDER BY "user"`))
		for (const id of chunk.getColumnValues(0) as string[]) ids.push(id);
	return ids;
}

async function readSequences(
	database: Database,
	from: string,
	{ numUsers, numItems, numInteractions }: Manifest,
): Promise<Sequences> {
	const offsets = new Int32Array(numUsers + 1);
	const items = new Int32Array(numInteractions);
	const times = new Float64Array(numInteractions);
	let row = 0;
	let last = 0;
	// The file is in order, and DuckDB keeps the order of a scan.
	for await (const chunk of database.chunks(`SELECT "user", item, time FROM ${from}`)) {
		const [user, item, time] = [0, 1, 2].map((column) => chunk.getColumnVector(column));
		for (let i = 0; i < chunk.rowCount; i++, row++) {
			const u = user!.getItem(i) as number;
			const dense = item!.getItem(i) as number;
			if (row >= numInteractions || u < last || u >= numUsers || !(dense >= 1 && dense <= numItems))
				throw new ALLMRecError(
					'ERR_ALLMREC_FILE_FORMAT',
					`interactions.parquet is not in order or holds ids that are not in the catalogue (row ${row}); prepare the data set again.`,
				);
			last = u;
			items[row] = dense;
			times[row] = time!.getItem(i) as number;
			offsets[u + 1]!++;
		}
	}
	if (row !== numInteractions)
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`interactions.parquet has ${row} rows instead of ${numInteractions}; prepare the data set again.`,
		);
	for (let u = 0; u < numUsers; u++) offsets[u + 1]! += offsets[u]!;
	return { offsets, items, times };
}
