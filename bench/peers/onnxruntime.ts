/**
 * onnxruntime-node on OPT and DistilBERT with random weights, built of the operators its own optimisers fuse such
 * models into. Keys and values stay in buffers that a step reads and extends in place.
 */
import type { Settings } from '../peer.js';
import { OnnxGraph } from './onnx-model.js';
import { loadPackage, serve, type Work } from './protocol.js';

type Data = Float32Array | Int32Array | BigInt64Array;
type Tensor = { data: Data; dispose(): void };
type Tensors = Record<string, Tensor>;

/** What is used of onnxruntime-node. */
interface OnnxRuntime {
	Tensor: new (type: string, data: Data, shape: readonly number[]) => Tensor;
	InferenceSession: { create(model: Uint8Array, options: object): Promise<Session> };
}

interface Session {
	run(feeds: Tensors, fetches?: Tensors | string[]): Promise<Tensors>;
	release(): Promise<void>;
}

const loaded = (await loadPackage()) as { default: OnnxRuntime };
const { InferenceSession, Tensor } = loaded.default;

function openSession(model: Uint8Array, threads: number): Promise<Session> {
	return InferenceSession.create(model, {
		executionProviders: ['cpu'],
		graphOptimizationLevel: 'all',
		intraOpNumThreads: threads,
		interOpNumThreads: 1,
		logSeverityLevel: 3,
	});
}

/** The numbers of a case's settings. */
type Shape = Record<
	| 'vocabSize'
	| 'hiddenSize'
	| 'numLayers'
	| 'numHeads'
	| 'ffnSize'
	| 'intermediateSize'
	| 'maxPositions'
	| 'batch'
	| 'context'
	| 'window'
	| 'texts'
	| 'tokens'
	| 'threads',
	number
>;

/** OPT: pre-norm, learned positions, the head for the last token of each sequence. */
function optModel(s: Shape, int8: boolean): Uint8Array {
	const graph = new OnnxGraph(int8);
	const { hiddenSize: width, ffnSize, numHeads, vocabSize, maxPositions } = s;
	const ids = graph.input('ids', 'int64', ['batch', 'tokens']);
	const positions = graph.input('positions', 'int64', ['batch', 'tokens']);
	const last = graph.input('last', 'int32', ['batch']);
	const total = graph.input('total', 'int32', []);
	const [tokens] = graph.node('Gather', [graph.parameter([vocabSize, width]), ids]);
	const [places] = graph.node('Gather', [graph.parameter([maxPositions + 2, width]), positions]);
	let [x, sum] = graph.skipNorm(tokens!, places!, width, 1e-5);
	for (let layer = 0; layer < s.numLayers; layer++) {
		const packed = graph.linear(x, width, 3 * width);
		const cache = ['key', 'value'].map((part) => {
			const shape = (length: string) => ['batch', numHeads, length, width / numHeads];
			graph.output(`new.${part}.${layer}`, 'float32', shape('all'));
			return graph.input(`${part}.${layer}`, 'float32', shape('past'));
		});
		const [attended] = graph.fused(
			'GroupQueryAttention',
			[packed, '', '', ...cache, last, total],
			{ num_heads: numHeads, kv_num_heads: numHeads },
			[`attended.${layer}`, `new.key.${layer}`, `new.value.${layer}`],
		);
		[x, sum] = graph.skipNorm(graph.product(attended!, width, width), sum, width, 1e-5);
		const [hidden] = graph.node('Relu', [graph.linear(x, width, ffnSize)]);
		[x, sum] = graph.skipNorm(graph.product(hidden!, ffnSize, width), sum, width, 1e-5);
	}
	const end = graph.constant('int64', [], new BigInt64Array([-1n]));
	const [final] = graph.node('Gather', [x, end], { attributes: { axis: 1 } });
	graph.node('Identity', [graph.product(final!, width, vocabSize)], { outputs: ['logits'] });
	graph.output('logits', 'float32', ['batch', vocabSize]);
	return graph.model();
}

/** DistilBERT: post-norm, every token sees every other, mean-pooled. */
function encoderModel(s: Shape, int8: boolean): Uint8Array {
	const graph = new OnnxGraph(int8);
	const { hiddenSize: width, intermediateSize, numHeads, vocabSize, maxPositions } = s;
	const ids = graph.input('ids', 'int64', ['batch', 'tokens']);
	const positions = graph.input('positions', 'int64', ['batch', 'tokens']);
	const [tokens] = graph.node('Gather', [graph.parameter([vocabSize, width]), ids]);
	const [places] = graph.node('Gather', [graph.parameter([maxPositions, width]), positions]);
	let [x] = graph.skipNorm(tokens!, places!, width, 1e-12);
	for (let layer = 0; layer < s.numLayers; layer++) {
		const parts = [0, 1, 2].map(() => graph.product(x, width, width));
		const bias = graph.parameter([3 * width], 0);
		const [attended] = graph.fused('MultiHeadAttention', [...parts, bias], { num_heads: numHeads });
		[x] = graph.skipNorm(graph.product(attended!, width, width), x, width, 1e-12);
		const wide = graph.product(x, width, intermediateSize);
		const [hidden] = graph.fused('BiasGelu', [wide, graph.parameter([intermediateSize], 0)]);
		[x] = graph.skipNorm(graph.product(hidden!, intermediateSize, width), x, width, 1e-12);
	}
	graph.node('ReduceMean', [x], { outputs: ['pooled'], attributes: { axes: [1], keepdims: 0 } });
	graph.output('pooled', 'float32', ['batch', width]);
	return graph.model();
}

