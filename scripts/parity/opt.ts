import { optConfig } from '../../lib/llm/opt-config.js';
import type { LlmBatch, NativeOpt } from '../../lib/native/addon.js';
import { guard, ragged, type Session } from '../../lib/native/session.js';
import type { Fixture } from './fixture.js';
import { firstIntegers, type Packed, pack, rowsAt, scatterRows } from './packing.js';
import type { Report } from './report.js';
import { compareParameters, readParameters } from './weights.js';

/** Of logits from weights in half precision against those from float32. */
const HALF_TOLERANCE = 2e-2;
/** Two ways to the same log-probabilities. */
const PACKING_TOLERANCE = 1e-5;

export function isOpt({ config }: Fixture): boolean {
	return config.model_type === 'opt';
}

/** OPT of transformers: logits, losses, gradients, candidates and greedy ids. */
export async function checkOpt(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const config = optConfig(fixture.config, fixture.folder);
	let first: Map<string, Float32Array> | undefined;
	for (const source of fixture.sources) {
		const model = guard(() => new session.addon.Opt(session.engine, config));
		try {
			await model.load(source.paths);
			const check = new OptCheck(fixture, report, session, model, source.name);
			if (first === undefined) {
				first = fixture.sources.length > 1 ? await readParameters(model) : new Map();
				await check.all();
			} else {
				const half = await compareParameters(report, fixture, source, model, first);
				await check.logits(half ? HALF_TOLERANCE : undefined);
			}
		} finally {
			model.dispose();
		}
	}
}

class OptCheck {
	constructor(
		readonly fixture: Fixture,
		readonly report: Report,
		readonly session: Session,
		readonly model: NativeOpt,
		readonly source: string,
	) {}

	async all(): Promise<void> {
		const { fixture } = this;
		await this.logits();
		if (fixture.has('embeds')) await this.embeds();
		if (fixture.has('cand_logp')) await this.candidates();
		for (const name of Object.keys(fixture.expected)) if (name.startsWith('greedy')) await this.greedy(name);
	}

	/** Every `<x>logits` that has `<x>ids`, with `<x>mask` where there is one. */
	async logits(tolerance?: number): Promise<void> {
		const { fixture, report, model } = this;
		for (const name of fixture.expectedTensors.keys()) {
			const prefix = /^(.*)logits$/.exec(name)?.[1];
			if (prefix === undefined || !fixture.has(`${prefix}ids`)) continue;
			const packed = pack(fixture.inputRows(`${prefix}ids`), this.mask(prefix));
			const ours = await model.logits(
				{ ids: packed.values, offsets: packed.offsets },
				new Float32Array(0),
				firstIntegers(packed.values.length),
			);
			const { shape, data } = fixture.tensor(name);
			const note = [packed.note, tolerance === undefined ? '' : 'half precision against float32'];
			report.compare(name, ours, rowsAt(data, shape.at(-1)!, packed.places), {
				source: this.source,
				tolerance,
				note: note.filter((part) => part !== '').join('; '),
			});
		}
	}

	/** From `inputs_embeds`, whose padding is the right one: logits, loss and gradients. */
	async embeds(): Promise<void> {
		const { fixture, report, session, model, source } = this;
		const embeds = fixture.input('embeds');
		const [rows, length, width] = embeds.shape as [number, number, number];
		const packed = pack(matrixOf(rows, length), this.mask('right_'));
		const batch: LlmBatch = { ids: softIds(packed), offsets: packed.offsets };
		const soft = rowsAt(embeds.data, width, packed.places);
		if (fixture.has('embeds_logits')) {
			const ours = await model.logits(batch, soft, firstIntegers(batch.ids.length));
			const { shape, data } = fixture.tensor('embeds_logits');
			const expected = rowsAt(data, shape.at(-1)!, packed.places);
			report.compare('embeds_logits', ours, expected, { source, note: packed.note });
		}
		if (!fixture.has('labels')) return;
		const targets = shiftedTargets(fixture.inputRows('labels'), packed);
		const trainer = guard(() => new session.addon.LlmTrainer(model, { learningRate: 0 }));
		try {
			const { losses, softGradient } = await trainer.gradients(batch, soft, targets);
			const note = `${targets.rows.length} labels`;
			if (fixture.has('loss'))
				report.compare('loss', [losses.loss!], fixture.tensor('loss').data, { source, note });
			await report.gradients(fixture, 'grad.', (name) => model.getGradient(name), { source });
			if (fixture.has('grad_embeds'))
				report.compare(
					'grad_embeds',
					scatterRows(softGradient, width, packed.places, rows * length),
					fixture.tensor('grad_embeds').data,
					{ source, note: packed.note && 'padding has none' },
				);
		} finally {
			trainer.dispose();
		}
	}

