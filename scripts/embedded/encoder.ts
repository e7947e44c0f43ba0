import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { WorldItem } from '../../lib/data/demo-world.js';
import { SeededRandom } from '../../lib/data/random.js';
import type { EncoderConfig } from '../../lib/native/addon.js';
import { ragged, run, Session } from '../../lib/native/session.js';
import { itemText } from '../../lib/text/item-text.js';
import { huggingFaceConfig } from '../../lib/text/sentence-encoder.js';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';
import { trainWordPiece, writeWordPiece } from '../../lib/text/word-piece-trainer.js';
import { inventedItems } from './corpus.js';

const VOCABULARY = 4096;
/** Catalogues a batch draws from, and pairs of each. */
const CATALOGUES = 4;
const PAIRS = 8;

/**
 * Makes the tiny sentence encoder: a DistilBERT of 2 layers that learns, on invented catalogues, to tell which two
 * texts belong together. Half of the pairs are one item, its full text and some of its words in another order; half are
 * two items of one theme, which share a few of the theme's words and nothing else.
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
		const texts: [string, string][] = [];
		for (let c = 0; c < CATALOGUES; c++) {
			const items = inventedItems((step * CATALOGUES + c) % 300);
			random.shuffle(items);
			texts.push(...itemPairs(random, items.slice(0, PAIRS)), ...themePairs(items, PAIRS));
		}
		const rows = [...texts.map(([a]) => a), ...texts.map(([, b]) => b)].map((text) => tokenizer.encodeSequence(text, 96));
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

function itemPairs(random: SeededRandom, items: readonly WorldItem[]): [string, string][] {
	return items.map((item) => [itemText(item), someWords(random, `${item.title} ${item.description}`)]);
}

/** Two items of each of some themes. */
function themePairs(items: readonly WorldItem[], count: number): [string, string][] {
	const pairs: [string, string][] = [];
	for (let theme = 0; pairs.length < count && theme < 100; theme++) {
		const [a, b] = items.filter(({ themes }) => themes[0] === theme);
		if (a && b) pairs.push([itemText(a), itemText(b)]);
	}
	return pairs;
}

/** A third to two thirds of a text's words, in another order. */
function someWords(random: SeededRandom, text: string): string {
	const words = text.split(/\s+/);
	random.shuffle(words);
	return words.slice(0, Math.max(2, Math.ceil(words.length * (0.33 + 0.33 * random.uniform())))).join(' ');
}
