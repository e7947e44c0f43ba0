import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SeededRandom } from '../lib/data/random.js';
import type { NativeBackbone, Ragged, SasRecConfig } from '../lib/native/addon.js';
import { addon, engineOf } from './devices.js';
import { atLimit } from './limits.js';
import { type Case, type Contender, type Goals, type Group, repeat, time } from './measure.js';
import type { Settings } from './peer.js';

const batchSize = 128;
/** Users of one evaluation. */
const evaluated = 2048;

/** Training, dense and sparse, and evaluation. */
export function sasRecGroup(quick: boolean): Group {
	const numItems = quick ? 2000 : 24_000;
	const config: SasRecConfig = {
		numItems,
		maxLength: 50,
		hiddenUnits: 50,
		numBlocks: 2,
		numHeads: 1,
		dropoutRate: 0.5,
		variant: 'reference',
	};
	// A history of n items has n − 1 inputs.
	const dense = histories(quick ? 256 : 4096, numItems, () => 46);
	const sparse = histories(quick ? 2000 : 31_000, numItems, sparseLength);
	const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-bench-'));
	const users = quick ? 256 : evaluated;

	const settings = (name: string, data: Ragged): Settings => {
		const file = (part: string, values: Int32Array) => {
			const path = join(folder, `${name}.${part}`);
			writeFileSync(path, values);
			return path;
		};
		return {
			items: numItems,
			maxLength: config.maxLength,
			hiddenUnits: config.hiddenUnits,
			numBlocks: config.numBlocks,
			numHeads: config.numHeads,
			dropoutRate: config.dropoutRate,
			batchSize,
			offsets: file('offsets', data.offsets),
			values: file('values', data.values),
		};
	};

	const training = (name: string, data: Ragged, goals: Goals): Case => ({
		name: `SASRec training, ${name}`,
		dtype: 'float32',
		units: batchSize,
		unit: 'seq/s',
		floor: ({ gigaflops }) => {
			const inputs = lengths(data).map((n) => Math.min(n - 1, config.maxLength));
			const each = inputs.reduce((sum, n) => sum + sasRecFlops(config, n, n), 0) / inputs.length;
			const losses = (inputs.reduce((a, b) => a + b, 0) / inputs.length) * 2 * 2 * config.hiddenUnits;
			return atLimit(batchSize * 3 * (each + losses), gigaflops);
		},
		async open(threads) {
			const model = await newModel(config, threads);
			const trainer = new (addon().BackboneTrainer)(model, data, data, {
				batchSize,
				loss: 'bce',
				l2Embedding: 0,
				seed: 1,
				learningRate: 1e-3,
				beta1: 0.9,
				beta2: 0.98,
			});
			return {
				run: (iterations) => time(() => trainer.run(iterations)),
				dispose() {
					trainer.dispose();
					model.dispose();
				},
			};
		},
		peers: [{ program: 'PyTorch', kind: 'train', settings: settings(`train-${name}`, data) }],
		goals,
	});

	const evaluation = (
		name: string,
		all: Ragged,
		perUser: number,
		peer: { kind: string; units: number },
		goals: Goals,
	): Case => {
		const data = take(all, users);
		return {
			name: `SASRec evaluation, ${name}`,
			dtype: 'float32',
			units: users,
			unit: 'users/s',
			floor: ({ gigaflops }) => {
				const flops = lengths(data).reduce(
					(sum, n) =>
						sum +
						sasRecFlops(config, Math.min(n, config.maxLength), 1) +
						2 * config.hiddenUnits * (perUser || numItems),
					0,
				);
				return atLimit(flops, gigaflops);
			},
			open: (threads) => openEvaluation(config, data, perUser, threads),
			peers: [
				{
					program: 'PyTorch',
					kind: peer.kind,
					settings: { ...settings(`evaluation-${name}`, data), perUser, evaluationBatch: 256 },
					units: peer.units,
				},
			],
			goals,
		};
	};

	// Sequences or users a second on two cores; the small sizes say nothing of it.
	const fast: Goals = quick ? {} : { value: 20_000 };
	const singly = { kind: 'evaluateSingly', units: 1 };
	const batched = { kind: 'evaluateBatched', units: users };
	return {
		name: 'sasrec',
		script: 'sasrec',
		cases: [
			training('dense (45 of 50)', dense, { ratio: 6000 / 1173, ...(quick ? {} : { value: 6000 }) }),
			training('sparse (6 of 50)', sparse, { ratio: 20_000 / 1179, ...fast }),
			evaluation('sparse, 1+19 (peer: one user at a time)', sparse, 20, singly, {
				ratio: 20_000 / 550,
				...fast,
			}),
			evaluation('sparse, 1+100', sparse, 101, batched, { ratio: 20_000 / 7350, ...fast }),
			evaluation('sparse, whole catalogue', sparse, 0, batched, { ratio: 20_000 / 7250, ...fast }),
			evaluation('dense, 1+100', dense, 101, batched, { ratio: 1, ...fast }),
		],
		dispose: () => rmSync(folder, { recursive: true, force: true }),
	};
}

