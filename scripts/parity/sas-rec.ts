import { SASRec } from '../../lib/cf/sasrec.js';
import type { NativeBackbone, SasRecConfig } from '../../lib/native/addon.js';
import { guard, ragged, type Session } from '../../lib/native/session.js';
import type { Fixture, Json, WeightSource } from './fixture.js';
import { type Packed, pack, rowsAt } from './packing.js';
import { maximum, type Report } from './report.js';
import { compareParameters, readParameters } from './weights.js';

/** A gradient below this share of the largest is rounding; Adam divides it by itself. */
const NOISE = 1e-6;

export function isSasRec(fixture: Fixture): boolean {
	return fixture.sources.some((source) => {
		const tensors = fixture.tensorsOf(source);
		return tensors.has('item_emb.weight') && tensors.has('pos_emb.weight');
	});
}

/** SASRec of A-LLMRec's authors, and (without training) of pmixer/SASRec.pytorch. */
export async function checkSasRec(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const config = readConfig(fixture);
	let first: Map<string, Float32Array> | undefined;
	for (const source of fixture.sources) {
		const model = guard(() => new session.addon.Backbone(session.engine, { kind: 'sasrec', ...config }));
		try {
			await model.load(source.paths);
			const check = new SasRecCheck(fixture, report, session, config, source);
			if (first === undefined) {
				first = await readParameters(model);
				await check.outputs(model);
				await check.training(model, first);
			} else {
				await compareParameters(report, fixture, source, model, first);
				await check.userVectors(model);
			}
			await check.library();
		} finally {
			model.dispose();
		}
	}
}

function argumentsOf(fixture: Fixture): Json {
	return (fixture.expected.args ?? {}) as Json;
}

/** Sizes from the tensors; the heads, which no shape shows, from `args`. */
function readConfig(fixture: Fixture): SasRecConfig {
	const tensors = fixture.tensorsOf(fixture.sources[0]!);
	const args = argumentsOf(fixture);
	const [items, hiddenUnits] = tensors.get('item_emb.weight')!.shape as [number, number];
	const positions = tensors.get('pos_emb.weight')!.shape[0]!;
	let numBlocks = 0;
	while (tensors.has(`attention_layernorms.${numBlocks}.weight`)) numBlocks++;
	const maxLength = typeof args.maxlen === 'number' ? args.maxlen : positions;
	if (positions !== maxLength && positions !== maxLength + 1)
		throw new Error(`${positions} positions fit no SASRec of maxlen ${maxLength}.`);
	return {
		numItems: items - 1,
		maxLength,
		hiddenUnits,
		numBlocks,
		numHeads: typeof args.num_heads === 'number' ? args.num_heads : 1,
		dropoutRate: 0,
		variant: positions === maxLength ? 'reference' : args.norm_first === true ? 'preNorm' : 'postNorm',
	};
}

/** What the steps of Adam began from. */
interface Beginning {
	first: ReadonlyMap<string, Float32Array>;
	gradients: ReadonlyMap<string, Float32Array>;
	learningRate: number;
}

class SasRecCheck {
	readonly histories: Packed;
	/** Rows with at least one item. */
	readonly filled: number[];

	constructor(
		readonly fixture: Fixture,
		readonly report: Report,
		readonly session: Session,
		readonly config: SasRecConfig,
		readonly source: WeightSource,
	) {
		const rows = fixture.inputRows('seq');
		for (const row of rows)
			if (row.some((item, i) => item === 0 && i > 0 && row[i - 1] !== 0))
				throw new Error('A sequence has padding after an item, which packed histories cannot have.');
		this.histories = pack(rows, rows);
		this.filled = rows.flatMap((row, r) => (row.some((item) => item !== 0) ? [r] : []));
	}

	/** Features, logits, user representations and scores. */
	async outputs(model: NativeBackbone): Promise<void> {
		const { fixture, report, histories, config } = this;
		const source = this.source.name;
		const { places, note } = histories;
		const features = await model.features(histories);
		if (fixture.has('log_feats'))
			report.compare(
				'log_feats',
				features,
				rowsAt(fixture.tensor('log_feats').data, config.hiddenUnits, places),
				{ source, note: note && `${note}: no other position depends on it` },
			);
		for (const [name, items] of [
			['pos_logits', 'pos'],
			['neg_logits', 'neg'],
		] as const) {
			if (!fixture.has(name) || !fixture.has(items)) continue;
			const scores = await model.scoreCandidates(features, this.itemsAt(items), 1);
			report.compare(name, scores, rowsAt(fixture.tensor(name).data, 1, places), { source, note });
		}
		await this.userVectors(model);
	}

