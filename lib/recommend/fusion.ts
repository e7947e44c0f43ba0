import { ALLMRecError, invalidArgument } from '../errors.js';
import { metricValues, rankTargets, rowWidth } from '../evaluation/metrics.js';
import { atOnce, blocks, inTurns, type Steps } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import { sorted } from '../sorting.js';

/** The numbers of a {@link FusionGate}; see there for the formula. */
export interface FusionParams {
	/** λ, most the CF score can weigh, 0 … 1. 0 is the LLM alone. */
	weight: number;
	/** κ ≥ 0, popularity at which the gate is half open, in units of `meanPopularity`. 0 leaves the gate open for all seen items. */
	halfPoint: number;
	/** γ > 0, steepness of the gate. */
	steepness: number;
	/** Mean training interactions of an item. */
	meanPopularity: number;
}

/** What a gate is saved as. */
export interface FusionGateJSON extends FusionParams {
	kind: 'popularity-gate';
	/** Changes with the formula. */
	version: 1;
}

/**
 * Fuses the scores of CF and LLM for each candidate. With z(·) standardised over a user's candidates (mean 0, deviation 1)
 * and pop the candidate's training interactions,
 *
 *     g     = λ · pop^γ / (pop^γ + (κ · meanPopularity)^γ), and 0 where pop = 0
 *     fused = g · z_cf + (1 − g) · z_llm
 *
 * | λ | κ | γ | is |
 * |---|---|---|---|
 * | 1 | 0 | – | CF wherever it has seen the item |
 * | 0 | – | – | the LLM alone |
 * | λ | 0 | – | a constant mix |
 * | 1 | 1 | 1 | the popularity gate of SPEC section 3, pop / (pop + meanPopularity) |
 *
 * A never-seen item is scored by the LLM alone: what CF says of it is chance. So z_cf is standardised over the seen
 * candidates. A row that one model scores constant (a user or text it
 * knows nothing about) is scored by the other model alone.
 */
export class FusionGate {
	readonly params: Readonly<FusionParams>;

	constructor(params: FusionParams) {
		const { weight, halfPoint, steepness, meanPopularity } = params;
		if (!(weight >= 0 && weight <= 1)) invalidArgument('weight', 'from 0 to 1', weight);
		if (!(halfPoint >= 0 && Number.isFinite(halfPoint)))
			invalidArgument('halfPoint', 'finite and not negative', halfPoint);
		if (!(steepness > 0 && Number.isFinite(steepness)))
			invalidArgument('steepness', 'finite and positive', steepness);
		if (!(meanPopularity >= 0 && Number.isFinite(meanPopularity)))
			invalidArgument('meanPopularity', 'finite and not negative', meanPopularity);
		this.params = Object.freeze({ weight, halfPoint, steepness, meanPopularity });
	}

	static fromJSON(json: unknown): FusionGate {
		const { kind, version, ...params } = (json ?? {}) as Partial<FusionGateJSON>;
		if (kind !== 'popularity-gate' || version !== 1)
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_FORMAT',
				`Expected a fusion gate of kind \`popularity-gate\`, version 1, got \`${kind}\`, version ${version}.`,
			);
		return new FusionGate(params as FusionParams);
	}

	toJSON(): FusionGateJSON {
		return { kind: 'popularity-gate', version: 1, ...this.params };
	}

	/** g: how much the CF score of an item of so many training interactions weighs, 0 … 1. */
	weightOf(popularity: number): number {
		return this.params.weight * atOnce(openings([popularity], this.params))[0]!;
	}

	/**
	 * @param cf (users × candidates), scores of the CF model, any scale
	 * @param llm (users × candidates), scores of the LLM (log-likelihoods), any scale
	 * @param popularity (users × candidates), training interactions of each candidate
	 * @param candidates per user; default all (one user)
	 * @returns (users × candidates), standardised units
	 * @throws `ERR_ALLMREC_NUMERIC` where a score is NaN or infinite
	 */
	fuse(
		cf: Float32Array,
		llm: Float32Array,
		popularity: ArrayLike<number>,
		candidates: number = cf.length,
	): Float32Array {
		return atOnce(this.fuseSteps(cf, llm, popularity, candidates));
	}

	/** {@link fuse} in steps. @internal */
	*fuseSteps(
		cf: Float32Array,
		llm: Float32Array,
		popularity: ArrayLike<number>,
		candidates: number,
	): Steps<Float32Array> {
		const pair = yield* standardisePair(cf, llm, popularity, candidates);
		return yield* blend(pair, this.params.weight, yield* openings(popularity, this.params));
	}
}

