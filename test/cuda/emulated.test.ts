// The CUDA back end through the emulator, end to end: each piece of the product gives what the CPU gives.
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import {
	loadAddon,
	type NativeEngine,
	type NativeModel,
	type NativeOpt,
	type OptConfig,
	type Ragged,
} from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { checkFolder, parityFolders } from '../../scripts/parity/check.js';
import { failuresOf, OWN } from '../parity/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';

const LIBRARY = join(process.cwd(), 'build-emulator/allmrec_cudaemu.so');
process.env['ALLMREC_CUDAEMU_LIBRARY'] ??= LIBRARY;
const addon = loadAddon();

/** Relative to the largest number, as float32 sums in another order allow. */
const TOLERANCE = 1e-4;
/** A tenth of what a step moves a weight: arrays that are zero but for rounding are compared with this. */
const FLOOR = 1e-3;

const pack = (rows: number[][]): Ragged => ({
	offsets: Int32Array.from([0, ...rows.map((_, i) => rows.slice(0, i + 1).flat().length)]),
	values: Int32Array.from(rows.flat()),
});

function difference(a: Float32Array, b: Float32Array): number {
	if (a.length !== b.length || a.length === 0) return Number.POSITIVE_INFINITY;
	let largest = 0;
	let scale = FLOOR;
	for (let i = 0; i < a.length; i++) {
		if (!Number.isFinite(a[i]!) || !Number.isFinite(b[i]!)) return Number.POSITIVE_INFINITY;
		largest = Math.max(largest, Math.abs(a[i]! - b[i]!));
		scale = Math.max(scale, Math.abs(b[i]!));
	}
	return largest / scale;
}

/** The same calls on the CPU and on the emulated device; what they return, array by array. */
async function both(calls: (engine: NativeEngine) => Promise<Float32Array[]>) {
	const results: Float32Array[][] = [];
	for (const device of ['cpu', 'cudaemu']) {
		const engine = new addon.Engine({ device, threads: 1 });
		results.push(await calls(engine));
		engine.dispose();
	}
	return results[0]!.map((cpu, i) => ({ cpu, emulated: results[1]![i]! }));
}

function agree(t: ExecutionContext, pairs: { cpu: Float32Array; emulated: Float32Array }[]): void {
	const worst = pairs.map(({ cpu, emulated }) => difference(emulated, cpu));
	t.true(Math.max(...worst) < TOLERANCE, worst.map((x) => x.toExponential(1)).join(' '));
}

async function weights(model: NativeModel): Promise<Float32Array[]> {
	return Promise.all(model.parameters().map(({ name }) => model.getParameter(name)));
}

/**
 * Adam's usual eps of 1e-8 makes a full step of the sign of any gradient, also of one that is zero but for rounding
 * (that of a key's bias, which no softmax sees); with this one a step is as exact as its gradient.
 */
const eps = 1e-2;

/** A little deterministic noise in [−1, 1). */
const noise = (n: number, seed: number) =>
	Float32Array.from(
		{ length: n },
		(_, i) => ((Math.imul(i + 1, 2654435761 + seed * 97) >>> 8) % 2000) / 1000 - 1,
	);

const histories = pack([
	[1, 4, 2, 7, 9],
	[3, 5, 1],
	[8, 2, 6, 4, 1, 9, 3],
	[5, 6, 7, 8],
]);

test.before((t) => {
	t.true(existsSync(process.env['ALLMREC_CUDAEMU_LIBRARY']!), 'build it with `npm run build:emulator`');
});

test('the device says what it is', (t) => {
	const engine = new addon.Engine({ device: 'cudaemu', threads: 0 });
	t.like(engine.info(), { backend: 'cudaemu', available: true, reason: '' });
	engine.dispose();
});

