import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { writeFileAtomic } from '../files/atomic.js';
import { type FileRules, LARGEST_TEXT_BYTES, readJson } from '../files/read.js';

// One file per evaluated cell: an experiment, a data set, a scenario and a seed. It holds every user's numbers and no
// averages, so that models can be compared user by user, over seeds, and by metrics that nobody thought of before.

export const SCENARIO_KINDS = [
	'overall',
	'coldUsers',
	'fewShot',
	'crossDomain',
	'temporal',
	'shuffle',
	'genres',
	'ablation',
	'sweep',
] as const;

export const MODEL_FAMILIES = ['floor', 'cf', 'text', 'llm', 'aligned', 'fused'] as const;

/** What a key is made of: it is a file's name too. */
const KEY = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;

const count = z.int().min(0).max(0x7fff_ffff);
/** Numbers whose differences and squares are finite too. */
const measure = z.number().min(-1e100).max(1e100);
const numbers = z.record(z.string(), measure);

const modelSchema = z.object({
	/** What kind of model it is: a rule without learning, CF, item text, the language model alone, A-LLMRec, a fusion. */
	family: z.enum(MODEL_FAMILIES),
	/** (users), candidates above the target and others with its score, as `TargetRanks`. */
	ranks: z.object({ greater: z.array(count), ties: z.array(count) }),
	/** Of scoring all users. */
	seconds: measure.min(0),
	/** Of a fusion: labels of the models it is made of. */
	parts: z.array(z.string()).optional(),
});

const curveSchema = z.object({
	stage: z.string(),
	model: z.string(),
	points: z.array(z.object({ epoch: measure, losses: numbers, metrics: numbers })),
});

const calibrationSchema = z.object({
	/** Training interactions of the targets of a bin, `from` … `to`; null has no end. */
	from: count,
	to: count.nullable(),
	users: count,
	/** Mean weight of CF in the fusion, 0 … 1. */
	weight: measure,
	/** Hit@1. */
	cf: measure,
	llm: measure,
	fused: measure,
});

const mapSchema = z.object({
	name: z.enum(['CF', 'text', 'joint', 'token space']),
	points: z.array(
		z.object({
			item: z.string(),
			x: measure,
			y: measure,
			/** Training interactions. */
			count,
			cold: z.boolean(),
		}),
	),
});

const exampleSchema = z.object({
	user: z.string(),
	history: z.array(z.string()),
	prompt: z.string(),
	/** Best first. A model that did not score is null. */
	list: z.array(
		z.object({
			title: z.string(),
			score: measure,
			cf: measure.nullable(),
			llm: measure.nullable(),
			fused: measure.nullable(),
			isTarget: z.boolean(),
		}),
	),
	/** What each part of the prompt did for the first item's score. */
	explanation: z
		.array(z.object({ part: z.string(), leaveOneOut: measure, gradientTimesInput: measure }))
		.optional(),
	/** Tokens of the vocabulary nearest to what the language model is given of a part. */
	tokens: z
		.array(
			z.object({
				part: z.string(),
				nearest: z.array(z.object({ token: z.string(), similarity: measure })),
			}),
		)
		.optional(),
});

const genreSchema = z.object({ value: measure, low: measure, high: measure, users: count });

/** Fields of a result, one by one; what ties them together is {@link resultSchema}. */
export const resultFields = z.object({
	format: z.literal('a-llmrec-result'),
	version: z.literal(1),
	/** Name of the cell and of its file. */
	key: z.string().regex(KEY),
	experiment: z.string(),
	dataset: z.object({ name: z.string(), numUsers: count, numItems: count, numInteractions: count }),
	scenario: z.object({
		kind: z.enum(SCENARIO_KINDS),
		name: z.string(),
		options: z.record(z.string(), z.unknown()),
	}),
	seed: z.int().min(0),
	/** (users), dense ids of the evaluated users, each once. */
	users: z.array(count).min(1),
	/** (users), training interactions of each target. */
	targetCounts: z.array(count),
	/** Beside each target; null is the whole catalogue. */
	negatives: count.nullable(),
	/** Rows are indices into `users`. */
	slices: z.record(z.string(), z.object({ description: z.string(), rows: z.array(count) })),
	models: z.record(z.string(), modelSchema),
	curves: z.array(curveSchema).optional(),
	calibration: z.array(calibrationSchema).optional(),
	/** By variant: mean cosine, reconstruction errors, alignment … */
	latents: z.record(z.string(), numbers).optional(),
	maps: z.array(mapSchema).optional(),
	examples: z.array(exampleSchema).optional(),
	genres: z.record(z.string(), genreSchema).optional(),
	/** Seconds of each stage. */
	timings: z.record(z.string(), measure.min(0)).optional(),
	/** What made the file, as typed. */
	command: z.string().optional(),
});