/** What {@link fitFusion} learns from: users that neither model was trained on, with their target among the candidates. */
export interface FusionValidation {
	/** (users × candidates) */
	cf: Float32Array;
	/** (users × candidates) */
	llm: Float32Array;
	/** (users × candidates), training interactions of each candidate. */
	popularity: ArrayLike<number>;
	/** (users), position of the target in its row. */
	targets: Int32Array;
	/** Mean training interactions over the catalogue; default over the candidates that are not targets. */
	meanPopularity?: number | undefined;
	/**
	 * (users) each, non-zero for its members: where the fused model must not fall behind. Default: targets among the
	 * most and among the least popular 35 % of the candidates that are not targets. All users are always guarded.
	 */
	slices?: readonly { name: string; mask: Uint8Array }[] | undefined;
	/** Above, so many are taken at even distances; default 10,000. */
	maxUsers?: number | undefined;
	/** Aborting rejects with the signal's reason. */
	signal?: AbortSignal | undefined;
}

/** Slices of fewer users say nothing and are not guarded. */
const minimumSliceUsers = 10;
/** Standard errors above the better single model at which a slice counts as safe. */
const safeMargin = 1;
/** Standard errors of likelihood that one more parameter must bring. */
const parsimony = 1;

/**
 * Chooses a gate on validation users.
 *
 * *What is searched.* A fixed grid, coarse, then fine around the best: λ, κ, γ. No random start, the same data give the
 * same gate.
 *
 * *What is maximised.* The mean log-likelihood of the target under softmax(τ · fused) over its candidates, τ fitted for each
 * setting. Hit@1 and NDCG@10 are steps that a swap of two near-equal scores moves; the likelihood is smooth and every
 * candidate's margin counts in it. In nine simulated
 * worlds, fitted on 300 users, it and NDCG@10 as objective came out alike on new users (overall Hit@1 0 to 0.005 higher): the guard does most.
 *
 * *What is guarded.* The likelihood alone would sell the rare for the frequent: cold targets are few, and always preferring
 * popular items gains more than it loses. So a setting is eligible where Hit@1 and NDCG@10 of all users and of each
 * slice are above those of the slice's better single model by a standard error of the paired difference, or are the single
 * model's own. If there is no such setting, the one with the best worst slice is taken among those that keep the
 * overall figures.
 *
 * *What is left out.* Never-seen items among the negatives: a target of validation can hardly be one, so they could only
 * count against the model that is asked about them.
 *
 * *What is preferred.* One model alone, then a constant mix, then the gate with γ = 1, then the gate with any γ: the next only
 * where it adds more than a standard error to the likelihood.
 *
 * @throws `ERR_ALLMREC_NUMERIC` where a score is NaN or infinite
 */
export async function fitFusion(validation: FusionValidation): Promise<FusionGate> {
	expectKnown('fitFusion', validation);
	validation.signal?.throwIfAborted();
	return inTurns(fitSteps(validation), validation.signal);
}

function* fitSteps(validation: FusionValidation): Steps<FusionGate> {
	const search = yield* Search.begin(validation);
	const coarse = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1];
	yield* search.tryAll([0, 1], 0, 1);
	yield* search.tryAll(coarse, 0, 1);
	for (const steepness of [1, 0.5, 2])
		for (const halfPoint of [0.03, 0.1, 0.3, 1, 3, 10]) yield* search.tryAll(coarse, halfPoint, steepness);
	const { weight, halfPoint, steepness } = search.best().params;
	if (weight > 0 && (weight < 1 || halfPoint > 0)) {
		const near = [-0.05, 0, 0.05].map((step) => weight + step).filter((value) => value > 0 && value <= 1);
		for (const factor of halfPoint > 0 ? [0.56, 0.75, 1, 1.33, 1.78] : [0])
			yield* search.tryAll(near, halfPoint * factor, steepness);
	}
	return new FusionGate(search.best().params);
}

