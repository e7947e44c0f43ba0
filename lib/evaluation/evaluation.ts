import { invalidArgument } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import type { LongCallOptions } from '../progress.js';
import {
	averagePopularity,
	coverage,
	cutoffs,
	metricNames,
	metricValues,
	rankTargets,
	rowWidth,
	type TargetRanks,
	topItems,
} from './metrics.js';
import { itemSlices, type Slice } from './slices.js';
import {
	bootstrapMean,
	type Estimate,
	holm,
	type McNemarTest,
	mcNemar,
	type PairedBootstrap,
	pairedBootstrap,
	type WilcoxonTest,
	wilcoxon,
} from './statistics.js';

/** Metrics whose differences between models are tested. */
export const testedMetrics = ['hit@1', 'ndcg@10', 'mrr'] as const;
export type TestedMetric = (typeof testedMetrics)[number];

/** What both rankings, of candidates and of the catalogue, share. */
interface CommonOptions extends LongCallOptions {
	/** Who the others are tested against; default the first model. */
	reference?: string | undefined;
	/** `all` (default): every other model against `reference`; `none`; or pairs `[model, reference]`. */
	tests?: 'all' | 'none' | readonly (readonly [string, string])[] | undefined;
	/** Of the bootstrap and of every tie that is broken; default 0. */
	seed?: number | undefined;
	/** Bootstrap resamples; default 2,000. */
	resamples?: number | undefined;
}

export interface EvaluateModelsOptions extends CommonOptions {
	/** (users), ids of the evaluated users. */
	users: Int32Array;
	/** (users × candidates), item ids, the same for every model. */
	candidates: Int32Array;
	/** (users), position of the target in its candidate row. */
	targets: Int32Array;
	/** Scores (users × candidates) by the model's name. */
	models: Record<string, Float32Array>;
	/** (numItems + 1), training interactions of every item; entry 0 is the padding. */
	trainingCounts: Int32Array;
	/** Default {@link itemSlices}: overall, warm, cold, neverSeen. */
	slices?: readonly Slice[] | undefined;
}

export interface EvaluateRanksOptions extends CommonOptions {
	/** Ranks of the targets in the catalogue, (users), by the model's name. */
	models: Record<string, TargetRanks>;
	slices: readonly Slice[];
}

/**
 * The result of one evaluation, plain JSON, written as a run's `metrics.json`. `schema` changes when a field changes its
 * meaning or goes; new fields may come without that.
 *
 * ```
 * schema     1
 * protocol   ranking     'candidates' (one positive and `negatives` drawn items) or 'catalogue'
 *            negatives   per user; null for 'catalogue'
 *            users, seed, resamples, confidence (of every interval), cutoffs
 *            ties        'expected': the mean over random orders of equal scores
 * reference  name of the model the others are marked against
 * slices     <slice>: { users, description }
 * models     <model>: slices          <slice>: { users, metrics: { <metric>: { value, low, high } } }
 *                     recommendations { 'coverage@k', 'averagePopularity@k' }, 'candidates' only
 * tests      [{ slice, model, reference, users,
 *               differences: { 'hit@1' | 'ndcg@10' | 'mrr': { difference, low, high, pValue, adjusted } },
 *               mcNemar:     of Hit@1   { onlyFirst, onlySecond, method, pValue, adjusted },
 *               wilcoxon:    of NDCG@10 { pairs, statistic, z, pValue, adjusted } }]
 * ```
 *
 * Metrics are `hit@k`, `ndcg@k`, `recall@k`, `mrr`, means over the users of the slice with 95 % bootstrap percentile
 * intervals; `metrics` is empty and there are no tests for a slice without users. A difference is `model − reference`.
 * `adjusted` is the p value after Holm, the family being all pairs of one slice, for one metric and one kind of test.
 */
export interface EvaluationResult {
	schema: 1;
	protocol: {
		ranking: 'candidates' | 'catalogue';
		negatives: number | null;
		users: number;
		seed: number;
		resamples: number;
		confidence: number;
		cutoffs: number[];
		ties: 'expected';
	};
	reference: string;
	slices: Record<string, { users: number; description: string }>;
	models: Record<string, ModelResult>;
	tests: PairedTests[];
}

