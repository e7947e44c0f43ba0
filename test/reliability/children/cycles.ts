/**
 * Creates native objects over and over and prints how much the process's resident memory grew. Needs --expose-gc for
 * every way but `forget`. Arguments: the way, the kind, the number of cycles.
 *
 * `dispose`: each is used and disposed of. `drop`: each is used and dropped, and the garbage collector runs while jobs
 * do. `forget`: models are dropped and nobody asks for the garbage collector.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import type { NativeAddon, NativeEngine, NativeModel, NativeOpt, Ragged } from '../../../lib/native/addon.js';

const addon = createRequire(import.meta.url)(
	join(process.cwd(), 'build/Release/allmrec.node'),
) as NativeAddon;
const [, , way, kind, count] = process.argv as unknown as string[];

interface Disposable {
	dispose(): void;
}

const WIDTH = 32;
const rows: Ragged = {
	offsets: Int32Array.from({ length: 9 }, (_, i) => 8 * i),
	values: Int32Array.from({ length: 64 }, (_, i) => 1 + ((i * 7) % 50)),
};
const adam = { learningRate: 1e-3, seed: 1 };
const one = { ids: Int32Array.of(1, 2, 3, 4), offsets: Int32Array.of(0, 4) };
const targets = { rows: Int32Array.of(1, 2), tokens: Int32Array.of(3, 4) };
const soft = { users: new Float32Array(0), items: new Float32Array(0) };

const sasRec = (engine: NativeEngine) =>
	new addon.Backbone(engine, {
		kind: 'sasrec',
		numItems: 2000,
		maxLength: 10,
		hiddenUnits: WIDTH,
		numBlocks: 2,
		numHeads: 2,
		dropoutRate: 0.1,
		variant: 'reference',
	});
const encoderOf = (engine: NativeEngine) =>
	new addon.SentenceEncoder(engine, {
		kind: 'distilbert',
		vocabSize: 2000,
		hiddenSize: WIDTH,
		numLayers: 2,
		numHeads: 2,
		intermediateSize: 64,
		maxPositions: 48,
		typeVocabSize: 0,
		layerNormEps: 1e-12,
		activation: 'gelu',
		dropoutRate: 0.1,
	});
const alignmentOf = (engine: NativeEngine) =>
	new addon.Alignment(engine, {
		itemSize: WIDTH,
		textSize: WIDTH,
		jointSize: 2048,
		activation: 'sigmoid',
		matchingWeight: 1,
		itemReconstructionWeight: 1,
		textReconstructionWeight: 1,
		recommendationWeight: 1,
		referenceCompat: false,
	});
const optOf = (engine: NativeEngine, dtype: 'float32' | 'bfloat16' | 'int8' | 'int4' = 'float32') =>
	new addon.Opt(engine, {
		vocabSize: 2000,
		hiddenSize: WIDTH,
		embedSize: WIDTH,
		numLayers: 2,
		numHeads: 2,
		ffnSize: 64,
		maxPositions: 64,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
		dtype,
	});
const projectorOf = (engine: NativeEngine) =>
	new addon.Projector(engine, { kind: 'mlp', userSize: WIDTH, jointSize: 1024, tokenSize: WIDTH });

const constants = new Map<number, Float32Array>();

/** Memory that nobody has written may hold anything, and training stops at what is not a number. */
async function filled<Model extends NativeModel>(model: Model): Promise<Model> {
	for (const { name, shape } of model.parameters()) {
		const size = shape.reduce((product, n) => product * n, 1);
		let values = constants.get(size);
		if (!values) {
			values = Float32Array.from({ length: size }, (_, i) => 0.1 * Math.sin(i));
			constants.set(size, values);
		}
		await model.setParameter(name, values);
	}
	return model;
}

