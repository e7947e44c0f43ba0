import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import type { EncoderConfig } from '../../lib/native/addon.js';
import { ragged, run, Session } from '../../lib/native/session.js';
import { itemText } from '../../lib/text/item-text.js';
import { huggingFaceConfig } from '../../lib/text/sentence-encoder.js';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';
import { trainWordPiece, writeWordPiece } from '../../lib/text/word-piece-trainer.js';
import { inventedItems } from './corpus.js';

const VOCABULARY = 4096;
const PAIRS = 48;

/**
 * Makes the tiny sentence encoder: a DistilBERT of 2 layers that learns, on invented catalogues, to tell which two
 * texts are of one item: its full text, and some of its words in another order.
 */
export async function makeEncoder(folder: string, texts: readonly string[], steps: number): Promise<void> {
	await mkdir(folder, { recursive: true });
	await writeWordPiece(folder, trainWordPiece(texts, { vocabSize: VOCABULARY }));
	const tokenizer = await loadSentenceTokenizer(folder);
	const config: EncoderConfig = {
		kind: 'distilbert',
		vocabSize: VOCABULARY,
		hiddenSize: 128,
		numLayers: 2,
		numHeads: 4,
		intermediateSize: 256,
		maxPositions: 256,
		typeVocabSize: 0,
		layerNormEps: 1e-12,
		activation: 'gelu',
		dropoutRate: 0.1,
	};
	await writeFile(join(folder, 'config.json'), `${JSON.stringify(huggingFaceConfig(config), null, 2)}\n`);
	const session = Session.open();
	const encoder = new session.addon.SentenceEncoder(session.engine, config);
	await encoder.initialise(1, 0.04);
	const trainer = new session.addon.ContrastiveTrainer(encoder, {
		learningRate: 1e-3,
		clipNorm: 1,
		temperature: 0.05,
		seed: 1,
	});
	let losses: Record<string, number> = {};
	for (let step = 0; step < steps; step++) {
		trainer.setLearningRate(1e-3 * Math.min(1, step / 50) * (0.02 + 0.98 * (1 - step / steps)));
		const random = new SeededRandom(2, step);
		const items = inventedItems(step % 200);
		random.shuffle(items);
		const chosen = items.slice(0, PAIRS);
		const whole = chosen.map((item) => itemText(item));
		const partial = chosen.map((item) => someWords(random, `${item.title} ${item.description}`));
		const rows = [...whole, ...partial].map((text) => tokenizer.encodeSequence(text, 96));
		losses = await run(() => trainer.step(ragged(rows)));
		if (step % 50 === 0)
			console.log(
				`encoder ${step}/${steps}: loss ${losses.loss?.toFixed(3)}, accuracy ${losses.accuracy?.toFixed(3)}`,
			);
	}
	console.log(`encoder: loss ${losses.loss?.toFixed(3)}, accuracy ${losses.accuracy?.toFixed(3)}`);
	await encoder.save(join(folder, 'model.safetensors'), { format: 'pt' }, 'F16');
	trainer.dispose();
	encoder.dispose();
	session.release();
}

/** A third to two thirds of a text's words, in another order. */
function someWords(random: SeededRandom, text: string): string {
	const words = text.split(/\s+/);
	random.shuffle(words);
	return words.slice(0, Math.max(2, Math.ceil(words.length * (0.33 + 0.33 * random.uniform())))).join(' ');
}