export interface ModelResult {
	slices: Record<string, { users: number; metrics: Record<string, Estimate> }>;
	recommendations?: Record<string, number>;
}

export interface PairedTests {
	slice: string;
	model: string;
	reference: string;
	users: number;
	differences: Record<TestedMetric, PairedBootstrap & Adjusted>;
	mcNemar: McNemarTest & Adjusted;
	wilcoxon: WilcoxonTest & Adjusted;
}

interface Adjusted {
	/** p value after Holm. */
	adjusted: number;
}

const confidence = 0.95;

/**
 * Compares models on the same users and the same candidates (SPEC section 4). The event loop gets its turn every few
 * milliseconds.
 *
 * @throws `ERR_ALLMREC_NUMERIC` where a score is NaN
 */
export async function evaluateModels(options: EvaluateModelsOptions): Promise<EvaluationResult> {
	expectKnown('evaluateModels', options);
	const { users, candidates, targets, models, trainingCounts, seed = 0, signal } = options;
	signal?.throwIfAborted();
	if (targets.length !== users.length)
		invalidArgument('targets', `as long as \`users\` (${users.length})`, targets.length);
	const width = rowWidth('candidates', candidates.length, users.length);
	const ranks: Record<string, TargetRanks> = {};
	for (const [name, scores] of Object.entries(models)) {
		if (scores.length !== candidates.length)
			invalidArgument(`models.${name}`, `users × candidates scores (${candidates.length})`, scores.length);
		ranks[name] = await inTurns(rankTargets(scores, targets), signal);
	}
	const targetItems = targets.map((position, user) => candidates[user * width + position]!);
	const slices = options.slices ?? itemSlices(trainingCounts, targetItems);
	const result = await evaluate({ ...options, models: ranks, slices }, width - 1);
	for (const [name, scores] of Object.entries(models)) {
		if (users.length === 0) break;
		const length = Math.min(width, Math.max(...cutoffs));
		const lists = await inTurns(topItems(scores, candidates, width, length, seed), signal);
		const recommendations: Record<string, number> = {};
		for (const k of cutoffs) {
			recommendations[`coverage@${k}`] = await inTurns(
				coverage(lists, length, k, trainingCounts.length - 1),
				signal,
			);
			recommendations[`averagePopularity@${k}`] = await inTurns(
				averagePopularity(lists, length, k, trainingCounts),
				signal,
			);
		}
		result.models[name]!.recommendations = recommendations;
	}
	return result;
}

/** The same from ranks in the full catalogue, as a native kernel counts them. */
export async function evaluateRanks(options: EvaluateRanksOptions): Promise<EvaluationResult> {
	expectKnown('evaluateRanks', options);
	return evaluate(options, null);
}

async function evaluate(options: EvaluateRanksOptions, negatives: number | null): Promise<EvaluationResult> {
	const { models, slices, seed = 0, resamples = 2000, signal, onProgress } = options;
	signal?.throwIfAborted();
	const names = Object.keys(models);
	if (names.length === 0) invalidArgument('models', 'at least one model', names);
	const { reference = names[0]! } = options;
	const pairs = testPairs(names, reference, options.tests ?? 'all');
	const users = models[names[0]!]!.greater.length;
	checkSlices(slices, users);
	const result: EvaluationResult = {
		schema: 1,
		protocol: {
			ranking: negatives === null ? 'catalogue' : 'candidates',
			negatives,
			users,
			seed,
			resamples,
			confidence,
			cutoffs: [...cutoffs],
			ties: 'expected',
		},
		reference,
		slices: {},
		models: Object.fromEntries(names.map((name): [string, ModelResult] => [name, { slices: {} }])),
		tests: [],
	};
	const bootstrap = { seed, resamples, confidence };
	let done = 0;
	for (const { name: slice, mask, description } of slices) {
		const members = mask.reduce((count, member) => count + (member ? 1 : 0), 0);
		result.slices[slice] = { users: members, description };
		const kept: Record<string, TargetRanks> = {};
		for (const name of names) {
			const ranks = selectRanks(`models.${name}`, models[name]!, mask, members);
			kept[name] = ranks;
			const metrics = members === 0 ? {} : await inTurns(estimateMetrics(ranks, bootstrap), signal);
			result.models[name]!.slices[slice] = { users: members, metrics };
			done++;
			onProgress?.({
				stage: 'evaluate',
				done,
				total: names.length * slices.length,
				unit: 'slices',
				message: `${name}, ${slice}`,
			});
		}
		const tests: PairedTests[] = [];
		if (members === 0) continue;
		for (const [model, against] of pairs) {
			const compared = await inTurns(comparePair(kept[model]!, kept[against]!, bootstrap), signal);
			tests.push({ slice, model, reference: against, users: members, ...compared });
		}
		adjust(tests);
		result.tests.push(...tests);
	}
	return result;
}

