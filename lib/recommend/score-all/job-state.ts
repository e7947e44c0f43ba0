import { createHash } from 'node:crypto';
import { open, rm } from 'node:fs/promises';
import { z } from 'zod';
import { ALLMRecError } from '../../errors.js';
import { writeJson } from '../../files/atomic.js';
import { readSealed, sealed, sealSchema } from '../../files/integrity.js';
import { writing } from '../../files/write-error.js';

const stateSchema = z.strictObject({
	format: z.literal('a-llmrec-score'),
	version: z.literal(1),
	/** What the job is; a run that goes on must have the same. */
	job: z.strictObject({ input: z.string(), options: z.string(), models: z.string() }),
	/** Where in the input the next row begins. */
	position: z.strictObject({ rows: z.int().min(0), bytes: z.int().min(0) }),
	/** Lists written. */
	users: z.int().min(0),
	/** Rejected rows by code. */
	rejected: z.record(z.string(), z.int()),
	/** What counts of the partial files; behind it is what a killed run was writing. */
	outputBytes: z.int().min(0),
	rejectsBytes: z.int().min(0),
	/** All rows are done: what is left is to put the files in their places. */
	complete: z.boolean(),
	sha256: sealSchema,
});

/** How far a scoring job has come. */
export type JobState = z.infer<typeof stateSchema>;

export type JobIdentity = JobState['job'];

export function newState(job: JobIdentity): JobState {
	return {
		format: 'a-llmrec-score',
		version: 1,
		job,
		position: { rows: 0, bytes: 0 },
		users: 0,
		rejected: {},
		outputBytes: 0,
		rejectsBytes: 0,
		complete: false,
	};
}

/**
 * The state of a job that was stopped; undefined where there is none.
 *
 * @throws ERR_ALLMREC_FILE_FORMAT if it is damaged, ERR_ALLMREC_INVALID_ARGUMENT if it is another job's
 */
export async function readState(path: string, job: JobIdentity): Promise<JobState | undefined> {
	const state = await readSealed(path, stateSchema, {
		missing: 'ERR_ALLMREC_FILE_FORMAT',
		limit: 1 << 20,
		remedy: 'start over with `restart`',
	});
	if (!state) return undefined;
	const others = {
		input: 'another users file',
		options: 'other options',
		models: 'other models or another kind of device',
	};
	const different = Object.entries(others).filter(([key]) => {
		const name = key as keyof JobIdentity;
		return state.job[name] !== job[name];
	});
	if (different.length > 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`${path} belongs to a job with ${different.map(([, what]) => what).join(' and ')}, after ${state.position.rows} rows. Go on with what it was begun with, give another output file, or start over with \`restart\`.`,
		);
	return state;
}

export async function writeState(path: string, state: JobState): Promise<void> {
	const { sha256: _, ...content } = state;
	await writeJson(path, sealed(content));
}

export async function removeState(path: string): Promise<void> {
	await writing(path, () => rm(path, { force: true }));
}

const SAMPLE_BYTES = 1 << 16;

/** What tells a file from another: its size, when it was changed, and its first and last bytes. */
export async function fileIdentity(path: string): Promise<string> {
	const file = await open(path, 'r');
	try {
		const { size, mtimeMs } = await file.stat();
		const hash = createHash('sha256').update(`${size} ${mtimeMs} `);
		for (const position of [0, Math.max(0, size - SAMPLE_BYTES)]) {
			const { buffer, bytesRead } = await file.read(Buffer.alloc(SAMPLE_BYTES), 0, SAMPLE_BYTES, position);
			hash.update(buffer.subarray(0, bytesRead));
		}
		return hash.digest('hex');
	} finally {
		await file.close();
	}
}
