import { join } from 'node:path';
import { hasUserTable } from '../cf/backbones.js';
import { ALLMRecError } from '../errors.js';
import { parseRunOptions, type RunConfig, type RunOptions } from '../recommend/run-config.js';
import { ABLATIONS } from './ablations.js';
import type { CellOptions } from './cell.js';
import { type Experiment, labelOf, type ModelEntry, type Scenario, scenarioName } from './experiment-file.js';
import { checkpointIdentity, contentHash, datasetIdentity } from './identity.js';
import type { ScenarioKind } from './results.js';

/** Where a data set is, once it is prepared. */
export interface PlannedData {
	name: string;
	path: string;
	options?: Record<string, unknown> | undefined;
}

/** A stage of a run that is trained, or a model of a cell that is scored. JSON-able: it goes to other processes. */
export type Task = StageTask | ScoreTask;

interface TaskBase {
	/** Of the content that it depends on; its folder or file in the cache. */
	id: string;
	/** For people. */
	title: string;
	data: { name: string; path: string };
	/** Tasks that come before it. */
	needs: string[];
}

/** Trains a run up to a stage, into a run folder. */
export interface StageTask extends TaskBase {
	kind: 'cf' | 'align' | 'project';
	options: RunOptions;
	/** The task of the stage before. */
	from?: string | undefined;
}

/** Scores a cell with a model; what it finds is a file of its own. */
export interface ScoreTask extends TaskBase {
	kind: 'score';
	cell: CellOptions;
	scenario: ScenarioKind;
	entry: ModelEntry;
	label: string;
	/** Of the run that the model is of, or that it would be of. */
	options: RunOptions;
	/** The run or the recommender it is made from. */
	from?: string | undefined;
	/** Also curves, maps, examples and the gate's calibration. */
	details: boolean;
}

/** One file of results. */
export interface PlannedCell {
	key: string;
	data: { name: string; path: string };
	scenario: { kind: ScenarioKind; name: string; options: Record<string, unknown> };
	seed: number;
	cell: CellOptions;
	/** In the order of the models. */
	scores: string[];
	/** Labels of the models a fusion is made of, by the label of the recommender. */
	parts: Record<string, string[]>;
}

export interface Plan {
	/** Each behind those it needs. */
	tasks: Task[];
	cells: PlannedCell[];
}

/** Everything that has to be done for an experiment, whatever of it is done already. */
export async function planExperiment(experiment: Experiment, data: readonly PlannedData[]): Promise<Plan> {
	const tasks = new Map<string, Task>();
	const cells: PlannedCell[] = [];
	for (const each of data) {
		const planner = new DataPlanner(experiment, each, await datasetIdentity(each.path), tasks);
		for (const scenario of experiment.scenarios)
			for (const seed of experiment.seeds) cells.push(await planner.cell(scenario, seed));
	}
	return { tasks: [...tasks.values()], cells };
}

/** Folder of a trained stage, or file of scores. */
export function cached(out: string, id: string): string {
	return join(out, 'cache', id);
}

class DataPlanner {
	readonly #data: { name: string; path: string };

	constructor(
		readonly experiment: Experiment,
		readonly planned: PlannedData,
		readonly identity: unknown,
		readonly tasks: Map<string, Task>,
	) {
		this.#data = { name: planned.name, path: planned.path };
	}

