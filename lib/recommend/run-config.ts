import { join } from 'node:path';
import { z } from 'zod';
import { alignmentSchema } from '../alignment/alignment.js';
import { BACKBONES, type BackboneKind, type BackboneOptions, backbones } from '../cf/backbones.js';
import { ALLMRecError } from '../errors.js';
import { writeJson } from '../files/atomic.js';
import { readSealed, sealed, sealSchema } from '../files/integrity.js';
import { parseOptions } from '../options.js';
import { projectionSchema } from '../projection/projection.js';
import { EMBEDDED_ENCODER, EMBEDDED_LLM } from './embedded.js';

const wordsSchema = z.union([
	z.enum(['movie', 'game', 'item']),
	z.strictObject({ past: z.string().min(1), noun: z.string().min(1), verb: z.string().min(1) }),
]);

const share = z.number().gt(0).lt(1).default(0.1);

const splitSchema = z.union(
	[
		z.literal('leaveLastOut'),
		z.strictObject({
			temporal: z
				.strictObject({ testShare: share, validationShare: share })
				.refine((shares) => shares.testShare + shares.validationShare < 1, {
					message: 'expected `testShare` and `validationShare` to leave some interactions to train on',
				}),
		}),
	],
	{
		error:
			'expected `leaveLastOut` or `{ temporal: { testShare, validationShare } }`, shares between 0 and 1',
	},
);

/** Everything a run can be configured with; what a configuration file may hold. */
export const runOptionsSchema = z.strictObject({
	/** Of every stage that gives none of its own. */
	seed: z.int().min(0).default(0),
	/** Sentence encoder: a folder or a Hub id. Default: the embedded tiny one. */
	textEncoder: z.string().default(EMBEDDED_ENCODER),
	/** Most tokens of an item's text. */
	textTokens: z.int().min(4).default(128),
	/** Language model: a folder or a Hub id. Default: the embedded tiny one. */
	llm: z.string().default(EMBEDDED_LLM),
	/** How the language model's weights are kept; stage 2 trains through `float32` and `bfloat16`. */
	llmDtype: z.enum(['float32', 'bfloat16', 'float16', 'int8', 'int4']).default('float32'),
	/** What the sentence encoder computes in. */
	encoderDtype: z.enum(['float32', 'bfloat16']).default('float32'),
	/** The recommender of stage 0. */
	backbone: z.enum(BACKBONES as [BackboneKind, ...BackboneKind[]]).default('sasrec'),
	/** Stage 0's options, those of the backbone. */
	cf: z.record(z.string(), z.unknown()).prefault({}),
	/** Stage 1. */
	alignment: alignmentSchema.prefault({}),
	/** Stage 2. */
	projection: projectionSchema.prefault({}),
	/** Words of the prompt: `movie`, `game`, `item`, or one's own. */
	words: wordsSchema.default('item'),
	/** Items of the history told in a prompt. */
	historyLength: z.int().min(1).default(10),
	/** Items with fewer training interactions are known by their text alone. */
	coldThreshold: z.int().min(0).default(1),
	/**
	 * What the language model is told of items beside their titles: `aligned`, `text` (q_i for all); ablations: `random`,
	 * `none`.
	 */
	joint: z.enum(['aligned', 'text', 'random', 'none']).default('aligned'),
	/** Ablation: no user vector in the prompt. */
	withoutUser: z.boolean().default(false),
	/** Negatives beside each target in validation and test. */
	negatives: z.int().min(1).default(19),
	/**
	 * What is held out: each user's last two items, or, by one cut in time for all users, the last share of all
	 * interactions for the test and the one before it for validation.
	 */
	split: splitSchema.default('leaveLastOut'),
	/** Of the candidates drawn for validation and test. Default: the run's seed. */
	candidatesSeed: z.int().min(0).optional(),
	/** Keep users with exactly three interactions out of training. */
	excludeColdUsers: z.boolean().default(false),
	/** Train on so many users only (few-shot). */
	trainUsers: z.int().min(1).optional(),
});

/** Stage 0 of a run. */
type StageZero = {
	[Kind in BackboneKind]: Kind extends 'sasrec'
		? { backbone?: Kind | undefined; cf?: BackboneOptions[Kind] | undefined }
		: { backbone: Kind; cf?: BackboneOptions[Kind] | undefined };
}[BackboneKind];
export type RunOptions = Omit<z.input<typeof runOptionsSchema>, 'backbone' | 'cf'> & StageZero;
export type RunConfig = z.output<typeof runOptionsSchema>;

