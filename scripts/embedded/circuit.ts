import { SeededRandom } from '../../lib/data/random.js';
import type { OptConfig } from '../../lib/native/addon.js';

/**
 * The tiny language model's starting weights: small random numbers, and over them a circuit laid out by hand that
 * training then makes work. The residual stream is cut into named parts; soft tokens and token embeddings (width E)
 * enter at `content`, so that every direction of a soft token can be compared.
 *
 *     layer 0  head 0  looks at the token before: its content → previous; "it closed a quote" → flag 3
 *              head 1  looks at position 0, the user's vector → user
 *              head 2  has " set" been read? then we are in the candidate list → flag 2
 *     layer 1  head 0  compares `user` with the content of slots (flags 2 and 3); fetches the slot's position → pointer
 *     layer 2  head 0  finds the current token's earlier occurrence in a window before the pointed slot; what followed
 *                      it → output (at the answer's opening quote that is the title's first token)
 *              ffn     a closing mark is followed by </s>
 */
const PARTS = { content: 64, user: 64, output: 64, previous: 24, place: 24, pointer: 24, flags: 8 } as const;

export const EMBED_SIZE = PARTS.content;
export const HIDDEN_SIZE = Object.values(PARTS).reduce((a, b) => a + b, 0);
export const NUM_LAYERS = 3;
export const NUM_HEADS = 4;

/** Ids of tokens the circuit knows of. */
export interface MarkIds {
	/** Tokens that open a title: a space or a comma and a quote. */
	openers: number[];
	/** Tokens that close one; the first is the plain quote. */
	closers: number[];
	/** The word before the candidate list. */
	set: number;
	eos: number;
}

const STRENGTH = {
	noise: 0.25,
	token: 0.8,
	place: 3,
	previous: 0.5,
	user: 0.6,
	match: 3.3,
	notUser: 100,
	inCandidates: 70,
	isSlot: 28,
	pointer: 0.9,
	inductionQuery: 10,
	inductionKey: 5,
	windowQuery: 30,
	windowKey: 5,
	finalNorm: 0.5,
	end: 6,
	window: 25,
	before: 1.8,
};

/** Weights that training leaves as they are: places, the way in, and how layers 0 and 1 look. */
export const FROZEN: readonly string[] = [
	'embed_positions.weight',
	'project_in.weight',
	...['q_proj', 'k_proj', 'v_proj', 'out_proj'].flatMap((name) => both(`layers.0.self_attn.${name}`)),
	...['q_proj', 'k_proj'].flatMap((name) => both(`layers.1.self_attn.${name}`)),
].map((name) => `model.decoder.${name}`);

function both(name: string): string[] {
	return [`${name}.weight`, `${name}.bias`];
}

type Weights = Map<string, Float32Array>;

