import { readFile } from 'node:fs/promises';
import test from 'ava';
import * as api from '../../lib/index.js';
import { loadAddon, type Ragged } from '../../lib/native/addon.js';
import type { Progress } from '../../lib/progress.js';
import { fixture, freshPath } from '../data/folders.js';
import { fastClock } from '../support/fast-clock.js';
import { held } from '../support/reliability.js';
import { preparedWorld, type TinyRun, tinyRun, tinyRunOptions } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

let path: string;
let run: TinyRun;
let model: api.ALLMRec;
let users: { user: string; history: string[] }[];

test.before(async () => {
	const world = await preparedWorld(tinyWorld({ numUsers: 80 }));
	path = world.path;
	run = await tinyRun(world.dataset);
	model = await api.loadRun(run.folder, CPU);
	const { items } = run.dataset;
	users = Array.from({ length: 40 }, (_, u) => ({
		user: `u${u}`,
		history: [1, 4, 7].map((i) => items[1 + ((u + i) % 40)]!.id),
	}));
});

const LISTS = { topK: 3, retrieve: 10 };

test('`onProgress` that throws: the call rejects with its error and stops, and the model stays usable', async (t) => {
	const before = await model.recommend(users.slice(0, 3), LISTS);
	const { split, test: candidates } = await api.openRunDataset(run.folder, path);
	const options = await tinyRunOptions();
	const file = await fixture('users.jsonl', users.map((user) => `${JSON.stringify(user)}\n`).join(''));
	const log = await fixture(
		'log.csv',
		`user,item,time\n${users.map(({ user }, i) => `${user},i${i % 5},${i}\n`).join('')}`,
	);
	const count = 200;
	const scores = Float32Array.from({ length: count * 5 }, (_, i) => (i * 7) % 11);
	/** Calls with `onProgress`, and the stages it is to be told of by them. */
	const calls: Record<string, (onProgress: (progress: Progress) => void) => Promise<unknown>> = {
		prepare: (onProgress) =>
			api.prepare({ format: 'csv', interactions: [log], kCore: 1, out: freshPath(), onProgress }),
		'SASRec.train': (onProgress) =>
			api.SASRec.train(run.dataset, { hiddenUnits: 16, epochs: 20 }, { onProgress, ...CPU }),
		trainRun: (onProgress) =>
			api.trainRun(run.dataset, { out: freshPath('run'), datasetPath: path, options, ...CPU, onProgress }),
		'SentenceEncoder.tokenize': (onProgress) => model.parts.encoder.tokenize(['a', 'b'], { onProgress }),
		'ALLMRec.recommend': (onProgress) => model.recommend(users, { ...LISTS, onProgress }),
		'ALLMRec.scoreAll': async (onProgress) => {
			for await (const _ of model.scoreAll(users, { ...LISTS, batchSize: 8, onProgress }));
		},
		scoreFile: (onProgress) =>
			api.scoreFile(model, {
				users: file,
				out: freshPath('lists.jsonl').replace('/lists', '-lists'),
				...LISTS,
				onProgress,
			}),
		evaluateRun: (onProgress) => api.evaluateRun(model, split, candidates, { users: 20, onProgress }),
		evaluateModels: (onProgress) =>
			api.evaluateModels({
				users: Int32Array.from({ length: count }, (_, u) => u),
				candidates: Int32Array.from({ length: count * 5 }, (_, i) => 1 + (i % 50)),
				targets: new Int32Array(count),
				models: { a: scores, b: scores },
				trainingCounts: new Int32Array(51).fill(3),
				onProgress,
			}),
	};
	let thrown = 0;
	const stages = new Set<string>();
	for (const [name, call] of Object.entries(calls)) {
		// At the first report, and at the first of each stage there is.
		const own = new Set<string>();
		for (;;) {
			const error = new Error(`thrown in ${name}`);
			const restore = fastClock();
			let fresh = '';
			let after = 0;
			try {
				await t.throwsAsync(
					call(({ stage }) => {
						if (fresh) after++;
						if (own.has(stage)) return;
						own.add(stage);
						fresh = stage;
						throw error;
					}),
					{ is: error },
					`${name}, stages so far: ${[...own].join(', ')}`,
				);
			} finally {
				restore();
			}
			t.is(after, 0, `${name} goes on after its callback has thrown`);
			stages.add(fresh);
			thrown++;
			if (name !== 'trainRun' || own.has('fusion')) break;
		}
	}
	t.deepEqual(await model.recommend(users.slice(0, 3), LISTS), before, 'the model is as it was');
	held(
		'Node',
		'A callback that throws: the call rejects with that very error, stops, and the model stays usable',
		{
			calls: Object.keys(calls).length,
			'errors thrown': thrown,
			stages: stages.size,
		},
	);
});

