import { SeededRandom } from '../lib/data/random.js';
import { packBatch, packCandidates } from '../lib/llm/prompt-packing.js';
import type { LlmBatch, NativeOpt, OptConfig } from '../lib/native/addon.js';
import { addon, engineOf } from './devices.js';
import {
	atLimit,
	type Case,
	type Contender,
	difference,
	type Group,
	type PeerCase,
	repeat,
	time,
} from './measure.js';
import type { Settings } from './peer.js';

/** opt-125m's shapes with random weights. */
export function languageModelGroup(quick: boolean): Group {
	const config: OptConfig = {
		vocabSize: quick ? 1000 : 50_272,
		hiddenSize: quick ? 64 : 768,
		embedSize: quick ? 64 : 768,
		numLayers: quick ? 2 : 12,
		numHeads: quick ? 4 : 12,
		ffnSize: quick ? 256 : 3072,
		maxPositions: 2048,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
	};
	const context = quick ? 64 : 512;
	const promptLength = quick ? 80 : 600;
	const candidateCount = quick ? 4 : 20;
	const titleLength = 12;
	const name = quick ? 'small OPT' : 'opt-125m';
	const models = new Map<number, Promise<NativeOpt>>();
	const modelOf = (threads: number) => {
		let model = models.get(threads);
		if (!model) {
			model = newModel(config, threads);
			models.set(threads, model);
		}
		return model;
	};
	const peers = (kind: string, settings: Settings): PeerCase[] =>
		['float32', 'bfloat16'].map((dtype) => ({
			dtype,
			kind,
			settings: {
				vocabSize: config.vocabSize,
				hiddenSize: config.hiddenSize,
				numLayers: config.numLayers,
				numHeads: config.numHeads,
				ffnSize: config.ffnSize,
				maxPositions: config.maxPositions,
				dtype,
				...settings,
			},
			goal: dtype === 'float32' ? 0.5 : null,
			alone: dtype !== 'float32',
		}));

	const prefill = (batch: number): Case => ({
		name: `${name} prefill ${context}, batch ${batch}`,
		dtype: 'float32',
		units: batch * context,
		unit: 'tokens/s',
		floor: ({ gigaflops }) =>
			atLimit(batch * optFlops(config, causalPairs(context), context, 1, 1), gigaflops),
		async open(threads) {
			const model = await modelOf(threads);
			const prompts = randomPrompts(batch, context, config.vocabSize);
			return repeat(
				() => generate(model, prompts, 1),
				() => {},
			);
		},
		peers: peers('prefill', { batch, context }),
	});

	const decode = (batch: number): Case => {
		const steps = 32;
		// Every weight is read at each step, the positions' table aside, and every key and value so far.
		const { numLayers, hiddenSize: c, ffnSize: f, vocabSize } = config;
		const weights = vocabSize * c + numLayers * (4 * c * c + 2 * c * f);
		const cache = batch * (context + steps / 2) * 2 * c * numLayers;
		return {
			name: `${name} decode at ${context}, batch ${batch}`,
			dtype: 'float32',
			units: batch,
			unit: 'tokens/s',
			floor: ({ readGigabytes }) => atLimit(4 * (weights + cache), readGigabytes),
			iterations: steps,
			open: async (threads) => openDecode(await modelOf(threads), batch, context, config.vocabSize),
			peers: peers('decode', { batch, context, window: steps }),
		};
	};

	const candidates: Case = {
		name: `${name} scoring, prompt ${promptLength}, ${candidateCount} × ${titleLength}`,
		dtype: 'float32',
		units: 1,
		unit: 's/user',
		floor: ({ gigaflops }) => {
			const own = candidateCount * (titleLength - 1);
			const pairs =
				causalPairs(promptLength) + own * promptLength + candidateCount * causalPairs(titleLength - 1);
			const rows = own + 1;
			return atLimit(optFlops(config, pairs, promptLength + own, rows, rows), gigaflops);
		},
		open: async (threads) =>
			openCandidates(await modelOf(threads), promptLength, candidateCount, titleLength, config.vocabSize),
		peers: peers('candidates', { prompt: promptLength, candidates: candidateCount, title: titleLength }),
	};

	const softItems = quick ? 6 : 30;
	const softPlaces = Array.from(
		{ length: softItems },
		(_, i) => 1 + Math.floor(((context - 20) * (i + 1)) / softItems),
	);
	const stageTwo: Case = {
		name: `${name} stage-2 step, 2 × ${context}, ${titleLength} targets each`,
		dtype: 'float32',
		units: 1,
		unit: 's/step',
		// The weights are frozen: the backward pass computes the inputs' gradients alone, and reads attention twice.
		floor: ({ gigaflops }) => {
			const forward = 2 * optFlops(config, causalPairs(context), context, titleLength, titleLength);
			return atLimit(
				2 * forward + 2 * 4 * causalPairs(context) * config.hiddenSize * config.numLayers,
				gigaflops,
			);
		},
		open: async (threads) =>
			openStageTwo(await modelOf(threads), config, threads, context, softPlaces, titleLength),
		peers: peers('stageTwo', {
			batch: 2,
			context,
			targets: titleLength,
			softItems,
			softPlaces,
			userSize,
			jointSize,
		}),
	};

	return {
		name: 'language-model',
		script: 'language_model',
		cases: [prefill(1), prefill(8), decode(1), decode(8), candidates, stageTwo],
		dispose() {
			for (const model of models.values())
				model.then(
					(opened) => opened.dispose(),
					() => {},
				);
			models.clear();
		},
	};
}