/** Every weight by its checkpoint name. */
export function circuit(config: OptConfig, marks: MarkIds, seed: number): Weights {
	const random = new SeededRandom(seed, 77);
	const D = config.hiddenSize;
	const E = config.embedSize;
	const hd = D / config.numHeads;
	const at = offsets();
	const weights: Weights = new Map();
	const normal = (n: number, std: number) => Float32Array.from({ length: n }, () => std * random.normal());
	const zeros = (n: number) => new Float32Array(n);
	const put = (name: string, values: Float32Array) => {
		weights.set(`model.decoder.${name}`, values);
		return values;
	};

	const tokens = put('embed_tokens.weight', normal(config.vocabSize * E, STRENGTH.token));
	const token = (id: number) => tokens.subarray(id * E, (id + 1) * E);
	// Opening marks share a direction, closing marks another.
	for (const [group, share] of [
		[marks.openers, 0.95],
		[marks.closers, 0.8],
	] as const)
		for (const id of group.slice(1))
			for (let i = 0; i < E; i++)
				token(id)[i] = share * token(group[0]!)[i]! + Math.sqrt(1 - share * share) * token(id)[i]!;
	for (let i = 0; i < E; i++) token(marks.eos)[i]! *= 0.5;

	const waves = frequencies(PARTS.place / 2);
	const m = waves.length;
	const places = put('embed_positions.weight', zeros((config.maxPositions + 2) * D));
	for (let p = 0; p < config.maxPositions; p++)
		for (let i = 0; i < m; i++) {
			places[(p + 2) * D + at.place + i] = STRENGTH.place * Math.cos(p * waves[i]!);
			places[(p + 2) * D + at.place + m + i] = STRENGTH.place * Math.sin(p * waves[i]!);
		}
	places[2 * D + at.flags] = 8;
	places[3 * D + at.flags + 1] = 6;

	const into = put('project_in.weight', normal(D * E, 0.02));
	const out = put('project_out.weight', normal(E * D, 0.02));
	for (let i = 0; i < E; i++) {
		into[(at.content + i) * E + i]! += 1;
		out[i * D + at.output + i]! += 1;
	}
	put('final_layer_norm.weight', new Float32Array(D).fill(STRENGTH.finalNorm));
	put('final_layer_norm.bias', zeros(D));
	const layers = Array.from({ length: config.numLayers }, (_, l) => {
		const linear = (name: string, rows: number, cols: number) => ({
			w: put(`layers.${l}.${name}.weight`, normal(rows * cols, STRENGTH.noise / Math.sqrt(cols))),
			b: put(`layers.${l}.${name}.bias`, zeros(rows)),
			cols,
		});
		for (const norm of ['self_attn_layer_norm', 'final_layer_norm']) {
			put(`layers.${l}.${norm}.weight`, new Float32Array(D).fill(1));
			put(`layers.${l}.${norm}.bias`, zeros(D));
		}
		return {
			q: linear('self_attn.q_proj', D, D),
			k: linear('self_attn.k_proj', D, D),
			v: linear('self_attn.v_proj', D, D),
			o: linear('self_attn.out_proj', D, D),
			fc1: linear('fc1', config.ffnSize, D),
			fc2: linear('fc2', D, config.ffnSize),
		};
	});
	type Linear = (typeof layers)[number]['q'];
	const add = (linear: Linear, row: number, col: number, value: number) => {
		linear.w[row * linear.cols + col]! += value;
	};
	/** Quietens a head before the circuit is written over it. */
	const clear = (layer: (typeof layers)[number], head: number) => {
		for (const { w } of [layer.q, layer.k, layer.v])
			for (let i = head * hd * D; i < (head + 1) * hd * D; i++) w[i]! *= 0.1;
		for (let r = 0; r < D; r++)
			for (let c = head * hd; c < (head + 1) * hd; c++) layer.o.w[r * D + c]! *= 0.1;
	};
	/** Rows `row` …: the (cos, sin) pairs at `from`, multiplied as complex numbers by (a, b). */
	const rotate = (linear: Linear, row: number, from: number, a: number[], b: number[], s: number) => {
		for (let i = 0; i < m; i++) {
			add(linear, row + i, from + i, s * a[i]!);
			add(linear, row + i, from + m + i, s * b[i]!);
			add(linear, row + m + i, from + i, -s * b[i]!);
			add(linear, row + m + i, from + m + i, s * a[i]!);
		}
	};
	const ones = Array.from(waves, () => 1);
	const none = Array.from(waves, () => 0);
	const nv = PARTS.previous;
	const R = orthonormalRows(random, nv, E, Math.sqrt(E / nv));
	const setDirection = unit([token(marks.set)]);
	const closeDirection = unit(marks.closers.map(token));
	const [first, second, third] = layers as [
		(typeof layers)[number],
		(typeof layers)[number],
		(typeof layers)[number],
	];

	clear(first, 0);
	rotate(first.q, 0, at.place, waves.map(Math.cos), waves.map(Math.sin), STRENGTH.before);
	rotate(first.k, 0, at.place, ones, none, STRENGTH.before);
	for (let i = 0; i < E; i++) {
		add(first.v, i, at.content + i, 1);
		for (let r = 0; r < nv; r++) add(first.o, at.previous + r, i, STRENGTH.previous * R[r]![i]!);
		add(first.o, at.flags + 3, i, 0.5 * closeDirection[i]!);
	}
	clear(first, 1);
	add(first.k, hd, at.flags, 1);
	first.q.b[hd]! += 60;
	for (let i = 0; i < E; i++) {
		add(first.v, hd + i, at.content + i, 1);
		add(first.o, at.user + i, hd + i, STRENGTH.user);
	}
	clear(first, 2);
	first.q.b[2 * hd]! += 40;
	add(first.k, 2 * hd, at.flags + 1, 0.5);
	for (let i = 0; i < E; i++) {
		add(first.k, 2 * hd, at.content + i, setDirection[i]!);
		add(first.v, 2 * hd, at.content + i, setDirection[i]!);
	}
	add(first.o, at.flags + 2, 2 * hd, 0.5);

	clear(second, 0);
	for (let i = 0; i < E; i++) {
		add(second.q, i, at.user + i, STRENGTH.match);
		add(second.k, i, at.content + i, STRENGTH.match);
	}
	add(second.k, E, at.flags, 1);
	second.q.b[E]! -= STRENGTH.notUser;
	add(second.k, E + 1, at.flags + 2, 1);
	second.q.b[E + 1]! += STRENGTH.inCandidates;
	add(second.k, E + 2, at.flags + 3, 1);
	second.q.b[E + 2]! += STRENGTH.isSlot;
	for (let i = 0; i < 2 * m; i++) {
		add(second.v, i, at.place + i, 1);
		add(second.o, at.pointer + i, i, STRENGTH.pointer);
	}

	clear(third, 0);
	const [a, b] = windowKernel(waves, STRENGTH.window);
	for (let r = 0; r < nv; r++) {
		for (let i = 0; i < E; i++) add(third.q, r, at.content + i, STRENGTH.inductionQuery * R[r]![i]!);
		add(third.k, r, at.previous + r, STRENGTH.inductionKey);
	}
	rotate(third.q, nv, at.pointer, a, b, STRENGTH.windowQuery);
	rotate(third.k, nv, at.place, ones, none, STRENGTH.windowKey);
	for (let i = 0; i < E; i++) {
		add(third.v, i, at.content + i, 1);
		add(third.o, at.output + i, i, 1);
	}
	const eos = unit([token(marks.eos)]);
	for (let c = 0; c < D; c++) third.fc1.w[c]! *= 0.1;
	third.fc1.b[0]! -= 3;
	for (let i = 0; i < E; i++) {
		add(third.fc1, 0, at.content + i, closeDirection[i]!);
		add(third.fc2, at.output + i, 0, STRENGTH.end * eos[i]!);
	}
	return weights;
}

