import { SeededRandom } from '../lib/data/random.js';
import { packBatch, packCandidates } from '../lib/llm/prompt-packing.js';
import type { LlmDtype, NativeOpt, OptConfig } from '../lib/native/addon.js';
import { addon, engineOf } from './devices.js';
import { atLimit } from './limits.js';
import { type Case, type Contender, type Group, type PeerCase, repeat } from './measure.js';
import {
	causalPairs,
	decodeBytes,
	generate,
	newModel,
	optConfigs,
	optFloor,
	optWork,
	randomPrompts,
} from './opt-model.js';
import type { Settings } from './peer.js';

const dtypes = ['float32', 'bfloat16', 'int8', 'int4'] as const;
type Dtype = (typeof dtypes)[number];

/** What the peers call the precision they have nearest to ours. */
const ggufTypes = { float32: undefined, bfloat16: 'F16', int8: 'Q8_0', int4: 'Q4_0' } as const;

/** Seconds of A-LLMRec's own work at opt-125m, on two cores. */
const absoluteGoals: Record<'scoring' | 'stageTwo', Partial<Record<Dtype, number>>> = {
	scoring: { float32: 1.1, bfloat16: 0.55, int8: 0.35 },
	stageTwo: { float32: 2.2, bfloat16: 1.2 },
};

/** Tokens a second of prefill at opt-125m, batch 1, on two cores. */
const prefillGoals: Partial<Record<Dtype, number>> = { float32: 809, bfloat16: 1185, int8: 2271 };

const userSize = 50;
const jointSize = 128;

/** opt-125m in every precision, then opt-1.3b's decoding, with random weights; one model is alive at a time. */
export function languageModelGroups(quick: boolean): Group[] {
	if (quick) return dtypes.map((dtype) => modelGroup('small OPT', optConfigs.small, dtype, true));
	return [
		...dtypes.map((dtype) => modelGroup('opt-125m', optConfigs['opt-125m'], dtype, false)),
		...dtypes.map((dtype) => modelGroup('opt-1.3b', optConfigs['opt-1.3b'], dtype, false)),
	];
}

function modelGroup(name: string, config: OptConfig, dtype: Dtype, quick: boolean): Group {
	const large = name === 'opt-1.3b';
	const model = new LastModel(config, dtype);
	const sizes: Sizes = {
		context: quick ? 64 : 512,
		prompt: quick ? 80 : 600,
		candidates: quick ? 4 : 20,
		title: 12,
		softItems: quick ? 6 : 30,
	};
	const setup: Setup = { name, config, dtype, model, sizes, large };
	const wide = !large && dtype !== 'int4';
	const trained = !large && (dtype === 'float32' || dtype === 'bfloat16');
	const cases = [
		...(wide ? [prefill(setup, 1), prefill(setup, 8)] : []),
		decode(setup, 1),
		decode(setup, 8),
		...(wide ? [scoring(setup)] : []),
		...(trained ? [stageTwo(setup)] : []),
	];
	return {
		name: `${name}, ${dtype}`,
		script: 'language_model',
		cases,
		dispose: () => model.dispose(),
	};
}

interface Sizes {
	context: number;
	prompt: number;
	candidates: number;
	title: number;
	softItems: number;
}

interface Setup {
	name: string;
	config: OptConfig;
	dtype: Dtype;
	model: LastModel;
	sizes: Sizes;
	large: boolean;
}

/** The model for the number of threads last asked for. */
class LastModel {
	readonly #config: OptConfig;
	readonly #dtype: LlmDtype;
	#last: { threads: number; model: Promise<NativeOpt> } | undefined;

	constructor(config: OptConfig, dtype: LlmDtype) {
		this.#config = config;
		this.#dtype = dtype;
	}

	async with(threads: number): Promise<NativeOpt> {
		if (this.#last?.threads !== threads) {
			await this.dispose();
			this.#last = { threads, model: newModel(this.#config, this.#dtype, threads) };
		}
		return this.#last!.model;
	}

	async dispose(): Promise<void> {
		const model = await this.#last?.model.catch(() => undefined);
		model?.dispose();
		this.#last = undefined;
	}
}

/** PyTorch in float32 and bfloat16, onnxruntime in float32 and int8, llama.cpp in its own types. */
function peers(
	{ config, dtype, large }: Setup,
	kind: 'prefill' | 'decode' | 'candidates' | 'stageTwo',
	settings: Settings,
): PeerCase[] {
	const shape: Settings = {
		vocabSize: config.vocabSize,
		hiddenSize: config.hiddenSize,
		numLayers: config.numLayers,
		numHeads: config.numHeads,
		ffnSize: config.ffnSize,
		maxPositions: config.maxPositions,
		dtype,
		...settings,
	};
	const generates = kind === 'prefill' || kind === 'decode';
	const found: PeerCase[] = [];
	if (dtype === 'float32' || dtype === 'bfloat16') found.push({ program: 'PyTorch', kind, settings: shape });
	// A model of one file may have 2 GB.
	if ((dtype === 'float32' || dtype === 'int8') && generates && !large)
		found.push({ program: 'onnxruntime', kind, settings: shape });
	const type = ggufTypes[dtype];
	// One thread decodes faster than two where they compete for the memory; the large F16 would say nothing new.
	const variants = kind === 'decode' ? [type, `${type}, 1 thread`] : [type];
	if (type && generates && settings.batch === 1 && !(large && type === 'F16'))
		for (const variant of variants)
			found.push({
				program: 'node-llama-cpp',
				variant,
				kind,
				settings: { ...shape, type },
				...(variant === type ? {} : { threads: 1 }),
			});
	return found;
}

