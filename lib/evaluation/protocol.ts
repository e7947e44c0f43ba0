import type { Candidates } from '../data/sampling.js';
import type { Split } from '../data/split.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { blocks, inTurns, type Steps } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import type { LongCallOptions } from '../progress.js';
import type { ALLMRec, LlmVariant } from '../recommend/a-llm-rec.js';
import { type EvaluationResult, evaluateModels, evaluateRanks } from './evaluation.js';
import type { TargetRanks } from './metrics.js';
import { meanPairwiseCosine, reconstructionError } from './oversmoothing.js';
import { coldUserSlice, itemSlices } from './slices.js';

/** Names of the models a run is evaluated with. */
export const MODEL_NAMES = {
	cf: 'CF',
	llmOnly: 'LLM-Only',
	aligned: 'A-LLMRec (e)',
	text: 'A-LLMRec (q)',
	fused: 'Fused',
} as const;

export interface EvaluateRunOptions extends LongCallOptions {
	/** Users evaluated at most, evenly drawn. Default all. */
	users?: number | undefined;
	/** Users of the full ranking at most; 0 leaves it out. Default 500. */
	fullUsers?: number | undefined;
	/** Of the catalogue's best by CF, so many are re-ranked in the full ranking. Default 20. */
	rerank?: number | undefined;
	/** Of intervals and ties. Default 0. */
	seed?: number | undefined;
}

/** A run's evaluation; JSON-able. */
export interface RunEvaluation {
	/** The paper's protocol: the target among drawn negatives. */
	candidates: EvaluationResult;
	/** The whole catalogue without the items already seen; undefined when left out. */
	catalogue?: EvaluationResult | undefined;
	/** Signs of over-smoothing: mean cosine between items' latents, and both reconstruction errors. */
	latents: { meanCosineE: number; meanCosineQ: number; itemReconstruction: number };
	seconds: Record<string, number>;
}

/**
 * Evaluates all models of a run on the same users and candidates.
 *
 * @throws ERR_ALLMREC_EMPTY_DATASET if no user can be tested
 */
export async function evaluateRun(
	model: ALLMRec,
	split: Split,
	test: Candidates,
	options: EvaluateRunOptions = {},
): Promise<RunEvaluation> {
	expectKnown('evaluateRun', options);
	const { users: limit, fullUsers = 500, rerank = 20, seed = 0, signal, onProgress } = options;
	expectWhole({ users: limit ?? 1, fullUsers, rerank }, { users: 1, fullUsers: 0, rerank: 1 });
	if (test.users.length === 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_EMPTY_DATASET',
			`No user has a test item and ${test.negatives} items never interacted with, so there is nothing to evaluate; train a run with fewer \`negatives\`, or prepare a larger data set.`,
		);
	const width = test.negatives + 1;
	const rows = spread(test.users.length, limit);
	const users = rows.map((row) => test.users[row]!);
	const targets = rows.map((row) => test.targets[row]!);
	const candidates = await inTurns(takeCandidates(test, rows), signal);
	const histories = Array.from(users, (user) => split.history(user, 'test'));
	const targetItems = Int32Array.from(users, (user) => split.test[user]!);
	const seconds: Record<string, number> = {};
	const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
		const begun = performance.now();
		const result = await work();
		seconds[name] = (performance.now() - begun) / 1000;
		return result;
	};
	const calls = (name: string): LongCallOptions => ({
		signal,
		onProgress: onProgress && ((p) => onProgress({ ...p, stage: `evaluate ${name}` })),
	});
	const score = (variant: LlmVariant) =>
		timed(MODEL_NAMES[variant], () =>
			model.llmScores(vectors, histories, candidates, variant, calls(MODEL_NAMES[variant])),
		);

	const vectors = await model.userVectors(histories, signal);
	const cf = await timed(MODEL_NAMES.cf, () => model.parts.cf.scoreCandidates(vectors, candidates, width));
	const llmOnly = await score('llmOnly');
	const aligned = await score('aligned');
	const text = await score('text');
	const sizes = new Int32Array(users.length);
	for (const [i, user] of users.entries()) sizes[i] = split.dataset.sequence(user).length;
	const slices = [...itemSlices(split.itemCounts, targetItems), coldUserSlice(sizes)];
	const result: RunEvaluation = {
		candidates: await evaluateModels({
			users,
			candidates,
			targets,
			models: {
				[MODEL_NAMES.cf]: cf,
				[MODEL_NAMES.llmOnly]: llmOnly,
				[MODEL_NAMES.aligned]: aligned,
				[MODEL_NAMES.text]: text,
				[MODEL_NAMES.fused]: await inTurns(model.fusedSteps(cf, aligned, candidates, width), signal),
			},
			trainingCounts: split.itemCounts,
			slices,
			seed,
			tests: 'all',
			signal,
		}),
		latents: await overSmoothing(model, signal),
		seconds,
	};
	if (fullUsers > 0)
		result.catalogue = await timed('catalogue', () =>
			evaluateCatalogue(
				model,
				split,
				users,
				Math.min(fullUsers, users.length),
				rerank,
				seed,
				calls('catalogue'),
			),
		);
	return result;
}

