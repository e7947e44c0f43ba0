import { identifier } from '../database.js';
import { columnNames, commonHeader, readCsv } from './delimited.js';
import {
	type GenreLayout,
	type LogSource,
	type ReaderInput,
	ratingFromText,
	resolveColumn,
	textOrNull,
	timeFromText,
} from './source.js';

/** RecBole's atomic files: tab separated, no quoting, header `name:type`. */
export async function recboleSource({ interactions, items, columns }: ReaderInput): Promise<LogSource> {
	const log = parseHeader(await commonHeader(interactions), interactions[0]!);
	const inFile = { file: interactions[0]! };
	const user = resolveColumn('user', columns, log.names, { required: true, ...inFile })!;
	const item = resolveColumn('item', columns, log.names, { required: true, ...inFile })!;
	const time = resolveColumn('time', columns, log.names, { required: false, ...inFile });
	const rating = resolveColumn('rating', columns, log.names, { required: false, ...inFile });
	const layout = { delimiter: '\t', quote: '', header: true } as const;
	const source: LogSource = {
		interactions: `SELECT ${textOrNull(identifier(user))} AS user_id, ${textOrNull(identifier(item))} AS item_id,
			${time ? timeFromText(identifier(time)) : '0::DOUBLE'} AS time,
			${rating ? ratingFromText(identifier(rating)) : 'NULL::DOUBLE'} AS rating
			FROM ${readCsv(interactions, { ...layout, columns: log.names })}`,
		hasRating: rating !== undefined,
		descriptionIsJson: false,
		genreLayout: 'separated',
		files: [...interactions, ...items],
		presentFields: log.names,
	};
	if (items.length === 0) return source;
	source.itemFile = items[0];
	const catalogue = parseHeader(await commonHeader(items), items[0]!);
	const { query, genres } = itemColumns(items[0]!, { id: item, ...columns }, catalogue.names);
	source.items = `${query} FROM ${readCsv(items, { ...layout, columns: catalogue.names })}`;
	source.genreLayout = genreLayoutOf(catalogue.types.get(genres ?? ''));
	return source;
}

/** The select list of a catalogue whose columns are all text. */
export function itemColumns(file: string, columns: Parameters<typeof resolveColumn>[1], present: string[]) {
	const known =
		columns.id !== undefined && !present.includes(columns.id) ? { ...columns, id: undefined } : columns;
	const id = resolveColumn('id', known, present, { required: true, file })!;
	const optional = (role: 'title' | 'description' | 'genres' | 'brand') =>
		resolveColumn(role, columns, present, { required: false, file });
	const genres = optional('genres');
	const select = (name: string | undefined) => (name ? `${identifier(name)}::VARCHAR` : 'NULL::VARCHAR');
	return {
		query: `SELECT ${textOrNull(select(id))} AS id, ${select(optional('title'))} AS title,
			${select(optional('description'))} AS description, ${select(genres)} AS genres, ${select(optional('brand'))} AS brand`,
		genres,
	};
}

function parseHeader(header: string, file: string) {
	const fields = header.split('\t').map((field) => {
		const [, name = field, type = ''] = /^(.*):(.*)$/s.exec(field.trim()) ?? [];
		return { name: name.trim(), type };
	});
	const names = columnNames(
		fields.map(({ name }) => name),
		file,
	);
	return { names, types: new Map(names.map((name, i) => [name, fields[i]!.type])) };
}

/** RecBole separates the members of a `token_seq` by spaces. */
function genreLayoutOf(type: string | undefined): GenreLayout {
	return type === 'token_seq' ? 'words' : 'separated';
}
