import { ALLMRecError, invalidArgument } from '../errors.js';
import { blocks, type Steps } from '../event-loop.js';
import { sorted } from '../sorting.js';
import { Random } from './random.js';

/** A mean over users and its bootstrap interval. */
export interface Estimate {
	value: number;
	low: number;
	high: number;
}

export interface BootstrapOptions {
	/** Resamples drawn; default 2,000. */
	resamples?: number | undefined;
	/** Share of the resampled means inside the interval; default 0.95. */
	confidence?: number | undefined;
	/** Default 0. */
	seed?: number | undefined;
}

/**
 * A paired bootstrap of a mean difference. `pValue` is twice the smaller tail of the resampled differences on either
 * side of zero, counted with (1 + n) / (1 + resamples): it is below 1 − confidence where the interval leaves out zero,
 * and cannot fall below 2 / (resamples + 1). Nor does it fall below 2^(1 − m) of m users that differ, what the exact
 * test of random signs could reach: resamples of two users say nothing that two users do not.
 */
export interface PairedBootstrap {
	/** Mean of `a − b`. */
	difference: number;
	low: number;
	high: number;
	/** Two-sided, of "no difference in mean". */
	pValue: number;
}

/** McNemar's test of two paired proportions. */
export interface McNemarTest {
	/** Users that only the first model hits. */
	onlyFirst: number;
	/** Users that only the second model hits. */
	onlySecond: number;
	method: 'exact' | 'asymptotic';
	/** Two-sided. */
	pValue: number;
}

/** Wilcoxon's signed rank test by its normal approximation. */
export interface WilcoxonTest {
	/** Pairs that differ; equal pairs are dropped (Wilcoxon's rule). */
	pairs: number;
	/** Sum of the ranks of the positive differences, W+. */
	statistic: number;
	/** W+ standardised, with the correction of its variance for tied ranks and none for continuity (as SciPy). */
	z: number;
	/** Two-sided. */
	pValue: number;
}

/** Up to so many distinct values are resampled one by one; more are gathered into {@link maximumBins} bins. */
const maximumDistinct = 2048;
const maximumBins = 1024;
/** Discordant pairs above which McNemar's test is computed from the normal distribution. */
const maximumExactPairs = 10_000;

/**
 * Mean with its bootstrap percentile interval (Efron, 1979). Where all values are equal the interval is that value.
 *
 * Cost does not grow with users × resamples. A resample of n users is a multinomial draw of how often each *distinct*
 * value comes up, and metrics of a ranking have few: 21 at most among 20 candidates. This is the same distribution, not
 * an approximation. Above 2,048 distinct values, sorted values are put in 1,024 bins; the spread within a bin
 * enters as a normal deviate with its exact variance.
 *
 * @param values (users), finite, at least one
 */
export function* bootstrapMean(values: Float64Array, options: BootstrapOptions = {}): Steps<Estimate> {
	const { mean, means, low, high } = yield* resample(values, options);
	return { value: mean, low: quantile(means, low), high: quantile(means, high) };
}

/** Bootstrap over users of mean(`a`) − mean(`b`), both (users) and of the same users in the same order. */
export function* pairedBootstrap(
	a: Float64Array,
	b: Float64Array,
	options: BootstrapOptions = {},
): Steps<PairedBootstrap> {
	const pairs = differences(a, b);
	const { mean, means, low, high } = yield* resample(pairs, options);
	const differing = pairs.reduce((count, difference) => count + (difference === 0 ? 0 : 1), 0);
	const floor = 2 ** (1 - Math.min(differing, 64));
	let below = 0;
	let above = 0;
	for (const difference of means) {
		if (difference <= 0) below++;
		if (difference >= 0) above++;
	}
	return {
		difference: mean,
		low: quantile(means, low),
		high: quantile(means, high),
		pValue: Math.min(1, Math.max(floor, (2 * (1 + Math.min(below, above))) / (means.length + 1))),
	};
}

/**
 * McNemar's test on the Hit@1 of two models: exact binomial up to 10,000 discordant users, above that the χ² form with
 * the continuity correction (they agree to three digits there).
 *
 * A hit expected between 0 and 1 (a tie, see {@link metricValues}) is decided by one seeded draw per user, common to both
 * models, so that equal scores never make a discordant pair.
 *
 * @param a (users), hits of the first model in [0, 1]
 * @param b (users), hits of the second model, same users
 */