/** One setting and how it did. */
interface Trial {
	params: FusionParams;
	/** Place in the order of preference. */
	complexity: number;
	/** Worst of all guarded differences, in standard errors. */
	worst: number;
	/** The same over all users only. */
	overall: number;
	/** (users), log-likelihood of the target. */
	likelihood: Float64Array;
	mean: number;
}

interface Guard {
	members: Int32Array;
	/** (users), metric of the slice's better single model. */
	better: Float64Array;
	metric: 'hit@1' | 'ndcg@10';
	overall: boolean;
}

class Search {
	readonly #pair: StandardisedPair;
	readonly #popularity: Float64Array;
	readonly #targets: Int32Array;
	readonly #meanPopularity: number;
	readonly #guards: Guard[];
	readonly #trials: Trial[] = [];
	/** Cells of the never-seen negatives. */
	readonly #left: Int32Array;

	private constructor(
		pair: StandardisedPair,
		{ popularity, targets }: Sample,
		meanPopularity: number,
		guards: Guard[],
		left: Int32Array,
	) {
		this.#pair = pair;
		this.#popularity = popularity;
		this.#targets = targets;
		this.#meanPopularity = meanPopularity;
		this.#guards = guards;
		this.#left = left;
	}

	static *begin(validation: FusionValidation): Steps<Search> {
		const sample = yield* takeUsers(validation);
		const { cf, llm, popularity, targets, candidates } = sample;
		const pair = yield* standardisePair(cf, llm, popularity, candidates);
		const others = yield* otherPopularities(popularity, targets, candidates);
		const mean = others.reduce((sum, value) => sum + value, 0) / Math.max(1, others.length);
		const slices = sample.slices ?? popularityMasks(popularity, targets, candidates, others);
		const left = yield* unseenNegatives(popularity, targets, candidates);
		const cfRanks = yield* rankTargets(without(cf, left), targets);
		const llmRanks = yield* rankTargets(without(llm, left), targets);
		const guards = [new Uint8Array(targets.length).fill(1), ...slices].flatMap((mask, index) => {
			const members = Int32Array.from(targets.keys()).filter((user) => mask[user] !== 0);
			if (index > 0 && members.length < minimumSliceUsers) return [];
			return (['hit@1', 'ndcg@10'] as const).map((metric): Guard => {
				const byCf = metricValues(cfRanks, metric);
				const byLlm = metricValues(llmRanks, metric);
				const better = standardErrors(byCf, byLlm, members) >= 0 ? byCf : byLlm;
				return { members, better, metric, overall: index === 0 };
			});
		});
		return new Search(pair, sample, validation.meanPopularity ?? mean, guards, left);
	}

