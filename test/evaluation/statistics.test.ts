import test from 'ava';
import { Random } from '../../lib/evaluation/random.js';
import * as statistics from '../../lib/evaluation/statistics.js';
import { atOnce } from '../../lib/event-loop.js';

const { holm } = statistics;
const bootstrapMean = (...of: Parameters<typeof statistics.bootstrapMean>) =>
	atOnce(statistics.bootstrapMean(...of));
const mcNemar = (...of: Parameters<typeof statistics.mcNemar>) => atOnce(statistics.mcNemar(...of));
const pairedBootstrap = (...of: Parameters<typeof statistics.pairedBootstrap>) =>
	atOnce(statistics.pairedBootstrap(...of));
const wilcoxon = (...of: Parameters<typeof statistics.wilcoxon>) => atOnce(statistics.wilcoxon(...of));

const draws = (count: number, draw: () => number) => Float64Array.from({ length: count }, draw);
const close = (value: number, expected: number, tolerance: number) => Math.abs(value - expected) < tolerance;

test('interval of a proportion is that of the binomial', (t) => {
	// 30 of 100: normal interval 0.3 ± 1.96 · 0.0458 = [0.210, 0.390].
	const values = Float64Array.from({ length: 100 }, (_, user) => (user < 30 ? 1 : 0));
	const { value, low, high } = bootstrapMean(values);
	t.is(value, 0.3);
	t.true(close(low, 0.21, 0.011) && close(high, 0.39, 0.011), `${low} ${high}`);
	t.deepEqual(bootstrapMean(values), bootstrapMean(values, { seed: 0, resamples: 2000, confidence: 0.95 }));
	t.notDeepEqual(bootstrapMean(values, { seed: 5 }), bootstrapMean(values));
});

test('equal values have a point for an interval', (t) => {
	t.deepEqual(bootstrapMean(new Float64Array(9).fill(0.1)), { value: 0.1, low: 0.1, high: 0.1 });
	t.deepEqual(bootstrapMean(Float64Array.of(0.7)), { value: 0.7, low: 0.7, high: 0.7 });
});

test('intervals hold the true mean about as often as they say', (t) => {
	const random = new Random(21);
	const worlds: [string, () => number, number][] = [
		['hits', () => (random.uniform() < 0.3 ? 1 : 0), 0.3],
		['skewed', () => 1 / Math.ceil(20 * random.uniform()), 0.1798869828], // MRR of a random ranking: H(20) / 20
	];
	for (const [name, draw, mean] of worlds) {
		let held = 0;
		for (let round = 0; round < 300; round++) {
			const { low, high } = bootstrapMean(draws(200, draw), { resamples: 500, seed: round });
			if (low <= mean && mean <= high) held++;
		}
		// 95 % less the small-sample loss of percentile intervals; ± 3 standard errors of 300 rounds.
		t.true(held / 300 > 0.9 && held / 300 < 0.985, `${name}: ${held / 300}`);
	}
});

test('a bootstrap by bins has the width of the exact one', (t) => {
	const random = new Random(4);
	const values = draws(20_000, () => random.normal()); // all distinct: 1,024 bins
	const { value, low, high } = bootstrapMean(values);
	t.true(close(high - low, (2 * 1.96) / Math.sqrt(20_000), 0.002), `${high - low}`);
	t.true(low < value && value < high);
});

test('300,000 users cost little more than 3,000', (t) => {
	const random = new Random(5);
	const values = draws(300_000, () => 1 / Math.ceil(20 * random.uniform()));
	const begin = performance.now(); // 0.1 s on one core; 2,000 × 300,000 draws would take a minute
	const { low, high } = bootstrapMean(values);
	t.true(performance.now() - begin < 5000);
	t.true(high - low < 0.003);
});

test('paired bootstrap: nothing, something, and the agreement of p with the interval', (t) => {
	const random = new Random(8);
	const a = draws(400, () => random.uniform());
	t.deepEqual(pairedBootstrap(a, a), { difference: 0, low: 0, high: 0, pValue: 1 });
	const better = pairedBootstrap(
		a.map((value) => value + 0.1),
		a,
	);
	t.true(close(better.difference, 0.1, 1e-12) && better.pValue === 2 / 2001);
	for (let round = 0; round < 40; round++) {
		const b = a.map((value) => value + 0.02 + 0.2 * random.normal());
		const { low, high, pValue } = pairedBootstrap(b, a, { seed: round });
		// At the very edge interpolation and the added one may differ.
		if (close(pValue, 0.05, 0.003)) continue;
		t.is(pValue < 0.05, low > 0 || high < 0);
	}
});

test('p values are uniform where the models are equal', (t) => {
	const random = new Random(31);
	const rounds = 400;
	const below = { bootstrap: 0, mcNemar: 0, wilcoxon: 0 };
	for (let round = 0; round < rounds; round++) {
		const ability = draws(300, () => random.uniform());
		const hit = (share: number) => (random.uniform() < share ? 1 : 0);
		const [a, b] = [ability.map(hit), ability.map(hit)];
		const gain = (share: number) => Math.round(20 * share + 6 * random.normal()) / 20;
		const [c, d] = [ability.map(gain), ability.map(gain)];
		if (pairedBootstrap(c, d, { resamples: 500, seed: round }).pValue < 0.05) below.bootstrap++;
		if (mcNemar(a, b, round).pValue < 0.05) below.mcNemar++;
		if (wilcoxon(c, d).pValue < 0.05) below.wilcoxon++;
	}
	// 5 % ± 3 standard errors (1.1 %); the exact McNemar test is conservative.
	t.true(below.bootstrap / rounds > 0.017 && below.bootstrap / rounds < 0.085, `${below.bootstrap}`);
	t.true(below.wilcoxon / rounds > 0.017 && below.wilcoxon / rounds < 0.085, `${below.wilcoxon}`);
	t.true(below.mcNemar / rounds < 0.07, `${below.mcNemar}`);
});