function integers(rows: number, columns: number, value: (row: number, column: number) => number): Tensor {
	const data = BigInt64Array.from({ length: rows * columns }, (_, i) =>
		BigInt(value(Math.floor(i / columns), i % columns)),
	);
	return new Tensor('int64', data, [rows, columns]);
}

/** One graph serves all cases of a shape and precision; a different one replaces it, to spare memory. */
let last: { key: string; session: Session } | undefined;
async function sessionOf(
	settings: Settings,
	model: (s: Shape, int8: boolean) => Uint8Array,
): Promise<Session> {
	const s = settings as unknown as Shape;
	const key = [model.name, settings.dtype, s.threads, s.hiddenSize, s.numLayers].join();
	if (last?.key !== key) {
		await last?.session.release();
		last = { key, session: await openSession(model(s, settings.dtype === 'int8'), s.threads) };
	}
	return last.session;
}

/** The keys and values of every layer, with room for `capacity` tokens, as inputs and, the same memory, as outputs. */
function cacheOf(s: Shape, capacity: number): { feeds: Tensors; fetches: Tensors } {
	const shape = [s.batch, s.numHeads, capacity, s.hiddenSize / s.numHeads];
	const size = shape.reduce((a, b) => a * b, 1);
	const feeds: Tensors = {};
	const fetches: Tensors = {};
	for (let layer = 0; layer < s.numLayers; layer++)
		for (const part of ['key', 'value']) {
			const data = Float32Array.from({ length: size }, (_, i) => ((i * 7919) % 1009) / 1009 - 0.5);
			feeds[`${part}.${layer}`] = new Tensor('float32', data, shape);
			fetches[`new.${part}.${layer}`] = new Tensor('float32', data, shape);
		}
	return { feeds, fetches };
}

/** A step over `tokens` new tokens of each sequence, after `past` others. */
async function language(settings: Settings, tokens: number, past: () => number): Promise<Work> {
	const s = settings as unknown as Shape;
	const session = await sessionOf(settings, optModel);
	const { feeds, fetches } = cacheOf(s, s.context + (s.window ?? 0));
	const logits = new Tensor('float32', new Float32Array(s.batch * s.vocabSize), [s.batch, s.vocabSize]);
	let ids = integers(s.batch, tokens, (row, column) => 4 + ((row * 31 + column * 7919) % (s.vocabSize - 4)));
	return {
		async step() {
			const before = past();
			const total = before + tokens;
			await session.run(
				{
					...feeds,
					ids,
					positions: integers(s.batch, tokens, (_, column) => 2 + before + column),
					last: new Tensor('int32', new Int32Array(s.batch).fill(total - 1), [s.batch]),
					total: new Tensor('int32', new Int32Array([total]), []),
				},
				{ ...fetches, logits },
			);
			const best = greatest(logits.data as Float32Array, s.batch);
			if (tokens === 1) ids = integers(s.batch, 1, (row) => best[row]!);
		},
		async dispose() {},
	};
}

/** The column of the largest number of every row. */
function greatest(values: Float32Array, rows: number): number[] {
	const columns = values.length / rows;
	return Array.from({ length: rows }, (_, row) => {
		let best = row * columns;
		for (let i = best; i < (row + 1) * columns; i++) if (values[i]! > values[best]!) best = i;
		return best - row * columns;
	});
}

await serve({
	prefill: (settings) => language(settings, settings.context as number, () => 0),
	/** One iteration is one token for every sequence; after `window` of them the context is cut back. */
	decode(settings) {
		const { context, window } = settings as { context: number; window: number };
		let steps = 0;
		return language(settings, 1, () => context + (steps++ % window));
	},
	async encoder(settings) {
		const s = settings as unknown as Shape;
		const session = await sessionOf(settings, encoderModel);
		const feeds = {
			ids: integers(s.texts, s.tokens, (row, column) => (row * 31 + column * 7919) % s.vocabSize),
			positions: integers(s.texts, s.tokens, (_, column) => column),
		};
		return { step: () => session.run(feeds), async dispose() {} };
	},
});
