import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { invalidArgument } from '../errors.js';
import { learnMerges } from '../text/pair-merger.js';
import { BYTE_CHARACTERS, GPT2_PATTERN } from './tokenizer.js';

/** Ids 0 … 3, as OPT has them. */
const SPECIAL_TOKENS = ['<s>', '<pad>', '</s>', '<unk>'] as const;

/** Options of {@link trainByteLevelBpe}. */
export interface BpeTrainerOptions {
	/** Most tokens, the four special ones and the 256 bytes included; at least 260. */
	vocabSize: number;
	/** A pair rarer than this is not merged. Default 2. */
	minFrequency?: number;
}

/** A byte-level BPE vocabulary in OPT's layout. */
export interface TrainedBpe {
	/** Token → id: `<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3, bytes 4 … 259 in GPT-2's order, then merges. */
	vocabulary: Map<string, number>;
	/** Pairs in order of rank. */
	merges: [string, string][];
}

/** Learns byte-level BPE with GPT-2's pre-tokenisation. The same texts give the same vocabulary on every machine. */
export function trainByteLevelBpe(
	texts: Iterable<string>,
	{ vocabSize, minFrequency = 2 }: BpeTrainerOptions,
): TrainedBpe {
	const smallest = SPECIAL_TOKENS.length + 256;
	if (!Number.isInteger(vocabSize) || vocabSize < smallest || vocabSize > 2 ** 20)
		invalidArgument(
			'vocabSize',
			`a whole number from ${smallest} (special tokens and bytes) to 2^20`,
			vocabSize,
		);
	const counts = new Map<string, number>();
	for (const text of texts)
		for (const [word] of text.matchAll(GPT2_PATTERN)) counts.set(word, (counts.get(word) ?? 0) + 1);
	// GPT-2's order: printable bytes first, then the others by their stand-ins.
	const bytes = Array.from({ length: 256 }, (_, byte) => byte).sort((a, b) =>
		BYTE_CHARACTERS[a]! < BYTE_CHARACTERS[b]! ? -1 : 1,
	);
	const alphabet = bytes.map((byte) => BYTE_CHARACTERS[byte]!);
	const indexOf = new Int32Array(256);
	for (const [index, byte] of bytes.entries()) indexOf[byte] = index;
	const utf8 = new TextEncoder();
	const { symbols, merges } = learnMerges({
		words: [...counts].map(([word, count]) => [
			Array.from(utf8.encode(word), (byte) => indexOf[byte]!),
			count,
		]),
		alphabet,
		maxSymbols: vocabSize - SPECIAL_TOKENS.length,
		minFrequency,
		join: (left, right) => left + right,
	});
	return {
		vocabulary: new Map([...SPECIAL_TOKENS, ...symbols].map((token, id) => [token, id])),
		merges: merges.map(({ left, right }) => [symbols[left]!, symbols[right]!]),
	};
}

/** Writes `vocab.json`, `merges.txt`, `tokenizer_config.json` and `special_tokens_map.json` as OPT's folders have them. */
export async function writeByteLevelBpe(folder: string, { vocabulary, merges }: TrainedBpe): Promise<void> {
	await mkdir(folder, { recursive: true });
	const special = { bos_token: '</s>', eos_token: '</s>', unk_token: '</s>', pad_token: '<pad>' };
	const config = {
		...special,
		errors: 'replace',
		add_prefix_space: false,
		add_bos_token: true,
		tokenizer_class: 'GPT2Tokenizer',
	};
	const files = {
		'vocab.json': JSON.stringify(Object.fromEntries(vocabulary)),
		'merges.txt': `#version: 0.2\n${merges.map(([left, right]) => `${left} ${right}\n`).join('')}`,
		'tokenizer_config.json': JSON.stringify(config),
		'special_tokens_map.json': JSON.stringify(special),
	};
	for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
}
