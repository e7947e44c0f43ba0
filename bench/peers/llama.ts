/** node-llama-cpp on a llama-shaped model with as many random weights as the OPT it stands beside. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Settings } from '../peer.js';
import { type GgufType, writeLlama } from './gguf-model.js';
import { loadPackage, serve, type Work } from './protocol.js';

type Token = number;

/** What is used of node-llama-cpp. */
interface NodeLlamaCpp {
	getLlama(options: object): Promise<{ loadModel(options: { modelPath: string }): Promise<Model> }>;
}

interface Model {
	createContext(options: object): Promise<Context>;
	dispose(): Promise<void>;
}

interface Context {
	getSequence(): Sequence;
	dispose(): Promise<void>;
}

interface Sequence {
	readonly nextTokenIndex: number;
	evaluateWithoutGeneratingNewTokens(tokens: readonly Token[]): Promise<void>;
	evaluate(tokens: readonly Token[], options: object): AsyncGenerator<Token>;
	eraseContextTokenRanges(ranges: readonly { start: number; end: number }[]): Promise<void>;
}

const { getLlama } = (await loadPackage()) as NodeLlamaCpp;
const llama = await getLlama({
	gpu: false,
	build: 'never',
	skipDownload: true,
	progressLogs: false,
	logLevel: 'error',
	maxThreads: 0,
});

/** One model for each shape and type; a different one replaces it, to spare memory. */
let last: { key: string; model: Model } | undefined;
async function modelOf(s: Settings): Promise<Model> {
	const { vocabSize, hiddenSize, numLayers, numHeads, ffnSize, maxPositions } = s as Record<string, number>;
	const key = [s.type, hiddenSize, numLayers].join();
	if (last?.key === key) return last.model;
	await last?.model.dispose();
	last = undefined;
	const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-bench-'));
	try {
		const modelPath = join(folder, 'model.gguf');
		const shape = {
			vocabSize: vocabSize!,
			hiddenSize: hiddenSize!,
			numLayers: numLayers!,
			numHeads: numHeads!,
			// Three matrices in the place of OPT's two.
			feedForwardSize: Math.ceil((2 * ffnSize!) / 3 / 32) * 32,
			contextSize: maxPositions!,
		};
		writeLlama(modelPath, shape, s.type as GgufType);
		last = { key, model: await llama.loadModel({ modelPath }) };
	} finally {
		// What is mapped stays.
		rmSync(folder, { recursive: true, force: true });
	}
	return last.model;
}

async function contextOf(s: Settings): Promise<{ context: Context; sequence: Sequence; prompt: Token[] }> {
	const { context: length, threads, vocabSize } = s as Record<string, number>;
	const model = await modelOf(s);
	const context = await model.createContext({
		contextSize: length! + ((s.window as number) ?? 0) + 64,
		batchSize: length!,
		threads: { ideal: threads!, min: threads! },
	});
	const prompt = Array.from({ length: length! }, (_, i) => 259 + ((i * 7919) % (vocabSize! - 259)));
	return { context, sequence: context.getSequence(), prompt };
}

await serve({
	async prefill(settings): Promise<Work> {
		const { context, sequence, prompt } = await contextOf(settings);
		return {
			step: () => sequence.evaluateWithoutGeneratingNewTokens(prompt),
			reset: () => sequence.eraseContextTokenRanges([{ start: 0, end: sequence.nextTokenIndex }]),
			dispose: () => context.dispose(),
		};
	},
	/** One iteration is one token; after `window` of them the context is cut back. */
	async decode(settings): Promise<Work> {
		const { context, sequence, prompt } = await contextOf(settings);
		await sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(0, -1));
		const start = sequence.nextTokenIndex;
		let tokens: AsyncGenerator<Token> | undefined;
		let steps = 0;
		return {
			async step() {
				tokens ??= sequence.evaluate(prompt.slice(-1), { temperature: 0, yieldEogToken: true });
				await tokens.next();
				steps++;
			},
			async reset() {
				if (steps < (settings.window as number)) return;
				steps = 0;
				await tokens?.return(undefined);
				tokens = undefined;
				await sequence.eraseContextTokenRanges([{ start, end: sequence.nextTokenIndex }]);
			},
			dispose: () => context.dispose(),
		};
	},
});
