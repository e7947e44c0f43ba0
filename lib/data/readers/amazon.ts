import { parseShallow } from '../../files/read.js';
import { fileList, literal } from '../database.js';
import {
	firstLine,
	type LogSource,
	numberFromText,
	type ReaderInput,
	ratingFromText,
	textOrNull,
} from './source.js';

const reviewFields = [
	'reviewerID',
	'user_id',
	'asin',
	'parent_asin',
	'overall',
	'rating',
	'unixReviewTime',
	'timestamp',
];

/**
 * Amazon Reviews 2018 (`reviewerID, asin, overall, unixReviewTime`) and 2023 (`user_id, parent_asin, rating,
 * timestamp` in milliseconds), JSON lines, gzipped or not. Types are declared, so nothing is sniffed.
 */
export async function amazonSource({ interactions, items }: ReaderInput): Promise<LogSource> {
	const time = numberFromText('coalesce(unixReviewTime, timestamp)');
	return {
		interactions: `SELECT ${textOrNull('coalesce(reviewerID, user_id)')} AS user_id,
			${textOrNull('coalesce(parent_asin, asin)')} AS item_id,
			CASE WHEN unixReviewTime IS NULL AND ${time} > 1e11 THEN ${time} / 1000 ELSE ${time} END AS time,
			${ratingFromText('coalesce(overall, rating)')} AS rating
			FROM ${readJson(
				interactions,
				reviewFields.map((name) => [name, 'VARCHAR']),
			)}`,
		hasRating: true,
		...(items.length > 0 && { items: itemQuery(items), itemFile: items[0] }),
		descriptionIsJson: true,
		genreLayout: 'json',
		files: [...interactions, ...items],
		presentFields: fieldsOf(await firstLine(interactions[0]!)),
	};
}

function itemQuery(files: string[]): string {
	// Some titles of 2018 are pieces of the shop's page; their publishers advise to drop those with `getTime`.
	return `SELECT ${textOrNull('coalesce(parent_asin, asin)')} AS id,
		CASE WHEN title LIKE '%getTime%' THEN NULL ELSE title END AS title,
		description, coalesce(category, categories)::VARCHAR AS genres, coalesce(brand, store) AS brand
		FROM ${readJson(files, [
			['asin', 'VARCHAR'],
			['parent_asin', 'VARCHAR'],
			['title', 'VARCHAR'],
			['description', 'JSON'],
			['category', 'JSON'],
			['categories', 'JSON'],
			['brand', 'VARCHAR'],
			['store', 'VARCHAR'],
		])}`;
}

function readJson(files: string[], columns: [string, string][]): string {
	const declared = columns.map(([name, type]) => `${name}: ${literal(type)}`).join(', ');
	return `read_json(${fileList(files)}, format = 'newline_delimited', ignore_errors = true, columns = {${declared}})`;
}

function fieldsOf(line: string): string[] {
	try {
		const value = parseShallow(line);
		return typeof value === 'object' && value !== null ? Object.keys(value) : [];
	} catch {
		return [];
	}
}