async function newModel(config: SasRecConfig, threads: number): Promise<NativeBackbone> {
	const model = new (addon().Backbone)(engineOf(threads), { kind: 'sasrec', ...config });
	await model.initialise(1);
	return model;
}

/** Ranks every user's target; perUser 0 = among the whole catalogue, the history left out. */
async function openEvaluation(
	config: SasRecConfig,
	data: Ragged,
	perUser: number,
	threads: number,
): Promise<Contender> {
	const model = await newModel(config, threads);
	const random = new SeededRandom(2);
	const users = data.offsets.length - 1;
	const candidates = Int32Array.from({ length: users * perUser }, () => 1 + random.int(config.numItems));
	const targets = Int32Array.from({ length: users }, () => 1 + random.int(config.numItems));
	const ranks = new Int32Array(users);
	return repeat(
		async () => {
			const vectors = await model.userVectors(data);
			if (perUser === 0) {
				await model.rankCatalogue(vectors, targets, data, 0);
				return;
			}
			const scores = await model.scoreCandidates(vectors, candidates, perUser);
			for (let u = 0; u < users; u++) {
				const first = u * perUser;
				let rank = 0;
				for (let i = first + 1; i < first + perUser; i++) if (scores[i]! > scores[first]!) rank++;
				ranks[u] = rank;
			}
		},
		() => model.dispose(),
	);
}

/** Forward FLOPs of a history without its padding; `last` rows leave the last block. */
function sasRecFlops({ hiddenUnits: c, numBlocks }: SasRecConfig, length: number, last: number): number {
	let flops = 0;
	for (let block = 0; block < numBlocks; block++) {
		const rows = block + 1 === numBlocks ? last : length;
		const pairs = rows === length ? (length * (length + 1)) / 2 + length : length + 1;
		flops += 2 * (2 * length + 4 * rows) * c * c + 4 * pairs * c;
	}
	return flops;
}

function lengths({ offsets }: Ragged): number[] {
	return Array.from({ length: offsets.length - 1 }, (_, u) => offsets[u + 1]! - offsets[u]!);
}

/** The first users. */
function take({ offsets, values }: Ragged, users: number): Ragged {
	const count = Math.min(users, offsets.length - 1);
	return { offsets: offsets.slice(0, count + 1), values: values.slice(0, offsets[count]) };
}

/** Lengths as in sparse shop data: at least 2, most short, a long tail, 7 on average. */
function sparseLength(random: SeededRandom): number {
	return Math.min(51, 2 + Math.floor(-5.55 * Math.log(1 - random.uniform())));
}

/** Random histories of distinct items, a few items far more popular than the rest. */
function histories(users: number, numItems: number, length: (random: SeededRandom) => number): Ragged {
	const random = new SeededRandom(1);
	const offsets = new Int32Array(users + 1);
	const values: number[] = [];
	for (let u = 0; u < users; u++) {
		const items = new Set<number>();
		const wanted = length(random);
		while (items.size < wanted) items.add(1 + Math.floor(numItems * random.uniform() ** 2));
		values.push(...items);
		offsets[u + 1] = values.length;
	}
	return { offsets, values: Int32Array.from(values) };
}
