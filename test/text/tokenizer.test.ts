import test from 'ava';
import { ALLMRecError } from '../../lib/errors.js';
import { encodeItemTexts, itemText } from '../../lib/text/item-text.js';
import { tokensAt } from '../../lib/text/tokenizer.js';
import { loadSentenceTokenizer, normalizeBert } from '../../lib/text/word-piece.js';
import { trainWordPiece, writeWordPiece } from '../../lib/text/word-piece-trainer.js';
import { fixture, folderOf, HOSTILE_TITLES, readJson } from './fixtures.js';

const VOCABULARY = '[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nplay\n##ing\n##s\n[\n]\ncls\n,\n日\ne\nσ\n##σ\n';
const small = folderOf('', [], { 'vocab.txt': VOCABULARY });
const words = await loadSentenceTokenizer(small);
const tokens = (text: string) => Array.from(words.encodeText(text), (id) => words.tokenOf(id));

const shared = fixture('tok_wordpiece');
if (shared)
	for (const file of ['vocab.txt', 'tokenizer.json'])
		test(`WordPiece from ${file} gives the ids of transformers`, async (t) => {
			const tokenizer = await loadSentenceTokenizer(folderOf(shared, [file]));
			const expected = readJson<Record<'ids' | 'ids_trunc16', number[][]> & { strings: string[] }>(
				shared,
				'expected.json',
			);
			for (const [i, text] of expected.strings.entries()) {
				t.deepEqual(Array.from(tokenizer.encodeWithSpecials(text)), expected.ids[i], text);
				t.deepEqual(
					Array.from(tokenizer.encodeWithSpecials(text, { maxTokens: 16 })),
					expected.ids_trunc16[i],
				);
				// None of these strings holds a special token of BERT, so data is encoded alike.
				t.deepEqual(Array.from(tokenizer.encodeSequence(text)), expected.ids[i]);
			}
			const { clsId, sepId, padId, unkId, maskId, vocabSize } = tokenizer;
			t.deepEqual([padId, unkId, clsId, sepId, maskId, vocabSize], [0, 1, 2, 3, 4, 287]);
		});

test('WordPiece takes the longest piece, and one unknown token for a word it cannot spell', (t) => {
	t.deepEqual(tokens('Playing PLAYS play'), ['play', '##ing', 'play', '##s', 'play']);
	t.deepEqual(tokens('playx play'), ['[UNK]', 'play']);
	t.deepEqual(tokens(`${'play'.repeat(30)}`), ['[UNK]']);
	t.deepEqual(tokens('play,日play'), ['play', ',', '日', 'play']);
});

test('normalisation: accents, capitals one by one, control characters, white space, ideographs', (t) => {
	t.is(normalizeBert('ÉCOLE naïve'), 'ecole naive');
	t.is(normalizeBert('ΣΑΣ'), 'σασ');
	t.is(normalizeBert('a\0b\u200bc\ufeffd\u00ade\ufffd'), 'abcde');
	t.is(normalizeBert('a\u00a0b\tc\u3000d'), 'a b c d');
	t.is(normalizeBert('日本'), ' 日  本 ');
	t.is(normalizeBert('\u{20000}x'), ' \u{20000} x');
	t.is(normalizeBert('\x1fA\x7f\n'), 'a ');
	t.is(normalizeBert('Éa', { lowerCase: false }), 'Éa');
	t.is(normalizeBert('Éa', { lowerCase: false, stripAccents: true }), 'Ea');
});

test('a special token is one only in trusted text', (t) => {
	t.deepEqual(tokens('[CLS] play'), ['[', 'cls', ']', 'play']);
	const trusted = words.encodeWithSpecials('[CLS]play', { addSpecialTokens: false });
	t.deepEqual(
		Array.from(trusted, (id) => words.tokenOf(id)),
		['[CLS]', 'play'],
	);
	for (const title of HOSTILE_TITLES)
		for (const id of words.encodeText(title)) t.true(!words.isSpecial(id) || id === words.unkId, title);
});

