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

	constructor(layout: CsvLayout) {
		this.#layout = layout;
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
		const text = this.#open.map((each) => each.text).join('\n');
		const fields = parseRecord(text, this.#layout.delimiter);
		if (fields === 'open') {
			if (this.#length > MAX_RECORD) this.#giveUp(rows);
			return;
		}
		const first = this.#open[0]!;
		this.#open = [];
		this.#length = 0;
		rows.push(this.#row(fields, text, first.number, position(line)));
	}

	/** The first line opens a quote that nothing closes: it is bad, and those behind it are read anew. */
	#giveUp(rows: InputRow[]): void {
		const [first, ...others] = this.#open as [Line, ...Line[]];
		this.#open = [];
		this.#length = 0;
		rows.push(badRow('A quote is not closed.', first.number, first.text, position(first)));
		for (const line of others) this.#add(line, rows);
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

/** Ids of a cell; what is no list of them is given as it is, to be refused. */
export function parseList(cell: string, separator: string): unknown {
	if (!cell.startsWith('[')) return cell.split(separator);
	try {
		return parseShallow(cell);
	} catch {
		return cell;
	}
}

/** Fields of a record; `open` when it ends inside quotes. A quote counts at a field's beginning alone. */
export function parseRecord(text: string, delimiter: string): string[] | 'open' | 'malformed' {
	const fields: string[] = [];
	for (let at = 0; ; ) {
		let field = '';
		if (text[at] === '"') {
			for (at++; ; ) {
				const quote = text.indexOf('"', at);
				if (quote < 0) return 'open';
				field += text.slice(at, quote);
				at = quote + 1;
				if (text[at] !== '"') break;
				field += '"';
				at++;
			}
			if (at < text.length && !text.startsWith(delimiter, at)) return 'malformed';
		} else {
			const end = text.indexOf(delimiter, at);
			field = text.slice(at, end < 0 ? text.length : end);
			at += field.length;
		}
		fields.push(field);
		if (at >= text.length) return fields;
		at += delimiter.length;
	}
}