const userSize = 50;
const jointSize = 128;

/** Norms are 1, biases 0, matrices small random numbers: a block of them, repeated. */
async function newModel(config: OptConfig, threads: number): Promise<NativeOpt> {
	const model = new (addon().Opt)(engineOf(threads), config);
	const random = new SeededRandom(4);
	const block = Float32Array.from(
		{ length: 1_000_003 },
		() => 0.04 * (random.uniform() - 0.5) * Math.sqrt(3),
	);
	for (const { name, shape } of model.parameters()) {
		const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
		if (name.includes('norm.weight')) values.fill(1);
		else if (shape.length > 1)
			for (let at = 0; at < values.length; at += block.length)
				values.set(block.subarray(0, Math.min(block.length, values.length - at)), at);
		await model.setParameter(name, values);
	}
	return model;
}

function generate(model: NativeOpt, prompts: LlmBatch, maxNewTokens: number) {
	const seen = { offsets: new Int32Array(prompts.offsets.length), values: new Int32Array(0) };
	return model.generate(prompts, new Float32Array(0), seen, {
		maxNewTokens,
		repetitionPenalty: 1,
		eosId: -1,
	});
}

/** Decoding has no call of its own: generating n + 1 tokens, less generating one. */
function openDecode(model: NativeOpt, batch: number, context: number, vocabSize: number): Contender {
	const prompts = randomPrompts(batch, context, vocabSize);
	return {
		async run(iterations) {
			const prompt = await time(() => generate(model, prompts, 1));
			return difference(await time(() => generate(model, prompts, 1 + iterations)), prompt);
		},
		dispose() {},
	};
}

function openCandidates(
	model: NativeOpt,
	promptLength: number,
	count: number,
	titleLength: number,
	vocabSize: number,
): Contender {
	const random = new SeededRandom(5);
	const tokens = (length: number) => Int32Array.from({ length }, () => 4 + random.int(vocabSize - 4));
	const prompt = tokens(promptLength);
	const titles = Array.from({ length: count }, () => tokens(titleLength));
	return repeat(
		async () => {
			const packed = packBatch([packCandidates({ ids: prompt, slots: [] }, titles)]);
			const logProbs = await model.logProbs(
				packed,
				new Float32Array(0),
				packed.logitRows,
				packed.pairRows,
				packed.rowTargets,
			);
			const scores = new Float64Array(count);
			for (const [pair, candidate] of packed.rowCandidate.entries()) scores[candidate]! += logProbs[pair]!;
		},
		() => {},
	);
}

async function openStageTwo(
	model: NativeOpt,
	config: OptConfig,
	threads: number,
	context: number,
	softPlaces: readonly number[],
	targetsEach: number,
): Promise<Contender> {
	const projector = new (addon().Projector)(engineOf(threads), {
		kind: 'mlp',
		userSize,
		jointSize,
		tokenSize: config.embedSize,
	});
	await projector.initialise(1, 0.1);
	const trainer = new (addon().ProjectionTrainer)(projector, model, {
		learningRate: 1e-4,
		beta1: 0.9,
		beta2: 0.98,
		seed: 1,
	});
	const sequences = 2;
	const batch = randomPrompts(sequences, context, config.vocabSize);
	const rows: number[] = [];
	const tokens: number[] = [];
	for (let s = 0; s < sequences; s++) {
		const first = s * context;
		// Users are the first soft tokens, items those after them.
		batch.ids[first] = -s - 1;
		for (const [i, place] of softPlaces.entries())
			batch.ids[first + place] = -(sequences + s * softPlaces.length + i) - 1;
		for (let t = context - targetsEach; t < context; t++) {
			rows.push(first + t - 1);
			tokens.push(batch.ids[first + t]!);
		}
	}
	const random = new SeededRandom(6);
	const normals = (length: number) => Float32Array.from({ length }, () => random.normal());
	const soft = {
		users: normals(sequences * userSize),
		items: normals(sequences * softPlaces.length * jointSize),
	};
	const targets = { rows: Int32Array.from(rows), tokens: Int32Array.from(tokens) };
	return repeat(
		() => trainer.step(batch, soft, targets),
		() => {
			trainer.dispose();
			projector.dispose();
		},
	);
}

function randomPrompts(batch: number, length: number, vocabSize: number): LlmBatch {
	const random = new SeededRandom(7);
	return {
		ids: Int32Array.from({ length: batch * length }, () => 4 + random.int(vocabSize - 4)),
		offsets: Int32Array.from({ length: batch + 1 }, (_, b) => b * length),
	};
}

function causalPairs(length: number): number {
	return (length * (length + 1)) / 2;
}

/**
 * Forward FLOPs. pairs: of a query and a key it sees; of the last layer only keys and values are needed at all
 * tokens, the rest at `lastRows`; `logitRows` reach the head.
 */
function optFlops(
	{ hiddenSize: c, ffnSize: f, numLayers, vocabSize }: OptConfig,
	pairs: number,
	tokens: number,
	lastRows: number,
	logitRows: number,
): number {
	const rest = 2 * c * c + 2 * c * f;
	const layers = (numLayers - 1) * (2 * tokens * (2 * c * c + rest) + 4 * pairs * c);
	const last = 2 * (tokens * 2 * c * c + lastRows * rest) + 4 * pairs * c * (lastRows / tokens);
	return layers + last + 2 * logitRows * c * vocabSize;
}
