import { ALLMRecError } from '../../errors.js';
import { fileList, literal } from '../database.js';
import { firstLine } from './source.js';

export interface Layout {
	delimiter: string;
	/** Quote character; empty where quotes are ordinary characters. */
	quote: '"' | '';
	header: boolean;
	columns: readonly string[];
	encoding?: 'utf-8' | 'latin-1';
}

/** `read_csv(…)` with everything declared; a line that does not fit goes to DuckDB's `reject_errors`. */
export function readCsv(files: readonly string[], layout: Layout): string {
	const columns = layout.columns.map((name) => `${literal(name)}: 'VARCHAR'`).join(', ');
	return `read_csv(${fileList(files)}, auto_detect = false, header = ${layout.header}, delim = ${literal(layout.delimiter)},
		quote = ${literal(layout.quote)}, escape = ${literal(layout.quote)}, encoding = ${literal(layout.encoding ?? 'utf-8')},
		columns = {${columns}}, max_line_size = 16777216, ignore_errors = true, store_rejects = true)`;
}

/** Column names of the first file; the header of every other file has to be the same. */
export async function commonHeader(files: readonly string[]): Promise<string> {
	const [first, ...rest] = await Promise.all(files.map(firstLine));
	for (const [i, other] of rest.entries())
		if (other !== first)
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`The header of ${files[i + 1]} is not that of ${files[0]}; convert the files to the same columns, or prepare them apart.`,
			);
	if (!first)
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`${files[0]} has no header line; it seems to be empty.`,
		);
	return first;
}

/**
 * Names of a header as columns of a table: what has no name, as an index that was written along, gets one.
 *
 * @throws ERR_ALLMREC_FILE_FORMAT for a header that names a column twice
 */
export function columnNames(header: readonly string[], file: string): string[] {
	const seen = new Set<string>();
	return header.map((field, position) => {
		const name = field || `unnamed ${position + 1}`;
		const key = name.toLowerCase(); // DuckDB does not tell names by their case
		if (seen.has(key))
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`The header of ${file} names the column \`${name}\` twice; name its columns apart.`,
			);
		seen.add(key);
		return name;
	});
}

/** Fields of one line, quotes of CSV respected. */
export function splitLine(line: string, delimiter: string): string[] {
	const fields: string[] = [];
	let field = '';
	let quoted = false;
	for (let i = 0; i < line.length; i++) {
		const c = line[i]!;
		if (quoted && c === '"' && line[i + 1] === '"') {
			field += '"';
			i++;
		} else if (c === '"' && (quoted || field === '')) quoted = !quoted;
		else if (!quoted && line.startsWith(delimiter, i)) {
			fields.push(field);
			field = '';
			i += delimiter.length - 1;
		} else field += c;
	}
	fields.push(field);
	return fields.map((name) => name.trim());
}

/** The delimiter that cuts a header into most names. */
export function guessDelimiter(header: string): string {
	const candidates = [',', '\t', ';', '|'];
	const counts = candidates.map((delimiter) => splitLine(header, delimiter).length);
	return candidates[counts.indexOf(Math.max(...counts))]!;
}