/** Hits of two models, `onlyFirst` and `onlySecond` discordant users and 10 who agree. */
function discordant(onlyFirst: number, onlySecond: number): [Float64Array, Float64Array] {
	const users = onlyFirst + onlySecond + 10;
	return [
		Float64Array.from({ length: users }, (_, user) => (user < onlyFirst || user >= users - 5 ? 1 : 0)),
		Float64Array.from({ length: users }, (_, user) =>
			(user >= onlyFirst && user < onlyFirst + onlySecond) || user >= users - 5 ? 1 : 0,
		),
	];
}

test('McNemar against hand numbers', (t) => {
	// 2 · (1 + 10 + 45) / 1024 with 2 against 8.
	const small = mcNemar(...discordant(2, 8));
	t.like(small, { onlyFirst: 2, onlySecond: 8, method: 'exact' });
	t.true(close(small.pValue, 112 / 1024, 1e-12));
	t.is(mcNemar(...discordant(5, 5)).pValue, 1);
	t.is(mcNemar(...discordant(0, 0)).pValue, 1);
	t.true(close(mcNemar(...discordant(6, 0)).pValue, 2 / 64, 1e-12));
	// Both forms around their border: z = (300 − 1) / √10,000 = 2.99, p = 0.0027898.
	const exact = mcNemar(...discordant(5150, 4850));
	const asymptotic = mcNemar(...discordant(5151, 4851));
	t.is(exact.method, 'exact');
	t.is(asymptotic.method, 'asymptotic');
	t.true(close(exact.pValue, 0.00279, 5e-5) && close(asymptotic.pValue, 0.00279, 5e-5));
	t.true(mcNemar(...discordant(10_000, 100)).pValue < 1e-300);
});

test('McNemar decides fractional hits by one draw for both models', (t) => {
	const chance = new Float64Array(2000).fill(0.05);
	t.like(mcNemar(chance, chance), { onlyFirst: 0, onlySecond: 0, pValue: 1 });
	// A perfect model against a constant one: about 95 % of the users are only the first one's.
	const { onlyFirst, onlySecond } = mcNemar(new Float64Array(2000).fill(1), chance, 3);
	t.is(onlySecond, 0);
	t.true(close(onlyFirst, 1900, 40));
});

test('Wilcoxon against hand numbers', (t) => {
	// Differences 1, −2, 3, 4, 0: ranks 1, 2, 3, 4; W+ = 8, mean 5, variance 4·5·9/24 = 7.5, z = 1.0954.
	const result = wilcoxon(Float64Array.of(1, 0, 3, 4, 5), Float64Array.of(0, 2, 0, 0, 5));
	t.is(result.pairs, 4);
	t.is(result.statistic, 8);
	t.true(close(result.z, 3 / Math.sqrt(7.5), 1e-12) && close(result.pValue, 0.2733217, 1e-6));
	// Differences 1, 1, −1, 2: midranks 2, 2, 2, 4; W+ = 8, variance 7.5 − (27 − 3)/48 = 7.
	const tied = wilcoxon(Float64Array.of(1, 1, 0, 2), Float64Array.of(0, 0, 1, 0));
	t.is(tied.statistic, 8);
	t.true(close(tied.z, 3 / Math.sqrt(7), 1e-12));
	t.deepEqual(wilcoxon(Float64Array.of(1), Float64Array.of(1)), { pairs: 0, statistic: 0, z: 0, pValue: 1 });
	// Far tail: 100 differences of one sign, z = 2525 / √84587.5 = 8.6818, p = 3.896e-18 (SciPy).
	const sure = wilcoxon(
		Float64Array.from({ length: 100 }, (_, user) => user + 1),
		new Float64Array(100),
	);
	t.true(close(sure.pValue / 3.896e-18, 1, 1e-3), `${sure.pValue}`);
});

test('Holm against hand numbers', (t) => {
	// Sorted .005, .01, .03, .04 times 4, 3, 2, 1, never falling: .02, .03, .06, .06.
	const adjusted = holm([0.01, 0.04, 0.03, 0.005]);
	for (const [index, expected] of [0.03, 0.06, 0.06, 0.02].entries())
		t.true(close(adjusted[index]!, expected, 1e-12));
	t.deepEqual(holm([0.9, 0.8]), [1, 1]);
	t.deepEqual(holm([]), []);
	t.throws(() => holm([Number.NaN]), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('what cannot be averaged is an error', (t) => {
	t.throws(() => bootstrapMean(new Float64Array(0)), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.throws(() => pairedBootstrap(new Float64Array(2), new Float64Array(3)), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
	for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
		t.throws(() => bootstrapMean(Float64Array.of(0, bad, 1)), { code: 'ERR_ALLMREC_NUMERIC' });
	t.throws(() => bootstrapMean(new Float64Array(3), { resamples: 0 }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
	t.throws(() => bootstrapMean(new Float64Array(3), { confidence: 95 }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
});