/** Makes an object, uses it, and gives all that is to be disposed of. */
const KINDS: Record<string, (engine: NativeEngine) => Promise<Disposable[]>> = {
	async engine() {
		const own = new addon.Engine({ device: 'cpu', threads: 2 });
		const model = await filled(sasRec(own));
		return [model, own];
	},
	async sasRec(engine) {
		const model = await filled(sasRec(engine));
		await model.userVectors(rows);
		return [model];
	},
	async sasRecTrainer(engine) {
		const model = await filled(sasRec(engine));
		const trainer = new addon.BackboneTrainer(model, rows, rows, {
			...adam,
			batchSize: 4,
			loss: 'bce',
			l2Embedding: 0,
		});
		await trainer.run(1);
		return [trainer, model];
	},
	async encoder(engine) {
		const model = await filled(encoderOf(engine));
		const trainer = new addon.ContrastiveTrainer(model, { ...adam, temperature: 0.1 });
		await trainer.step(rows);
		return [trainer, model];
	},
	async alignment(engine) {
		const model = await filled(alignmentOf(engine));
		const trainer = new addon.AlignmentTrainer(model, null, { ...adam, trainEncoder: false });
		const matrix = new Float32Array(4 * WIDTH).fill(0.1);
		await trainer.step({
			users: matrix,
			positiveItems: matrix,
			negativeItems: matrix,
			positiveTexts: matrix,
			negativeTexts: matrix,
		});
		return [trainer, model];
	},
	async opt(engine) {
		const models: NativeOpt[] = [];
		for (const dtype of ['float32', 'bfloat16', 'int8', 'int4'] as const) {
			const model = await filled(optOf(engine, dtype));
			models.push(model);
			await model.logits(one, new Float32Array(0), Int32Array.of(3));
		}
		return models;
	},
	async generator(engine) {
		const model = await filled(optOf(engine));
		const generator = new addon.Generator(model, { slots: 4 });
		const trie = new addon.TokenTrie(engine);
		await trie.build(rows, 60);
		for (let i = 0; i < 4; i++)
			generator.submit({
				ids: one.ids,
				soft: new Float32Array(0),
				seen: new Int32Array(0),
				maxNewTokens: 8,
				eosId: 60,
				repetitionPenalty: 1,
				sequences: 1,
				stream: false,
				logProbs: false,
				...(i % 2 === 0 ? { trie } : {}),
			});
		await generator.advance();
		return [generator, model];
	},
	async llmTrainer(engine) {
		const model = await filled(optOf(engine));
		const trainer = new addon.LlmTrainer(model, adam);
		await trainer.step(one, new Float32Array(0), targets);
		return [trainer, model];
	},
	async projector(engine) {
		const model = await filled(projectorOf(engine));
		const llm = await filled(optOf(engine));
		const trainer = new addon.ProjectionTrainer(model, llm, adam);
		const users = new Float32Array(WIDTH).fill(0.1);
		await trainer.step({ ...one, ids: Int32Array.of(1, -1, 3, 4) }, { ...soft, users }, targets);
		return [trainer, model, llm];
	},
	async gru(engine) {
		const model: NativeModel = await filled(
			new addon.Gru(engine, { inputSize: WIDTH, hiddenSize: 128, numLayers: 2 }),
		);
		return [model];
	},
};

const engine = new addon.Engine({ device: 'cpu', threads: 2 });
const make = KINDS[kind!]!;
const collect = (globalThis as { gc?: () => void }).gc;

async function cycle(): Promise<void> {
	const made = await make(engine);
	if (way === 'dispose') for (const each of made) each.dispose();
}

/** The finalizers of what was collected run in turns of their own. */
async function settle(): Promise<void> {
	for (let i = 0; i < 3; i++) {
		collect?.();
		await new Promise(setImmediate);
	}
	engine.trim();
	const { inUse } = await engine.memory();
	if (inUse !== 0) throw new Error(`${inUse} bytes of the device are in use`);
}

async function cycles(n: number): Promise<void> {
	// Several at once, so that the garbage collector runs while jobs do.
	const lanes = way === 'drop' ? 4 : 1;
	for (let i = 0; i < n; i += lanes) {
		const running = Array.from({ length: lanes }, cycle);
		if (way === 'drop' && i % 16 === 0) collect!();
		await Promise.all(running);
		if (way === 'forget') await new Promise(setImmediate); // as a server's requests would
	}
}

if (kind === 'kinds') console.log(Object.keys(KINDS).join());
else if (way === 'forget') {
	let most = 0;
	for (let i = 0; i < Number(count); i += 10) {
		await cycles(10);
		most = Math.max(most, process.memoryUsage.rss());
	}
	console.log(most);
} else {
	const n = Number(count);
	await cycles(Math.max(200, Math.ceil(n / 2))); // warm-up
	const samples: number[] = [];
	const PARTS = 10;
	for (let part = 0; part <= PARTS; part++) {
		if (part > 0) await cycles(Math.ceil(n / PARTS));
		await settle();
		samples.push(process.memoryUsage.rss());
	}
	// Theil and Sen's slope, which single samples do not move: bytes a part, in all parts.
	const slopes = samples.flatMap((a, i) => samples.slice(i + 1).map((b, j) => (b - a) / (j + 1)));
	slopes.sort((a, b) => a - b);
	console.log(Math.round(slopes[slopes.length >> 1]! * PARTS));
}