function prefill(setup: Setup, batch: number): Case {
	const { name, config, dtype, sizes } = setup;
	const { context } = sizes;
	const value = batch === 1 && name === 'opt-125m' ? prefillGoals[dtype] : undefined;
	return {
		name: `${name} prefill ${context}, batch ${batch}`,
		dtype,
		units: batch * context,
		unit: 'tokens/s',
		floor: (limits) => {
			const pairs = batch * causalPairs(context);
			const tokens = batch * context;
			return optFloor(optWork(config, { pairs, tokens, lastRows: batch, logitRows: batch }), dtype, limits);
		},
		async open(threads) {
			const model = await setup.model.with(threads);
			const prompts = randomPrompts(batch, context, config.vocabSize);
			return repeat(
				() => generate(model, prompts, 1),
				() => {},
			);
		},
		peers: peers(setup, 'prefill', { batch, context }),
		goals: { ratio: 1, ...(value ? { value } : {}) },
	};
}

function decode(setup: Setup, batch: number): Case {
	const { name, config, dtype, sizes } = setup;
	const { context } = sizes;
	const steps = 48;
	const title = (of: number) => `${name} decode at ${context}, batch ${of}`;
	return {
		name: title(batch),
		dtype,
		units: batch,
		unit: 'tokens/s',
		floor: ({ readGigabytes }) =>
			atLimit(decodeBytes(config, dtype, batch * (context + steps / 2)), readGigabytes),
		iterations: steps,
		async open(threads): Promise<Contender> {
			const model = await setup.model.with(threads);
			const prompts = randomPrompts(batch, context, config.vocabSize);
			return {
				warm: true,
				// The first step is the prompt's; the second grows what the others reuse.
				async run(iterations) {
					const { stepSeconds } = await generate(model, prompts, 2 + iterations);
					return stepSeconds.slice(2).reduce((sum, seconds) => sum + seconds, 0);
				},
				dispose() {},
			};
		},
		peers: peers(setup, 'decode', { batch, context, window: steps }),
		goals: batch === 1 ? { ratio: 1, fraction: 0.6 } : { ratio: 1, speedup: { over: title(1), least: 5 } },
	};
}

function scoring(setup: Setup): Case {
	const { name, config, dtype, sizes } = setup;
	const { prompt, candidates, title } = sizes;
	const value = name === 'opt-125m' ? absoluteGoals.scoring[dtype] : undefined;
	return {
		name: `${name} scoring, prompt ${prompt}, ${candidates} × ${title}`,
		dtype,
		units: 1,
		unit: 's/user',
		floor: (limits) => {
			const own = candidates * (title - 1);
			const pairs = causalPairs(prompt) + own * prompt + candidates * causalPairs(title - 1);
			const rows = own + 1;
			const work = optWork(config, { pairs, tokens: prompt + own, lastRows: rows, logitRows: rows });
			return optFloor(work, dtype, limits);
		},
		open: async (threads) => openScoring(await setup.model.with(threads), config, sizes),
		peers: peers(setup, 'candidates', { prompt, candidates, title }),
		goals: { ratio: 1, ...(value ? { value } : {}) },
	};
}

function openScoring(model: NativeOpt, config: OptConfig, sizes: Sizes): Contender {
	const random = new SeededRandom(5);
	const tokens = (length: number) => Int32Array.from({ length }, () => 4 + random.int(config.vocabSize - 4));
	const prompt = tokens(sizes.prompt);
	const titles = Array.from({ length: sizes.candidates }, () => tokens(sizes.title));
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
			const scores = new Float64Array(titles.length);
			for (const [pair, candidate] of packed.rowCandidate.entries()) scores[candidate]! += logProbs[pair]!;
		},
		() => {},
	);
}

function stageTwo(setup: Setup): Case {
	const { name, config, dtype, sizes } = setup;
	const { context, title: targets, softItems } = sizes;
	const softPlaces = Array.from(
		{ length: softItems },
		(_, i) => 1 + Math.floor(((context - 20) * (i + 1)) / softItems),
	);
	const value = name === 'opt-125m' ? absoluteGoals.stageTwo[dtype] : undefined;
	return {
		name: `${name} stage-2 step, 2 × ${context}, ${targets} targets each`,
		dtype,
		units: 1,
		unit: 's/step',
		// The weights are frozen: the backward pass computes the inputs' gradients alone, and reads attention twice.
		floor: (limits) => {
			const pairs = causalPairs(context);
			const one = optWork(config, { pairs, tokens: context, lastRows: targets, logitRows: targets });
			const attention = 2 * (2 * one.attention + 4 * pairs * config.hiddenSize * config.numLayers);
			return optFloor({ weights: 4 * one.weights, attention }, dtype, limits);
		},
		open: async (threads) =>
			openStageTwo(await setup.model.with(threads), config, threads, sizes, softPlaces),
		peers: peers(setup, 'stageTwo', {
			batch: 2,
			context,
			targets,
			softItems,
			softPlaces,
			userSize,
			jointSize,
		}),
		goals: { ratio: 1, ...(value ? { value } : {}) },
	};
}

async function openStageTwo(
	model: NativeOpt,
	config: OptConfig,
	threads: number,
	{ context, title: targetsEach }: Sizes,
	softPlaces: readonly number[],
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