test('SASRec trains as on the CPU where a step takes more memory than one block', async (t) => {
	const long = pack(
		Array.from({ length: 24 }, (_, u) => Array.from({ length: 21 }, (_, i) => 1 + ((7 * u + 11 * i) % 60))),
	);
	const pairs = await both(async (engine) => {
		const model = new addon.Backbone(engine, {
			kind: 'sasrec',
			numItems: 60,
			maxLength: 20,
			hiddenUnits: 32,
			numBlocks: 1,
			numHeads: 1,
			dropoutRate: 0,
			variant: 'reference',
		});
		await model.initialise(3);
		const trainer = new addon.BackboneTrainer(model, long, long, {
			batchSize: 20,
			loss: 'bce',
			l2Embedding: 0,
			seed: 5,
			learningRate: 1e-3,
			beta1: 0.9,
			beta2: 0.98,
			eps,
		});
		const loss = await trainer.run(3);
		const result = [Float32Array.of(loss), ...(await weights(model))];
		trainer.dispose();
		model.dispose();
		return result;
	});
	agree(t, pairs);
});

for (const loss of ['bce', 'softmax'] as const)
	test(`SASRec trains as on the CPU (${loss}), through recorded steps`, async (t) => {
		const pairs = await both(async (engine) => {
			const model = new addon.Backbone(engine, {
				kind: 'sasrec',
				numItems: 9,
				maxLength: 6,
				hiddenUnits: 12,
				numBlocks: 2,
				numHeads: 2,
				dropoutRate: 0.2,
				variant: 'reference',
			});
			await model.initialise(3);
			const trainer = new addon.BackboneTrainer(model, histories, histories, {
				batchSize: 3,
				loss,
				l2Embedding: 0,
				seed: 5,
				learningRate: 1e-2,
				eps,
			});
			const mean = await trainer.run(4);
			const users = await model.userVectors(histories);
			const scores = await model.scoreCandidates(
				users,
				Int32Array.from({ length: 12 }, (_, i) => 1 + (i % 9)),
				3,
			);
			const result = [Float32Array.of(mean), users, scores, ...(await weights(model))];
			trainer.dispose();
			model.dispose();
			return result;
		});
		agree(t, pairs);
	});

const textEncoder = {
	kind: 'distilbert' as const,
	vocabSize: 30,
	hiddenSize: 16,
	numLayers: 2,
	numHeads: 2,
	intermediateSize: 24,
	maxPositions: 12,
	typeVocabSize: 2,
	layerNormEps: 1e-12,
	activation: 'gelu' as const,
};

test('stage 1 steps as on the CPU, with the encoder in training', async (t) => {
	const pairs = await both(async (engine) => {
		const encoder = new addon.SentenceEncoder(engine, { ...textEncoder, dropoutRate: 0.1 });
		await encoder.initialise(1, 0.2);
		const alignment = new addon.Alignment(engine, {
			itemSize: 8,
			textSize: 16,
			jointSize: 10,
			activation: 'sigmoid',
			matchingWeight: 1,
			itemReconstructionWeight: 0.5,
			textReconstructionWeight: 0.2,
			recommendationWeight: 1,
			referenceCompat: false,
		});
		await alignment.initialise(2);
		const trainer = new addon.AlignmentTrainer(alignment, encoder, {
			learningRate: 1e-2,
			eps,
			trainEncoder: true,
			seed: 4,
		});
		const losses: number[] = [];
		for (let step = 0; step < 2; step++) {
			const result = await trainer.step({
				users: noise(24, 1),
				positiveItems: noise(24, 2),
				negativeItems: noise(24, 3),
				positiveTokens: pack([
					[2, 9, 4, 3],
					[2, 7, 3],
					[2, 11, 25, 6, 8, 3],
				]),
				negativeTokens: pack([
					[2, 5, 3],
					[2, 20, 21, 22, 3],
					[2, 8, 3],
				]),
			});
			losses.push(...Object.values(result));
		}
		const result = [Float32Array.from(losses), ...(await weights(alignment)), ...(await weights(encoder))];
		for (const owned of [trainer, alignment, encoder]) owned.dispose();
		return result;
	});
	agree(t, pairs);
});

