import { expectKnown } from '../../known-options.js';
import type { LongCallOptions } from '../../progress.js';
import type { ALLMRec, UserRequest } from '../a-llm-rec.js';
import type { ListOptions, Recommendation } from '../lists.js';
import { type BatchOptions, scoreRows } from './pipeline.js';
import { type InputRow, parseUser, RowError, type RowProblem, type ScoreRow } from './rows.js';
import { RunningRate } from './running-rate.js';
import { openUsers, type UserFileOptions } from './user-files.js';

/** A user to recommend to, with a name for its results. */
export interface BatchUser extends UserRequest {
	user: string;
}

/** One user's list, or why there is none. */
export interface ScoredUser {
	/** As in the input; a file's row number where it has none. */
	user: string;
	recommendations?: Recommendation[] | undefined;
	error?: RowProblem | undefined;
}

export interface ScoreAllOptions extends ListOptions, BatchOptions, UserFileOptions, LongCallOptions {}

/**
 * Recommends to every user of a file or of an iterable, in its order, with bounded memory. A user that cannot be served
 * yields an error and does not stop the others. Lists do not depend on `batchSize` and `tokensPerBatch`, to the bit.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT if a file cannot be read to its end, and whatever is not
 * one user's fault
 */
export async function* scoreUsers(
	model: ALLMRec,
	users: string | Iterable<BatchUser> | AsyncIterable<BatchUser>,
	{ inputFormat, listSeparator, onProgress, ...options }: ScoreAllOptions = {},
): AsyncGenerator<ScoredUser> {
	expectKnown('scoreAll', options);
	const { signal } = options;
	const file =
		typeof users === 'string' ? await openUsers(users, { inputFormat, listSeparator, signal }) : undefined;
	const rows: AsyncIterable<readonly (ScoreRow & Partial<InputRow>)[]> = file
		? file.rows()
		: fromIterable(users as Iterable<BatchUser> | AsyncIterable<BatchUser>);
	const rate = new RunningRate();
	for await (const batch of scoreRows(model, rows, options)) {
		for (const { row, recommendations, error } of batch)
			yield error ? { user: row.user, error } : { user: row.user, recommendations };
		const end = batch.at(-1)?.row.end;
		onProgress?.(rate.report(batch.length, end && file?.share(end)));
	}
}

async function* fromIterable(
	users: Iterable<BatchUser> | AsyncIterable<BatchUser>,
): AsyncGenerator<ScoreRow[]> {
	let number = 0;
	for await (const value of users) {
		number++;
		try {
			const { user, ...request } = parseUser(value, String(number));
			yield [{ user, request }];
		} catch (error) {
			if (!(error instanceof RowError)) throw error;
			yield [
				{
					user: String(number),
					problem: { code: 'ERR_ALLMREC_INVALID_ARGUMENT', message: `User ${number}: ${error.message}` },
				},
			];
		}
	}
}
