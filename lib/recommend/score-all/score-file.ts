import { access, rm } from 'node:fs/promises';
import { resolve } from 'node:path';
import { ALLMRecError, invalidArgument } from '../../errors.js';
import { removeTemporariesOf, renameDurably, temporaryName } from '../../files/atomic.js';
import { withLock } from '../../files/lock.js';
import { writing } from '../../files/write-error.js';
import { expectKnown } from '../../known-options.js';
import type { LongCallOptions } from '../../progress.js';
import type { ALLMRec } from '../a-llm-rec.js';
import { type ListOptions, listOptions } from '../lists.js';
import { fingerprint } from './fingerprint.js';
import {
	fileIdentity,
	type JobIdentity,
	type JobState,
	newState,
	readState,
	removeState,
	writeState,
} from './job-state.js';
import { PartFile } from './part-file.js';
import { type BatchOptions, type Outcome, scoreRows } from './pipeline.js';
import { type ResultFormat, resultFormatOf, resultLines, writeParquet } from './result-files.js';
import type { InputRow } from './rows.js';
import { RunningRate } from './running-rate.js';
import { openUsers, type UserFileOptions } from './user-files.js';

export interface ScoreFileOptions extends ListOptions, BatchOptions, UserFileOptions, LongCallOptions {
	/** File of users: JSON lines, CSV or Parquet. */
	users: string;
	/** File of results; it appears when it is complete. */
	out: string;
	/** Default: by the name of `out` (`.jsonl`, `.ndjson`, `.json`, each perhaps with `.gz`; `.parquet`, `.pq`). */
	outputFormat?: ResultFormat | undefined;
	/** JSON lines of the rows that were rejected. Default: `out` with `.rejects.jsonl` behind; none without rejects. */
	rejects?: string | undefined;
	/** Start over where a job that was stopped would be gone on with. Default false. */
	restart?: boolean | undefined;
}

export interface ScoreSummary {
	/** Lists written. */
	users: number;
	/** Rows rejected, by code. */
	rejected: Record<string, number>;
	/** The file of rejects; undefined without any. */
	rejects: string | undefined;
	/** Rows that earlier runs of this job had done. */
	resumedRows: number;
	/** Of this run, in seconds. */
	seconds: number;
	/** Of this run, rejected ones included. */
	usersPerSecond: number;
}

/** Rows written at once; a checkpoint stands between two such chunks, and a gzipped file has a member for each. */
const CHUNK_ROWS = 256;
/** Least milliseconds between two checkpoints. */
const CHECKPOINT_INTERVAL = 1000;

/**
 * Scores a file of users into a file of results, in the input's order, with bounded memory. A job that was stopped,
 * however hard, goes on from its last checkpoint when it is called again, and its files come out the same to the byte.
 * Rows that cannot be scored go to the file of rejects and stop nothing.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT if `out` belongs to a stopped job of other input, options or models,
 * ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT if the input cannot be read to its end, ERR_ALLMREC_WRITE,
 * ERR_ALLMREC_LOCKED while another call or process writes `out`, or the signal's reason: the job can be gone on with
 * after each of them. ERR_ALLMREC_FILE_FORMAT too if the input was changed meanwhile: then it has to be started over
 */
export async function scoreFile(model: ALLMRec, options: ScoreFileOptions): Promise<ScoreSummary> {
	expectKnown('scoreFile', options);
	const { users, out } = options;
	if (resolve(users) === resolve(out)) invalidArgument('out', 'another file than `users`', out);
	return withLock(`${out}.lock`, `The output ${out}`, () => scoreLocked(model, options));
}

async function scoreLocked(model: ALLMRec, options: ScoreFileOptions): Promise<ScoreSummary> {
	const { users, out, rejects = `${out}.rejects.jsonl`, signal, onProgress } = options;
	const { inputFormat, listSeparator, batchSize, tokensPerBatch, restart = false } = options;
	const begun = performance.now();
	const target = outputOf(out, options.outputFormat);
	const lists = listOptions(options);
	const input = await openUsers(users, { inputFormat, listSeparator, signal });
	const paths = {
		out,
		rejects,
		state: `${out}.state.json`,
		part: `${out}.part`,
		rejectsPart: `${rejects}.part`,
	};
	const job: JobIdentity = {
		input: await fileIdentity(users),
		options: JSON.stringify({ ...lists, ...target, rejects, inputFormat, listSeparator }),
		models: await fingerprint(model),
	};
	for (const path of [out, rejects]) await removeTemporariesOf(path);
	if (restart) await removeState(paths.state);
	const state = (await readState(paths.state, job)) ?? newState(job);
	const resumedRows = rowsDone(state);
	if (!state.complete) {
		const rate = new RunningRate(resumedRows);
		const writer = await Writer.open(state, paths, target);
		try {
			const source = input.rows(state.position);
			const settings = { ...lists, batchSize, tokensPerBatch, signal };
			for await (const outcomes of scoreRows(model, source, settings)) {
				await writer.take(outcomes);
				const end = outcomes.at(-1)!.row.end;
				onProgress?.(rate.report(outcomes.length, input.share(end)));
			}
			await expectUnchanged(users, job.input);
			await writer.finish();
		} catch (error) {
			await writer.close().catch(() => {}); // the state that is there stands
			throw error;
		}
		await writer.close();
	}
	await publish(state, paths, target.format, signal);
	const seconds = (performance.now() - begun) / 1000;
	return {
		users: state.users,
		rejected: state.rejected,
		rejects: state.rejectsBytes > 0 ? rejects : undefined,
		resumedRows,
		seconds,
		usersPerSecond: (rowsDone(state) - resumedRows) / seconds,
	};
}