test('the sentence encoder in bfloat16 is close to float32, and trains', async (t) => {
	const texts = pack([
		[2, 9, 4, 3],
		[2, 7, 11, 25, 6, 8, 3],
	]);
	const run = async (activationDtype: 'float32' | 'bfloat16') => {
		const engine = new addon.Engine({ device: 'cudaemu', threads: 0 });
		const encoder = new addon.SentenceEncoder(engine, { ...textEncoder, dropoutRate: 0, activationDtype });
		await encoder.initialise(1, 0.2);
		const pooled = await encoder.encode(texts, 100);
		await encoder.pooledGradients(texts, noise(32, 1), 0);
		const gradient = await encoder.getGradient('transformer.layer.0.ffn.lin1.weight');
		encoder.dispose();
		engine.dispose();
		return { pooled, gradient };
	};
	const exact = await run('float32');
	const rounded = await run('bfloat16');
	// Each value is rounded to 8 bits some twenty times on its way, each time by up to 0.2 %.
	for (const [a, b] of [
		[rounded.pooled, exact.pooled],
		[rounded.gradient, exact.gradient],
	] as const) {
		t.true(difference(a, b) > 1e-5 && difference(a, b) < 0.04, `${difference(a, b)}`);
	}
});

const llm: OptConfig = {
	vocabSize: 40,
	hiddenSize: 32,
	embedSize: 32,
	numLayers: 2,
	numHeads: 2,
	ffnSize: 64,
	maxPositions: 64,
	normBefore: true,
	finalNorm: true,
	activation: 'relu',
};

async function languageModel(engine: NativeEngine, config: OptConfig): Promise<NativeOpt> {
	const model = new addon.Opt(engine, config);
	for (const [i, { name, shape }] of model.parameters().entries()) {
		const size = shape.reduce((a, b) => a * b, 1);
		const norm = name.includes('layer_norm') && name.endsWith('weight');
		await model.setParameter(
			name,
			noise(size, i).map((x) => (norm ? 1 + 0.1 * x : 0.25 * x)),
		);
	}
	return model;
}

const prompts = pack([
	[2, -1, 5, 9, -2, 11, 7],
	[2, -1, 8, -3],
	[2, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39],
]);
const batch = { ids: prompts.values, offsets: prompts.offsets };

test('stage 2 steps as on the CPU', async (t) => {
	const pairs = await both(async (engine) => {
		const model = await languageModel(engine, llm);
		const projector = new addon.Projector(engine, { kind: 'mlp', userSize: 6, jointSize: 10, tokenSize: 32 });
		await projector.initialise(7, 0.1);
		const trainer = new addon.ProjectionTrainer(projector, model, { learningRate: 1e-2, eps, seed: 2 });
		const losses: number[] = [];
		for (let step = 0; step < 2; step++) {
			const result = await trainer.step(
				batch,
				{ users: noise(6, 5), items: noise(20, 6) },
				{ rows: Int32Array.of(5, 10, 21), tokens: Int32Array.of(7, 3, 12) },
			);
			losses.push(...Object.values(result));
		}
		const result = [Float32Array.from(losses), ...(await weights(projector))];
		for (const owned of [trainer, projector, model]) owned.dispose();
		return result;
	});
	agree(t, pairs);
});

/** Two candidates of two tokens behind a prompt of five, one packed sequence. */
const candidates = {
	ids: Int32Array.of(2, -1, 5, 9, 4, 11, 12, 13, 14),
	offsets: Int32Array.of(0, 9),
	positions: Int32Array.of(0, 1, 2, 3, 4, 5, 6, 5, 6),
	prefix: Int32Array.of(0, 0, 0, 0, 0, 5, 5, 5, 5),
	ownBegin: Int32Array.of(0, 0, 0, 0, 0, 5, 5, 7, 7),
};
const scoring = (model: NativeOpt) =>
	model.logProbs(
		candidates,
		noise(32, 8),
		Int32Array.of(4, 5, 7),
		Int32Array.of(0, 1, 0, 2),
		Int32Array.of(11, 12, 13, 14),
	);

