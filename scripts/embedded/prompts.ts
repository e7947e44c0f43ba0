import { SeededRandom } from '../../lib/data/random.js';
import type { PromptWords } from '../../lib/llm/prompt-template.js';
import { fillWords, recommendationTemplate } from '../../lib/llm/prompt-template.js';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import type { MarkIds } from './circuit.js';

const WORDS: PromptWords[] = [
	{ past: 'watched', noun: 'movie', verb: 'watch' },
	{ past: 'played', noun: 'game', verb: 'play' },
	{ past: 'bought', noun: 'item', verb: 'buy' },
	{ past: 'read', noun: 'book', verb: 'read' },
	{ past: 'heard', noun: 'song', verb: 'hear' },
];

/** A made-up prompt: who is right among the candidates can be told from the vectors alone. */
export interface MadePrompt {
	/** Token ids; −k − 1 is row k of `soft`. */
	ids: number[];
	/** Positions of the prompt and of what may follow it. */
	positions: Int32Array;
	soft: Float64Array[];
	/** Each candidate's answer: quote, title, closing mark, end. */
	answers: number[][];
	target: number;
	/** Whether both user and candidates have vectors. */
	solvable: boolean;
}

export interface PromptShape {
	history: number;
	candidates: number;
	/** Longest title in tokens, closing mark not counted. */
	titleTokens: number;
	/** Cosine of user and target; default drawn. */
	cosine?: number | undefined;
	/** Share of prompts without any vector, and without the user's. */
	plain?: number | undefined;
	userless?: number | undefined;
	/** Let positions jump, so that all are learned. */
	jumps?: boolean | undefined;
}

/**
 * Draws recommendation-like prompts: titles of random tokens, and soft tokens whose likeness alone tells the target.
 * Vectors come dense, of low rank, or through random small networks, with all kinds of lengths and offsets, as a
 * projector may make them. No title, word or taste of the demo is in them.
 */
export class PromptMaker {
	readonly #random: SeededRandom;
	readonly #size: number;
	readonly #marks: MarkIds;
	readonly #templates: { begin: Int32Array; middle: Int32Array; end: Int32Array }[];
	/** Tokens titles are made of. */
	readonly #words: number[];
	/** Tokens of the prompt's own wording. */
	readonly #wording: number[];

