import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import { trainByteLevelBpe, writeByteLevelBpe } from '../../lib/llm/bpe-trainer.js';
import { huggingFaceOptConfig } from '../../lib/llm/opt-config.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import type { EncoderConfig, NativeModel, OptConfig } from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { itemText } from '../../lib/text/item-text.js';
import { huggingFaceConfig } from '../../lib/text/sentence-encoder.js';
import { trainWordPiece, writeWordPiece } from '../../lib/text/word-piece-trainer.js';
import { freshPath } from '../data/folders.js';
import { CPU, tinyWorld } from './tiny-world.js';

const ENCODER: EncoderConfig = {
	kind: 'distilbert',
	vocabSize: 400,
	hiddenSize: 16,
	numLayers: 2,
	numHeads: 2,
	intermediateSize: 32,
	maxPositions: 48,
	typeVocabSize: 0,
	layerNormEps: 1e-12,
	activation: 'gelu',
	dropoutRate: 0.1,
};

const OPT: OptConfig = {
	vocabSize: 520,
	hiddenSize: 32,
	embedSize: 32,
	numLayers: 2,
	numHeads: 2,
	ffnSize: 64,
	maxPositions: 512,
	normBefore: true,
	finalNorm: true,
	activation: 'relu',
};

/** Writes a DistilBERT of random weights with a WordPiece vocabulary of the tiny world's texts; gives its folder. */
export async function tinyEncoder(changes: Partial<EncoderConfig> = {}): Promise<string> {
	const config = { ...ENCODER, ...changes };
	const folder = freshPath('encoder');
	await writeWordPiece(
		folder,
		trainWordPiece(
			tinyWorld().items.map((item) => itemText(item)),
			{ vocabSize: config.vocabSize },
		),
	);
	await writeJson(folder, huggingFaceConfig(config));
	await writeRandomWeights(folder, (session) => new session.addon.SentenceEncoder(session.engine, config));
	return folder;
}

/** Writes an OPT of random weights with a byte-level BPE of the tiny world's titles; gives its folder. */
export async function tinyLlm(changes: Partial<OptConfig> = {}): Promise<string> {
	const config = { ...OPT, ...changes };
	const folder = freshPath('llm');
	const template = recommendationTemplate().parts.flatMap((part) =>
		part.type === 'text' ? [part.text] : [],
	);
	const texts = [...tinyWorld().items.map(({ title }) => ` "${title}",`), ...template, ...template];
	await writeByteLevelBpe(folder, trainByteLevelBpe(texts, { vocabSize: Math.min(500, config.vocabSize) }));
	// A model has about as many rows as its tokenizer has ids.
	if (config.vocabSize > 1000)
		await writeFile(join(folder, 'added_tokens.json'), JSON.stringify({ '<last>': config.vocabSize - 1 }));
	await writeJson(folder, huggingFaceOptConfig(config));
	await writeRandomWeights(folder, (session) => new session.addon.Opt(session.engine, config));
	return folder;
}

async function writeJson(folder: string, config: object): Promise<void> {
	await mkdir(folder, { recursive: true });
	await writeFile(join(folder, 'config.json'), JSON.stringify(config));
}

/** Normal numbers of variance 1 / fan-in, so that signals neither die nor blow up; norms are the identity. */
async function writeRandomWeights(folder: string, make: (session: Session) => NativeModel): Promise<void> {
	const session = Session.open(CPU);
	const model = make(session);
	const random = new SeededRandom(7);
	const tensors = model.parameters().map(({ name, shape }) => {
		const data = new Float32Array(shape.reduce((product, n) => product * n, 1));
		if (shape.length > 1) {
			const deviation = /embed/.test(name) ? 0.3 : 1 / Math.sqrt(shape[1]!);
			for (let i = 0; i < data.length; i++) data[i] = deviation * random.normal();
		} else if (/norm.*weight$/i.test(name)) data.fill(1);
		return { name, dtype: 'F32' as const, shape, data };
	});
	session.addon.writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' });
	model.dispose();
	session.release();
}