export function* mcNemar(a: Float64Array, b: Float64Array, seed = 0): Steps<McNemarTest> {
	samePairs(a, b);
	const random = new Random(seed);
	let onlyFirst = 0;
	let onlySecond = 0;
	yield* blocks(a.length, BLOCK, (from, to) => {
		for (let user = from; user < to; user++) {
			const draw = random.uniform();
			const first = a[user]! > draw;
			const second = b[user]! > draw;
			if (first && !second) onlyFirst++;
			if (second && !first) onlySecond++;
		}
	});
	const pairs = onlyFirst + onlySecond;
	if (pairs <= maximumExactPairs)
		return {
			onlyFirst,
			onlySecond,
			method: 'exact',
			pValue: signTest(Math.min(onlyFirst, onlySecond), pairs),
		};
	const excess = Math.max(0, Math.abs(onlyFirst - onlySecond) - 1);
	return { onlyFirst, onlySecond, method: 'asymptotic', pValue: twoSided(excess / Math.sqrt(pairs)) };
}

/**
 * Wilcoxon's signed rank test of `a` against `b` (NDCG@10 of two models on the same users). No difference at all gives
 * p = 1.
 */
export function* wilcoxon(a: Float64Array, b: Float64Array): Steps<WilcoxonTest> {
	// Sorting plain numbers natively is several times faster than by comparator: magnitudes of either sign apart.
	const nonZero = differences(a, b).filter((difference) => difference !== 0);
	yield;
	const positive = yield* sorted(nonZero.filter((difference) => difference > 0));
	const negative = yield* sorted(
		nonZero.filter((difference) => difference < 0).map((difference) => -difference),
	);
	const pairs = nonZero.length;
	let statistic = 0;
	let tieTerm = 0;
	let before = 0;
	let p = 0;
	let n = 0;
	while (before < pairs) {
		const size = Math.min(positive[p] ?? Number.POSITIVE_INFINITY, negative[n] ?? Number.POSITIVE_INFINITY);
		const firstPositive = p;
		const firstNegative = n;
		while (positive[p] === size) p++;
		while (negative[n] === size) n++;
		const tied = p - firstPositive + n - firstNegative;
		statistic += (p - firstPositive) * (before + (tied + 1) / 2);
		tieTerm += tied * tied * tied - tied;
		before += tied;
	}
	if (pairs === 0) return { pairs, statistic: 0, z: 0, pValue: 1 };
	const mean = (pairs * (pairs + 1)) / 4;
	const variance = (pairs * (pairs + 1) * (2 * pairs + 1)) / 24 - tieTerm / 48;
	const z = (statistic - mean) / Math.sqrt(variance);
	return { pairs, statistic, z, pValue: twoSided(z) };
}

/**
 * Holm's step-down adjustment (1979): reject where the adjusted value is below the level, and the chance of any false
 * rejection in the family stays below it, whatever the dependence between the tests.
 */
export function holm(pValues: readonly number[]): number[] {
	const order = pValues.map((_, index) => index).sort((a, b) => pValues[a]! - pValues[b]!);
	const adjusted = new Array<number>(pValues.length);
	let largest = 0;
	order.forEach((index, place) => {
		const p = pValues[index]!;
		if (!(p >= 0 && p <= 1)) invalidArgument(`pValues[${index}]`, 'from 0 to 1', p);
		largest = Math.max(largest, Math.min(1, p * (pValues.length - place)));
		adjusted[index] = largest;
	});
	return adjusted;
}

interface Group {
	/** Mean of the values in the group. */
	mean: number;
	/** Their variance; 0 where the group is one distinct value. */
	variance: number;
	count: number;
}

/** Users of one step. */
const BLOCK = 1 << 14;

interface Resampled {
	mean: number;
	/** (resamples), ascending. */
	means: Float64Array;
	/** Quantiles of the interval's ends. */
	low: number;
	high: number;
}

function* resample(values: Float64Array, options: BootstrapOptions): Steps<Resampled> {
	const { resamples = 2000, confidence = 0.95, seed = 0 } = options;
	if (!(Number.isInteger(resamples) && resamples > 0))
		invalidArgument('resamples', 'a positive integer', resamples);
	if (!(confidence > 0 && confidence < 1)) invalidArgument('confidence', 'between 0 and 1', confidence);
	if (values.length === 0) invalidArgument('values', 'at least one value', values);
	const groups = yield* groupValues(values);
	const users = values.length;
	const mean = groups.reduce((sum, group) => sum + group.mean * group.count, 0) / users;
	const random = new Random(seed);
	const means = new Float64Array(resamples).fill(mean);
	if (groups.length > 1) {
		for (let draw = 0; draw < resamples; draw++) {
			means[draw] = mean + resampledShift(groups, mean, users, random);
			yield;
		}
	}
	return { mean, means: means.sort(), low: (1 - confidence) / 2, high: (1 + confidence) / 2 };
}