/** A file that was written to while it was read may have been read in part. One that is gone was read to its end. */
async function expectUnchanged(users: string, identity: string): Promise<void> {
	if (!(await exists(users)) || (await fileIdentity(users)) === identity) return;
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_FORMAT',
		`${users} was changed while it was scored; start over with \`restart\` (--restart).`,
	);
}

interface Paths {
	out: string;
	rejects: string;
	state: string;
	/** Of what has been scored, line by line; for Parquet it is converted at the end. */
	part: string;
	rejectsPart: string;
}

function outputOf(out: string, format: ResultFormat | undefined): { format: ResultFormat; gzip: boolean } {
	if (format === undefined) return resultFormatOf(out);
	return { format, gzip: format === 'jsonl' && /\.gz$/i.test(out) };
}

function rowsDone({ users, rejected }: JobState): number {
	return Object.values(rejected).reduce((sum, count) => sum + count, users);
}

/** Writes outcomes in chunks and keeps the state of the job beside them. */
class Writer {
	readonly #state: JobState;
	readonly #paths: Paths;
	readonly #format: ResultFormat;
	readonly #output: PartFile;
	readonly #rejects: PartFile;
	#chunk: Outcome<InputRow>[] = [];
	#checkpointAt = performance.now();

	private constructor(
		state: JobState,
		paths: Paths,
		format: ResultFormat,
		output: PartFile,
		rejects: PartFile,
	) {
		this.#state = state;
		this.#paths = paths;
		this.#format = format;
		this.#output = output;
		this.#rejects = rejects;
	}

	static async open(
		state: JobState,
		paths: Paths,
		{ format, gzip }: { format: ResultFormat; gzip: boolean },
	): Promise<Writer> {
		const output = await PartFile.open(paths.part, state.outputBytes, { gzip });
		let rejects: PartFile | undefined;
		try {
			rejects = await PartFile.open(paths.rejectsPart, state.rejectsBytes);
			const writer = new Writer(state, paths, format, output, rejects);
			await writer.#checkpoint();
			return writer;
		} catch (error) {
			for (const file of [output, rejects]) await file?.close().catch(() => {});
			throw error;
		}
	}

	async take(outcomes: readonly Outcome<InputRow>[]): Promise<void> {
		for (const outcome of outcomes) {
			this.#chunk.push(outcome);
			if (this.#chunk.length === CHUNK_ROWS) await this.#flush();
		}
		if (performance.now() - this.#checkpointAt > CHECKPOINT_INTERVAL) await this.#checkpoint();
	}

	/** All rows have been taken. */
	async finish(): Promise<void> {
		await this.#flush();
		this.#state.complete = true;
		await this.#checkpoint();
	}

	/** Leaves a state to go on from. */
	async close(): Promise<void> {
		try {
			if (!this.#state.complete) await this.#checkpoint();
		} finally {
			await Promise.all([this.#output.close(), this.#rejects.close()]);
		}
	}

	async #flush(): Promise<void> {
		if (this.#chunk.length === 0) return;
		let lines = '';
		let rejected = '';
		const counts = { ...this.#state.rejected };
		let users = this.#state.users;
		for (const { row, recommendations, error } of this.#chunk)
			if (recommendations) {
				lines += resultLines(this.#format, row.user, recommendations);
				users++;
			} else {
				const { code, message } = error!;
				rejected += `${JSON.stringify({ row: row.row, user: row.user, code, message, raw: row.raw })}\n`;
				counts[code] = (counts[code] ?? 0) + 1;
			}
		await this.#output.append(lines);
		await this.#rejects.append(rejected);
		// The state moves on only when both have been written.
		Object.assign(this.#state, {
			position: this.#chunk.at(-1)!.row.end,
			users,
			rejected: counts,
			outputBytes: this.#output.bytes,
			rejectsBytes: this.#rejects.bytes,
		});
		this.#chunk = [];
	}

	async #checkpoint(): Promise<void> {
		await this.#output.sync();
		await this.#rejects.sync();
		await writeState(this.#paths.state, this.#state);
		this.#checkpointAt = performance.now();
	}
}

/** Puts the files in their places; a run that was killed in the middle of it does the rest of it. */
async function publish(
	state: JobState,
	{ out, rejects, state: statePath, part, rejectsPart }: Paths,
	format: ResultFormat,
	signal: AbortSignal | undefined,
): Promise<void> {
	if (await exists(rejectsPart)) {
		if (state.rejectsBytes > 0) await renameDurably(rejectsPart, rejects);
		else
			await writing(rejects, async () => {
				await rm(rejectsPart);
				await rm(rejects, { force: true }); // of an earlier job
			});
	}
	if (await exists(part)) {
		if (format === 'parquet') {
			const converted = temporaryName(out);
			try {
				await writeParquet(part, converted, signal);
				await renameDurably(converted, out);
			} catch (error) {
				await rm(converted, { force: true }).catch(() => {});
				throw error;
			}
			await writing(part, () => rm(part));
		} else await renameDurably(part, out);
	} else if (!(await exists(out)))
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_FORMAT',
			`${part} is gone, which held the results; start over with \`restart\` (--restart).`,
		);
	await removeState(statePath);
}

async function exists(path: string): Promise<boolean> {
	return access(path).then(
		() => true,
		() => false,
	);
}