test('candidates are scored and texts continued as on the CPU', async (t) => {
	const pairs = await both(async (engine) => {
		const model = await languageModel(engine, llm);
		const scores = await scoring(model);
		const greedy = await model.generate(
			batch,
			noise(96, 9),
			{ offsets: Int32Array.of(0, 0, 0, 0), values: new Int32Array(0) },
			{ maxNewTokens: 6, repetitionPenalty: 1, eosId: -1 },
		);
		const result = [scores, Float32Array.from(greedy.values)];
		model.dispose();
		return result;
	});
	t.true(difference(pairs[0]!.emulated, pairs[0]!.cpu) < TOLERANCE);
	t.is(pairs[1]!.cpu.length, 18);
	t.deepEqual(pairs[1]!.emulated, pairs[1]!.cpu);
});

// A weight of dtype is off by up to this share of itself (halves) or of the largest in its row or group; the
// log-probabilities, of about −4, may be off by that share of them.
for (const [dtype, share] of [
	['bfloat16', 1 / 512],
	['float16', 1 / 4096],
	['int8', 1 / 254],
	['int4', 1 / 15],
] as const)
	test(`candidates scored with ${dtype} weights are close to float32's`, async (t) => {
		const engine = new addon.Engine({ device: 'cudaemu', threads: 0 });
		const exact = await languageModel(engine, llm);
		const rounded = await languageModel(engine, { ...llm, dtype });
		const [a, b] = [await scoring(exact), await scoring(rounded)];
		const largest = Math.max(...a.map((x, i) => Math.abs(x - b[i]!)));
		t.true(largest > 0 && largest < 4 * share, `${largest}`);
		for (const owned of [exact, rounded]) owned.dispose();
		engine.dispose();
	});

test('memory comes back when a model is disposed', async (t) => {
	const engine = new addon.Engine({ device: 'cudaemu', threads: 0 });
	const before = await engine.memory();
	const model = await languageModel(engine, llm);
	await scoring(model);
	t.true((await engine.memory()).inUse > before.inUse);
	model.dispose();
	engine.trim();
	const after = await engine.memory();
	t.is(after.inUse, before.inUse);
	t.is(after.cached, 0);
	engine.dispose();
});

test('gradients of soft tokens are those of the CPU, and refused where activations are halves', async (t) => {
	const folder = await tinyLlm();
	const ids = Int32Array.of(5, -1, 9, -2, 12, 7);
	const batch = { ids, offsets: Int32Array.of(0, 6), positions: Int32Array.from(ids.keys()) };
	const targets = { rows: Int32Array.of(4, 5), tokens: Int32Array.of(7, 3) };
	const on = async (device: 'cpu' | 'cudaemu', dtype: 'float32' | 'float16') => {
		await using llm = await CausalLM.load(folder, { device, dtype });
		const soft = Float32Array.from({ length: 2 * llm.tokenSize }, (_, i) => Math.sin(i));
		return (await llm.native.softGradient(batch as never, soft, targets)).gradient;
	};
	t.true(difference(await on('cudaemu', 'float32'), await on('cpu', 'float32')) < TOLERANCE);
	await t.throwsAsync(on('cudaemu', 'float16'), { code: 'ERR_ALLMREC_UNSUPPORTED' });
});

for (const folder of parityFolders(OWN).filter((f) => !basename(f).startsWith('tok_')))
	test(`${basename(folder)} is computed as PyTorch and transformers do`, async (t) => {
		const session = Session.open({ device: 'cudaemu' });
		try {
			t.is(failuresOf(await checkFolder(folder, session)), '');
		} finally {
			session.release();
		}
	});
