import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { invalidArgument } from '../errors.js';
import { learnMerges } from './pair-merger.js';
import { bertWords, normalizeBert } from './word-piece.js';

const SPECIAL_TOKENS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'] as const;
const PRINTABLE = Array.from({ length: 94 }, (_, i) => String.fromCharCode(33 + i));
const PREFIX = '##';

/** Options of {@link trainWordPiece}. */
export interface WordPieceTrainerOptions {
	/** Most tokens, special ones and alphabet included; at least 193. */
	vocabSize: number;
	/** A pair rarer than this is not merged. Default 2. */
	minFrequency?: number;
	/** Lower case without accents, as uncased BERT. Default true. */
	lowerCase?: boolean;
	/** Most characters beyond ASCII in the alphabet; the most frequent are kept. Default 500. */
	maxAlphabet?: number;
}

/**
 * Learns a WordPiece vocabulary by byte-pair learning over BERT's words (as `WordPieceTrainer` of `tokenizers`
 * does). Every printable ASCII character and its `##` form is in it, so an ASCII word of up to a hundred characters
 * is never unknown. The same texts give the same vocabulary on every machine.
 *
 * @returns tokens in order of id: `[PAD] [UNK] [CLS] [SEP] [MASK]`, the alphabet, then what was learnt
 */
export function trainWordPiece(
	texts: Iterable<string>,
	{ vocabSize, minFrequency = 2, lowerCase = true, maxAlphabet = 500 }: WordPieceTrainerOptions,
): string[] {
	const smallest = SPECIAL_TOKENS.length + 2 * PRINTABLE.length;
	if (!Number.isInteger(vocabSize) || vocabSize < smallest || vocabSize > 2 ** 20)
		invalidArgument(
			'vocabSize',
			`a whole number from ${smallest} (special tokens and ASCII) to 2^20`,
			vocabSize,
		);
	const counts = new Map<string, number>();
	for (const text of texts)
		for (const word of bertWords(normalizeBert(text, { lowerCase })))
			counts.set(word, (counts.get(word) ?? 0) + 1);
	const further = rareCharacters(counts)
		.slice(0, Math.min(maxAlphabet, (vocabSize - smallest) >> 1))
		.sort();
	const characters = [...PRINTABLE, ...further];
	const alphabet = [...characters, ...characters.map((character) => PREFIX + character)];
	const indices = new Map(alphabet.map((symbol, index) => [symbol, index]));
	const words: [number[], number][] = [];
	for (const [word, count] of counts) {
		const list = Array.from(word, (character, i) => indices.get(i === 0 ? character : PREFIX + character));
		if (list.every((index) => index !== undefined)) words.push([list as number[], count]);
	}
	const { symbols } = learnMerges({
		words,
		alphabet,
		maxSymbols: vocabSize - SPECIAL_TOKENS.length,
		minFrequency,
		join: (left, right) => left + right.slice(PREFIX.length),
	});
	return [...SPECIAL_TOKENS, ...symbols];
}

/** Characters beyond printable ASCII, the most frequent first, equals by code point. */
function rareCharacters(counts: ReadonlyMap<string, number>): string[] {
	const found = new Map<string, number>();
	for (const [word, count] of counts)
		for (const character of word)
			if (character < '!' || character > '~') found.set(character, (found.get(character) ?? 0) + count);
	return [...found.keys()].sort(
		(a, b) => found.get(b)! - found.get(a)! || a.codePointAt(0)! - b.codePointAt(0)!,
	);
}

/** Writes `vocab.txt` and `tokenizer_config.json`. */
export async function writeWordPiece(
	folder: string,
	tokens: readonly string[],
	{ lowerCase = true }: { lowerCase?: boolean } = {},
): Promise<void> {
	await mkdir(folder, { recursive: true });
	const config = {
		do_lower_case: lowerCase,
		cls_token: '[CLS]',
		sep_token: '[SEP]',
		pad_token: '[PAD]',
		unk_token: '[UNK]',
		mask_token: '[MASK]',
		tokenize_chinese_chars: true,
		strip_accents: null,
		tokenizer_class: 'BertTokenizer',
	};
	await writeFile(join(folder, 'vocab.txt'), `${tokens.join('\n')}\n`);
	await writeFile(join(folder, 'tokenizer_config.json'), JSON.stringify(config));
}