	async cell(scenario: Scenario, seed: number): Promise<PlannedCell> {
		const { experiment } = this;
		const users = scenario.users ?? experiment.users;
		const config = parseRunOptions(this.#options(scenario, seed));
		const cell: CellOptions = {
			split: config.split,
			excludeColdUsers: config.excludeColdUsers,
			trainUsers: config.trainUsers,
			seed,
			candidatesSeed: experiment.candidatesSeed ?? seed,
			negatives: config.negatives,
			...(users === undefined ? {} : { users }),
			coldUsersOnly: scenario.scenario === 'coldUsers',
		};
		const scores: string[] = [];
		const parts: PlannedCell['parts'] = {};
		for (const { entry, label, options } of this.#contestants(scenario, seed)) {
			const details = scenario.scenario === 'overall';
			scores.push(await this.#score(scenario.scenario, cell, { entry, label, options, details }));
			if (entry.model === 'allmrec') parts[label] = [this.#backbone(label, options), label];
		}
		const name = scenarioName(scenario);
		const { scenario: kind, ...rest } = scenario;
		return {
			key: keyOf(
				experiment.name,
				this.#data.name,
				kind === 'overall' ? kind : `${kind}-${name}`,
				`seed-${seed}`,
			),
			data: this.#data,
			scenario: { kind, name, options: { ...rest } },
			seed,
			cell,
			scores,
			parts,
		};
	}

	/** Run options of a scenario, for all models. */
	#options(scenario: Scenario, seed: number): RunOptions {
		const { options, candidatesSeed } = this.experiment;
		return {
			...options,
			...this.planned.options,
			seed,
			candidatesSeed: candidatesSeed ?? seed,
			...(scenario.scenario === 'temporal' ? { split: { temporal: {} } } : {}),
			...(scenario.scenario === 'coldUsers' ? { excludeColdUsers: true } : {}),
			...(scenario.scenario === 'fewShot' ? { trainUsers: scenario.trainUsers } : {}),
		} as RunOptions;
	}

	/** Who is compared: the experiment's models, or A-LLMRec's variants. */
	#contestants(
		scenario: Scenario,
		seed: number,
	): { entry: ModelEntry; label: string; options: RunOptions }[] {
		const base = this.#options(scenario, seed);
		const variants = (list: [string, Record<string, unknown>][]) =>
			list.map(([label, changes]) => ({
				entry: { model: 'allmrec' as const, label },
				label,
				options: merged(base, changes),
			}));
		if (scenario.scenario === 'ablation') {
			const rows = scenario.rows ?? Object.keys(ABLATIONS);
			return variants(rows.map((row) => [row, ABLATIONS[row as keyof typeof ABLATIONS]]));
		}
		if (scenario.scenario === 'sweep') return variants(combinations(scenario.values));
		const wanted = (entry: ModelEntry) =>
			(scenario.models?.includes(labelOf(entry)) ?? true) &&
			// Of the others none can be asked.
			(scenario.scenario !== 'genres' || entry.model === 'allmrec');
		return (this.experiment.models as ModelEntry[]).filter(wanted).map((entry) => ({
			entry,
			label: labelOf(entry),
			options: entry.model === 'allmrec' ? merged(base, entry.options ?? {}) : base,
		}));
	}

	async #score(
		scenario: ScenarioKind,
		cell: CellOptions,
		{
			entry,
			label,
			options,
			details,
		}: { entry: ModelEntry; label: string; options: RunOptions; details: boolean },
	): Promise<string> {
		const config = parseRunOptions(options);
		const from = await this.#upstream(entry, options);
		const id = `score-${contentHash({
			version: SCORES_VERSION,
			data: this.identity,
			cell,
			shuffle: scenario === 'shuffle',
			genres: scenario === 'genres' || undefined,
			entry: { model: entry.model, label, options: entry.options },
			from,
			details,
			text: [config.words, config.historyLength],
			llm: needsLlm(entry) ? [await checkpointIdentity(config.llm), config.llmDtype] : undefined,
			projection: entry.model === 'mlpLlm' ? config.projection : undefined,
			textEncoder: entry.model === 'recformer' ? await checkpointIdentity(config.textEncoder) : undefined,
		})}`;
		this.#add({
			id,
			kind: 'score',
			title: `${label} on ${this.#data.name}, ${scenario}, seed ${cell.seed}`,
			data: this.#data,
			needs: from ? [from] : [],
			cell,
			scenario,
			entry,
			label,
			options,
			...(from === undefined ? {} : { from }),
			details,
		});
		return id;
	}

	/** The trained stage a model is made from. */
	async #upstream(entry: ModelEntry, options: RunOptions): Promise<string | undefined> {
		switch (entry.model) {
			case 'popularity':
			case 'itemKnn':
			case 'llmOnly':
			case 'tallrec':
			case 'recformer':
				return undefined;
			case 'allmrec':
				return this.#stage('project', options);
			case 'mlpLlm':
				return this.#stage('cf', options);
			default:
				return this.#stage('cf', {
					...options,
					backbone: entry.model,
					cf: this.#cf(entry, options),
				} as RunOptions);
		}
	}

	/** A backbone that the experiment's runs are built on has their options, unless it has its own. */
	#cf(entry: ModelEntry, options: RunOptions): unknown {
		return entry.options ?? ((options.backbone ?? 'sasrec') === entry.model ? options.cf : {});
	}

	/** What tables call the recommender that a run is built on: the model with the same training, if it is one of them. */
	#backbone(label: string, options: RunOptions): string {
		const { backbone, cf } = parseRunOptions(options);
		if (hasUserTable(backbone)) return `${label} (CF)`;
		const same = (entry: ModelEntry) => {
			const own = { ...options, backbone, cf: this.#cf(entry, options) } as RunOptions;
			return entry.model === backbone && contentHash(parseRunOptions(own).cf) === contentHash(cf);
		};
		const entry = (this.experiment.models as ModelEntry[]).find(same);
		return labelOf(entry ?? { model: backbone });
	}

	async #stage(kind: StageTask['kind'], options: RunOptions): Promise<string> {
		const config = parseRunOptions(options);
		const { cf, backbone, split, excludeColdUsers, trainUsers, seed, candidatesSeed, negatives } = config;
		const of: Record<string, unknown> & { textEncoder?: unknown; llm?: unknown } = {
			version: STAGES_VERSION,
			data: this.identity,
			...{ cf, backbone, split, excludeColdUsers, trainUsers, seed },
		};
		if (kind !== 'cf') {
			const { alignment, textTokens, encoderDtype } = config;
			Object.assign(of, { alignment, textTokens, encoderDtype });
			of.textEncoder = await checkpointIdentity(config.textEncoder);
		}
		if (kind === 'project') {
			const { projection, llmDtype, words, historyLength, coldThreshold, joint, withoutUser } = config;
			Object.assign(of, { projection, llmDtype, words, historyLength, coldThreshold, joint, withoutUser });
			Object.assign(of, { candidatesSeed, negatives }); // of the fusion's validation
			of.llm = await checkpointIdentity(config.llm);
		}
		const id = `${kind}-${contentHash(of)}`;
		if (!this.tasks.has(id)) {
			const before =
				kind === 'cf' ? undefined : await this.#stage(kind === 'align' ? 'cf' : 'align', options);
			this.#add({
				id,
				kind,
				title: `${STAGE_TITLES[kind]} of ${backbone} on ${this.#data.name}, seed ${seed}`,
				data: this.#data,
				needs: before ? [before] : [],
				options: upTo(kind, config),
				...(before === undefined ? {} : { from: before }),
			});
		}
		return id;
	}

	#add(task: Task): void {
		const other = this.tasks.get(task.id);
		if (!other) this.tasks.set(task.id, task);
	}
}

