import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import { cleanText } from '../../lib/data/catalogue/html.js';
import { itemText } from '../../lib/data/catalogue/item-text.js';
import { trainByteLevelBpe, writeByteLevelBpe } from '../../lib/llm/bpe-trainer.js';
import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import { tokensAt } from '../../lib/text/tokenizer.js';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';
import { trainWordPiece, writeWordPiece } from '../../lib/text/word-piece-trainer.js';
import { freshPath } from '../data/folders.js';
import { HOSTILE, HUGE, hostileTexts, wellFormed } from '../support/hostile-text.js';
import { held, times } from '../support/reliability.js';

const fixtures = fileURLToPath(new URL('../../../test/parity/fixtures', import.meta.url));

interface TokenizerJson {
	added_tokens: { id: number; content: string; special: boolean }[];
	model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
}

/** A copy of a dumped tokenizer whose `tokenizer.json` is changed. */
function changed(name: string, change: (json: TokenizerJson) => void): string {
	const folder = freshPath(name);
	cpSync(join(fixtures, name), folder, { recursive: true });
	const path = join(folder, 'tokenizer.json');
	const json = JSON.parse(readFileSync(path, 'utf8'));
	change(json);
	writeFileSync(path, JSON.stringify(json));
	return folder;
}

function nextId({ model, added_tokens }: TokenizerJson): number {
	return 1 + Math.max(...Object.values(model.vocab), ...added_tokens.map(({ id }) => id));
}

function addSpecial(json: TokenizerJson, content: string): void {
	json.added_tokens.push({ id: json.model.vocab[content] ?? nextId(json), content, special: true });
}

/** Merges that spell the special token `"][` out of bytes, and a byte that is special itself. */
function reachable(json: TokenizerJson): void {
	for (const [left, right] of [
		['"', ']'],
		['"]', '['],
	] as const) {
		json.model.vocab[left + right] = nextId(json);
		json.model.merges.unshift([left, right]);
	}
	addSpecial(json, '"][');
	addSpecial(json, '|');
}

/** Special tokens that WordPiece would find as words. */
function words(json: TokenizerJson): void {
	for (const word of ['|', 'constructor']) {
		if (!Object.hasOwn(json.model.vocab, word)) json.model.vocab[word] = nextId(json);
		addSpecial(json, word);
	}
	addSpecial(json, '[UserRep]');
}

/** Unigram, as multilingual encoders have it, with pieces that begin as special tokens do. */
function unigram(): string {
	const special = ['<s>', '<pad>', '</s>', '<unk>'];
	const pieces = [...'▁abcehnost.,"<>/[]|', '▁the', '▁game', 'ing', '</s>x', '▁<', '</', '"]'];
	const vocab = [...special, ...pieces].map((piece, i) => [piece, i < special.length ? 0 : -3 - i / 10]);
	const token = (content: string, id: number) => ({ id, content, special: true, normalized: false });
	const wrapped = Object.fromEntries(
		[0, 2].map((id) => [special[id]!, { id: special[id], ids: [id], tokens: [special[id]] }]),
	);
	const json = {
		version: '1.0',
		added_tokens: [
			...special.map(token),
			token('<mask>', vocab.length),
			token('[UserRep]', vocab.length + 1),
		],
		normalizer: { type: 'NFKC' },
		pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always', split: true },
		post_processor: {
			type: 'TemplateProcessing',
			single: [{ SpecialToken: { id: '<s>' } }, { Sequence: { id: 'A' } }, { SpecialToken: { id: '</s>' } }],
			special_tokens: wrapped,
		},
		decoder: { type: 'Metaspace', replacement: '▁' },
		model: { type: 'Unigram', unk_id: 3, vocab, byte_fallback: false },
	};
	const folder = freshPath('unigram');
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
	return folder;
}

const tokenizers = (async () => {
	const [bpe, wordPiece] = [freshPath('bpe'), freshPath('word-piece')];
	// Trained on the hostile texts themselves, so that merges of their pieces exist.
	const texts = [...hostileTexts(300, 1), ...HOSTILE, ...HOSTILE];
	await writeByteLevelBpe(bpe, trainByteLevelBpe(texts, { vocabSize: 700 }));
	await writeWordPiece(wordPiece, trainWordPiece(texts, { vocabSize: 500 }));
	const lossless = {
		'BPE in the layout of OPT': await loadLanguageTokenizer(bpe),
		'BPE of tokenizer.json with added tokens': await loadLanguageTokenizer(join(fixtures, 'tok_opt')),
	};
	const lossy = {
		'BPE with reachable special tokens': await loadLanguageTokenizer(changed('tok_opt', reachable)),
		WordPiece: await loadSentenceTokenizer(wordPiece),
		'WordPiece of tokenizer.json': await loadSentenceTokenizer(join(fixtures, 'tok_wordpiece')),
		'WordPiece with special words': await loadSentenceTokenizer(changed('tok_wordpiece', words)),
	};
	const native = { ...lossless, ...lossy };
	return { lossless, native, all: { ...native, Unigram: await loadSentenceTokenizer(unigram()) } };
})();

