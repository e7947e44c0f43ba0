import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import { pipeline } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { assertReadable } from '../data/folder.js';
import { ALLMRecError, type ErrorCode, invalidArgument } from '../errors.js';
import type { LongCallOptions } from '../progress.js';
import type { ALLMRec, Recommendation, RecommendOptions, UserRequest } from './a-llm-rec.js';

/** One user's list, or why there is none. */
export interface ScoredUser {
	/** As in the input; the line's number where it has none. */
	user: string;
	recommendations?: Recommendation[] | undefined;
	error?: { code: string; message: string } | undefined;
}

export interface ScoreOptions extends Omit<RecommendOptions, 'onProgress'>, LongCallOptions {
	/** Users scored at once. Default 64. */
	batchSize?: number | undefined;
}

/** A line of a users file: `{"user": "id", "history": ["id", …], "candidates": ["id", …]}`. */
interface UserLine extends UserRequest {
	user: string;
}

/**
 * Recommends to every user of a JSON-lines file (gzipped or not), in its order, with bounded memory. A user that
 * cannot be served yields an error and does not stop the others.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT if the file cannot be read to its end, and whatever is not
 * one user's fault
 */
export async function* scoreUsers(
	model: ALLMRec,
	path: string,
	{ batchSize = 64, signal, onProgress, ...options }: ScoreOptions = {},
): AsyncGenerator<ScoredUser> {
	if (!Number.isInteger(batchSize) || batchSize < 1)
		invalidArgument('batchSize', 'a whole number from 1', batchSize);
	await assertReadable(path);
	let done = 0;
	const begun = performance.now();
	let batch: (UserLine | ScoredUser)[] = [];
	const flush = async function* () {
		yield* await scoreBatch(model, batch, { ...options, signal });
		done += batch.length;
		batch = [];
		onProgress?.({ stage: 'score', done, unit: 'users', rate: (1000 * done) / (performance.now() - begun) });
	};
	let line = 0;
	for await (const text of lines(path)) {
		signal?.throwIfAborted();
		line++;
		if (text.trim() === '') continue;
		batch.push(parseLine(text, line));
		if (batch.length >= batchSize) yield* flush();
	}
	if (batch.length > 0) yield* flush();
}

/** What is the fault of one user's request. */
const OF_A_USER: ReadonlySet<ErrorCode> = new Set([
	'ERR_ALLMREC_UNKNOWN_ITEM',
	'ERR_ALLMREC_EMPTY_HISTORY',
	'ERR_ALLMREC_PROMPT_TOO_LONG',
] as const);

async function scoreBatch(
	model: ALLMRec,
	batch: readonly (UserLine | ScoredUser)[],
	options: RecommendOptions,
): Promise<ScoredUser[]> {
	const good = batch.filter((entry): entry is UserLine => 'history' in entry);
	try {
		const lists = await model.recommend(good, options);
		const byUser = new Map(good.map((entry, i) => [entry as UserLine | ScoredUser, lists[i]!]));
		return batch.map((entry) =>
			'history' in entry ? { user: entry.user, recommendations: byUser.get(entry)! } : entry,
		);
	} catch (error) {
		if (!(error instanceof ALLMRecError && OF_A_USER.has(error.code)) || options.signal?.aborted) throw error;
		// One of them cannot be served: each alone tells which.
		if (batch.length === 1)
			return [{ user: batch[0]!.user, error: { code: error.code, message: error.message } }];
		const results: ScoredUser[] = [];
		for (const entry of batch)
			results.push(...('history' in entry ? await scoreBatch(model, [entry], options) : [entry]));
		return results;
	}
}

function parseLine(text: string, line: number): UserLine | ScoredUser {
	const fail = (message: string): ScoredUser => ({
		user: String(line),
		error: { code: 'ERR_ALLMREC_FILE_FORMAT', message: `Line ${line}: ${message}` },
	});
	let value: Partial<UserLine> | null;
	try {
		value = JSON.parse(text) as Partial<UserLine> | null;
	} catch {
		return fail('not JSON.');
	}
	const strings = (list: unknown): list is string[] =>
		Array.isArray(list) && list.every((id) => typeof id === 'string');
	if (typeof value !== 'object' || value === null || !strings(value.history))
		return fail('expected {"user": "id", "history": ["id", …]}.');
	if (value.candidates !== undefined && !(strings(value.candidates) && value.candidates.length > 0))
		return fail('`candidates` has to be a list of ids.');
	return {
		user: value.user === undefined ? String(line) : String(value.user),
		history: value.history,
		candidates: value.candidates,
	};
}

async function* lines(path: string): AsyncGenerator<string> {
	const file = createReadStream(path);
	const input = path.endsWith('.gz') ? pipeline(file, createGunzip(), () => {}) : file;
	try {
		yield* createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
	} catch (cause) {
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`${path} cannot be read to its end (${(cause as Error).message}).`,
			{ cause },
		);
	} finally {
		file.destroy();
	}
}
