import { DuckDBDataChunk, INTEGER, LIST, listValue, VARCHAR } from '@duckdb/node-api';
import { nextTurn, turnIsOver } from '../../event-loop.js';
import type { Database } from '../database.js';
import type { GenreLayout, LogSource } from '../readers/source.js';
import { cleanText } from './html.js';

export interface CatalogueCounts {
	itemsWithoutTitle: number;
	itemsWithoutDescription: number;
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
 */
export async function writeItemText(database: Database, source: LogSource): Promise<CatalogueCounts> {
	await database.run('SET preserve_insertion_order = true');
	const listed = source.items
		? `SELECT item_index.item, source.* FROM (${source.items}) AS source JOIN item_index USING (id)`
		: 'SELECT item, id, NULL::VARCHAR AS title, NULL::VARCHAR AS description, NULL::VARCHAR AS genres, NULL::VARCHAR AS brand FROM item_index WHERE false';
	await database.run(`CREATE TABLE item_line AS ${listed}`);
	await database.run('SET preserve_insertion_order = false');
	await database.run(
		'CREATE TABLE item_text (item INTEGER, id VARCHAR, title VARCHAR, description VARCHAR, genres VARCHAR[])',
	);
	const counts = { itemsWithoutTitle: 0, itemsWithoutDescription: 0 };
	const writer = await database.connect();
	const appender = await writer.createAppender('item_text');
	try {
		const types = [INTEGER, VARCHAR, VARCHAR, VARCHAR, LIST(VARCHAR)];
		for await (const chunk of database.chunks(
			`SELECT item_index.item, item_index.id, title, description, genres, brand FROM item_index LEFT JOIN
			(SELECT * FROM item_line WHERE rowid IN (SELECT min(rowid) FROM item_line GROUP BY item)) AS line USING (item)`,
		)) {
			const columns = chunk.getColumns() as (string | null)[][];
			const indices = columns[0] as unknown as number[];
			const texts: ItemText[] = [];
			for (const row of indices.keys()) {
				if (turnIsOver()) await nextTurn();
				texts.push(
					itemText(
						{
							id: columns[1]![row]!,
							title: columns[2]![row]!,
							description: columns[3]![row]!,
							genres: columns[4]![row]!,
							brand: columns[5]![row]!,
						},
						source,
					),
				);
			}
			const output = DuckDBDataChunk.create(types, texts.length);
			output.setColumns([
				indices,
				columns[1]!,
				texts.map(({ title }) => title),
				texts.map(({ description }) => description),
				texts.map(({ genres }) => listValue(genres)),
			]);
			appender.appendDataChunk(output);
			for (const { hasTitle, hasDescription } of texts) {
				if (!hasTitle) counts.itemsWithoutTitle++;
				if (!hasDescription) counts.itemsWithoutDescription++;
			}
		}
		appender.flushSync();
	} finally {
		appender.closeSync();
		writer.closeSync();
	}
	return counts;
}

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

/** The texts of a JSON value: a string, or lists of strings however deep. */
function jsonTexts(json: string | null): string[] {
	if (json === null) return [];
	const collect = (value: unknown): string[] => {
		if (typeof value === 'string') return [value];
		return Array.isArray(value) ? value.flatMap(collect) : [];
	};
	try {
		return collect(JSON.parse(json));
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
		return [...text.matchAll(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/gs)].map(([, a, b]) =>
			(a ?? b ?? '').replaceAll(/\\(.)/gs, '$1'),
		);
	if (text.includes('|')) return text.split('|');
	return text.split(layout === 'words' ? /\s+/ : /[,;]/);
}
