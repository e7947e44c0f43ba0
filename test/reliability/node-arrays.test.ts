import test, { type ExecutionContext } from 'ava';
import * as api from '../../lib/index.js';
import { loadAddon, type Ragged } from '../../lib/native/addon.js';
import { held } from '../support/reliability.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

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

/** A call and fresh arguments for it, by its name. */
type Calls = Record<string, [(...args: never[]) => Promise<unknown>, () => unknown[]]>;

const floats = (n: number) => Float32Array.from({ length: n }, (_, i) => Math.cos(i));

/** Expects of each call what it gives when its arguments are left alone. @param work keeps the executor busy */
async function ruined(t: ExecutionContext, calls: Calls, work: () => Promise<unknown>): Promise<number> {
	let arrays = 0;
	for (const [name, [call, make]] of Object.entries(calls)) {
		const expected = await call(...(make() as never[]));
		const busy = [work(), work(), work()];
		const args = make();
		const got = call(...(args as never[]));
		arrays += ruin(args);
		t.deepEqual(await got, expected, name);
		await Promise.all(busy);
	}
	return arrays;
}

test('arrays are copied before a call returns: what becomes of them afterwards does not matter', async (t) => {
	const addon = loadAddon();
	const engine = new addon.Engine({ device: 'cpu', threads: 1 });
	const W = 8;
	const cf = new addon.Backbone(engine, {
		kind: 'sasrec',
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
	const calls: Calls = {
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
	// The executor is busy, so that what is ruined has not been read yet.
	const busy = pack(Array.from({ length: 200 }, () => Array.from({ length: 16 }, (_, i) => 1 + i)));
	const arrays = await ruined(t, calls, () => encoder.encode(busy, 512));
	held('Node', 'Arrays given to a native call may be overwritten or transferred as soon as it has returned', {
		calls: Object.keys(calls).length,
		arrays,
	});
});

test('the same for the calls of the package', async (t) => {
	const { folder, dataset, options } = await tinyRun();
	const model = await api.loadRun(folder, CPU);
	const { cf, llm, encoder, alignment, projection } = model.parts;
	const d = cf.size;
	const width = llm.tokenSize;
	const histories = () => [Int32Array.of(2, 3), Int32Array.of(4, 5)];
	const packed = () =>
		pack([
			[2, 3],
			[4, 5],
		]);
	const prompt = () => ({ ids: Int32Array.of(4, -1, 6), soft: floats(width) });
	const short = { maxNewTokens: 5, eosId: -1 };
	const calls: Calls = {
		'SASRec.userVectors': [(h: Ragged) => cf.userVectors(h), () => [packed()]],
		'SASRec.scoreCandidates': [
			(u: Float32Array, c: Int32Array) => cf.scoreCandidates(u, c, 2),
			() => [floats(2 * d), Int32Array.of(1, 2, 3, 4)],
		],
		'SASRec.retrieve': [
			(u: Float32Array, e: Int32Array[]) => cf.retrieve(u, e, 3),
			() => [floats(2 * d), histories()],
		],
		'SASRec.rankTargets': [
			(u: Float32Array, x: Int32Array, e: Int32Array[]) => cf.rankTargets(u, x, e),
			() => [floats(2 * d), Int32Array.of(7, 8), histories()],
		],
		'Alignment.encodeItems': [(x: Float32Array) => alignment.encodeItems(x), () => [floats(2 * d)]],
		'Alignment.decodeItems': [
			(x: Float32Array) => alignment.decodeItems(x),
			() => [floats(2 * alignment.config.jointSize)],
		],
		'Projection.users': [(x: Float32Array) => projection.users(x), () => [floats(2 * d)]],
		'Projection.items': [
			(x: Float32Array) => projection.items(x),
			() => [floats(2 * alignment.config.jointSize)],
		],
		'SentenceEncoder.encode': [
			(texts: Awaited<ReturnType<typeof encoder.tokenize>>) => encoder.encode(texts),
			() => [{ offsets: Int32Array.of(0, 3, 5), ids: Int32Array.of(2, 7, 3, 2, 3) }],
		],
		'CausalLM.scoreCandidates': [
			(ids: Int32Array, soft: Float32Array, c: Int32Array[]) => llm.scoreCandidates(ids, c, { soft }),
			() => [prompt().ids, floats(width), histories()],
		],
		'CausalLM.generateIds': [
			(ids: Int32Array, soft: Float32Array) => llm.generateIds([ids], soft, short),
			() => [prompt().ids, floats(width)],
		],
		'CausalLM.generate': [(p: api.TokenPrompt) => llm.generate(p, short), () => [prompt()]],
		'CausalLM.stream': [
			(p: api.TokenPrompt) => {
				const stream = llm.stream(p, short);
				return Promise.resolve().then(async () => {
					const ids: number[] = [];
					for await (const { id } of stream) ids.push(id);
					return ids;
				});
			},
			() => [prompt()],
		],
		'CausalLM.trie': [
			async (answers: Int32Array[]) => {
				const trie = await llm.trie(answers);
				return llm.generate('A user', { maxNewTokens: 5, trie });
			},
			() => [[Int32Array.of(7, 8), Int32Array.of(9)]],
		],
		'ALLMRec.userVectors': [(h: Int32Array[]) => model.userVectors(h), () => [histories()]],
		'ALLMRec.cfScores': [
			(u: Float32Array, c: Int32Array) => model.cfScores(u, c, 2),
			() => [floats(2 * d), Int32Array.of(1, 2, 3, 4)],
		],
		'ALLMRec.llmScores': [
			(u: Float32Array, h: Int32Array[], c: Int32Array) => model.llmScores(u, h, c),
			() => [floats(2 * d), histories(), Int32Array.of(1, 2, 3, 4)],
		],
		'ALLMRec.candidateScores': [
			(u: Float32Array, h: Int32Array[], c: Int32Array[]) => model.candidateScores(u, h, c, 'text'),
			() => [floats(2 * d), histories(), [Int32Array.of(1, 2), Int32Array.of(3, 4, 5)]],
		],
	};
	const texts = dataset.items.slice(1).map(({ title }) => title);
	const other = await api.SentenceEncoder.load(String(options.textEncoder), CPU);
	const arrays = await ruined(t, calls, () => other.encode(texts));
	other.dispose();
	model.dispose();
	held(
		'Node',
		'Arrays given to a call of a model may be overwritten or transferred as soon as it has returned',
		{
			calls: Object.keys(calls).length,
			arrays,
		},
	);
});
