import { readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ALLMRecError } from '../../errors.js';
import { assertReadable } from '../../files/read.js';
import { identifier, literal } from '../database.js';
import { isFolder } from '../folder.js';
import { readCsv } from './delimited.js';
import {
	firstLine,
	type LogSource,
	numberFromText,
	type ReaderInput,
	ratingFromText,
	textOrNull,
} from './source.js';

interface Release {
	ratings: string;
	movies: string;
	layout: { delimiter: string; quote: '"' | ''; header: boolean; encoding: 'utf-8' | 'latin-1' };
}

/** 100k; 1m and 10m; 20m, 25m, 32m and latest. */
const releases: readonly Release[] = [
	{
		ratings: 'ratings.csv',
		movies: 'movies.csv',
		layout: { delimiter: ',', quote: '"', header: true, encoding: 'utf-8' },
	},
	{
		ratings: 'ratings.dat',
		movies: 'movies.dat',
		layout: { delimiter: '::', quote: '', header: false, encoding: 'latin-1' },
	},
	{
		ratings: 'u.data',
		movies: 'u.item',
		layout: { delimiter: '\t', quote: '', header: false, encoding: 'latin-1' },
	},
];

/** Genres of the 100k release, one flag column each, in the order of its `u.genre`. */
const genres100k =
	"unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western".split(
		'|',
	);

/** A MovieLens folder, or its ratings file; the movies file is taken from beside it unless given. */
export async function movielensSource({ interactions, items }: ReaderInput): Promise<LogSource> {
	const { release, ratings, movies } = await locate(interactions[0]!, items);
	await assertReadable(ratings);
	const columns = ['user', 'item', 'rating', 'time'];
	const source: LogSource = {
		interactions: `SELECT ${textOrNull(identifier('user'))} AS user_id, ${textOrNull('item')} AS item_id,
			${numberFromText('time')} AS time, ${ratingFromText('rating')} AS rating
			FROM ${readCsv([ratings], { ...release.layout, columns })}`,
		hasRating: true,
		descriptionIsJson: false,
		genreLayout: 'separated',
		files: movies ? [ratings, movies] : [ratings],
		presentFields: (await firstLine(ratings)).split(release.layout.delimiter),
	};
	if (movies) {
		await assertReadable(movies);
		source.items = release.movies === 'u.item' ? query100k(movies) : query(movies, release);
		source.itemFile = movies;
	}
	return source;
}

function query(movies: string, { layout }: Release): string {
	return `SELECT ${textOrNull('id')} AS id, title, NULL::VARCHAR AS description,
		nullif(genres, '(no genres listed)') AS genres, NULL::VARCHAR AS brand
		FROM ${readCsv([movies], { ...layout, columns: ['id', 'title', 'genres'] })}`;
}

function query100k(movies: string): string {
	const flags = genres100k.map((_, i) => `flag${i}`);
	const picked = genres100k.map((genre, i) => `CASE WHEN flag${i} = '1' THEN ${literal(genre)} END`);
	const from = readCsv([movies], {
		delimiter: '|',
		quote: '',
		header: false,
		encoding: 'latin-1',
		columns: ['id', 'title', 'released', 'video', 'url', ...flags],
	});
	return `SELECT ${textOrNull('id')} AS id, title, NULL::VARCHAR AS description,
		concat_ws('|', ${picked.join(', ')}) AS genres, NULL::VARCHAR AS brand FROM ${from}`;
}

async function locate(given: string, items: string[]) {
	const inFolder = await isFolder(given);
	const folder = inFolder ? given : dirname(given);
	const names = await readdir(folder).catch(() => [] as string[]);
	const file = inFolder ? undefined : basename(given);
	const matches = (name: string, expected: string) => name === expected || name === `${expected}.gz`;
	for (const release of releases) {
		const ratings = file === undefined ? names.find((name) => matches(name, release.ratings)) : file;
		if (ratings === undefined || !matches(ratings, release.ratings)) continue;
		const beside = names.find((name) => matches(name, release.movies));
		return {
			release,
			ratings: join(folder, ratings),
			movies: items[0] ?? (beside && join(folder, beside)),
		};
	}
	const expected = releases.map(({ ratings }) => `\`${ratings}\``).join(', ');
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_NOT_FOUND',
		inFolder
			? `The folder ${given} holds none of ${expected}; give the folder of a MovieLens release.`
			: `${given} is not named as a MovieLens ratings file (${expected}); name it so, or use the csv format with \`columns\`.`,
	);
}