function offsets(): Record<keyof typeof PARTS, number> {
	let at = 0;
	return Object.fromEntries(
		Object.entries(PARTS).map(([name, size]) => {
			at += size;
			return [name, at - size];
		}),
	) as Record<keyof typeof PARTS, number>;
}

/** Radians per position: two fast ones, then a geometric fall. */
function frequencies(count: number): number[] {
	return [2.6, 1.3, ...Array.from({ length: count - 2 }, (_, i) => 0.6 * (0.015 / 0.6) ** (i / (count - 3)))];
}

/**
 * Coefficients (a, b) with Σ a cos(wδ) + b sin(wδ) near max(0, 1 − δ/window) for distances δ ≥ 1 and 0 elsewhere:
 * ridge least squares over δ = −300 … 500, far distances weighing less.
 */
function windowKernel(waves: number[], window: number): [number[], number[]] {
	const n = 2 * waves.length + 1;
	const A = Array.from({ length: n }, () => new Float64Array(n + 1));
	for (let d = -300; d <= 500; d++) {
		const weight = d >= -30 && d <= 40 ? 1 : 0.3;
		const row = [...waves.map((w) => Math.cos(d * w)), ...waves.map((w) => Math.sin(d * w)), 1].map(
			(x) => x * weight,
		);
		const y = (d < 1 ? 0 : Math.max(0, 1 - d / window)) * weight;
		for (let i = 0; i < n; i++) {
			for (let j = 0; j < n; j++) A[i]![j]! += row[i]! * row[j]!;
			A[i]![n]! += row[i]! * y;
		}
	}
	for (let i = 0; i < n; i++) A[i]![i]! += 0.3;
	// Gauss–Jordan; the ridge keeps every pivot positive.
	for (let i = 0; i < n; i++)
		for (let r = 0; r < n; r++) {
			if (r === i) continue;
			const factor = A[r]![i]! / A[i]![i]!;
			for (let c = i; c <= n; c++) A[r]![c]! -= factor * A[i]![c]!;
		}
	const x = A.map((row, i) => row[n]! / row[i]!);
	return [x.slice(0, waves.length), x.slice(waves.length, 2 * waves.length)];
}

/** Gram–Schmidt over normal numbers, times `scale`. */
function orthonormalRows(random: SeededRandom, rows: number, cols: number, scale: number): Float64Array[] {
	const result: Float64Array[] = [];
	while (result.length < rows) {
		const row = Float64Array.from({ length: cols }, () => random.normal());
		for (const other of result) {
			let dot = 0;
			for (let i = 0; i < cols; i++) dot += row[i]! * other[i]!;
			for (let i = 0; i < cols; i++) row[i]! -= dot * other[i]!;
		}
		const length = Math.hypot(...row);
		result.push(row.map((x) => x / length));
	}
	return result.map((row) => row.map((x) => x * scale));
}

/** The mean of vectors, of length 1. */
function unit(vectors: Float32Array[]): number[] {
	const mean = Array.from(vectors[0]!, (_, i) => vectors.reduce((sum, v) => sum + v[i]!, 0));
	const length = Math.hypot(...mean);
	return mean.map((x) => x / length);
}