test('consumers that leave or throw, and users that cannot be had', async (t) => {
	const before = await model.recommend(users.slice(0, 3), LISTS);
	const error = new Error('thrown by the consumer');
	const { llm } = model.parts;
	const consume = async (iterable: AsyncIterable<unknown>, then: () => void) => {
		for await (const _ of iterable) return then();
	};
	const fails = () => {
		throw error;
	};
	const streams = {
		scoreAll: () => model.scoreAll(users, { ...LISTS, batchSize: 4 }),
		stream: () => llm.stream('A user', { maxNewTokens: 200, eosId: -1 }),
	};
	for (const [name, stream] of Object.entries(streams)) {
		await consume(stream(), () => {}); // leaves
		await t.throwsAsync(consume(stream(), fails), { is: error }, name);
		const iterator = stream();
		await iterator.next();
		await t.throwsAsync(iterator.throw(error), { is: error }, name);
		t.true((await iterator.next()).done, name);
		await stream().return(undefined); // before it has begun
	}
	// One of two that share a batch leaves; the other gets all of its text.
	const alone = await llm.generate('A user', { maxNewTokens: 40, eosId: -1 });
	const [together] = await Promise.all([
		llm.generate('A user', { maxNewTokens: 40, eosId: -1 }),
		consume(llm.stream('has played', { maxNewTokens: 200, eosId: -1 }), () => {}),
	]);
	t.deepEqual(together.ids, alone.ids);
	// The source of users fails, or is left while it waits.
	let closed = 0;
	async function* source(fail: boolean) {
		try {
			for (let i = 0; ; i++) {
				if (fail && i === 20) throw error;
				yield users[i % users.length]!;
			}
		} finally {
			closed++;
		}
	}
	await t.throwsAsync(
		(async () => {
			for await (const _ of model.scoreAll(source(true), { ...LISTS, batchSize: 4 }));
		})(),
		{ is: error },
	);
	await consume(model.scoreAll(source(false), { ...LISTS, batchSize: 4 }), () => {});
	t.is(closed, 2, 'the source is closed');
	t.deepEqual(await model.recommend(users.slice(0, 3), LISTS), before, 'the model is as it was');
	held('Node', 'A consumer that leaves a stream or throws in it stops the work, and nobody else notices', {
		streams: 10,
	});
});

const pack = (rows: number[][]): Ragged => ({
	offsets: Int32Array.from([0, ...rows.map((_, i) => rows.slice(0, i + 1).flat().length)]),
	values: Int32Array.from(rows.flat()),
});

/** Overwrites, then takes away, the memory of every typed array in a value. */
function ruin(value: unknown): number {
	if (ArrayBuffer.isView(value)) {
		new Uint8Array(value.buffer as ArrayBuffer).fill(0xa5);
		if (!(value.buffer as ArrayBuffer & { detached?: boolean }).detached && value.byteLength > 0)
			structuredClone(value.buffer, { transfer: [value.buffer as ArrayBuffer] });
		return 1;
	}
	if (value === null || typeof value !== 'object') return 0;
	return Object.values(value).reduce((sum: number, each) => sum + ruin(each), 0);
}