export const resultSchema = resultFields.superRefine((result, context) => {
	const wrong = (path: (string | number)[], message: string) =>
		context.addIssue({ code: 'custom', path, message });
	const users = result.users.length;
	const lengths: [(string | number)[], number][] = [[['targetCounts'], result.targetCounts.length]];
	for (const [label, { ranks }] of Object.entries(result.models))
		lengths.push(
			[['models', label, 'ranks', 'greater'], ranks.greater.length],
			[['models', label, 'ranks', 'ties'], ranks.ties.length],
		);
	for (const [path, length] of lengths)
		if (length !== users) wrong(path, `has ${length} numbers for ${users} users`);
	if (lengths.length === 1) wrong(['models'], 'has no model');
	if (new Set(result.users).size !== users) wrong(['users'], 'has a user twice');
	for (const [name, { rows }] of Object.entries(result.slices)) {
		const outside = rows.findIndex((row) => row >= users);
		if (outside >= 0) wrong(['slices', name, 'rows', outside], `is no row of the ${users} users`);
		if (new Set(rows).size !== rows.length) wrong(['slices', name, 'rows'], 'has a row twice');
	}
});

/** One evaluated cell. */
export type ExperimentResult = z.output<typeof resultSchema>;
export type ScenarioKind = ExperimentResult['scenario']['kind'];
export type ModelFamily = (typeof MODEL_FAMILIES)[number];
export type ModelRanks = ExperimentResult['models'][string];
export type TrainingCurve = z.output<typeof curveSchema>;
export type CalibrationBin = z.output<typeof calibrationSchema>;
export type ItemMap = z.output<typeof mapSchema>;
export type Example = z.output<typeof exampleSchema>;

const RULES: FileRules = {
	limit: LARGEST_TEXT_BYTES,
	remedy: 'delete it and run the experiment again, which evaluates what is missing',
};

/** Folder of the results of an experiment's folder. */
export function resultsFolder(out: string): string {
	return join(out, 'results');
}

/**
 * Writes `<out>/results/<key>.json`, whole or not at all.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT for what could not be read again, ERR_ALLMREC_WRITE
 * @returns the file's path
 */
export async function writeResult(out: string, result: ExperimentResult): Promise<string> {
	const { success, data, error } = resultSchema.safeParse(result);
	if (!success) {
		const [issue] = error.issues;
		invalidArgument('result', `a result of version 1 (${issue?.path.join('.')}: ${issue?.message})`, result);
	}
	const path = join(resultsFolder(out), `${data.key}.json`);
	await writeFileAtomic(path, [`${JSON.stringify(data)}\n`]);
	return path;
}

/** @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, with the file's name */
export function readResult(path: string): Promise<ExperimentResult> {
	return readJson(path, resultSchema, RULES);
}

/**
 * All results of an experiment's folder, by key.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND where there are none; ERR_ALLMREC_FILE_FORMAT with the name of a file that is damaged
 */
export async function readResults(out: string, signal?: AbortSignal): Promise<ExperimentResult[]> {
	const folder = resultsFolder(out);
	const names = await readdir(folder).catch((cause: Error) => {
		throw notThere(`The folder ${folder} cannot be read (${cause.message})`, cause);
	});
	const files = names.filter((name) => name.endsWith('.json')).sort();
	if (files.length === 0) throw notThere(`The folder ${folder} has no results`);
	const results: ExperimentResult[] = [];
	for (const name of files) {
		signal?.throwIfAborted();
		const path = join(folder, name);
		const result = await readResult(path);
		if (`${result.key}.json` !== name)
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`${path} cannot be used: it is the result \`${result.key}\` under another name; give it its own name back.`,
			);
		results.push(result);
	}
	return results;
}

function notThere(what: string, cause?: unknown): ALLMRecError {
	const message = `${what}; give the folder that an experiment wrote, which has its results in \`results\`.`;
	return new ALLMRecError('ERR_ALLMREC_FILE_NOT_FOUND', message, { cause });
}
