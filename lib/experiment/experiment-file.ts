import { dirname, isAbsolute, resolve } from 'node:path';
import { parse, YAMLError } from 'yaml';
import { z } from 'zod';
import { BACKBONES, type BackboneKind } from '../cf/backbones.js';
import { nearest } from '../data/nearest.js';
import { ALLMRecError } from '../errors.js';
import { readText } from '../files/read.js';
import { parseOptions } from '../options.js';
import { runOptionsSchema } from '../recommend/run-config.js';
import { ABLATIONS } from './ablations.js';

/** Models that an experiment knows beside the backbones. */
export const OTHER_MODELS = [
	'popularity',
	'itemKnn',
	'llmOnly',
	'mlpLlm',
	'tallrec',
	'recformer',
	'allmrec',
] as const;

export type ModelKind = BackboneKind | (typeof OTHER_MODELS)[number];

export const MODEL_KINDS: readonly ModelKind[] = [...BACKBONES, ...OTHER_MODELS];

const options = z.record(z.string(), z.unknown());
/** What a name in a table, a file or a folder may be made of. */
const name = z
	.string()
	.regex(/^[\p{L}\p{N}][\p{L}\p{N} ._()+-]{0,79}$/u, 'letters, digits, spaces, . _ ( ) + -');
const kind = z.enum(MODEL_KINDS as [ModelKind, ...ModelKind[]]);

const modelSchema = z.preprocess(
	(value) => (typeof value === 'string' ? { model: value } : value),
	z.strictObject({
		model: kind,
		/** As tables call it. Default: the model's usual name. */
		label: name.optional(),
		/** Of a backbone, a floor or a baseline its own; of `allmrec` those of a run, beside the experiment's. */
		options: options.optional(),
	}),
);

const few = {
	/** Users evaluated at most. Default: the experiment's. */
	users: z.int().min(1).optional(),
	/** Labels of the models that are compared here. Default: all. */
	models: z.array(z.string()).min(1).optional(),
};
const scenarioSchema = z.preprocess(
	(value) => (typeof value === 'string' ? { scenario: value } : value),
	z.discriminatedUnion('scenario', [
		z.strictObject({ scenario: z.enum(['overall', 'coldUsers', 'temporal', 'shuffle', 'genres']), ...few }),
		/** Training restricted to `trainUsers` users. */
		z.strictObject({ scenario: z.literal('fewShot'), trainUsers: z.int().min(1), ...few }),
		/** Rows of the paper's tables 8 and 9, by name. */
		z.strictObject({
			scenario: z.literal('ablation'),
			rows: z.array(z.enum(Object.keys(ABLATIONS) as [string, ...string[]])).optional(),
			...few,
		}),
		/** A-LLMRec with every combination of some options' values, each option named by its path (`alignment.alpha`). */
		z.strictObject({
			scenario: z.literal('sweep'),
			name,
			values: z.record(z.string(), z.array(z.union([z.string(), z.number(), z.boolean()])).min(1)),
			...few,
		}),
	]),
);

const dataSchema = z
	.strictObject({
		name,
		/** Folder written by `prepare`. */
		path: z.string().optional(),
		/** A generated catalogue, as in the demo. */
		demo: z.strictObject({ seed: z.int().min(0).default(0) }).optional(),
		/** Run options on this data set alone, e.g. the words of its prompts. */
		options: options.optional(),
	})
	.refine(({ path, demo }) => (path === undefined) !== (demo === undefined), {
		message: 'has one of `path` and `demo`',
	});

const schema = z.strictObject({
	name,
	data: z.array(dataSchema).min(1),
	models: z.array(modelSchema).min(1),
	scenarios: z
		.array(scenarioSchema)
		.min(1)
		.default([{ scenario: 'overall' }]),
	/** One training of everything for each. */
	seeds: z.array(z.int().min(0)).min(1).default([0]),
	/** Of evaluated users and candidates, so that seeds differ by training alone. `null`: those of each seed. */
	candidatesSeed: z.int().min(0).nullable().default(0),
	/** Users evaluated at most, evenly drawn. Default: all. */
	users: z.int().min(1).optional(),
	/** Options of all runs: those of `a-llmrec train --config`. */
	options: options.default({}),
});

/** An experiment as written in a file. */
export type ExperimentFile = Omit<z.input<typeof schema>, 'models' | 'scenarios'> & {
	models: (ModelKind | ModelEntry)[];
	scenarios?: (Scenario['scenario'] | Scenario)[] | undefined;
};
export type Experiment = z.output<typeof schema>;
export type Scenario = Experiment['scenarios'][number];
export type DataSource = Experiment['data'][number];
export type ModelEntry = {
	model: ModelKind;
	label?: string | undefined;
	options?: Record<string, unknown> | undefined;
};