	/** log p of each candidate's tokens after the first row of `ids`. */
	async candidates(): Promise<void> {
		const { fixture, report, model, source } = this;
		const prefix = fixture.inputRows('ids')[0]!;
		const candidates = fixture.inputRows('cand');
		const n = prefix.length;

		const one = [...prefix, ...candidates.flat()];
		const batch: LlmBatch = {
			ids: Int32Array.from(one),
			offsets: Int32Array.of(0, one.length),
			positions: firstIntegers(one.length),
			prefix: new Int32Array(one.length),
			ownBegin: new Int32Array(one.length),
		};
		const pairs: { row: number; target: number }[] = [];
		let at = n;
		for (const candidate of candidates)
			for (let i = 0, begin = at; i < candidate.length; i++, at++) {
				batch.positions![at] = n + i;
				batch.prefix![at] = n;
				batch.ownBegin![at] = begin;
				pairs.push({ row: i === 0 ? n - 1 : at - 1, target: candidate[i]! });
			}
		const packed = await this.logProbs(batch, pairs);

		const sequences = ragged(candidates.map((candidate) => [...prefix, ...candidate]));
		const apart = await this.logProbs(
			{ ids: sequences.values, offsets: sequences.offsets },
			candidates.flatMap((candidate, c) =>
				candidate.map((target, i) => ({ row: sequences.offsets[c]! + n - 1 + i, target })),
			),
		);
		const logits = await model.logits(
			{ ids: sequences.values, offsets: sequences.offsets },
			new Float32Array(0),
			firstIntegers(sequences.values.length),
		);
		const vocabulary = logits.length / sequences.values.length;
		const fromLogits = candidates.flatMap((candidate, c) =>
			candidate.map((target, i) => {
				const row = sequences.offsets[c]! + n - 1 + i;
				return logSoftmax(logits.subarray(row * vocabulary, (row + 1) * vocabulary), target);
			}),
		);

		const { data } = fixture.tensor('cand_logp');
		report.compare('cand_logp', packed, data, { source, note: 'one packed sequence with the item mask' });
		report.compare('cand_logp', apart, data, { source, note: 'a sequence for each candidate' });
		report.compare('cand_logp', fromLogits, data, { source, note: 'log-softmax of the logits' });
		report.compare('cand_logp', packed, apart, {
			source,
			tolerance: PACKING_TOLERANCE,
			note: 'the packed sequence against the separate ones',
		});
	}

	logProbs(batch: LlmBatch, pairs: readonly { row: number; target: number }[]): Promise<Float32Array> {
		const rows = [...new Set(pairs.map(({ row }) => row))].sort((a, b) => a - b);
		const indexOf = new Map(rows.map((row, i) => [row, i]));
		return this.model.logProbs(
			batch,
			new Float32Array(0),
			Int32Array.from(rows),
			Int32Array.from(pairs, ({ row }) => indexOf.get(row)!),
			Int32Array.from(pairs, ({ target }) => target),
		);
	}