/**
 * Ranks each target in the whole catalogue: CF ranks all items, and the others re-rank its best ones, which stay
 * ahead of the rest.
 */
async function evaluateCatalogue(
	model: ALLMRec,
	split: Split,
	all: Int32Array,
	count: number,
	rerank: number,
	seed: number,
	calls: LongCallOptions,
): Promise<EvaluationResult> {
	const users = spread(all.length, count).map((row) => all[row]!);
	const histories = Array.from(users, (user) => split.history(user, 'test'));
	const targets = Int32Array.from(users, (user) => split.test[user]!);
	const { cf } = model.parts;
	const vectors = await model.userVectors(histories, calls.signal);
	const cfRanks = await cf.rankTargets(vectors, targets, histories, calls.signal);
	const length = Math.min(rerank, cf.numItems);
	const { items } = await cf.retrieve(vectors, histories, length, calls.signal);
	const lists = Array.from(users, (_, u) =>
		items.subarray(u * length, (u + 1) * length).filter((item) => item > 0),
	);
	const d = cf.size;
	const models: Record<string, TargetRanks> = { [MODEL_NAMES.cf]: cfRanks };
	const rankBy = (scores: Float32Array[]): TargetRanks => {
		const ranks: TargetRanks = { greater: cfRanks.greater.slice(), ties: cfRanks.ties.slice() };
		for (const [u, list] of lists.entries()) {
			const place = list.indexOf(targets[u]!);
			if (place < 0) {
				// Ties within CF's best and across their border are CF's own.
				ranks.greater[u] = Math.max(ranks.greater[u]!, list.length);
				continue;
			}
			const row = scores[u]!;
			ranks.greater[u] = row.reduce((n, value) => n + (value > row[place]! ? 1 : 0), 0);
			ranks.ties[u] = row.reduce((n, value) => n + (value === row[place]! ? 1 : 0), -1);
		}
		return ranks;
	};
	const { normalisation } = model.parts;
	for (const variant of ['llmOnly', 'aligned', 'text'] as const) {
		const flat = (await model.candidateScores(vectors, histories, lists, variant, calls))[normalisation];
		let at = 0;
		const scores = lists.map((list) => {
			at += list.length;
			return flat.subarray(at - list.length, at);
		});
		models[MODEL_NAMES[variant]] = rankBy(scores);
		if (variant !== 'aligned') continue;
		const fused: Float32Array[] = [];
		for (const [u, list] of lists.entries()) {
			const own = await cf.scoreCandidates(
				vectors.subarray(u * d, (u + 1) * d),
				Int32Array.from(list),
				list.length,
			);
			fused.push(model.fusedScores(own, scores[u]!, Int32Array.from(list), list.length));
		}
		models[MODEL_NAMES.fused] = rankBy(fused);
	}
	return evaluateRanks({
		models,
		slices: itemSlices(split.itemCounts, targets),
		seed,
		tests: 'all',
		signal: calls.signal,
	});
}

function* takeCandidates({ candidates, negatives }: Candidates, rows: Int32Array): Steps<Int32Array> {
	const width = negatives + 1;
	const taken = new Int32Array(rows.length * width);
	yield* blocks(rows.length, 1 << 12, (from, to) => {
		for (let i = from; i < to; i++)
			taken.set(candidates.subarray(rows[i]! * width, (rows[i]! + 1) * width), i * width);
	});
	return taken;
}

/** Signs of over-smoothing in a run's latents. @internal */
export async function overSmoothing(
	{ parts }: ALLMRec,
	signal: AbortSignal | undefined,
): Promise<RunEvaluation['latents']> {
	const { latents, alignment, cf } = parts;
	const items = (await cf.itemTable()).subarray(cf.size);
	const e = latents.e.subarray(latents.size, (cf.numItems + 1) * latents.size);
	const q = latents.q.subarray(latents.size, (cf.numItems + 1) * latents.size);
	return {
		meanCosineE: await inTurns(meanPairwiseCosine(e, cf.numItems), signal),
		meanCosineQ: await inTurns(meanPairwiseCosine(q, cf.numItems), signal),
		itemReconstruction: await inTurns(
			reconstructionError({ original: items, reconstructed: await alignment.decodeItems(e) }),
			signal,
		),
	};
}

function expectWhole(options: Record<string, number>, least: Record<string, number>): void {
	for (const [name, value] of Object.entries(options))
		if (!Number.isInteger(value) || value < least[name]!)
			invalidArgument(name, `a whole number from ${least[name]}`, value);
}

/** `count` of 0 … n − 1 at even distances. */
export function spread(n: number, count = n): Int32Array {
	const kept = Math.min(n, count);
	return Int32Array.from({ length: kept }, (_, i) => Math.floor((i * n) / kept));
}