test('a sequence is cut inside [CLS] and [SEP]', (t) => {
	t.deepEqual(Array.from(words.encodeSequence('play play play', 4)), [2, 5, 5, 3]);
	t.deepEqual(Array.from(words.encodeSequence('')), [2, 3]);
	t.throws(() => words.encodeSequence('play', 1), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.is(words.decode(words.encodeSequence('Playing, plays')), 'playing, plays');
});

test('many texts: the same ids, empty ones included, with turns for the event loop', async (t) => {
	const texts = Array.from({ length: 30_000 }, (_, i) => (i % 7 === 0 ? '' : `playing plays, word${i} 日`));
	let turns = 0;
	const timer = setInterval(() => turns++, 1);
	const reports: number[] = [];
	const store = await words.encodeMany(texts, {
		sequence: true,
		onProgress: ({ done }) => reports.push(done),
	});
	clearInterval(timer);
	t.true(turns > 2, `${turns} turns`);
	t.is(reports.at(-1), texts.length);
	t.is(store.offsets.length, texts.length + 1);
	for (const i of [0, 1, 7, 29_999]) t.deepEqual(tokensAt(store, i), words.encodeSequence(texts[i]!));
	const reason = new Error('enough');
	await t.throwsAsync(words.encodeMany(texts, { signal: AbortSignal.abort(reason) }), { is: reason });
	t.deepEqual(await words.encodeMany([]), { offsets: Int32Array.of(0), ids: new Int32Array(0) });
});

test('long texts stay linear', (t) => {
	const begun = performance.now();
	for (const text of ['x'.repeat(2_000_000), 'é'.repeat(500_000), ' '.repeat(1_000_000), '!'.repeat(500_000)])
		t.true(words.encodeText(text).length <= text.length);
	t.true(performance.now() - begun < 20_000);
});

test('missing and broken files say which and what is needed', async (t) => {
	const code = async (files: Record<string, string>) => {
		const error = await t.throwsAsync<ALLMRecError>(loadSentenceTokenizer(folderOf('', [], files)));
		t.true(error instanceof ALLMRecError);
		return `${error!.code} ${error!.message}`;
	};
	t.regex(await code({}), /FILE_NOT_FOUND .*tokenizer\.json or vocab\.txt/);
	t.regex(await code({ 'vocab.txt': 'a\nb\n' }), /CHECKPOINT .*vocab\.txt.*\[CLS\]/);
	t.regex(await code({ 'vocab.txt': '' }), /CHECKPOINT .*vocab\.txt/);
	t.regex(
		await code({ 'vocab.txt': VOCABULARY, 'tokenizer_config.json': '{' }),
		/CHECKPOINT .*tokenizer_config\.json/,
	);
	t.regex(await code({ 'tokenizer.json': '[]' }), /CHECKPOINT .*tokenizer\.json/);
	t.regex(await code({ 'tokenizer.json': '{"version":"1.0"}' }), /CHECKPOINT .*no model/);
	const broken = {
		model: { type: 'WordPiece', vocab: { '[UNK]': -1 } },
		normalizer: { type: 'BertNormalizer' },
		pre_tokenizer: { type: 'BertPreTokenizer' },
	};
	t.regex(await code({ 'tokenizer.json': JSON.stringify(broken) }), /CHECKPOINT .*"\[UNK\]" has the id -1/);
	await t.throwsAsync(loadSentenceTokenizer('/no/such/folder'), { code: 'ERR_ALLMREC_FILE_NOT_FOUND' });
});

test('MPNet: RoBERTa’s special tokens around BERT’s words', async (t) => {
	const vocabulary = '<s>\n<pad>\n</s>\n<unk>\nplay\n##ing\n[UNK]\n<mask>\n<\n>\ns\n/\n';
	const tokenizer = await loadSentenceTokenizer(folderOf('', [], { 'vocab.txt': vocabulary }));
	t.deepEqual(Array.from(tokenizer.encodeSequence('playing x')), [0, 4, 5, 6, 2]);
	t.deepEqual(Array.from(tokenizer.encodeText('</s>')), [8, 11, 10, 9]);
	t.is(tokenizer.padId, 1);
});

test('other algorithms go through @huggingface/tokenizers, without special tokens in data', async (t) => {
	const special = (id: number, content: string) => ({ id, content, special: true, normalized: false });
	const json = {
		added_tokens: [special(0, '<s>'), special(1, '<pad>'), special(2, '</s>'), special(3, '<unk>')],
		normalizer: null,
		pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' },
		post_processor: { type: 'RobertaProcessing', sep: ['</s>', 2], cls: ['<s>', 0] },
		decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'always' },
		model: {
			type: 'Unigram',
			unk_id: 3,
			vocab: [
				['<s>', 0],
				['<pad>', 0],
				['</s>', 0],
				['<unk>', 0],
				['▁', -3],
				['▁play', -1],
				['ing', -2],
				['s', -3],
			],
		},
	};
	const folder = folderOf('', [], { 'tokenizer.json': JSON.stringify(json) });
	const tokenizer = await loadSentenceTokenizer(folder);
	t.is(tokenizer.kind, 'unigram');
	t.deepEqual(Array.from(tokenizer.encodeSequence('playing plays')), [0, 5, 6, 5, 7, 2]);
	t.false(tokenizer.encodeText('</s> play').includes(2));
	t.deepEqual(Array.from(tokenizer.encodeWithSpecials('</s>', { addSpecialTokens: false })), [2]);
});

test('item text', async (t) => {
	t.is(itemText({ title: 'Zelda', description: 'A game.' }), 'Title: Zelda, Description: A game.');
	t.is(itemText({ title: 'Zelda', description: '' }), 'Title: Zelda');
	t.is(itemText({ description: 'A game.' }), 'Description: A game.');
	t.is(itemText({}), 'Title: ');
	t.is(itemText({ title: 'Zelda' }, { referenceCompat: true }), '"Zelda, No Description"');
	t.is(itemText({}, { referenceCompat: true }), '"No Title, No Description"');
	const store = await encodeItemTexts(words, [{ title: 'play '.repeat(500) }, {}], {});
	t.is(tokensAt(store, 0).length, 128);
	t.is(tokensAt(store, 0)[127], 3);
	await t.throwsAsync(encodeItemTexts(words, [], { maxTokens: 513 }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
});

test('a trained WordPiece vocabulary spells every ASCII word, the same each time', async (t) => {
	const texts = ['Playing players played the playful plays', 'The game of games: gaming!', 'Straße 日本 日'];
	const vocabulary = trainWordPiece(texts, { vocabSize: 240 });
	t.deepEqual(vocabulary.slice(0, 5), ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']);
	t.deepEqual(trainWordPiece(texts, { vocabSize: 240 }), vocabulary);
	t.is(new Set(vocabulary).size, vocabulary.length);
	t.true(vocabulary.length <= 240 && vocabulary.includes('play') && vocabulary.includes('日'));
	const folder = folderOf('', []);
	await writeWordPiece(folder, vocabulary);
	const tokenizer = await loadSentenceTokenizer(folder);
	for (let code = 33; code < 127; code++) {
		const character = String.fromCharCode(code);
		t.false(tokenizer.encodeText(`${character} q${character}q`).includes(tokenizer.unkId!), character);
	}
	t.is(tokenizer.decode(tokenizer.encodeText('Players zq9x play')), 'players zq9x play');
	t.throws(() => trainWordPiece(texts, { vocabSize: 10 }), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});
