import { invalidArgument } from '../../errors.js';
import { Database, fileList, identifier } from '../database.js';
import { columnNames, commonHeader, guessDelimiter, readCsv, splitLine } from './delimited.js';
import { itemColumns } from './recbole.js';
import {
	type LogSource,
	type ReaderInput,
	ratingFromText,
	resolveColumn,
	textOrNull,
	timeFromText,
} from './source.js';

interface Table {
	from: string;
	columns: string[];
	/** DuckDB type by column; CSV columns are all VARCHAR. */
	types: Map<string, string>;
}

/** CSV (`.csv`, `.tsv`, gzipped or not; delimiter found in the header) or Parquet, with columns by name. */
export async function csvSource({ interactions, items, columns }: ReaderInput): Promise<LogSource> {
	const log = await openTable(interactions);
	const inFile = { file: interactions[0]! };
	const user = resolveColumn('user', columns, log.columns, { required: true, ...inFile })!;
	const item = resolveColumn('item', columns, log.columns, { required: true, ...inFile })!;
	const time = resolveColumn('time', columns, log.columns, { required: false, ...inFile });
	const rating = resolveColumn('rating', columns, log.columns, { required: false, ...inFile });
	const source: LogSource = {
		interactions: `SELECT ${textOrNull(`${identifier(user)}::VARCHAR`)} AS user_id,
			${textOrNull(`${identifier(item)}::VARCHAR`)} AS item_id,
			${time ? timeColumn(time, log) : '0::DOUBLE'} AS time,
			${rating ? ratingFromText(identifier(rating)) : 'NULL::DOUBLE'} AS rating FROM ${log.from}`,
		hasRating: rating !== undefined,
		descriptionIsJson: false,
		genreLayout: 'separated',
		files: [...interactions, ...items],
		presentFields: log.columns,
	};
	if (items.length === 0) return source;
	source.itemFile = items[0];
	const catalogue = await openTable(items);
	const { query } = itemColumns(items[0]!, { id: item, ...columns }, catalogue.columns);
	source.items = `${query} FROM ${catalogue.from}`;
	return source;
}

function timeColumn(name: string, { types }: Table): string {
	const column = identifier(name);
	return /^(TIMESTAMP|DATE)/.test(types.get(name) ?? '')
		? `epoch(${column}::TIMESTAMP)`
		: timeFromText(`${column}::VARCHAR`);
}

async function openTable(files: string[]): Promise<Table> {
	const parquet = files.filter((file) => /\.(parquet|pq)$/i.test(file));
	if (parquet.length > 0) {
		if (parquet.length < files.length)
			invalidArgument('interactions', 'files of one kind, CSV or Parquet', files.join(', '));
		return describeParquet(files);
	}
	const header = await commonHeader(files);
	const delimiter = /\.(tsv|tab)(\.gz)?$/i.test(files[0]!) ? '\t' : guessDelimiter(header);
	const columns = columnNames(splitLine(header, delimiter), files[0]!);
	return {
		from: readCsv(files, { delimiter, quote: '"', header: true, columns }),
		columns,
		types: new Map(),
	};
}

async function describeParquet(files: string[]): Promise<Table> {
	const from = `read_parquet(${fileList(files)})`;
	const database = await Database.open({ memoryLimit: '1GB' });
	try {
		const rows = await database.rows(`DESCRIBE SELECT * FROM ${from}`, files);
		const types = new Map(rows.map(([name, type]) => [String(name), String(type)]));
		// A list is read as its JSON text, which the genre parser knows.
		const lists = [...types].filter(([, type]) => type.endsWith('[]')).map(([name]) => name);
		const replaced = lists.map((name) => `to_json(${identifier(name)})::VARCHAR AS ${identifier(name)}`);
		return {
			from: replaced.length > 0 ? `(SELECT * REPLACE (${replaced.join(', ')}) FROM ${from}) AS listed` : from,
			columns: [...types.keys()],
			types,
		};
	} finally {
		database.close();
	}
}