/** Mean of one resample less the sample's mean; a multinomial as a chain of binomials. */
function resampledShift(groups: Group[], mean: number, users: number, random: Random): number {
	let drawsLeft = users;
	let countLeft = users;
	let shift = 0;
	let variance = 0;
	for (const group of groups) {
		const times = random.binomial(drawsLeft, group.count / countLeft);
		shift += times * (group.mean - mean);
		variance += times * group.variance;
		drawsLeft -= times;
		countLeft -= group.count;
		if (drawsLeft === 0) break;
	}
	if (variance > 0) shift += Math.sqrt(variance) * random.normal();
	return shift / users;
}

/** Distinct values with their counts, most frequent first (fewer binomials to draw), or bins of sorted values. */
function* groupValues(values: Float64Array): Steps<Group[]> {
	const ascending = yield* sorted(values); // NaN sorts to the end, infinities to both ends
	if (!Number.isFinite(ascending[0]!) || !Number.isFinite(ascending[ascending.length - 1]!))
		throw new ALLMRecError('ERR_ALLMREC_NUMERIC', 'Expected every value of a user to be finite.');
	const groups: Group[] = [];
	for (let start = 0; start < ascending.length && groups.length <= maximumDistinct; ) {
		const end = endOfRun(ascending, start);
		groups.push({ mean: ascending[start]!, variance: 0, count: end - start });
		start = end;
	}
	yield;
	if (groups.length > maximumDistinct) return binSorted(ascending);
	return groups.sort((a, b) => b.count - a.count);
}

/** Where the values equal to the one at `start` end; by halves, since a run may be millions long. */
function endOfRun(ascending: Float64Array, start: number): number {
	const value = ascending[start]!;
	let equal = start;
	let above = ascending.length;
	for (let step = 1; equal + step < above; step *= 2) {
		if (ascending[equal + step] === value) equal += step;
		else {
			above = equal + step;
			break;
		}
	}
	while (above - equal > 1) {
		const middle = (equal + above) >> 1;
		if (ascending[middle] === value) equal = middle;
		else above = middle;
	}
	return above;
}

function binSorted(sorted: Float64Array): Group[] {
	const bins: Group[] = [];
	for (let bin = 0; bin < maximumBins; bin++) {
		const start = Math.floor((bin * sorted.length) / maximumBins);
		const part = sorted.subarray(start, Math.floor(((bin + 1) * sorted.length) / maximumBins));
		const mean = part.reduce((sum, value) => sum + value, 0) / part.length;
		const variance = part.reduce((sum, value) => sum + (value - mean) ** 2, 0) / part.length;
		bins.push({ mean, variance, count: part.length });
	}
	return bins;
}

function samePairs(a: Float64Array, b: Float64Array): void {
	if (a.length !== b.length) invalidArgument('b', `as long as \`a\` (${a.length} users)`, b.length);
	if (a.length === 0) invalidArgument('a', 'at least one user', a);
}

function differences(a: Float64Array, b: Float64Array): Float64Array {
	samePairs(a, b);
	return a.map((value, user) => value - b[user]!);
}

/** Linear interpolation between order statistics (type 7 of Hyndman and Fan). */
function quantile(sorted: Float64Array, share: number): number {
	const place = share * (sorted.length - 1);
	const below = Math.floor(place);
	const above = Math.min(below + 1, sorted.length - 1);
	return sorted[below]! + (place - below) * (sorted[above]! - sorted[below]!);
}

/** min(1, 2 · P(X ≤ fewer)), X ~ Binomial(pairs, ½). */
function signTest(fewer: number, pairs: number): number {
	// Summed downwards from the largest term, whose logarithm keeps ½^pairs from underflowing.
	let logTerm = -pairs * Math.LN2;
	for (let k = 1; k <= fewer; k++) logTerm += Math.log((pairs - k + 1) / k);
	let ratio = 1;
	let sum = 0;
	for (let k = fewer; k >= 0 && ratio > 1e-17 * sum; k--) {
		sum += ratio;
		ratio *= k / (pairs - k + 1);
	}
	return Math.min(1, 2 * Math.exp(logTerm) * sum);
}

/** P(|Z| ≥ |z|) of a standard normal: erfc(|z| / √2), to about 1e-12 of its value. */
function twoSided(z: number): number {
	const x = Math.abs(z) / Math.SQRT2;
	if (x < 2.5) {
		let term = x;
		let sum = x;
		for (let n = 1; Math.abs(term) > 1e-17 * sum; n++) {
			term *= (2 * x * x) / (2 * n + 1);
			sum += term;
		}
		return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
	}
	let fraction = 0; // erfc's continued fraction, from its tail
	for (let n = 60; n > 0; n--) fraction = n / 2 / (x + fraction);
	return Math.exp(-x * x) / (Math.sqrt(Math.PI) * (x + fraction));
}
