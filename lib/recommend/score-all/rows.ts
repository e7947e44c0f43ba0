import { ALLMRecError, type ErrorCode } from '../../errors.js';
import type { UserRequest } from '../a-llm-rec.js';
import type { Catalogue } from '../catalogue.js';

/** Why a user has no list. */
export interface RowProblem {
	code: ErrorCode;
	message: string;
}

/** A user to score, or what is wrong with it. */
export interface ScoreRow {
	user: string;
	request?: UserRequest | undefined;
	problem?: RowProblem | undefined;
}

/** How far a file has been read. */
export interface InputPosition {
	/** Lines of a text, rows of a table. */
	rows: number;
	/** Bytes of the (decompressed) text; 0 for tables. */
	bytes: number;
}

/** A row of a file. */
export interface InputRow extends ScoreRow {
	/** From 1: of a text the number of its (first) line, of a table that of the row. */
	row: number;
	/** As it stands in the file, its end perhaps cut off. */
	raw: string;
	/** Where the row behind it begins. */
	end: InputPosition;
}

/** Most characters of a row that are kept to be shown. */
const RAW_LENGTH = 1000;
/** Most characters of a user's name, so that a line of results stays within what readers of JSON take. */
const USER_LENGTH = 1 << 16;

/** A row that can be read, with whatever its values are. */
export function inputRow(value: unknown, row: number, raw: string, end: InputPosition): InputRow {
	const place = { row, raw: shorten(raw), end };
	try {
		const { user, ...request } = parseUser(value, String(row));
		return { user, request, ...place };
	} catch (error) {
		if (!(error instanceof RowError)) throw error;
		return { user: String(row), problem: { code: FORMAT, message: error.message }, ...place };
	}
}

/** A row that cannot be read. */
export function badRow(message: string, row: number, raw: string, end: InputPosition): InputRow {
	return { user: String(row), problem: { code: FORMAT, message }, row, raw: shorten(raw), end };
}

const FORMAT = 'ERR_ALLMREC_FILE_FORMAT';

/** What one row has wrong. */
export class RowError extends Error {}

/** A user with its lists checked. @throws RowError */
export function parseUser(value: unknown, name: string): UserRequest & { user: string } {
	if (typeof value !== 'object' || value === null || Array.isArray(value))
		throw new RowError('expected a user with a history: {"user": "id", "history": ["id", …]}.');
	const { user, history, candidates } = value as Record<string, unknown>;
	if (!isStrings(history))
		throw new RowError(`\`history\` has to be a list of item ids.${brokenList(history)}`);
	if (candidates !== undefined && candidates !== null && !(isStrings(candidates) && candidates.length > 0))
		throw new RowError(
			`\`candidates\` has to be a list of at least one item id, or left out.${brokenList(candidates)}`,
		);
	if (user !== undefined && user !== null && typeof user !== 'string' && typeof user !== 'number')
		throw new RowError('`user` has to be a text or a number.');
	if (typeof user === 'string' && user.length > USER_LENGTH)
		throw new RowError(`\`user\` has ${user.length} characters; at most ${USER_LENGTH} are taken.`);
	return {
		user: user === undefined || user === null ? name : String(user),
		history,
		candidates: (candidates as string[] | null | undefined) ?? undefined,
	};
}

/** Of a cell of a table. */
function brokenList(cell: unknown): string {
	if (typeof cell !== 'string' || !cell.startsWith('[')) return '';
	return ' A cell that begins with `[` is read as a JSON array, which this is not; ids that begin with `[` go into one: ["[id]"].';
}

function isStrings(list: unknown): list is string[] {
	return Array.isArray(list) && list.every((id) => typeof id === 'string');
}

/** Dense ids of a request. @throws ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_UNKNOWN_ITEM */
export function resolveRequest(
	catalogue: Catalogue,
	{ history, candidates }: UserRequest,
): { history: Int32Array; candidates: Int32Array | undefined } {
	if (history.length === 0)
		throw new ALLMRecError('ERR_ALLMREC_EMPTY_HISTORY', 'The history is empty; give at least one item id.');
	// Without a search for like ids, which would take its time where many are unknown.
	const index = (id: string) => {
		if (catalogue.has(id)) return catalogue.index(id);
		throw new ALLMRecError('ERR_ALLMREC_UNKNOWN_ITEM', `Item \`${shorten(id)}\` is not in the catalogue.`);
	};
	return {
		history: Int32Array.from(history, index),
		candidates: candidates && Int32Array.from(new Set(candidates.map(index))),
	};
}

function shorten(text: string): string {
	return text.length <= RAW_LENGTH ? text : `${text.slice(0, RAW_LENGTH)}…`;
}