	/** `greedy[_embeds][_rep<penalty>][_eos]`: new ids after the left-padded prompts. */
	async greedy(name: string): Promise<void> {
		const { fixture, report, source } = this;
		const form = /^greedy(_embeds)?(?:_rep([\d.]+))?(_eos)?$/.exec(name);
		if (!form) return;
		const expected = fixture.expected[name] as number[][];
		const penalty = form[2] === undefined ? 1 : Number(form[2]);
		const endsAt = form[3] ? Number(fixture.expected.eos_id) : -1;
		const run = (eosId: number) => this.continuations(expected, form[1] !== undefined, penalty, eosId);
		let ours = await run(endsAt);
		let note = [`penalty ${penalty}`, endsAt < 0 ? 'no end token' : `ends at ${endsAt}, then the fill`].join(
			', ',
		);
		// Where the dump was made with the model's own end token, rows that reached it say so.
		const own = fixture.config.eos_token_id;
		if (
			endsAt < 0 &&
			typeof own === 'number' &&
			expected.flat().includes(own) &&
			JSON.stringify(ours) !== JSON.stringify(expected)
		) {
			ours = await run(own);
			note = `penalty ${penalty}, ends at the configuration's ${own}`;
		}
		report.ids(name, ours, expected, { source, note });
	}

	/** As transformers returns them: finished rows filled up, all rows as long as the longest. */
	async continuations(
		expected: number[][],
		fromEmbeds: boolean,
		repetitionPenalty: number,
		eosId: number,
	): Promise<number[][]> {
		const { fixture, model } = this;
		const ids = fixture.inputRows(fixture.has('left_ids') ? 'left_ids' : 'ids');
		const packed = pack(ids, this.mask('left_'));
		let soft = new Float32Array(0);
		// With ids the penalty counts the prompt, padding included; with embeddings only what is generated.
		let seen = ragged(ids);
		let prompts: LlmBatch = { ids: packed.values, offsets: packed.offsets };
		if (fromEmbeds) {
			const { shape, data } = fixture.input('gen_embeds');
			soft = rowsAt(data, shape.at(-1)!, packed.places) as Float32Array<ArrayBuffer>;
			seen = ragged(ids.map(() => []));
			prompts = { ids: softIds(packed), offsets: packed.offsets };
		}
		// Generation stops early once all rows have ended; where they all have, a longer run must stop by itself.
		const length = expected[0]!.length;
		const allEnd = eosId >= 0 && expected.every((row) => row.includes(eosId));
		const result = await model.generate(prompts, soft, seen, {
			maxNewTokens: allEnd ? length + 4 : length,
			repetitionPenalty,
			eosId,
		});
		const rows = ids.map((_, r) => Array.from(result.values.slice(result.offsets[r], result.offsets[r + 1])));
		const longest = Math.max(...rows.map((row) => row.length));
		const fill = fixture.noted(/pad_token_id\s*=\s*(\d+)/) ?? Number(fixture.config.pad_token_id);
		return rows.map((row) => [...row, ...new Array<number>(longest - row.length).fill(fill)]);
	}

	mask(prefix: string): number[][] | undefined {
		return this.fixture.has(`${prefix}mask`) ? this.fixture.inputRows(`${prefix}mask`) : undefined;
	}
}

/** Zeros (rows, length), for what has places but no ids. */
function matrixOf(rows: number, length: number): number[][] {
	return Array.from({ length: rows }, () => new Array<number>(length).fill(0));
}

/** Every packed token is a soft one. */
function softIds(packed: Packed): Int32Array {
	return Int32Array.from(packed.places, (_, t) => -t - 1);
}

/** Labels belong to the token before them; −100 is none. */
function shiftedTargets(
	labels: readonly number[][],
	{ places }: Packed,
): { rows: Int32Array; tokens: Int32Array } {
	const width = labels[0]!.length;
	const [rows, tokens]: [number[], number[]] = [[], []];
	const packedAt = new Map(places.map((place, t) => [place, t]));
	for (const [r, row] of labels.entries())
		for (let i = 1; i < width; i++) {
			if (row[i] === -100) continue;
			const at = packedAt.get(r * width + i - 1);
			if (at === undefined) throw new Error(`Row ${r} has a label at ${i}, after padding.`);
			rows.push(at);
			tokens.push(row[i]!);
		}
	return { rows: Int32Array.from(rows), tokens: Int32Array.from(tokens) };
}

function logSoftmax(logits: Float32Array, target: number): number {
	const largest = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
	const sum = logits.reduce((total, logit) => total + Math.exp(logit - largest), 0);
	return logits[target]! - largest - Math.log(sum);
}
