import { guessDelimiter, splitLine } from '../../data/readers/delimited.js';
import { ALLMRecError } from '../../errors.js';
import { parseShallow } from '../../files/read.js';
import type { Line, LineReader } from './lines.js';
import { badRow, type InputPosition, type InputRow, inputRow } from './rows.js';

/** Most characters of a row whose quotes span several lines; a quote that is open for longer was never closed. */
const MAX_RECORD = 1 << 16;

/** How the rows of a CSV file are to be read. */
interface CsvLayout {
	delimiter: string;
	columns: number;
	user: number | undefined;
	history: number;
	candidates: number | undefined;
	listSeparator: string;
}

/**
 * Users of a CSV file with the columns `history` and perhaps `user` and `candidates`, by name. A list is a JSON array,
 * or ids with `listSeparator` between them. A row that cannot be read is passed over up to the next line.
 *
 * @throws ERR_ALLMREC_FILE_FORMAT for a header without `history`
 */
export async function* csvRows(
	reader: LineReader,
	path: string,
	from: InputPosition,
	listSeparator: string,
): AsyncGenerator<InputRow[]> {
	const layout = await readLayout(reader, path, listSeparator);
	if (!layout) return;
	const records = new RecordJoiner(layout);
	for await (const lines of reader.lines(from)) {
		const own = lines.filter(({ number }) => number > 1); // the first is the header
		yield records.take(own);
	}
	yield records.end();
}

async function readLayout(
	reader: LineReader,
	path: string,
	listSeparator: string,
): Promise<CsvLayout | undefined> {
	for await (const [first] of reader.lines({ rows: 0, bytes: 0 })) {
		if (!first) continue;
		if (first.problem)
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${path} has no header that can be read. ${first.problem}`,
			);
		const delimiter = guessDelimiter(first.text);
		const names = splitLine(first.text, delimiter).map((name) => name.toLowerCase());
		const column = (name: string) => (names.includes(name) ? names.indexOf(name) : undefined);
		const history = column('history');
		if (history === undefined)
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${path} has no column \`history\`; its columns are ${names.map((name) => `\`${name}\``).join(', ')}.`,
			);
		return {
			delimiter,
			columns: names.length,
			user: column('user'),
			history,
			candidates: column('candidates'),
			listSeparator,
		};
	}
	return undefined;
}

/** Joins the lines of a record, whose quotes may span several. */
class RecordJoiner {
	readonly #layout: CsvLayout;
	/** Lines of a record whose last quote is open. */
	#open: Line[] = [];
	#length = 0;
	#record: RecordParser;

	constructor(layout: CsvLayout) {
		this.#layout = layout;
		this.#record = new RecordParser(layout.delimiter);
	}

	take(lines: readonly Line[]): InputRow[] {
		const rows: InputRow[] = [];
		for (const line of lines) this.#add(line, rows);
		return rows;
	}

	end(): InputRow[] {
		const rows: InputRow[] = [];
		while (this.#open.length > 0) this.#giveUp(rows);
		return rows;
	}

	#add(line: Line, rows: InputRow[]): void {
		if (line.problem) {
			while (this.#open.length > 0) this.#giveUp(rows);
			rows.push(badRow(line.problem, line.number, line.text, position(line)));
			return;
		}
		if (this.#open.length === 0 && line.text.trim() === '') return;
		this.#open.push(line);
		this.#length += line.text.length + 1;
		const fields = this.#record.add(line.text, line.ending);
		if (fields === 'open') {
			if (this.#length > MAX_RECORD) this.#giveUp(rows);
			return;
		}
		const lines = this.#open;
		this.#begin();
		const text = lines.map((each) => each.text).join('\n');
		rows.push(this.#row(fields, text, lines[0]!.number, position(line)));
	}

	/** The first line opens a quote that nothing closes: it is bad, and those behind it are read anew. */
	#giveUp(rows: InputRow[]): void {
		const [first, ...others] = this.#open as [Line, ...Line[]];
		this.#begin();
		rows.push(badRow('A quote is not closed.', first.number, first.text, position(first)));
		for (const line of others) this.#add(line, rows);
	}

	#begin(): void {
		this.#open = [];
		this.#length = 0;
		this.#record = new RecordParser(this.#layout.delimiter);
	}

	#row(fields: string[] | 'malformed', raw: string, number: number, end: InputPosition): InputRow {
		const { columns, user, history, candidates } = this.#layout;
		if (fields === 'malformed') return badRow('There is text behind a closing quote.', number, raw, end);
		if (fields.length !== columns)
			return badRow(`Expected ${columns} fields, got ${fields.length}.`, number, raw, end);
		const list = (column: number | undefined) => {
			const cell = column === undefined ? '' : fields[column]!;
			return cell === '' ? undefined : parseList(cell, this.#layout.listSeparator);
		};
		const value = {
			user: user === undefined || fields[user] === '' ? undefined : fields[user],
			history: list(history) ?? [],
			candidates: list(candidates),
		};
		return inputRow(value, number, raw, end);
	}
}

function position({ number, end }: Line): InputPosition {
	return { rows: number, bytes: end };
}

/** Ids of a cell; one that begins as a JSON array and is none is given as it is, to be refused. */
export function parseList(cell: string, separator: string): unknown {
	if (!cell.startsWith('[')) return cell.split(separator);
	try {
		return parseShallow(cell);
	} catch {
		return cell;
	}
}

/** Fields of a record that comes line by line, each read once. A quote counts at a field's beginning alone. */
class RecordParser {
	readonly #delimiter: string;
	readonly #fields: string[] = [];
	/** What the open quotes hold so far. */
	#quoted: string[] | undefined;
	/** Of the line before. */
	#ending = '';

	constructor(delimiter: string) {
		this.#delimiter = delimiter;
	}

	/** The fields, when this line ends the record; `open` when it ends inside quotes. */
	add(line: string, ending: string): string[] | 'open' | 'malformed' {
		this.#quoted?.push(this.#ending);
		this.#ending = ending;
		for (let at = 0; ; ) {
			if (!this.#quoted && line[at] === '"') {
				this.#quoted = [];
				at++;
			}
			if (this.#quoted) {
				const end = this.#readQuoted(line, at);
				if (end === undefined) return 'open';
				at = end;
				this.#fields.push(this.#quoted.join(''));
				this.#quoted = undefined;
				if (at < line.length && !line.startsWith(this.#delimiter, at)) return 'malformed';
			} else {
				const end = line.indexOf(this.#delimiter, at);
				this.#fields.push(line.slice(at, end < 0 ? line.length : end));
				at = end < 0 ? line.length : end;
			}
			if (at >= line.length) return this.#fields;
			at += this.#delimiter.length;
		}
	}

	/** The place behind the closing quote; undefined where there is none. */
	#readQuoted(line: string, from: number): number | undefined {
		for (let at = from; ; at += 2) {
			const quote = line.indexOf('"', at);
			this.#quoted!.push(line.slice(at, quote < 0 ? line.length : quote));
			if (quote < 0) return undefined;
			if (line[quote + 1] !== '"') return quote + 1;
			this.#quoted!.push('"');
			at = quote;
		}
	}
}