function* estimateMetrics(
	ranks: TargetRanks,
	bootstrap: { seed: number; resamples: number },
): Steps<Record<string, Estimate>> {
	const metrics: Record<string, Estimate> = {};
	for (const name of metricNames()) {
		// One relevant item per user: recall is hit, at half the cost.
		const known = metrics[name.replace('recall', 'hit')];
		metrics[name] = known ? { ...known } : yield* bootstrapMean(metricValues(ranks, name), bootstrap);
	}
	return metrics;
}

function* comparePair(
	a: TargetRanks,
	b: TargetRanks,
	bootstrap: { seed: number; resamples: number },
): Steps<Pick<PairedTests, 'differences' | 'mcNemar' | 'wilcoxon'>> {
	const adjusted = Number.NaN; // until `adjust` has seen the whole family
	function* difference(metric: TestedMetric): Steps<PairedBootstrap & Adjusted> {
		const found = yield* pairedBootstrap(metricValues(a, metric), metricValues(b, metric), bootstrap);
		return { ...found, adjusted };
	}
	const hits = yield* mcNemar(metricValues(a, 'hit@1'), metricValues(b, 'hit@1'), bootstrap.seed);
	const gains = yield* wilcoxon(metricValues(a, 'ndcg@10'), metricValues(b, 'ndcg@10'));
	return {
		differences: {
			'hit@1': yield* difference('hit@1'),
			'ndcg@10': yield* difference('ndcg@10'),
			mrr: yield* difference('mrr'),
		},
		mcNemar: { ...hits, adjusted },
		wilcoxon: { ...gains, adjusted },
	};
}

function adjust(tests: PairedTests[]): void {
	const kinds: ((test: PairedTests) => { pValue: number } & Adjusted)[] = [
		...testedMetrics.map((metric) => (test: PairedTests) => test.differences[metric]),
		(test) => test.mcNemar,
		(test) => test.wilcoxon,
	];
	for (const kind of kinds) {
		const adjusted = holm(tests.map((test) => kind(test).pValue));
		tests.forEach((test, index) => {
			kind(test).adjusted = adjusted[index]!;
		});
	}
}

function testPairs(
	names: string[],
	reference: string,
	tests: 'all' | 'none' | readonly (readonly [string, string])[],
): readonly (readonly [string, string])[] {
	const known = (name: string, field: string) => {
		if (!names.includes(name)) invalidArgument(field, `one of ${names.join(', ')}`, name);
	};
	known(reference, 'reference');
	if (tests === 'none') return [];
	if (tests === 'all') return names.filter((name) => name !== reference).map((name) => [name, reference]);
	for (const pair of tests) for (const name of pair) known(name, 'tests');
	return tests;
}

function checkSlices(slices: readonly Slice[], users: number): void {
	const seen = new Set<string>();
	for (const { name, mask } of slices) {
		if (mask.length !== users)
			invalidArgument(`slices.${name}.mask`, `as long as there are users (${users})`, mask.length);
		if (seen.has(name)) invalidArgument('slices', 'slices of different names', name);
		seen.add(name);
	}
}

function selectRanks(field: string, ranks: TargetRanks, mask: Uint8Array, members: number): TargetRanks {
	for (const side of ['greater', 'ties'] as const)
		if (ranks[side].length !== mask.length)
			invalidArgument(`${field}.${side}`, `as long as there are users (${mask.length})`, ranks[side].length);
	const greater = new Int32Array(members);
	const ties = new Int32Array(members);
	let place = 0;
	for (let user = 0; user < mask.length; user++) {
		if (!mask[user]) continue;
		greater[place] = ranks.greater[user]!;
		ties[place++] = ranks.ties[user]!;
	}
	return { greater, ties };
}
