import type { OptConfig } from '../../lib/native/addon.js';

type Weights = Readonly<Record<string, ArrayLike<number>>>;

const EPS = 1e-5;
const POSITION_OFFSET = 2;

/**
 * Logits (T, V) of one causal sequence by OPT's definition, in float64, one number at a time: what the core is
 * compared with where no checkpoint of transformers can be.
 */
export function referenceLogits(weights: Weights, config: OptConfig, ids: readonly number[]): Float64Array {
	const { hiddenSize: c, embedSize: e, vocabSize } = config;
	const root = 'model.decoder.';
	const get = (name: string): ArrayLike<number> | undefined => weights[root + name];
	const rows = (x: readonly Float64Array[], name: string, out: number) =>
		x.map((row) => linear(row, get(`${name}.weight`)!, get(`${name}.bias`), out));
	const norm = (x: readonly Float64Array[], name: string) =>
		x.map((row) => layerNorm(row, get(`${name}.weight`), get(`${name}.bias`)));
	const add = (a: readonly Float64Array[], b: readonly Float64Array[]) =>
		a.map((row, t) => row.map((value, i) => value + b[t]![i]!));

	const tokens = get('embed_tokens.weight')!;
	const positions = get('embed_positions.weight')!;
	let x: Float64Array[] = ids.map((id) => Float64Array.from({ length: e }, (_, i) => tokens[id * e + i]!));
	if (e !== c) x = rows(x, 'project_in', c);
	x = x.map((row, t) => row.map((value, i) => value + positions[(t + POSITION_OFFSET) * c + i]!));
	for (let layer = 0; layer < config.numLayers; layer++) {
		const p = `layers.${layer}.`;
		const input = config.normBefore ? norm(x, `${p}self_attn_layer_norm`) : x;
		const [q, k, v] = ['q', 'k', 'v'].map((part) => rows(input, `${p}self_attn.${part}_proj`, c));
		x = add(x, rows(attention(q!, k!, v!, config.numHeads), `${p}self_attn.out_proj`, c));
		if (!config.normBefore) x = norm(x, `${p}self_attn_layer_norm`);
		const hidden = rows(config.normBefore ? norm(x, `${p}final_layer_norm`) : x, `${p}fc1`, config.ffnSize);
		x = add(
			x,
			rows(
				hidden.map((row) => row.map(ACTIVATIONS[config.activation])),
				`${p}fc2`,
				c,
			),
		);
		if (!config.normBefore) x = norm(x, `${p}final_layer_norm`);
	}
	if (config.normBefore && config.finalNorm) x = norm(x, 'final_layer_norm');
	if (e !== c) x = rows(x, 'project_out', e);
	const head = config.tiedHead === false ? weights['lm_head.weight']! : tokens;
	const logits = new Float64Array(ids.length * vocabSize);
	for (const [t, row] of x.entries()) logits.set(linear(row, head, undefined, vocabSize), t * vocabSize);
	return logits;
}

function linear(
	x: Float64Array,
	weight: ArrayLike<number>,
	bias: ArrayLike<number> | undefined,
	out: number,
): Float64Array {
	return Float64Array.from({ length: out }, (_, o) =>
		x.reduce((sum, value, i) => sum + value * weight[o * x.length + i]!, bias?.[o] ?? 0),
	);
}

function layerNorm(
	x: Float64Array,
	gamma: ArrayLike<number> | undefined,
	beta: ArrayLike<number> | undefined,
): Float64Array {
	const mean = x.reduce((a, b) => a + b, 0) / x.length;
	const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / x.length;
	return x.map(
		(value, i) => ((value - mean) / Math.sqrt(variance + EPS)) * (gamma?.[i] ?? 1) + (beta?.[i] ?? 0),
	);
}

function attention(
	q: readonly Float64Array[],
	k: readonly Float64Array[],
	v: readonly Float64Array[],
	heads: number,
): Float64Array[] {
	const width = q[0]!.length / heads;
	return q.map((row, t) => {
		const out = new Float64Array(row.length);
		for (let h = 0; h < heads; h++) {
			const at = h * width;
			const scores = Array.from({ length: t + 1 }, (_, j) => {
				let dot = 0;
				for (let i = at; i < at + width; i++) dot += row[i]! * k[j]![i]!;
				return dot / Math.sqrt(width);
			});
			const most = Math.max(...scores);
			const shares = scores.map((score) => Math.exp(score - most));
			const sum = shares.reduce((a, b) => a + b, 0);
			for (const [j, share] of shares.entries())
				for (let i = at; i < at + width; i++) out[i] = out[i]! + (share / sum) * v[j]![i]!;
		}
		return out;
	});
}

const ACTIVATIONS = {
	relu: (x: number) => Math.max(0, x),
	gelu: (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
	gelu_tanh: (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** By its power series, which is exact to 1e-12 up to |x| = 3; beyond, 1 − erf is below 3e-5 and a fraction is used. */
function erf(x: number): number {
	const z = Math.abs(x);
	if (z < 3) {
		let term = z;
		let sum = z;
		for (let n = 1; n < 60; n++) {
			term *= (-z * z) / n;
			sum += term / (2 * n + 1);
		}
		return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
	}
	let fraction = 0;
	for (let n = 60; n > 0; n--) fraction = n / 2 / (z + fraction);
	return Math.sign(x) * (1 - Math.exp(-z * z) / ((z + fraction) * Math.sqrt(Math.PI)));
}
