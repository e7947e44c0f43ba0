import test from 'ava';
import { Random } from '../../lib/evaluation/random.js';

test('the seed decides, every bit of it', (t) => {
	const first = (seed: number) => new Random(seed).uniform();
	t.is(first(3), first(3));
	t.is(new Set([0, 1, 2, 0.5, -1, 2 ** 40, 2 ** 40 + 1].map(first)).size, 7);
});

test('uniform and normal have their moments', (t) => {
	const random = new Random(1);
	const moments = (draw: () => number) => {
		let sum = 0;
		let square = 0;
		for (let n = 0; n < 100_000; n++) {
			const value = draw();
			sum += value;
			square += value * value;
		}
		return [sum / 100_000, square / 100_000] as const;
	};
	const [mean, square] = moments(() => random.uniform());
	t.true(Math.abs(mean - 1 / 2) < 0.005 && Math.abs(square - 1 / 3) < 0.005);
	const [centre, variance] = moments(() => random.normal());
	t.true(Math.abs(centre) < 0.015 && Math.abs(variance - 1) < 0.025);
});

// Both algorithms and the mirrored case, against the binomial's own probabilities by χ².
for (const [trials, p] of [
	[10, 0.3],
	[60, 0.4],
	[100, 0.9],
	[2000, 0.02],
	[50, 0.1],
] as const) {
	test(`binomial(${trials}, ${p}) follows its distribution`, (t) => {
		const random = new Random(11);
		const draws = 40_000;
		const seen = new Float64Array(trials + 1);
		for (let n = 0; n < draws; n++) seen[random.binomial(trials, p)]!++;
		let logMass = trials * Math.log1p(-p);
		let statistic = 0;
		let cells = -1;
		for (let k = 0; k <= trials; k++) {
			const expected = draws * Math.exp(logMass);
			logMass += Math.log(((trials - k) / (k + 1)) * (p / (1 - p)));
			if (expected < 10) continue;
			statistic += (seen[k]! - expected) ** 2 / expected;
			cells++;
		}
		t.true(statistic < cells + 4 * Math.sqrt(2 * cells), `χ² ${statistic} with ${cells} degrees of freedom`);
	});
}

test('binomial at its edges', (t) => {
	const random = new Random(2);
	t.is(random.binomial(0, 0.5), 0);
	t.is(random.binomial(7, 0), 0);
	t.is(random.binomial(7, 1), 7);
});
