/**
 * Seeded random numbers for resampling: xoshiro128** (Blackman and Vigna, 2018), seeded through splitmix32.
 * The same seed gives the same numbers on every machine.
 */
export class Random {
	readonly #state = new Uint32Array(4);

	/** @param seed any finite number; its 64-bit pattern is the seed, so 0, 1 and 0.5 all differ. */
	constructor(seed: number) {
		const bits = new Uint32Array(new Float64Array([seed]).buffer);
		let word = (bits[0]! ^ Math.imul(bits[1]!, 0x9e3779b9)) >>> 0;
		for (let index = 0; index < 4; index++) {
			word = (word + 0x9e3779b9) >>> 0;
			let mixed = Math.imul(word ^ (word >>> 16), 0x21f0aaad);
			mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97);
			this.#state[index] = mixed ^ (mixed >>> 15);
		}
	}

	/** Uniform integer in [0, 2^32). */
	#word(): number {
		const s = this.#state;
		const scrambled = Math.imul(s[1]!, 5);
		const result = Math.imul((scrambled << 7) | (scrambled >>> 25), 9) >>> 0;
		const shifted = s[1]! << 9;
		s[2]! ^= s[0]!;
		s[3]! ^= s[1]!;
		s[1]! ^= s[2]!;
		s[0]! ^= s[3]!;
		s[2]! ^= shifted;
		s[3] = (s[3]! << 11) | (s[3]! >>> 21);
		return result;
	}

	/** Uniform in (0, 1), 52 bits; never 0, so that its logarithm is finite. */
	uniform(): number {
		return ((this.#word() >>> 6) * 0x4000000 + (this.#word() >>> 6) + 0.5) / 0x10000000000000;
	}

	/** Standard normal (Box–Muller, one of the pair). */
	normal(): number {
		return Math.sqrt(-2 * Math.log(this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
	}

	/** Number of successes in `trials` independent trials of probability `probability`; exact for any size. */
	binomial(trials: number, probability: number): number {
		if (trials === 0 || probability <= 0) return 0;
		if (probability >= 1) return trials;
		if (probability > 0.5) return trials - this.binomial(trials, 1 - probability);
		return trials * probability < 10
			? this.#binomialByInversion(trials, probability)
			: this.#binomialByRejection(trials, probability);
	}

	/** Walks the distribution function upwards from 0; about `trials · p` steps, so for small means only. */
	#binomialByInversion(trials: number, p: number): number {
		const odds = p / (1 - p);
		for (;;) {
			let mass = Math.exp(trials * Math.log1p(-p));
			let left = this.uniform();
			for (let k = 0; k <= trials; k++) {
				if (left <= mass) return k;
				left -= mass;
				mass *= (odds * (trials - k)) / (k + 1);
			}
			// Rounding left a crumb of probability beyond `trials`: draw again.
		}
	}

	/** BTRS, transformed rejection with squeeze (Hörmann, 1993); needs `trials · p ≥ 10` and `p ≤ 1/2`. */
	#binomialByRejection(n: number, p: number): number {
		const deviation = Math.sqrt(n * p * (1 - p));
		const b = 1.15 + 2.53 * deviation;
		const a = -0.0873 + 0.0248 * b + 0.01 * p;
		const squeeze = 0.92 - 4.2 / b;
		const alpha = (2.83 + 5.1 / b) * deviation;
		const odds = p / (1 - p);
		const mode = Math.floor((n + 1) * p);
		for (;;) {
			const u = this.uniform() - 0.5;
			const v = this.uniform();
			const distance = 0.5 - Math.abs(u);
			const k = Math.floor(((2 * a) / distance + b) * u + n * p + 0.5);
			if (distance >= 0.07 && v <= squeeze) return k;
			if (k < 0 || k > n) continue;
			const bound =
				(mode + 0.5) * Math.log((mode + 1) / (odds * (n - mode + 1))) +
				(n + 1) * Math.log((n - mode + 1) / (n - k + 1)) +
				(k + 0.5) * Math.log((odds * (n - k + 1)) / (k + 1)) +
				stirlingTail(mode) +
				stirlingTail(n - mode) -
				stirlingTail(k) -
				stirlingTail(n - k);
			if (Math.log((v * alpha) / (a / (distance * distance) + b)) <= bound) return k;
		}
	}
}

/** ln k! less Stirling's formula (k + ½) ln(k + 1) − (k + 1) + ½ ln 2π. */
function stirlingTail(k: number): number {
	if (k < 10) {
		let factorial = 1;
		for (let factor = 2; factor <= k; factor++) factorial *= factor;
		return Math.log(factorial) - ((k + 0.5) * Math.log(k + 1) - (k + 1) + 0.5 * Math.log(2 * Math.PI));
	}
	const next = k + 1;
	const square = next * next;
	return (1 / 12 - (1 / 360 - 1 / 1260 / square) / square) / next;
}