/**
 * What the embedded checkpoints need instead of the paper's values, which are for large models: a tiny encoder's text
 * vectors collapse when its losses weigh as little as the paper's, and projections into a tiny language model hardly
 * learn from nothing, so they start as one map. Few users are made up for by drawing another item of each in every epoch.
 */
export const EMBEDDED_PRESET = {
	alignment: { items: 'all', activation: 'none', matching: 5, alpha: 5, learningRate: 5e-4, epochs: 3 },
	projection: { initialisation: 'shared', items: 'all', batchSize: 16, epochs: 3 },
} as const;

/**
 * Fills the defaults: a stage without a seed takes the run's, and with an embedded checkpoint a stage's defaults are
 * those of {@link EMBEDDED_PRESET}.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT
 */
export function parseRunOptions(options: RunOptions): RunConfig {
	const seed = options.seed ?? 0;
	const embedded = (source: string | undefined) => source === undefined || source.startsWith('embedded:');
	const preset: Partial<Record<'cf' | 'alignment' | 'projection', object>> = {
		...(embedded(options.textEncoder) ? { alignment: EMBEDDED_PRESET.alignment } : {}),
		...(embedded(options.llm) ? { projection: EMBEDDED_PRESET.projection } : {}),
	};
	const stage = (name: 'cf' | 'alignment' | 'projection') => {
		const own: unknown = options[name] ?? {};
		return typeof own === 'object' ? { seed, ...preset[name], ...own } : own; // the schema names what is no object
	};
	const kind = options.backbone ?? 'sasrec';
	const schema = Object.hasOwn(backbones, kind)
		? runOptionsSchema.extend({ cf: backbones[kind].schema })
		: runOptionsSchema; // which names the kinds that there are
	return parseOptions(
		schema as unknown as typeof runOptionsSchema,
		{
			...options,
			cf: stage('cf'),
			alignment: stage('alignment'),
			projection: stage('projection'),
		},
		'the run',
	);
}

/** A run folder's `config.json`. */
export interface RunFile {
	format: 'a-llmrec-run';
	version: 1;
	/** Where the data set was, as given; a moved one is named with `--dataset`. */
	dataset: { path: string; name: string; numUsers: number; numItems: number; numInteractions: number };
	options: RunConfig;
}

const CONFIG = 'config.json';

/** @throws ERR_ALLMREC_RUN if the folder is no run */
export async function readRunFile(folder: string): Promise<RunFile> {
	const file = await tryReadRunFile(folder);
	if (file) return file;
	throw new ALLMRecError(
		'ERR_ALLMREC_RUN',
		`${folder} is no run: it has no ${CONFIG} of a-llmrec. Runs are made by \`a-llmrec train\`.`,
	);
}

/** Undefined if there is none. @throws ERR_ALLMREC_RUN if it is damaged or another program's */
export async function tryReadRunFile(folder: string): Promise<RunFile | undefined> {
	return readSealed(
		join(folder, CONFIG),
		runFileSchema,
		{
			code: 'ERR_ALLMREC_RUN',
			missing: 'ERR_ALLMREC_RUN',
			limit: 1 << 24,
			remedy: 'it is damaged, or of another program; train again, or bring back the file as it was',
		},
		sealedPart,
	);
}

export async function writeRunFile(folder: string, file: RunFile): Promise<void> {
	await writeJson(join(folder, CONFIG), sealed(file, sealedPart));
}

const count = z.int().min(0);
const runFileSchema = z.strictObject({
	format: z.literal('a-llmrec-run'),
	version: z.literal(1),
	dataset: z.strictObject({
		path: z.string(),
		name: z.string(),
		numUsers: count,
		numItems: count,
		numInteractions: count,
	}),
	options: runOptionsSchema,
	/** Not in those of earlier versions. */
	sha256: sealSchema,
});

/** Where things lie may be changed by hand; what was trained may not. */
function sealedPart({ dataset, options, ...rest }: RunFile): unknown {
	const { path: _, ...data } = dataset;
	const { llm: __, textEncoder: ___, ...trained } = options;
	return { ...rest, dataset: data, options: trained };
}