	*tryAll(weights: readonly number[], halfPoint: number, steepness: number): Steps<void> {
		const settings = { halfPoint, steepness, meanPopularity: this.#meanPopularity };
		const open = yield* openings(this.#popularity, settings);
		for (const weight of weights) {
			const complexity = halfPoint === 0 ? (weight === 0 || weight === 1 ? 0 : 1) : steepness === 1 ? 2 : 3;
			const measured = yield* this.#measure(weight, open);
			this.#trials.push({ params: { weight, ...settings }, complexity, ...measured });
		}
	}

	*#measure(weight: number, open: Float64Array): Steps<Omit<Trial, 'params' | 'complexity'>> {
		const fused = without(yield* blend(this.#pair, weight, open), this.#left);
		const ranks = yield* rankTargets(fused, this.#targets);
		const values = { 'hit@1': metricValues(ranks, 'hit@1'), 'ndcg@10': metricValues(ranks, 'ndcg@10') };
		let worst = Number.POSITIVE_INFINITY;
		let overall = Number.POSITIVE_INFINITY;
		for (const guard of this.#guards) {
			const gain = standardErrors(values[guard.metric], guard.better, guard.members);
			worst = Math.min(worst, gain);
			if (guard.overall) overall = Math.min(overall, gain);
		}
		const likelihood = yield* targetLikelihood(fused, this.#targets);
		return { worst, overall, likelihood, mean: average(likelihood) };
	}

	best(): Trial {
		const eligible = this.#eligible();
		let chosen: Trial | undefined;
		for (const complexity of [0, 1, 2, 3]) {
			const rivals = eligible.filter((trial) => trial.complexity === complexity);
			const rival = rivals.reduce<Trial | undefined>(
				(best, trial) => (best && best.mean >= trial.mean ? best : trial),
				undefined,
			);
			if (!rival) continue;
			if (!chosen || gainInErrors(rival.likelihood, chosen.likelihood) > parsimony) chosen = rival;
		}
		return chosen!;
	}

	#eligible(): Trial[] {
		const safe = this.#trials.filter(({ worst }) => worst >= safeMargin);
		if (safe.length > 0) return safe;
		const kept = this.#trials.filter(({ overall }) => overall >= safeMargin);
		const candidates = kept.length > 0 ? kept : this.#trials;
		const most = Math.max(...candidates.map(({ worst }) => worst));
		return candidates.filter(({ worst }) => worst === most);
	}
}

/** Below every score, and far from where exponentials lose their meaning. */
const LAST = -1e6;

/** Puts what is left out last. */
function without(scores: Float32Array, left: Int32Array): Float32Array {
	const kept = scores.slice();
	for (const cell of left) kept[cell] = LAST;
	return kept;
}

/** Cells of one step. */
const BLOCK = 1 << 14;

/** Cells that are not of targets and for which `holds`. */
function* negatives(
	cells: number,
	targets: Int32Array,
	candidates: number,
	holds: (cell: number) => boolean,
): Steps<Int32Array> {
	const found = new Int32Array(cells);
	let count = 0;
	yield* blocks(cells, BLOCK, (from, to) => {
		for (let cell = from; cell < to; cell++)
			if (holds(cell) && cell % candidates !== targets[Math.floor(cell / candidates)]) found[count++] = cell;
	});
	return found.slice(0, count);
}

function unseenNegatives(
	popularity: Float64Array,
	targets: Int32Array,
	candidates: number,
): Steps<Int32Array> {
	return negatives(popularity.length, targets, candidates, (cell) => popularity[cell] === 0);
}

interface StandardisedPair {
	/** (users × candidates) */
	cf: Float64Array;
	/** (users × candidates) */
	llm: Float64Array;
	/** Candidates per user. */
	candidates: number;
}

/** Standardised rows; where one model's row is constant it takes the other's, so that any mix of the two is the other. */
function* standardisePair(
	cf: Float32Array,
	llm: Float32Array,
	popularity: ArrayLike<number>,
	candidates: number,
): Steps<StandardisedPair> {
	if (cf.length > 0 && !(Number.isInteger(candidates) && candidates > 0 && cf.length % candidates === 0))
		invalidArgument('candidates', `a divisor of the number of scores (${cf.length})`, candidates);
	if (llm.length !== cf.length) invalidArgument('llm', `as long as \`cf\` (${cf.length})`, llm.length);
	if (popularity.length !== cf.length)
		invalidArgument('popularity', `as long as \`cf\` (${cf.length})`, popularity.length);
	const pair = { cf: new Float64Array(cf.length), llm: new Float64Array(cf.length), candidates };
	const standardise = (start: number) => {
		const knownToCf = standardiseRow('cf', cf, pair.cf, start, candidates, popularity);
		const knownToLlm = standardiseRow('llm', llm, pair.llm, start, candidates);
		if (!knownToCf) pair.cf.set(pair.llm.subarray(start, start + candidates), start);
		else if (!knownToLlm) pair.llm.set(pair.cf.subarray(start, start + candidates), start);
	};
	const rows = cf.length === 0 ? 0 : cf.length / candidates;
	yield* blocks(rows, rowsOfBlock(candidates), (from, to) => {
		for (let row = from; row < to; row++) standardise(row * candidates);
	});
	return pair;
}

function rowsOfBlock(candidates: number): number {
	return Math.max(1, Math.floor(BLOCK / candidates));
}

/** Writes (score − mean) / deviation over the seen candidates, 0 for others; zeros, and false, for a constant row. */
function standardiseRow(
	name: string,
	scores: Float32Array,
	into: Float64Array,
	start: number,
	candidates: number,
	popularity?: ArrayLike<number>,
): boolean {
	let sum = 0;
	let square = 0;
	let count = 0;
	let low = Number.POSITIVE_INFINITY;
	let high = Number.NEGATIVE_INFINITY;
	for (let at = start; at < start + candidates; at++) {
		const score = scores[at]!;
		if (!Number.isFinite(score))
			throw new ALLMRecError(
				'ERR_ALLMREC_NUMERIC',
				`Expected finite scores in \`${name}\`, got others for user row ${start / candidates}.`,
			);
		if (popularity && popularity[at] === 0) continue;
		sum += score;
		count++;
		low = Math.min(low, score);
		high = Math.max(high, score);
	}
	if (!(high > low)) return false;
	const mean = sum / count;
	const seen = (at: number) => popularity?.[at] !== 0;
	for (let at = start; at < start + candidates; at++) if (seen(at)) square += (scores[at]! - mean) ** 2;
	const deviation = Math.sqrt(square / count);
	for (let at = start; at < start + candidates; at++)
		into[at] = seen(at) ? (scores[at]! - mean) / deviation : 0;
	return true;
}

/** pop^γ / (pop^γ + (κ · mean)^γ) of every candidate, in a form that neither overflows nor divides zero by zero. */
function* openings(popularity: ArrayLike<number>, params: Omit<FusionParams, 'weight'>): Steps<Float64Array> {
	const half = params.halfPoint * params.meanPopularity;
	const open = new Float64Array(popularity.length);
	yield* blocks(open.length, BLOCK, (from, to) => {
		for (let at = from; at < to; at++) {
			const pop = popularity[at]!;
			if (!(pop >= 0)) invalidArgument(`popularity[${at}]`, 'a count', pop);
			if (pop === 0) open[at] = 0;
			else open[at] = params.halfPoint === 0 ? 1 : 1 / (1 + (half / pop) ** params.steepness);
		}
	});
	return open;
}

function* blend({ cf, llm }: StandardisedPair, weight: number, open: Float64Array): Steps<Float32Array> {
	const fused = new Float32Array(cf.length);
	yield* blocks(fused.length, BLOCK, (from, to) => {
		for (let at = from; at < to; at++) {
			const gate = weight * open[at]!;
			fused[at] = gate * cf[at]! + (1 - gate) * llm[at]!;
		}
	});
	return fused;
}

/** (users), ln softmax(τ · row)[target] at the τ ≥ 0 of greatest mean: concave in τ, so Newton's steps find it. */
function* targetLikelihood(fused: Float32Array, targets: Int32Array): Steps<Float64Array> {
	const candidates = fused.length / targets.length;
	const values = new Float64Array(targets.length);
	let tau = 1;
	for (let step = 0; step < 8; step++) {
		let slope = 0;
		let curvature = 0;
		const add = (user: number) => {
			const start = user * candidates;
			const own = fused[start + targets[user]!]!;
			let total = 0;
			let first = 0;
			let second = 0;
			for (let at = start; at < start + candidates; at++) {
				// Relative to the target; standardised scores are below √candidates, far from overflow.
				const gap = fused[at]! - own;
				const mass = Math.exp(tau * gap);
				total += mass;
				first += mass * gap;
				second += mass * gap * gap;
			}
			values[user] = -Math.log(total);
			slope -= first / total;
			curvature += second / total - (first / total) ** 2;
		};
		yield* blocks(targets.length, rowsOfBlock(candidates), (from, to) => {
			for (let user = from; user < to; user++) add(user);
		});
		if (!(curvature > 0)) break;
		const next = Math.min(Math.max(tau + slope / curvature, tau / 4), tau * 4, 20);
		if (Math.abs(next - tau) < 1e-3 * tau) break;
		tau = next;
	}
	return values;
}

function average(values: Float64Array): number {
	return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Mean of `a − b` over `members` in its standard errors; +∞ where they never differ. */
function standardErrors(a: Float64Array, b: Float64Array, members: Int32Array): number {
	let sum = 0;
	let square = 0;
	for (const user of members) {
		const difference = a[user]! - b[user]!;
		sum += difference;
		square += difference * difference;
	}
	if (square === 0) return Number.POSITIVE_INFINITY;
	const count = members.length;
	const mean = sum / count;
	const variance = Math.max(square / count - mean * mean, 1e-12);
	return mean / Math.sqrt(variance / count);
}

function gainInErrors(a: Float64Array, b: Float64Array): number {
	const gain = standardErrors(a, b, Int32Array.from(a.keys()));
	return gain === Number.POSITIVE_INFINITY ? 0 : gain; // equal everywhere: no gain
}

/** The users that are looked at. */
interface Sample {
	/** Of each user. */
	candidates: number;
	/** (users × candidates) */
	cf: Float32Array;
	/** (users × candidates) */
	llm: Float32Array;
	/** (users × candidates) */
	popularity: Float64Array;
	/** (users) */
	targets: Int32Array;
	slices: Uint8Array[] | undefined;
}

function* takeUsers(validation: FusionValidation): Steps<Sample> {
	const { cf, llm, popularity, targets, slices, maxUsers = 10_000 } = validation;
	if (!(Number.isInteger(maxUsers) && maxUsers > 0))
		invalidArgument('maxUsers', 'a positive integer', maxUsers);
	if (targets.length === 0) invalidArgument('targets', 'at least one user', targets);
	const candidates = rowWidth('cf', cf.length, targets.length);
	if (llm.length !== cf.length) invalidArgument('llm', `as long as \`cf\` (${cf.length})`, llm.length);
	if (popularity.length !== cf.length)
		invalidArgument('popularity', `as long as \`cf\` (${cf.length})`, popularity.length);
	for (const { name, mask } of slices ?? [])
		if (mask.length !== targets.length)
			invalidArgument(`slices.${name}.mask`, `as long as there are users (${targets.length})`, mask.length);
	const count = Math.min(targets.length, maxUsers);
	const users = Int32Array.from({ length: count }, (_, place) =>
		Math.floor((place * targets.length) / count),
	);
	const sample: Sample = {
		candidates,
		cf: new Float32Array(count * candidates),
		llm: new Float32Array(count * candidates),
		popularity: new Float64Array(count * candidates),
		targets: users.map((user) => targets[user]!),
		slices: slices?.map(({ mask }) => Uint8Array.from(users, (user) => mask[user]!)),
	};
	yield* blocks(count, rowsOfBlock(candidates), (first, last) => {
		for (let place = first; place < last; place++) {
			const from = users[place]! * candidates;
			const to = place * candidates;
			sample.cf.set(cf.subarray(from, from + candidates), to);
			sample.llm.set(llm.subarray(from, from + candidates), to);
			for (let c = 0; c < candidates; c++) sample.popularity[to + c] = popularity[from + c]!;
		}
	});
	return sample;
}

/** Sorted popularity of the candidates that are not targets: a uniform sample of the catalogue. */
function* otherPopularities(
	popularity: Float64Array,
	targets: Int32Array,
	candidates: number,
): Steps<Float64Array> {
	const cells = yield* negatives(popularity.length, targets, candidates, () => true);
	const values = new Float64Array(cells.length);
	yield* blocks(cells.length, BLOCK, (from, to) => {
		for (let at = from; at < to; at++) values[at] = popularity[cells[at]!]!;
	});
	return yield* sorted(values);
}

/** Targets among the most and among the least popular 35 %. */
function popularityMasks(
	popularity: Float64Array,
	targets: Int32Array,
	candidates: number,
	others: Float64Array,
): Uint8Array[] {
	if (others.length === 0) return [];
	const low = others[Math.floor(0.35 * (others.length - 1))]!;
	const high = others[Math.ceil(0.65 * (others.length - 1))]!;
	const own = Float64Array.from(targets, (target, user) => popularity[user * candidates + target]!);
	return [
		Uint8Array.from(own, (pop) => (pop > low && pop >= high ? 1 : 0)),
		Uint8Array.from(own, (pop) => (pop <= low ? 1 : 0)),
	];
}
