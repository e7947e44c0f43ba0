import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import { BYTE_CHARACTERS } from '../../lib/llm/tokenizer.js';

/** Writes a byte-level BPE of made-up merges in OPT's layout, as large as OPT's own (50,265 tokens) or larger. */
export async function largeTokenizer(
	folder: string,
	tokens: number,
	layout: 'tokenizer.json' | 'vocab.json' = 'tokenizer.json',
): Promise<void> {
	const vocabulary: Record<string, number> = { '<s>': 0, '<pad>': 1, '</s>': 2, '<unk>': 3 };
	const known = [...BYTE_CHARACTERS];
	let size = 4;
	for (const character of known) vocabulary[character] = size++;
	const random = new SeededRandom(tokens);
	const merges: string[] = [];
	while (size < tokens) {
		const [left, right] = [random.choice(known), random.choice(known)];
		if (left.length + right.length > 12 || left + right in vocabulary) continue;
		vocabulary[left + right] = size++;
		known.push(left + right);
		merges.push(`${left} ${right}`);
	}
	await mkdir(folder, { recursive: true });
	const write = (name: string, text: string) => writeFile(join(folder, name), text);
	if (layout === 'vocab.json') {
		await write('vocab.json', JSON.stringify(vocabulary));
		await write('merges.txt', `#version: 0.2\n${merges.join('\n')}\n`);
		return;
	}
	const step = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
	await write(
		'tokenizer.json',
		JSON.stringify({
			version: '1.0',
			added_tokens: ['<s>', '<pad>', '</s>', '<unk>'].map((content, id) => ({ id, content, special: true })),
			pre_tokenizer: step,
			post_processor: step,
			decoder: step,
			model: { type: 'BPE', vocab: vocabulary, merges },
		}),
	);
	await write(
		'tokenizer_config.json',
		JSON.stringify({ bos_token: '</s>', eos_token: '</s>', pad_token: '<pad>' }),
	);
}
