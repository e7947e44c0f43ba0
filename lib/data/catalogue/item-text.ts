import { nextTurn, turnIsOver } from '../../event-loop.js';
import { parseShallow } from '../../files/read.js';
import type { Database } from '../database.js';
import type { GenreLayout, LogSource } from '../readers/source.js';
import { cleanText } from './html.js';

export interface CatalogueCounts {
	itemsWithoutTitle: number;
	itemsWithoutDescription: number;
	/** Lines of the item files without an id, or that no item could be read from. */
	unreadableLines: number;
}

/** One item's text as the files hold it. */
export interface RawItem {
	id: string;
	title: string | null;
	description: string | null;
	genres: string | null;
	brand: string | null;
}

export interface ItemText {
	title: string;
	description: string;
	genres: string[];
	hasTitle: boolean;
	hasDescription: boolean;
}

/**
 * Makes table `item_text` (`item, id, title, description, genres`) of the kept items in table `item_index`,
 * cleaning them in batches. Of several lines for one item the first counts.
 *
 * @throws ERR_ALLMREC_FILE_FORMAT
 */
export async function writeItemText(database: Database, source: LogSource): Promise<CatalogueCounts> {
	await database.run('SET preserve_insertion_order = true');
	// A line without an id is of no item, and is kept to be counted.
	const listed = source.items
		? `SELECT item_index.item, source.* FROM (${source.items}) AS source LEFT JOIN item_index USING (id)
			WHERE item_index.item IS NOT NULL OR source.id IS NULL`
		: 'SELECT item, id, NULL::VARCHAR AS title, NULL::VARCHAR AS description, NULL::VARCHAR AS genres, NULL::VARCHAR AS brand FROM item_index WHERE false';
	await database.run(`CREATE TABLE item_line AS ${listed}`, source.files);
	await database.run('SET preserve_insertion_order = false');
	await database.run(
		'CREATE TABLE item_text (item INTEGER, id VARCHAR, title VARCHAR, description VARCHAR, genres VARCHAR[])',
	);
	const [unreadableLines = 0] = await database.numbers('SELECT count(*) FROM item_line WHERE item IS NULL');
	const counts = { itemsWithoutTitle: 0, itemsWithoutDescription: 0, unreadableLines };
	const writer = await database.connect();
	const insert = await writer.prepare(
		`INSERT INTO item_text SELECT e.item, e.id, e.title, e.description, e.genres FROM (SELECT unnest(from_json($1,
		'[{"item": "INTEGER", "id": "VARCHAR", "title": "VARCHAR", "description": "VARCHAR", "genres": ["VARCHAR"]}]')) AS e)`,
	);
	await writer.run('BEGIN');
	// As text, which the database reads in its own threads; an appender would take its time in this one.
	const add = async (rows: readonly string[]) => {
		insert.bindVarchar(1, `[${rows.join(',')}]`);
		await insert.run();
	};
	try {
		for await (const chunk of database.chunks(
			`SELECT item_index.item, item_index.id, title, description, genres, brand FROM item_index LEFT JOIN
			(SELECT * FROM item_line WHERE rowid IN (SELECT min(rowid) FROM item_line GROUP BY item)) AS line USING (item)`,
		)) {
			const columns = [0, 1, 2, 3, 4, 5].map((column) => chunk.getColumnVector(column));
			let batch: string[] = [];
			let length = 0;
			for (let row = 0; row < chunk.rowCount; row++) {
				if (turnIsOver()) await nextTurn();
				const cell = (column: number) => columns[column]!.getItem(row) as string | null;
				const id = cell(1)!;
				const text = itemText(
					{ id, title: cell(2), description: cell(3), genres: cell(4), brand: cell(5) },
					source,
				);
				if (!text.hasTitle) counts.itemsWithoutTitle++;
				if (!text.hasDescription) counts.itemsWithoutDescription++;
				const { title, description, genres } = text;
				const item = columns[0]!.getItem(row) as number;
				const line = JSON.stringify({ item, id, title, description, genres });
				batch.push(line);
				length += line.length;
				if (length < BATCH_LENGTH) continue;
				await add(batch);
				batch = [];
				length = 0;
			}
			if (batch.length > 0) await add(batch);
		}
		await writer.run('COMMIT');
	} finally {
		insert.destroySync();
		writer.closeSync();
	}
	return counts;
}

/** Characters that are handed to the database at once, about. */
const BATCH_LENGTH = 1 << 19;

/** Cleans one item's text and fills its gaps: the id for a title, genres or brand for a description. */
export function itemText(
	raw: RawItem,
	{ descriptionIsJson, genreLayout }: Pick<LogSource, 'descriptionIsJson' | 'genreLayout'>,
): ItemText {
	const title = cleanText(raw.title ?? '');
	const own = cleanText(descriptionIsJson ? jsonTexts(raw.description).join(' ') : (raw.description ?? ''));
	const genres = parseGenres(raw.genres, genreLayout);
	return {
		title: title || raw.id,
		description: own || genres.join(', ') || cleanText(raw.brand ?? ''),
		genres,
		hasTitle: title !== '',
		hasDescription: own !== '',
	};
}

/** The texts of a JSON value: a string, or lists of strings within each other. */
function jsonTexts(json: string | null): string[] {
	if (json === null) return [];
	const collect = (value: unknown): string[] => {
		if (typeof value === 'string') return [value];
		return Array.isArray(value) ? value.flatMap(collect) : [];
	};
	try {
		return collect(parseShallow(json));
	} catch {
		return [json];
	}
}

/** Genres without repetition, in the order of the file. */
function parseGenres(text: string | null, layout: GenreLayout): string[] {
	if (text === null) return [];
	const members =
		layout === 'json' || text.startsWith('["') ? jsonTexts(text) : splitGenres(text.trim(), layout);
	return [...new Set(members.map(cleanText).filter((member) => member !== ''))];
}

function splitGenres(text: string, layout: GenreLayout): string[] {
	// A Python list, as some tables of Amazon's catalogue hold: ['Toys & Games', "Men's"].
	if (/^\[.*\]$/s.test(text))
		// A string without its end runs to the end of the text, or each quote in it would be tried anew.
		return [...text.matchAll(/'((?:[^'\\]|\\.)*)('?)|"((?:[^"\\]|\\.)*)("?)/gs)]
			.filter(([, , single, , double]) => single || double)
			.map(([, a, , b]) => (a ?? b ?? '').replaceAll(/\\(.)/gs, '$1'));
	if (text.includes('|')) return text.split('|');
	return text.split(layout === 'words' ? /\s+/ : /[,;]/);
}