/** Ids that no text may become; [UNK] is what WordPiece and Unigram give for what they cannot spell. */
function specials(tokenizer: Tokenizer): Set<number> {
	const { bosId, eosId, padId, unkId, clsId, sepId, maskId } = tokenizer;
	const ids = [bosId, eosId, padId, clsId, sepId, maskId, ...tokenizer.prefixIds, ...tokenizer.suffixIds];
	for (let id = 0; id < tokenizer.vocabSize; id++) if (tokenizer.isSpecial(id)) ids.push(id);
	for (const token of ['<s>', '<pad>', '</s>', '<unk>', '<mask>']) ids.push(tokenizer.idOf(token));
	const set = new Set(ids.filter((id) => id !== undefined));
	for (const id of [unkId, tokenizer.idOf('<unk>')])
		if (tokenizer.kind !== 'byte-level-bpe' && id !== undefined) set.delete(id);
	return set;
}

test('no text becomes a special token, and byte-level BPE gives every text back', async (t) => {
	const { all, lossless } = await tokenizers;
	const texts = [...HOSTILE, ...hostileTexts(times(1500, 20_000), 2)];
	const exact = new Set<Tokenizer>(Object.values(lossless));
	for (const [name, tokenizer] of Object.entries(all)) {
		const forbidden = specials(tokenizer);
		t.true(forbidden.size >= 4, `${name}: ${[...forbidden]}`);
		const wrong = { special: 0, lost: 0, wrapped: 0 };
		for (const text of texts) {
			const ids = tokenizer.encodeText(text);
			if (ids.some((id) => forbidden.has(id))) wrong.special++;
			if (exact.has(tokenizer) && tokenizer.decode(ids) !== wellFormed(text)) wrong.lost++;
			const { prefixIds, suffixIds } = tokenizer;
			const sequence = tokenizer.encodeSequence(text);
			const inside = sequence.subarray(prefixIds.length, sequence.length - suffixIds.length);
			if (inside.length !== ids.length || inside.some((id, i) => id !== ids[i])) wrong.wrapped++;
		}
		t.deepEqual(wrong, { special: 0, lost: 0, wrapped: 0 }, name);
	}
	held('Text', 'No text becomes a special token; byte-level BPE gives every text back to the character.', {
		texts: texts.length,
		tokenizers: Object.keys(all).length,
		'special ids': 0,
	});
});

test('a limit keeps the first ids, in one call as in many', async (t) => {
	const { native } = await tokenizers;
	const texts = [...Object.values(HUGE), ...hostileTexts(100, 3), 'ab'.repeat(30_000)];
	for (const [name, tokenizer] of Object.entries(native)) {
		const whole = texts.map((text) => tokenizer.encodeText(text));
		for (const limit of [7, 129]) {
			const store = await tokenizer.encodeMany(texts, { maxTokens: limit });
			const wrong = texts.filter((text, i) => {
				const first = String(whole[i]!.subarray(0, limit));
				return String(tokenizer.encodeText(text, limit)) !== first || String(tokensAt(store, i)) !== first;
			});
			t.deepEqual(wrong, [], `${name}, ${limit}`);
		}
	}
});

test('100 kB of anything is read in time that grows with its length alone', async (t) => {
	const { native, all } = await tokenizers;
	// Of this process, so that others on the machine do not count.
	const seconds = (work: () => void) => {
		const before = process.cpuUsage();
		work();
		const { user, system } = process.cpuUsage(before);
		return (user + system) / 1e6;
	};
	let most = 0;
	for (const [what, once] of Object.entries(HUGE)) {
		const text = once.repeat(times(1, 4));
		const work: Record<string, () => void> = {
			cleaning: () => cleanText(text),
			genres: () =>
				itemText(
					{ id: 'x', title: null, description: null, genres: `[${text}]`, brand: null },
					{ descriptionIsJson: true, genreLayout: 'separated' },
				),
		};
		for (const [name, tokenizer] of Object.entries(native)) work[name] = () => tokenizer.encodeText(text);
		for (const [name, tokenizer] of Object.entries(all))
			work[`${name}, 128 tokens`] = () => tokenizer.encodeText(text, 128);
		for (const [step, run] of Object.entries(work)) {
			const taken = seconds(run);
			most = Math.max(most, taken);
			// What was quadratic took 3 to 12 seconds for 100 kB, and 16 times that for 400 kB.
			t.true(taken < times(2, 8), `${step} of ${what}: ${taken} s`);
		}
	}
	held('Text', 'Titles and descriptions are read in time that grows with their length alone.', {
		texts: Object.keys(HUGE).length,
		bytes: 100_000 * times(1, 4),
		'slowest (CPU seconds)': most.toFixed(2),
	});
});

test('words that are remembered keep no text in memory', async (t) => {
	const { all } = await tokenizers;
	setFlagsFromString('--expose-gc');
	const collect = runInNewContext('gc') as () => void;
	collect();
	const { heapUsed } = process.memoryUsage();
	for (const tokenizer of Object.values(all))
		for (let i = 0; i < 300; i++) {
			const word = String(i).replace(/\d/g, (digit) => 'abcdefghij'[Number(digit)]!);
			tokenizer.encodeText(`uncommonly${word}longword ${'and more of it '.repeat(10_000)}`, 8);
		}
	// 6 tokenizers × 300 texts of 150 kB: 270 MB, if each word kept its text.
	collect();
	const grown = (process.memoryUsage().heapUsed - heapUsed) / 1e6;
	t.true(grown < 20, `${grown} MB`);
});
