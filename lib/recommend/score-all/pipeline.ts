import { ALLMRecError, invalidArgument } from '../../errors.js';
import { nextTurn, turnIsOver } from '../../event-loop.js';
import type { ALLMRec, DenseUser } from '../a-llm-rec.js';
import { type ListOptions, listOptions, type Recommendation } from '../lists.js';
import { type RowProblem, resolveRequest, type ScoreRow } from './rows.js';

/** How users are batched; no result depends on it. */
export interface BatchOptions {
	/** Users retrieved for and sorted by length at once; about three times as many are held. Default 256. */
	batchSize?: number | undefined;
	/** Packed tokens of one pass through the language model. Default 4096. */
	tokensPerBatch?: number | undefined;
}

/** A row and its list, or why it has none. */
export interface Outcome<Row extends ScoreRow> {
	row: Row;
	recommendations?: Recommendation[] | undefined;
	error?: RowProblem | undefined;
}

/** Batches that are computed while the consumer has one. */
const AHEAD = 1;

/**
 * Scores rows in their order, batch by batch: while the device computes one batch, the next is read, retrieved for and
 * packed, and the one before is with the consumer. At most `AHEAD + 2` batches are held.
 */
export async function* scoreRows<Row extends ScoreRow>(
	model: ALLMRec,
	rows: AsyncIterable<readonly Row[]>,
	options: ListOptions & BatchOptions & { signal?: AbortSignal | undefined },
): AsyncGenerator<Outcome<Row>[]> {
	const { batchSize = 256, tokensPerBatch, signal, ...lists } = options;
	for (const [name, value] of Object.entries({ batchSize, tokensPerBatch: tokensPerBatch ?? 1 }))
		if (!Number.isInteger(value) || value < 1) invalidArgument(name, 'a whole number from 1', value);
	const wanted = listOptions(lists);
	const stop = new AbortController();
	const abort = () => stop.abort(signal?.reason);
	signal?.throwIfAborted();
	signal?.addEventListener('abort', abort, { once: true });
	const running: Promise<Outcome<Row>[]>[] = [];
	try {
		for await (const batch of regroup(rows, batchSize)) {
			stop.signal.throwIfAborted();
			const work = scoreBatch(model, batch, wanted, { signal: stop.signal, tokensPerBatch });
			work.catch(() => {}); // looked at in its turn
			running.push(work);
			if (running.length > AHEAD) yield await running.shift()!;
		}
		while (running.length > 0) {
			yield await running.shift()!;
			// The batches ahead may be done already and would not notice.
			signal?.throwIfAborted();
		}
	} finally {
		// Nothing runs on when the consumer has had enough, or a batch has failed.
		signal?.removeEventListener('abort', abort);
		stop.abort();
		await Promise.allSettled(running);
	}
}

async function scoreBatch<Row extends ScoreRow>(
	model: ALLMRec,
	rows: readonly Row[],
	wanted: ReturnType<typeof listOptions>,
	calls: { signal: AbortSignal; tokensPerBatch: number | undefined },
): Promise<Outcome<Row>[]> {
	const users: DenseUser[] = [];
	const outcomes: (Outcome<Row> & { place?: number })[] = [];
	for (const row of rows) {
		if (turnIsOver()) await nextTurn(calls.signal);
		if (!row.request) {
			outcomes.push({ row, error: row.problem });
			continue;
		}
		try {
			outcomes.push({ row, place: users.push(resolveRequest(model.catalogue, row.request)) - 1 });
		} catch (error) {
			outcomes.push({ row, error: problemOf(error) });
		}
	}
	const lists = users.length > 0 ? await model.recommendEach(users, wanted, calls) : [];
	return outcomes.map(({ row, error, place }) => {
		const list = place === undefined ? undefined : lists[place]!;
		if (list instanceof ALLMRecError) return { row, error: problemOf(list) };
		return { row, recommendations: list, error };
	});
}

function problemOf(error: unknown): RowProblem {
	if (!(error instanceof ALLMRecError)) throw error;
	return { code: error.code, message: error.message };
}

/** The same rows in batches of `size`. */
async function* regroup<Row>(chunks: AsyncIterable<readonly Row[]>, size: number): AsyncGenerator<Row[]> {
	let batch: Row[] = [];
	for await (const chunk of chunks)
		for (let at = 0; at < chunk.length; ) {
			const taken = chunk.slice(at, at + size - batch.length);
			at += taken.length;
			batch = batch.length === 0 ? taken : batch.concat(taken);
			if (batch.length < size) break;
			yield batch;
			batch = [];
		}
	if (batch.length > 0) yield batch;
}