	constructor(tokenizer: Tokenizer, marks: MarkIds, size: number, seed: number) {
		this.#random = new SeededRandom(seed, 78);
		this.#size = size;
		this.#marks = marks;
		this.#templates = WORDS.map((words) => {
			const text = recommendationTemplate(words)
				.parts.map((part) => (part.type === 'text' ? fillWords(part.text, words) : `\n${part.type}\n`))
				.join('');
			const piece = (from: string, to: string) => {
				const begin = from === '' ? 0 : text.indexOf(from) + from.length;
				return tokenizer.encodeText(text.slice(begin, to === '' ? undefined : text.indexOf(to)));
			};
			return {
				begin: piece('\nbos\n', '\nhistory\n'),
				middle: piece('\nhistory\n', '\ncandidates\n'),
				end: piece('\ncandidates\n', ''),
			};
		});
		const wording = new Set(
			this.#templates.flatMap(({ begin, middle, end }) => [...begin, ...middle, ...end]),
		);
		this.#wording = [...wording];
		const special = new Set([...marks.openers, ...marks.closers, ...wording, 0, 1, 2, 3]);
		this.#words = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter((id) => !special.has(id));
	}

	prompt({
		history,
		candidates,
		titleTokens,
		cosine,
		plain = 0,
		userless = 0,
		jumps = true,
	}: PromptShape): MadePrompt {
		const r = this.#random;
		const rho = cosine ?? (r.uniform() < 0.5 ? between(r, 0.5, 0.95) : between(r, 0.05, 0.6));
		const { begin, middle, end } = r.choice(this.#templates)!;
		const titles = this.#titles(history + candidates, titleTokens);
		const target = r.int(candidates);
		const vectors = this.#vectors(history, candidates, target, rho);
		const bare = r.uniform() < plain;
		const userGone = bare || r.uniform() < userless;
		const ids: number[] = [];
		const soft: Float64Array[] = [];
		const cuts: number[] = [];
		const slot = (vector: Float64Array) => {
			if (!bare) ids.push(-soft.push(vector));
			cuts.push(ids.length);
		};
		if (!userGone) ids.push(-soft.push(vectors.user));
		ids.push(this.#marks.eos);
		cuts.push(ids.length);
		ids.push(...begin);
		for (const [i, title] of titles.entries()) {
			const first = i === 0 || i === history;
			if (i === history) ids.push(...middle);
			ids.push(this.#marks.openers[first ? 0 : 1]!, ...title);
			slot(i < history ? vectors.history[i]! : vectors.candidates[i - history]!);
		}
		if (candidates === 0) ids.push(...middle);
		ids.push(...end);
		const positions = Int32Array.from({ length: ids.length + titleTokens + 8 }, (_, p) => p);
		if (jumps && r.uniform() < 0.6)
			for (let j = 1 + r.int(2); j > 0; j--) {
				const room = Math.max(1, (1023 - positions.at(-1)!) * r.uniform());
				const jump = r.int(Math.ceil(room));
				for (let p = r.choice(cuts)!; p < positions.length; p++) positions[p]! += jump;
			}
		return {
			ids,
			positions,
			soft,
			answers: titles.slice(history).map((title) => [this.#marks.openers[0]!, ...title, this.#marks.eos]),
			target,
			solvable: !userGone,
		};
	}

	#titles(count: number, longest: number): number[][] {
		const r = this.#random;
		// Half of the catalogues share words between titles, as real ones do.
		const pool =
			r.uniform() < 0.5 ? Array.from({ length: 20 + r.int(380) }, () => r.choice(this.#words)!) : undefined;
		const seen = new Set<string>();
		const titles: number[][] = [];
		while (titles.length < count) {
			const length = r.uniform() < 0.9 ? Math.min(1 + geometric(r, 0.28), longest) : 1 + r.int(longest);
			const pooled = pool && r.uniform() < 0.8 ? pool : undefined;
			const title = Array.from({ length }, () =>
				pooled ? pooled[zipf(r, pooled.length)]! : r.choice(this.#words)!,
			);
			if (r.uniform() < 0.1 && length > 1) title[r.int(length)] = r.choice(this.#wording)!;
			if (r.uniform() < 0.1 && this.#marks.closers.length > 1)
				title[length - 1] = r.choice(this.#marks.closers.slice(1))!;
			if (!this.#marks.closers.includes(title.at(-1)!)) title.push(this.#marks.closers[0]!);
			if (title.length === 1 || seen.has(title.join())) continue;
			seen.add(title.join());
			titles.push(title);
		}
		return titles;
	}

	#vectors(
		history: number,
		candidates: number,
		target: number,
		rho: number,
	): { user: Float64Array; history: Float64Array[]; candidates: Float64Array[] } {
		const r = this.#random;
		const D = this.#size;
		const kind = r.uniform();
		const k = kind < 0.4 ? D : 20 + r.int(45);
		const drawn = () => unit(normal(r, k));
		const mix = (a: Float64Array, share: number) =>
			add(scaled(a, share), scaled(drawn(), Math.sqrt(1 - share * share)));
		let c = Array.from({ length: candidates }, drawn);
		let u = unit(mix(c[target]!, rho));
		let h = Array.from({ length: history }, () => mix(u, between(r, 0, 0.9)));
		if (kind >= 0.4) {
			const A = kind < 0.6 ? matrix(r, k, D, 1 / Math.sqrt(D)) : matrix(r, k, D, 1);
			const B = kind < 0.6 ? undefined : matrix(r, D, D, 1 / Math.sqrt(D));
			const map = (x: Float64Array) =>
				B ? times(rectified(standardised(times(x, A, D))), B, D) : times(x, A, D);
			c = c.map(map);
			u = map(u);
			h = h.map(map);
			if (B) {
				const mean = scaled(c.reduce(add), r.uniform() / candidates);
				[c, h] = [c, h].map((rows) => rows.map((x) => subtract(x, mean))) as [Float64Array[], Float64Array[]];
				u = subtract(u, mean);
			}
		}
		const itemLength = c.reduce((sum, x) => sum + length(x), 0) / candidates;
		u = scaled(u, 1 / length(u));
		c = c.map((x) => scaled(x, 1 / itemLength));
		h = h.map((x) => scaled(x, 1 / itemLength));
		if (r.uniform() < 0.3) {
			const items = scaled(unit(normal(r, D)), between(r, 0, 0.8));
			u = add(u, scaled(unit(normal(r, D)), between(r, 0, 0.8)));
			c = c.map((x) => add(x, items));
			h = h.map((x) => add(x, items));
		}
		// Lengths tell how far to trust: their product is the cosine's factor in the posterior, most of the time.
		const trust =
			r.uniform() < 0.8
				? Math.min(110, Math.max(3, (k * rho) / (1 - rho * rho))) * Math.exp(0.3 * r.normal())
				: Math.exp(between(r, Math.log(9), Math.log(140)));
		const q = Math.exp(0.25 * r.normal());
		const n = Math.sqrt(trust);
		const spread = (x: Float64Array) => scaled(x, (n / q) * Math.exp(0.06 * r.normal()));
		return { user: scaled(u, n * q), history: h.map(spread), candidates: c.map(spread) };
	}
}

function between(r: SeededRandom, low: number, high: number): number {
	return low + (high - low) * r.uniform();
}

/** From 1. */
function geometric(r: SeededRandom, p: number): number {
	return 1 + Math.floor(Math.log(1 - r.uniform()) / Math.log(1 - p));
}

/** An index, about in proportion to 1 / (index + 1). */
function zipf(r: SeededRandom, n: number): number {
	return Math.min(n - 1, Math.floor((n + 1) ** r.uniform()) - 1);
}

function normal(r: SeededRandom, n: number): Float64Array {
	return Float64Array.from({ length: n }, () => r.normal());
}

function matrix(r: SeededRandom, rows: number, cols: number, std: number): Float64Array {
	return Float64Array.from({ length: rows * cols }, () => std * r.normal());
}

function times(x: Float64Array, m: Float64Array, cols: number): Float64Array {
	const y = new Float64Array(cols);
	for (let r = 0; r < x.length; r++) for (let c = 0; c < cols; c++) y[c]! += x[r]! * m[r * cols + c]!;
	return y;
}

function add(a: Float64Array, b: Float64Array): Float64Array {
	return a.map((x, i) => x + b[i]!);
}

function subtract(a: Float64Array, b: Float64Array): Float64Array {
	return a.map((x, i) => x - b[i]!);
}

function scaled(a: Float64Array, by: number): Float64Array {
	return a.map((x) => x * by);
}

function length(a: Float64Array): number {
	return Math.hypot(...a);
}

function unit(a: Float64Array): Float64Array {
	return scaled(a, 1 / length(a));
}

function rectified(a: Float64Array): Float64Array {
	return a.map((x) => Math.max(x, 0));
}

function standardised(a: Float64Array): Float64Array {
	const mean = a.reduce((s, x) => s + x, 0) / a.length;
	const deviation = Math.sqrt(a.reduce((s, x) => s + (x - mean) ** 2, 0) / a.length) + 1e-6;
	return a.map((x) => (x - mean) / deviation);
}