	async userVectors(model: NativeBackbone): Promise<void> {
		const users = await model.userVectors(this.histories);
		await this.compareUsers(users, this.source.name, (candidates, perUser) =>
			model.scoreCandidates(users, candidates, perUser),
		);
	}

	async compareUsers(
		users: Float32Array,
		source: string,
		score: (candidates: Int32Array, perUser: number) => Promise<Float32Array>,
	): Promise<void> {
		const { fixture, report, filled } = this;
		const rows = this.histories.offsets.length - 1;
		const note =
			filled.length === rows
				? ''
				: `${filled.length} of ${rows} rows: an empty history has no representation`;
		const compare = (name: string, ours: Float32Array, width: number) =>
			report.compare(name, rowsAt(ours, width, filled), rowsAt(fixture.tensor(name).data, width, filled), {
				source,
				note,
			});
		if (fixture.has('log_only')) compare('log_only', users, this.config.hiddenUnits);
		if (!fixture.has('predict') || !fixture.has('cand')) return;
		const candidates = fixture.inputRows('cand');
		const perUser = candidates[0]!.length;
		compare('predict', await score(Int32Array.from(candidates.flat()), perUser), perUser);
	}

	/** The same through {@link SASRec.load}. */
	async library(): Promise<void> {
		const { fixture, report, session, source, config } = this;
		if (source.paths.length !== 1) return;
		const args = argumentsOf(fixture);
		const said = fixture.metadataOf(source);
		// What the file itself says is left to be found.
		const plain = !Object.keys(said).some((key) => /(^|\.)maxlen$/.test(key));
		const variant = config.variant === 'reference' ? undefined : config.variant === 'preNorm';
		const model = await SASRec.load(source.paths[0]!, {
			session,
			...(plain && variant !== undefined ? { normFirst: variant } : {}),
			...(plain && typeof args.num_heads === 'number' ? { numHeads: args.num_heads } : {}),
		});
		try {
			const name = `${source.name}, SASRec.load`;
			if (plain && model.config.variant !== config.variant) {
				// A bare state dict of an odd length looks like pmixer's, which has one position more.
				report.skip(
					'SASRec.load',
					`${source.name} does not say its length, ${model.config.maxLength} was assumed`,
				);
				return;
			}
			const { dropoutRate: _, kind: __, ...read } = model.config;
			const { dropoutRate: ___, ...expected } = config;
			report.equal('configuration', sorted(read), sorted(expected), { source: name });
			const users = await model.userVectors(this.histories);
			await this.compareUsers(users, name, (candidates, perUser) =>
				model.scoreCandidates(users, candidates, perUser),
			);
		} finally {
			model.dispose();
		}
	}

	/** Loss and gradients, then Adam's steps on the one batch. */
	async training(model: NativeBackbone, first: ReadonlyMap<string, Float32Array>): Promise<void> {
		const { fixture, report, session, histories, config } = this;
		const source = this.source.name;
		if (!fixture.has('pos') || !fixture.has('neg')) return;
		const positives = this.itemsAt('pos');
		const negatives = this.itemsAt('neg');
		if (config.variant !== 'reference') {
			const trained = [...fixture.expectedTensors.keys(), ...Object.keys(fixture.expected)].filter((name) =>
				/^(loss|losses|grad\..*|adam\d+\..*)$/.test(name),
			);
			for (const name of trained)
				report.skip(name, 'pmixer’s layouts can be used, not trained (ERR_ALLMREC_UNSUPPORTED)');
			return;
		}
		const args = argumentsOf(fixture);
		const learningRate = typeof args.lr === 'number' ? args.lr : 1e-3;
		const l2Embedding = typeof args.l2_emb === 'number' ? args.l2_emb : 0;
		// The trainer wants data of its own, which given batches leave unused.
		const unused = ragged([[1, 1]]);
		const trainer = guard(
			() =>
				new session.addon.BackboneTrainer(model, unused, ragged([[]]), {
					batchSize: 1,
					loss: 'bce',
					l2Embedding,
					seed: 0,
					learningRate,
					beta1: 0.9,
					beta2: 0.98,
					eps: 1e-8,
				}),
		);
		try {
			// The reference adds λ‖E‖₂ to the loss it reports; the trainer gives its gradient alone.
			const penalty = async () =>
				l2Embedding === 0 ? 0 : l2Embedding * norm(await model.getParameter('item_emb.weight'));
			const { loss } = await trainer.gradients(histories, positives, negatives);
			if (fixture.has('loss'))
				report.compare('loss', [loss! + (await penalty())], fixture.tensor('loss').data, { source });
			await report.gradients(fixture, 'grad.', (name) => model.getGradient(name), { source });
			if (fixture.has('grad.item_emb.weight')) {
				const row = (values: Float32Array) => values.subarray(0, config.hiddenUnits);
				const [ours, expected] = [
					row(await model.getGradient('item_emb.weight')),
					row(fixture.tensor('grad.item_emb.weight').data),
				];
				report.compare('grad.item_emb.weight', ours, expected, {
					source,
					tolerance: maximum(expected) === 0 ? 0 : undefined,
					note: 'row 0, the padding',
				});
			}
			const gradients = new Map<string, Float32Array>();
			for (const name of first.keys()) gradients.set(name, await model.getGradient(name));
			await this.steps(model, { first, gradients, learningRate }, async () => {
				const added = await penalty();
				const step = await trainer.step(histories, positives, negatives);
				return step.loss! + added;
			});
		} finally {
			trainer.dispose();
		}
	}

