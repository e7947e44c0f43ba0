import { join } from 'node:path';
import { MlpLlm } from '../baselines/mlp-llm.js';
import { RecFormer } from '../baselines/recformer.js';
import type { BaselineRequest } from '../baselines/request.js';
import { TALLRec } from '../baselines/tallrec.js';
import { hasUserTable, loadBackbone } from '../cf/backbones.js';
import { ItemKnn, type ItemKnnOptions } from '../cf/floors/item-knn.js';
import { Popularity } from '../cf/floors/popularity.js';
import type { Dataset } from '../data/dataset.js';
import { inTurns } from '../event-loop.js';
import { CausalLM } from '../llm/causal-lm.js';
import { recommendationTemplate } from '../llm/prompt-template.js';
import { type DeviceOptions, type Keep, opening, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import type { ALLMRec, LlmVariant } from '../recommend/a-llm-rec.js';
import { Catalogue } from '../recommend/catalogue.js';
import { resolveEmbedded } from '../recommend/embedded.js';
import { createPrompts } from '../recommend/model-parts.js';
import { loadRun } from '../recommend/run.js';
import { parseRunOptions } from '../recommend/run-config.js';
import { CandidateScorer } from '../recommend/scorer.js';
import type { Cell } from './cell.js';
import type { Contestant, Contestants } from './contestant.js';
import { genreScores, recommenderDetails, trainingCurves } from './details.js';
import type { ScoreTask } from './plan.js';

export interface MakeSettings extends LongCallOptions {
	dataset: Dataset;
	cell: Cell;
	device: DeviceOptions;
	/** Folder of the trained stage that {@link ScoreTask.from} names. */
	from: string | undefined;
	/** Folder for the model's own training. */
	folder: string;
}

/** Makes, and where need be trains, the models of a task. */
export function makeContestants(task: ScoreTask, settings: MakeSettings): Promise<Contestants> {
	return opening(async (keep) => {
		const make = MAKERS[task.entry.model] ?? backbone;
		const begun = performance.now();
		const made = await make(task, settings, keep);
		const seconds = (performance.now() - begun) / 1000;
		return {
			timings: TRAINED_HERE.has(task.entry.model) ? { [`${task.label}: training`]: seconds } : {},
			...made,
		};
	});
}

type Made = Omit<Contestants, 'timings'>;
type Make = (task: ScoreTask, settings: MakeSettings, keep: Keep) => Promise<Made>;

const MAKERS: Partial<Record<ScoreTask['entry']['model'], Make>> = {
	popularity: async ({ label }, { cell }) => floor(label, Popularity.of(cell.split)),
	itemKnn: async ({ label, entry }, { cell, signal }) =>
		floor(label, await ItemKnn.train(cell.split, entry.options as ItemKnnOptions, { signal })),
	llmOnly,
	mlpLlm,
	tallrec,
	recformer,
	allmrec,
};

/** Models without stages of their own in the cache. */
const TRAINED_HERE = new Set<string>(['itemKnn', 'mlpLlm', 'tallrec', 'recformer']);

function floor(label: string, model: Pick<Contestant, 'score'>): Made {
	const contestant: Contestant = { label, family: 'floor', score: (request) => model.score(request, {}) };
	return { models: [contestant], dispose: () => {} };
}

async function backbone(
	{ label }: ScoreTask,
	{ from, device, signal }: MakeSettings,
	keep: Keep,
): Promise<Made> {
	const cf = keep(await loadBackbone(join(from!, 'model', 'cf.safetensors'), { ...device, signal }));
	// Users it was trained on have their own vectors where it learns such.
	const score: Contestant['score'] = async ({ users, histories, candidates, width }, { signal }) =>
		cf.scoreCandidates(await cf.userVectors(histories, signal, Int32Array.from(users)), candidates, width);
	return {
		models: [{ label, family: 'cf', score }],
		details: async () => ({ curves: await trainingCurves(join(from!, 'cf'), 'stage 0', label) }),
		dispose: () => cf.dispose(),
	};
}

/** The language model with prompts for a catalogue. */
async function language(task: ScoreTask, settings: MakeSettings, keep: Keep) {
	const { dataset, cell, device, signal, onProgress } = settings;
	const config = parseRunOptions(task.options);
	const session = Session.open(device);
	keep({ dispose: () => session.release() });
	const calls = { signal, onProgress };
	const llm = keep(
		await CausalLM.load(resolveEmbedded(config.llm), { session, dtype: config.llmDtype, ...calls }),
	);
	const catalogue = await inTurns(Catalogue.make(dataset.items, cell.split.itemCounts), signal);
	const prompts = (options: { withoutUser?: boolean; withoutItemSlots?: boolean }) =>
		createPrompts(
			llm,
			catalogue,
			recommendationTemplate(config.words),
			{ historyLength: config.historyLength, ...options },
			calls,
		);
	return { config, session, llm, prompts, calls };
}

async function llmOnly(task: ScoreTask, settings: MakeSettings, keep: Keep): Promise<Made> {
	const { session, llm, prompts } = await language(task, settings, keep);
	const scorer = new CandidateScorer(llm, await prompts({ withoutUser: true, withoutItemSlots: true }));
	const score = async ({ histories, candidates, width }: BaselineRequest, calls: LongCallOptions) => {
		const requests = histories.map((history, row) => ({
			history,
			candidates: candidates.subarray(row * width, (row + 1) * width),
		}));
		return (await scorer.score(requests, calls)).mean;
	};
	return { models: [{ label: task.label, family: 'llm', score }], dispose: () => disposeAll(llm, session) };
}

async function mlpLlm(task: ScoreTask, settings: MakeSettings, keep: Keep): Promise<Made> {
	const { dataset, cell, from, folder, signal } = settings;
	const { config, session, llm, prompts, calls } = await language(task, settings, keep);
	const cf = keep(await loadBackbone(join(from!, 'model', 'cf.safetensors'), { session, signal }));
	const model = keep(
		await MlpLlm.train(
			dataset,
			cf,
			llm,
			{ ...config.projection, ...task.entry.options },
			{ ...calls, split: cell.split, session, folder, prompts: await prompts({}) },
		),
	);
	return {
		models: [{ label: task.label, family: 'llm', score: (request, c) => model.score(request, c) }],
		details: async () => ({ curves: await trainingCurves(folder, 'training', task.label) }),
		dispose: () => disposeAll(model, cf, llm, session),
	};
}

async function tallrec(task: ScoreTask, settings: MakeSettings, keep: Keep): Promise<Made> {
	const { dataset, cell, folder } = settings;
	const { config, session, llm, calls } = await language(task, settings, keep);
	const { words, historyLength, seed } = config;
	const model = keep(
		await TALLRec.train(
			dataset,
			llm,
			{ words, historyLength, seed, ...task.entry.options },
			{ ...calls, split: cell.split, session, folder },
		),
	);
	return {
		models: [{ label: task.label, family: 'llm', score: (request, c) => model.score(request, c) }],
		details: async () => ({ curves: await trainingCurves(folder, 'training', task.label) }),
		dispose: () => disposeAll(model, llm, session),
	};
}

async function recformer(task: ScoreTask, settings: MakeSettings, keep: Keep): Promise<Made> {
	const { dataset, cell, folder, device, signal, onProgress } = settings;
	const { textEncoder, seed } = parseRunOptions(task.options);
	const model = keep(
		await RecFormer.train(
			dataset,
			resolveEmbedded(textEncoder),
			{ seed, ...task.entry.options },
			{ ...device, split: cell.split, folder, signal, onProgress },
		),
	);
	return {
		models: [{ label: task.label, family: 'text', score: (request, c) => model.score(request, c) }],
		dispose: () => model.dispose(),
	};
}

async function allmrec(task: ScoreTask, settings: MakeSettings, keep: Keep): Promise<Made> {
	const { from, device, signal, onProgress } = settings;
	const { label, scenario, details } = task;
	const run = keep(await loadRun(from!, { ...device, signal, onProgress }));
	const way = (name: string, variant: LlmVariant): Contestant => ({
		label: name,
		family: 'aligned',
		score: async ({ histories, candidates }, calls) =>
			run.llmScores(await run.userVectors(histories, calls.signal), histories, candidates, variant, calls),
	});
	const aligned = way(label, 'aligned');
	// The fusion takes what has been scored.
	const scored = new WeakMap<BaselineRequest, Promise<Float32Array>>();
	const once: Contestant['score'] = (request, calls) => {
		const scores = scored.get(request) ?? aligned.score(request, calls);
		scored.set(request, scores);
		return scores;
	};
	const models: Contestant[] = [{ ...aligned, score: once }];
	// Of a variant it is its own prompt that counts; its recommender is that of the others.
	if (scenario !== 'ablation' && scenario !== 'sweep' && scenario !== 'genres') {
		models.push(way(`${label} (q)`, 'text'));
		// It sees users by their histories, which is another model than one with a vector for each.
		if (hasUserTable(parseRunOptions(task.options).backbone))
			models.push({
				label: `${label} (CF)`,
				family: 'cf',
				score: (request, calls) => cfScores(run, request, calls),
			});
		models.push({
			label: `${label} fused`,
			family: 'fused',
			score: async (request, calls) => fused(run, request, await once(request, calls), calls),
		});
	}
	return {
		models,
		details: async (cell, scores) => ({
			...(await recommenderDetails(run, { folder: from!, label, full: details, cell, scores })),
			...(scenario === 'genres' && {
				genres: await genreScores(run, cell, { label, users: task.cell.users, signal, onProgress }),
			}),
		}),
		dispose: () => run.dispose(),
	};
}

async function fused(
	run: ALLMRec,
	{ histories, candidates, width }: BaselineRequest,
	aligned: Float32Array,
	{ signal }: LongCallOptions,
): Promise<Float32Array> {
	const cf = await cfScores(run, { histories, candidates, width }, { signal });
	return inTurns(run.fusedSteps(cf, aligned, candidates, width), signal);
}

async function cfScores(
	run: ALLMRec,
	{ histories, candidates, width }: Omit<BaselineRequest, 'users'>,
	{ signal }: LongCallOptions,
): Promise<Float32Array> {
	return run.parts.cf.scoreCandidates(await run.userVectors(histories, signal), candidates, width);
}

function disposeAll(...parts: { dispose?(): void; release?(): void }[]): void {
	for (const part of parts) part.dispose ? part.dispose() : part.release?.();
}
