import { SeededRandom } from '../lib/data/random.js';
import type { EncoderConfig, NativeSentenceEncoder, Ragged } from '../lib/native/addon.js';
import { addon, engineOf } from './devices.js';
import { atLimit, gigaflopsOf, type Limits } from './limits.js';
import { type Case, difference, type Group, type PeerCase, repeat, time } from './measure.js';
import type { Settings } from './peer.js';

/** DistilBERT: forward, forward and backward, each in every precision, and Adam over its weights. */
export function sentenceEncoderGroup(quick: boolean): Group {
	const config: EncoderConfig = {
		kind: 'distilbert',
		vocabSize: quick ? 1000 : 30_522,
		hiddenSize: quick ? 64 : 768,
		numLayers: quick ? 2 : 6,
		numHeads: quick ? 4 : 12,
		intermediateSize: quick ? 256 : 3072,
		maxPositions: 512,
		typeVocabSize: 0,
		layerNormEps: 1e-12,
		activation: 'gelu',
		dropoutRate: 0,
	};
	const count = quick ? 8 : 32;
	const length = quick ? 16 : 64;
	const texts = randomTexts(count, length, config.vocabSize);
	const { hiddenSize: c, intermediateSize: f, numLayers } = config;
	const flops = numLayers * count * length * (2 * (4 * c * c + 2 * c * f) + 4 * length * c);
	const settings = (dtype: string, fused = false): Settings => ({
		...Object.fromEntries(Object.entries(config).filter(([, value]) => typeof value === 'number')),
		dtype,
		texts: count,
		tokens: length,
		fused,
	});
	const shape = `${count} × ${length}`;
	const parameters = parametersOf(config);
	const common = (dtype: Dtype, passes: number) => ({
		dtype,
		units: count * length,
		unit: 'tokens/s',
		floor: (limits: Limits) => atLimit(passes * flops, gigaflopsOf(dtype, limits)),
		goals: { ratio: 1 },
	});
	const forward = (dtype: Dtype): Case => {
		const peers: PeerCase[] = [];
		if (dtype !== 'int8') peers.push({ program: 'PyTorch', kind: 'forward', settings: settings(dtype) });
		if (dtype !== 'bfloat16')
			peers.push({ program: 'onnxruntime', kind: 'encoder', settings: settings(dtype) });
		return {
			...common(dtype, 1),
			name: `DistilBERT forward, ${shape}`,
			open:
				dtype === 'int8'
					? 'the encoder has no int8 weights'
					: async (threads) => {
							const encoder = await newEncoder(precise(config, dtype), threads);
							return repeat(
								() => encoder.encode(texts, count * length),
								() => encoder.dispose(),
							);
						},
			peers,
		};
	};
	const backward = (dtype: 'float32' | 'bfloat16'): Case => ({
		...common(dtype, 3),
		name: `DistilBERT forward + backward, ${shape}`,
		async open(threads) {
			const encoder = await newEncoder({ ...config, activationDtype: dtype }, threads);
			const weights = new Float32Array(count * c).fill(1 / length);
			return repeat(
				() => encoder.pooledGradients(texts, weights, 0),
				() => encoder.dispose(),
			);
		},
		peers: [{ program: 'PyTorch', kind: 'backward', settings: settings(dtype) }],
	});
	const adam: Case = {
		name: 'Adam, DistilBERT',
		dtype: 'float32',
		// Weight, gradient and both moments are read, weight and moments written.
		units: (parameters * 28) / 1e9,
		unit: 'GB/s',
		floor: ({ readGigabytes, copyGigabytes }) =>
			readGigabytes === null || copyGigabytes === null
				? null
				: (parameters * 28) / 1e9 / Math.max(readGigabytes, copyGigabytes),
		open: (threads) => openAdam(config, threads),
		peers: [
			{ program: 'PyTorch', kind: 'adam', settings: settings('float32') },
			{ program: 'PyTorch', variant: 'fused', kind: 'adam', settings: settings('float32', true) },
		],
		goals: { ratio: 1, fraction: 0.7 },
	};
	return {
		name: 'encoder',
		script: 'encoder',
		cases: [
			forward('float32'),
			forward('bfloat16'),
			forward('int8'),
			backward('float32'),
			backward('bfloat16'),
			adam,
		],
		dispose() {},
	};
}

type Dtype = 'float32' | 'bfloat16' | 'int8';

/** For use without training: weights are stored as they are computed with. */
function precise(config: EncoderConfig, dtype: 'float32' | 'bfloat16'): EncoderConfig {
	return { ...config, activationDtype: dtype, weightDtype: dtype };
}

async function newEncoder(config: EncoderConfig, threads: number): Promise<NativeSentenceEncoder> {
	const encoder = new (addon().SentenceEncoder)(engineOf(threads), config);
	await encoder.initialise(1, 0.02);
	return encoder;
}

/** Adam has no call of its own: a step on one text of one token, less the same gradients without the update. */
async function openAdam(config: EncoderConfig, threads: number) {
	const encoder = await newEncoder(config, threads);
	const [itemSize, jointSize] = [2, 2];
	const alignment = new (addon().Alignment)(engineOf(threads), {
		itemSize,
		textSize: config.hiddenSize,
		jointSize,
		activation: 'none',
		matchingWeight: 1,
		itemReconstructionWeight: 1,
		textReconstructionWeight: 1,
		recommendationWeight: 1,
		referenceCompat: false,
	});
	await alignment.initialise(1);
	const trainer = new (addon().AlignmentTrainer)(alignment, encoder, {
		learningRate: 1e-6,
		trainEncoder: true,
		seed: 1,
	});
	const row = new Float32Array(itemSize).fill(0.1);
	const text = randomTexts(1, 1, config.vocabSize);
	const batch = {
		users: row,
		positiveItems: row,
		negativeItems: row,
		positiveTokens: text,
		negativeTokens: text,
	};
	return {
		async run(iterations: number) {
			let [whole, part] = [0, 0];
			for (let i = 0; i < iterations; i++) {
				part += await time(() => trainer.gradients(batch));
				whole += await time(() => trainer.step(batch));
			}
			return difference(whole, part);
		},
		dispose() {
			trainer.dispose();
			alignment.dispose();
			encoder.dispose();
		},
	};
}

function parametersOf({
	vocabSize,
	maxPositions,
	hiddenSize: c,
	intermediateSize: f,
	numLayers,
}: EncoderConfig): number {
	return (vocabSize + maxPositions + 2) * c + numLayers * (4 * (c * c + c) + 2 * c * f + f + c + 4 * c);
}

function randomTexts(count: number, length: number, vocabSize: number): Ragged {
	const random = new SeededRandom(3);
	return {
		offsets: Int32Array.from({ length: count + 1 }, (_, b) => b * length),
		values: Int32Array.from({ length: count * length }, () => random.int(vocabSize)),
	};
}