	/** Parameters after step K as `adamK.<name>`, and the loss before each step. */
	async steps(model: NativeBackbone, began: Beginning, step: () => Promise<number>): Promise<void> {
		const { fixture, report } = this;
		const source = this.source.name;
		const expected = [...fixture.expectedTensors.keys()].filter((name) => /^adam\d+\./.test(name));
		const stepOf = (name: string) => Number(/^adam(\d+)\./.exec(name)![1]);
		const listed = (fixture.expected.losses ?? []) as number[];
		const last = Math.max(0, listed.length, ...expected.map(stepOf));
		const losses: number[] = [];
		for (let done = 1; done <= last; done++) {
			losses.push(await step());
			for (const name of expected) {
				if (stepOf(name) !== done) continue;
				this.compareStepped(name, await model.getParameter(name.replace(/^adam\d+\./, '')), began, done);
			}
		}
		if (listed.length > 0)
			report.compare('losses', losses.slice(0, listed.length), listed, {
				source,
				note: `before each of ${listed.length} steps`,
			});
	}

	/**
	 * Where the gradient is rounding and nothing more, Adam's step is that rounding divided by itself: those numbers
	 * need only stay within the step's bound of where they began.
	 */
	compareStepped(name: string, ours: Float32Array, began: Beginning, steps: number): void {
		const { fixture, report } = this;
		const source = this.source.name;
		const expected = fixture.tensor(name).data;
		const parameter = name.replace(/^adam\d+\./, '');
		const gradients = [...fixture.expectedTensors.keys()].filter((key) => key.startsWith('grad.'));
		if (!fixture.has(`grad.${parameter}`)) {
			report.compare(name, ours, expected, { source });
			return;
		}
		const noise = NOISE * Math.max(...gradients.map((key) => maximum(fixture.tensor(key).data)));
		const [theirs, own] = [fixture.tensor(`grad.${parameter}`).data, began.gradients.get(parameter)!];
		const rounding = Array.from(own.keys()).filter((i) => {
			const gradient = Math.max(Math.abs(theirs[i]!), Math.abs(own[i]!));
			return gradient > 0 && gradient < noise;
		});
		const before = began.first.get(parameter)!;
		const bound = 1.01 * steps * began.learningRate;
		if (rounding.some((i) => !(Math.abs(ours[i]! - before[i]!) <= bound))) {
			report.fail(name, 'a number moved further than Adam can', source);
			return;
		}
		const comparable = expected.slice();
		for (const i of rounding) comparable[i] = ours[i]!;
		report.compare(name, ours, comparable, {
			source,
			note:
				rounding.length === 0
					? ''
					: `${rounding.length} of ${own.length} have a gradient of rounding alone: within Adam's bound`,
		});
	}

	itemsAt(name: string): Int32Array {
		const rows = this.fixture.inputRows(name);
		const width = rows[0]!.length;
		return Int32Array.from(
			this.histories.places,
			(place) => rows[Math.floor(place / width)]![place % width]!,
		);
	}
}

function norm(values: Float32Array): number {
	return Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
}

function sorted(object: object): object {
	return Object.fromEntries(Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1)));
}
