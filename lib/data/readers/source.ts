import { createReadStream } from 'node:fs';
import { createGunzip } from 'node:zlib';
import { ALLMRecError } from '../../errors.js';

/** Names of the columns in the files, where they are not the usual ones. */
export interface ColumnNames {
	/** User of an interaction. */
	user?: string;
	/** Item of an interaction. */
	item?: string;
	/** Time of an interaction. */
	time?: string;
	/** Rating of an interaction. */
	rating?: string;
	/** Item of a line in the item files; default: the name given for `item`, or a usual one. */
	id?: string;
	title?: string;
	description?: string;
	/** Genres or categories. */
	genres?: string;
	brand?: string;
}

/** How the text of a genres column is taken apart. */
export type GenreLayout = 'json' | 'words' | 'separated';

/** A log as SQL: what `prepare` reads, whatever the format of the files. */
export interface LogSource {
	/**
	 * Selects `user_id VARCHAR, item_id VARCHAR, time DOUBLE, rating DOUBLE` in the order of the files.
	 * A malformed line has NULL as its user, item or time; a line without a rating has NULL there.
	 */
	interactions: string;
	hasRating: boolean;
	/** Selects `id, title, description, genres, brand`, all VARCHAR, in the order of the files. */
	items?: string;
	/** `description` is JSON: a string, or a list of them. */
	descriptionIsJson: boolean;
	genreLayout: GenreLayout;
	/** All files behind the two queries. */
	files: string[];
	/** The first file behind `items`, for messages. */
	itemFile?: string | undefined;
	/** What the first line of the interactions holds, for messages. */
	presentFields: string[];
}

export interface ReaderInput {
	interactions: string[];
	items: string[];
	columns: ColumnNames;
}

/** Names tried in this order where `columns` says nothing. */
export const usualNames: Record<keyof ColumnNames, readonly string[]> = {
	user: ['user', 'user_id', 'userId', 'reviewerID'],
	item: ['item', 'item_id', 'itemId', 'movieId', 'asin', 'parent_asin'],
	time: ['time', 'timestamp', 'unixReviewTime', 'date'],
	rating: ['rating', 'overall', 'stars'],
	id: ['id', 'item', 'item_id', 'itemId', 'movieId', 'asin', 'parent_asin'],
	title: ['title', 'name', 'movie_title'],
	description: ['description', 'overview', 'summary', 'text'],
	genres: ['genres', 'genre', 'class', 'categories', 'category', 'tags'],
	brand: ['brand', 'store'],
};

/** Finds the column of a role; an unknown name given by the caller is an error that lists the present ones. */
export function resolveColumn(
	role: keyof ColumnNames,
	columns: ColumnNames,
	present: readonly string[],
	{ required, file }: { required: boolean; file: string },
): string | undefined {
	const asked = columns[role];
	const listed = `its columns are ${present.map((name) => `\`${name}\``).join(', ')}`;
	if (asked !== undefined) {
		if (present.includes(asked)) return asked;
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`Column \`${asked}\` (\`columns.${role}\`) is not in ${file}; ${listed}.`,
		);
	}
	const found =
		usualNames[role].find((name) => present.includes(name)) ??
		present.find((name) => usualNames[role].some((usual) => usual.toLowerCase() === name.toLowerCase()));
	if (found === undefined && required)
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`No column of ${file} looks like the ${role}; name it with \`columns.${role}\`: ${listed}.`,
		);
	return found;
}

/** Longest line that is read, in bytes. DuckDB's readers are given the same. */
const MAX_FIRST_LINE = 1 << 24;

/** First line of a text file, gzipped or not, without its line end. */
export async function firstLine(path: string): Promise<string> {
	const raw = createReadStream(path);
	const stream = path.endsWith('.gz') ? raw.pipe(createGunzip()) : raw;
	raw.on('error', (error) => stream.destroy(error));
	const parts: Buffer[] = [];
	let length = 0;
	let whole = false;
	try {
		for await (const part of stream as AsyncIterable<Buffer>) {
			const end = part.indexOf(10);
			parts.push(end < 0 ? part : part.subarray(0, end));
			length += part.length;
			whole = end >= 0;
			if (whole || length > MAX_FIRST_LINE) break;
		}
	} catch (cause) {
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`${path} cannot be read: ${cause instanceof Error ? cause.message : cause}.`,
			{ cause },
		);
	} finally {
		raw.destroy();
	}
	if (!whole && length > MAX_FIRST_LINE)
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`${path} cannot be used: its first line has more than ${MAX_FIRST_LINE} bytes; check \`format\`.`,
		);
	return Buffer.concat(parts)
		.toString('utf8')
		.replace(/^\ufeff/, '')
		.replace(/\r$/, '');
}

/** SQL that makes seconds, or NULL, of a text column that holds numbers or ISO 8601 times. */
export function timeFromText(column: string): string {
	return `CASE WHEN isfinite(TRY_CAST(${column} AS DOUBLE)) THEN TRY_CAST(${column} AS DOUBLE) ELSE epoch(TRY_CAST(${column} AS TIMESTAMP)) END`;
}

/** SQL that makes a finite number, or NULL, of a text column. */
export function numberFromText(column: string): string {
	return `CASE WHEN isfinite(TRY_CAST(${column} AS DOUBLE)) THEN TRY_CAST(${column} AS DOUBLE) END`;
}

/** {@link numberFromText} of what has to fit into a float32. */
export function ratingFromText(column: string): string {
	return `CASE WHEN isfinite(TRY_CAST(${column} AS FLOAT)) THEN TRY_CAST(${column} AS DOUBLE) END`;
}

/**
 * Unicode's spaces, and the byte order mark, which DuckDB's own interface drops from the beginning of a text: two ids
 * would come out as one.
 */
const BLANKS =
	'\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\ufeff';

/** SQL of an id without blanks around it, NULL where nothing is left. */
export function textOrNull(column: string): string {
	return `nullif(trim(${column}, '${BLANKS}'), '')`;
}