const STAGE_TITLES = { cf: 'stage 0', align: 'stage 1', project: 'stage 2' } as const;

/** Changes with what is computed from the same options. */
const STAGES_VERSION = 1;
const SCORES_VERSION = 1;

function needsLlm({ model }: ModelEntry): boolean {
	return model === 'llmOnly' || model === 'mlpLlm' || model === 'tallrec';
}

/** Options that a stage does not read are left out, so that its folder is the same whatever they are. */
function upTo(kind: StageTask['kind'], config: RunConfig): RunOptions {
	const { cf, backbone, split, excludeColdUsers, trainUsers, seed } = config;
	const own = {
		cf,
		backbone,
		split,
		excludeColdUsers,
		seed,
		...(trainUsers === undefined ? {} : { trainUsers }),
	};
	if (kind === 'cf') return own as RunOptions;
	const { alignment, textTokens, encoderDtype, textEncoder } = config;
	const both = { ...own, alignment, textTokens, encoderDtype, textEncoder };
	return (kind === 'align' ? both : { ...config }) as RunOptions;
}

/** `alignment: { alpha: 1 }` over options: a stage's fields one by one. Another backbone has options of its own. */
function merged(options: RunOptions, changes: Record<string, unknown>): RunOptions {
	const result: Record<string, unknown> = { ...options };
	if (changes.backbone !== undefined && changes.backbone !== (options.backbone ?? 'sasrec')) delete result.cf;
	for (const [key, value] of Object.entries(changes)) {
		const before = result[key];
		const nested = (x: unknown) => typeof x === 'object' && x !== null && !Array.isArray(x);
		result[key] = nested(value) && nested(before) ? { ...(before as object), ...(value as object) } : value;
	}
	return result as RunOptions;
}

/** Every combination, named by its values. */
function combinations(values: Record<string, readonly unknown[]>): [string, Record<string, unknown>][] {
	let all: [string, Record<string, unknown>][] = [['', {}]];
	for (const [path, list] of Object.entries(values)) {
		const [stage, field, ...more] = path.split('.');
		if (!stage || more.length > 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_INVALID_ARGUMENT',
				`Options of the experiment: \`${path}\` names no option of a run; say it as \`llm\` or \`alignment.alpha\`.`,
			);
		all = all.flatMap(([name, options]) =>
			list.map((value): [string, Record<string, unknown>] => [
				`${name ? `${name}, ` : ''}${field ?? stage} = ${value}`,
				merged(options as RunOptions, { [stage]: field ? { [field]: value } : value }) as Record<
					string,
					unknown
				>,
			]),
		);
	}
	return all;
}

/** A file's name. */
function keyOf(...parts: string[]): string {
	return parts.map((part) => part.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[._-]+/, '')).join('.');
}