/** Fields of the experiment that runs may not be given as options: it sets them. */
const OWN = ['seed', 'candidatesSeed', 'split', 'excludeColdUsers', 'trainUsers'] as const;

/**
 * Checks an experiment and fills its defaults; relative paths are of `base`.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT, with the nearest known name for what is misspelled
 */
export function parseExperiment(value: unknown, base = process.cwd()): Experiment {
	const experiment = parseOptions(schema, value, 'the experiment');
	const at = (path: string) => (isAbsolute(path) ? path : resolve(base, path));
	for (const data of experiment.data) if (data.path !== undefined) data.path = at(data.path);
	expectDistinct(
		'data',
		experiment.data.map(({ name }) => name),
	);
	expectDistinct('seeds', experiment.seeds.map(String));
	expectDistinct('models', experiment.models.map(labelOf));
	expectDistinct('scenarios', experiment.scenarios.map(scenarioName));
	for (const { models } of experiment.scenarios)
		for (const label of models ?? []) expectLabel(label, experiment.models.map(labelOf));
	const everywhere: [string, Record<string, unknown>][] = [['options', experiment.options]];
	for (const { name, options } of experiment.data)
		if (options) everywhere.push([`data ${name}: options`, options]);
	for (const { model, options } of experiment.models as ModelEntry[])
		if (model === 'allmrec' && options) everywhere.push([`model ${model}: options`, options]);
	for (const [where, given] of everywhere) {
		const own = OWN.find((field) => given[field] !== undefined);
		if (own)
			throw wrong(
				`${where}: \`${own}\` is set by the experiment (\`seeds\`, \`candidatesSeed\`, \`scenarios\`)`,
			);
		// `cf` is of the run's backbone; it is checked where the backbone is known.
		parseOptions(runOptionsSchema, { ...given, cf: {} }, `${where} of the experiment`);
	}
	return experiment;
}

/** Reads a YAML or JSON file. @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, and as {@link parseExperiment} */
export async function readExperiment(path: string): Promise<Experiment> {
	const text = await readText(path, { limit: 1 << 22 });
	let value: unknown;
	try {
		value = parse(text, { maxAliasCount: 100 });
	} catch (cause) {
		const why = cause instanceof YAMLError ? cause.message.split('\n')[0] : String(cause);
		throw new ALLMRecError('ERR_ALLMREC_FILE_FORMAT', `${path} is neither YAML nor JSON: ${why}`, { cause });
	}
	return parseExperiment(value, dirname(resolve(path)));
}

/** What tables call a model. */
export function labelOf({ model, label }: ModelEntry): string {
	return label ?? LABELS[model];
}

const LABELS: Record<ModelKind, string> = {
	popularity: 'Popularity',
	itemKnn: 'ItemKNN',
	bprmf: 'BPR-MF',
	gru4rec: 'GRU4Rec',
	lightgcn: 'LightGCN',
	ncf: 'NCF',
	neumf: 'NeuMF',
	nextitnet: 'NextItNet',
	sasrec: 'SASRec',
	llmOnly: 'LLM-Only',
	mlpLlm: 'MLP-LLM',
	tallrec: 'TALLRec',
	recformer: 'RECFORMER',
	allmrec: 'A-LLMRec',
};

/** What tells a scenario from the others of its experiment. */
export function scenarioName(scenario: Scenario): string {
	switch (scenario.scenario) {
		case 'fewShot':
			return `${scenario.trainUsers} training users`;
		case 'sweep':
			return scenario.name;
		case 'ablation':
			return 'ablations';
		case 'coldUsers':
			return 'cold users';
		case 'temporal':
			return 'temporal split';
		case 'shuffle':
			return 'shuffled histories';
		case 'genres':
			return 'favourite genres';
		default:
			return 'overall';
	}
}

function expectLabel(label: string, labels: readonly string[]): void {
	if (labels.includes(label)) return;
	const near = nearest(label, labels);
	throw wrong(`\`scenarios\`: no model is called «${label}»${near ? `, did you mean «${near}»?` : ''}`);
}

function expectDistinct(what: string, names: readonly string[]): void {
	const twice = names.find((each, i) => names.indexOf(each) < i);
	if (twice !== undefined) throw wrong(`\`${what}\`: «${twice}» is there twice`);
}

function wrong(what: string): ALLMRecError {
	return new ALLMRecError('ERR_ALLMREC_INVALID_ARGUMENT', `Options of the experiment: ${what}.`);
}