test('arrays are copied before a call returns: what becomes of them afterwards does not matter', async (t) => {
	const addon = loadAddon();
	const engine = new addon.Engine({ device: 'cpu', threads: 1 });
	const source = await readFile('test/reliability/node-callbacks.test.ts'); // something to be busy with
	const W = 8;
	const cf = new addon.SasRec(engine, {
		numItems: 20,
		maxLength: 6,
		hiddenUnits: W,
		numBlocks: 1,
		numHeads: 1,
		dropoutRate: 0,
		variant: 'reference',
	});
	await cf.initialise(1);
	const alignment = new addon.Alignment(engine, {
		itemSize: W,
		textSize: W,
		jointSize: 4,
		activation: 'sigmoid',
		matchingWeight: 1,
		itemReconstructionWeight: 1,
		textReconstructionWeight: 1,
		recommendationWeight: 1,
		referenceCompat: true,
	});
	await alignment.initialise(1);
	const opt = new addon.Opt(engine, {
		vocabSize: 40,
		hiddenSize: W,
		embedSize: W,
		numLayers: 1,
		numHeads: 1,
		ffnSize: 16,
		maxPositions: 32,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
	});
	for (const { name, shape } of opt.parameters()) {
		const size = shape.reduce((a, b) => a * b, 1);
		await opt.setParameter(
			name,
			Float32Array.from({ length: size }, (_, i) => Math.sin(i + 1)),
		);
	}
	const encoder = new addon.SentenceEncoder(engine, {
		kind: 'distilbert',
		vocabSize: 40,
		hiddenSize: W,
		numLayers: 1,
		numHeads: 1,
		intermediateSize: 16,
		maxPositions: 16,
		typeVocabSize: 0,
		layerNormEps: 1e-12,
		activation: 'gelu',
		dropoutRate: 0,
	});
	await encoder.initialise(1, 0.3);
	const projector = new addon.Projector(engine, { kind: 'mlp', userSize: W, jointSize: 4, tokenSize: W });
	await projector.initialise(1, 1);
	const floats = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.cos(i));
	const histories = () => pack([[1, 2, 3], [4, 5], [6]]);
	const ids = () => Int32Array.of(3, 4, 5, 6);
	const batch = () => ({ ids: ids(), offsets: Int32Array.of(0, 4) });
	const targets = () => ({ rows: Int32Array.of(1, 2), tokens: Int32Array.of(5, 6) });
	const alignmentBatch = () => ({
		users: floats(2 * W),
		positiveItems: floats(2 * W),
		negativeItems: floats(2 * W),
		positiveTexts: floats(2 * W),
		negativeTexts: floats(2 * W),
	});
	const alignmentTrainer = new addon.AlignmentTrainer(alignment, null, {
		learningRate: 1e-3,
		trainEncoder: false,
		seed: 1,
	});
	const projectionTrainer = new addon.ProjectionTrainer(projector, opt, { learningRate: 1e-3, seed: 1 });
	const soft = () => ({ users: floats(W), items: floats(4) });
	const softBatch = () => ({ ids: Int32Array.of(3, -1, -2, 6), offsets: Int32Array.of(0, 4) });
	/** A call and fresh arguments for it. */
	const calls: Record<string, [(...args: never[]) => Promise<unknown>, () => unknown[]]> = {
		features: [(h: Ragged) => cf.features(h), () => [histories()]],
		userVectors: [(h: Ragged) => cf.userVectors(h), () => [histories()]],
		scoreCandidates: [
			(u: Float32Array, c: Int32Array) => cf.scoreCandidates(u, c, 2),
			() => [floats(2 * W), Int32Array.of(1, 2, 3, 4)],
		],
		rankCatalogue: [
			(u: Float32Array, x: Int32Array, e: Ragged) => cf.rankCatalogue(u, x, e, 3),
			() => [floats(2 * W), Int32Array.of(1, 2), pack([[3], [4]])],
		],
		encodeItems: [(x: Float32Array) => alignment.encodeItems(x), () => [floats(2 * W)]],
		'alignment gradients': [
			(b: ReturnType<typeof alignmentBatch>) => alignmentTrainer.gradients(b),
			() => [alignmentBatch()],
		],
		'alignment evaluate': [
			(b: ReturnType<typeof alignmentBatch>) => alignmentTrainer.evaluate(b),
			() => [alignmentBatch()],
		],
		hiddenStates: [(x: Ragged) => encoder.hiddenStates(x), () => [histories()]],
		encode: [(x: Ragged) => encoder.encode(x, 64), () => [histories()]],
		users: [(x: Float32Array) => projector.users(x), () => [floats(2 * W)]],
		items: [(x: Float32Array) => projector.items(x), () => [floats(8)]],
		'projection gradients': [
			(b: ReturnType<typeof softBatch>, s: ReturnType<typeof soft>, x: ReturnType<typeof targets>) =>
				projectionTrainer.gradients(b, s, x),
			() => [softBatch(), soft(), targets()],
		],
		logits: [
			(b: ReturnType<typeof batch>, s: Float32Array, r: Int32Array) => opt.logits(b, s, r),
			() => [batch(), new Float32Array(0), Int32Array.of(1, 3)],
		],
		logProbs: [
			(b: ReturnType<typeof batch>, s: Float32Array, r: Int32Array, p: Int32Array, x: Int32Array) =>
				opt.logProbs(b, s, r, p, x),
			() => [softBatch(), floats(2 * W), Int32Array.of(1, 3), Int32Array.of(0, 1), Int32Array.of(5, 6)],
		],
		scoreAnswers: [
			(p: Int32Array, s: Float32Array, a: Ragged) => opt.scoreAnswers(p, s, a, 100),
			() => [ids(), new Float32Array(0), histories()],
		],
		generate: [
			(b: ReturnType<typeof batch>, s: Float32Array, seen: Ragged) =>
				opt
					.generate(b, s, seen, { maxNewTokens: 5, repetitionPenalty: 1.2, eosId: -1 })
					.then(({ values }) => values),
			() => [batch(), new Float32Array(0), pack([[3, 4]])],
		],
		trie: [
			async (rows: Ragged) => {
				const trie = new addon.TokenTrie(engine);
				await trie.build(rows, 39);
				return trie.size();
			},
			() => [histories()],
		],
		generator: [
			async (request: { ids: Int32Array; soft: Float32Array; seen: Int32Array }) => {
				const generator = new addon.Generator(opt, { slots: 2 });
				generator.submit({
					...request,
					maxNewTokens: 5,
					eosId: -1,
					repetitionPenalty: 1.1,
					sequences: 1,
					stream: false,
					logProbs: true,
				});
				const { finished } = await generator.advance();
				generator.dispose();
				return finished;
			},
			() => [{ ids: ids(), soft: new Float32Array(0), seen: ids() }],
		],
	};
	let arrays = 0;
	for (const [name, [call, make]] of Object.entries(calls)) {
		const expected = await call(...(make() as never[]));
		// The executor is busy, so that what is ruined here has not been read yet.
		const busy = Array.from({ length: 3 }, () =>
			encoder.encode(pack(Array(200).fill([...source.subarray(0, 16)].map((b) => b % 40))), 512),
		);
		const args = make();
		const got = call(...(args as never[]));
		arrays += ruin(args);
		t.deepEqual(await got, expected, name);
		await Promise.all(busy);
	}
	held('Node', 'Arrays given to a call may be overwritten or transferred as soon as it has returned', {
		calls: Object.keys(calls).length,
		arrays,
	});
});
