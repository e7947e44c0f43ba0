import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import type { ALLMRecError } from '../../lib/errors.js';
import { trainByteLevelBpe, writeByteLevelBpe } from '../../lib/llm/bpe-trainer.js';
import { ByteLevelBpe, loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import { fixture, folderOf, HOSTILE_TITLES, readJson } from '../text/fixtures.js';

const TEXTS = [
	'Super Mario 64, The Legend of Zelda: Ocarina of Time, Super Smash Bros.',
	"It's the one you'll love; we're sure you've played the others, don't you?",
	'Super Metroid and the Super Nintendo, the game of the games',
];
const trained = trainByteLevelBpe(TEXTS, { vocabSize: 320, minFrequency: 1 });
const folder = folderOf('', []);
await writeByteLevelBpe(folder, trained);
const tokenizer = await loadLanguageTokenizer(folder);

interface Expected extends Record<'ids' | 'ids_plain' | 'ids_nospecial', number[][]> {
	strings: string[];
	decoded: string[];
	added: Record<string, number>;
	vocab: number;
}

const shared = fixture('tok_opt');
if (shared) {
	const expected = readJson<Expected>(shared, 'expected.json');
	const { '</s>': _, '<pad>': __, ...further } = expected.added;
	const sources = {
		'tokenizer.json alone': folderOf(shared, ['tokenizer.json']),
		'tokenizer.json with its configuration': shared,
		'vocab.json, merges.txt and added_tokens.json': folderOf(
			shared,
			['vocab.json', 'merges.txt', 'tokenizer_config.json'],
			{
				'added_tokens.json': JSON.stringify(further),
			},
		),
		'vocab.json and merges.txt with added_tokens_decoder': folderOf(shared, ['vocab.json', 'merges.txt'], {
			'tokenizer_config.json': JSON.stringify({
				bos_token: { content: '</s>' },
				eos_token: '</s>',
				pad_token: '<pad>',
				add_bos_token: true,
				added_tokens_decoder: Object.fromEntries(
					Object.entries(expected.added).map(([content, id]) => [id, { content, special: true }]),
				),
			}),
		}),
	};
	for (const [name, source] of Object.entries(sources))
		test(`byte-level BPE from ${name} gives the ids of transformers`, async (t) => {
			const opt = await loadLanguageTokenizer(source);
			for (const [i, text] of expected.strings.entries()) {
				t.deepEqual(Array.from(opt.encodeWithSpecials(text)), expected.ids[i], text);
				const bare = opt.encodeWithSpecials(text, { addSpecialTokens: false });
				t.deepEqual(Array.from(bare), expected.ids_nospecial[i], text);
			}
			t.deepEqual([opt.bosId, opt.eosId, opt.padId, opt.vocabSize], [2, 2, 1, expected.vocab]);
		});

	test('before tokens are added: the ids of transformers, and data never holds a special token', async (t) => {
		const plain = await loadLanguageTokenizer(folderOf(shared, ['vocab.json', 'merges.txt']));
		const added = await loadLanguageTokenizer(shared);
		for (const [i, text] of expected.strings.entries()) {
			t.deepEqual(Array.from(plain.encodeWithSpecials(text)), expected.ids_plain[i], text);
			t.is(added.decode(expected.ids[i]!), expected.decoded[i]!);
			if (!/<\/s>|<pad>/.test(text))
				t.deepEqual(Array.from(added.encodeText(text)), expected.ids_plain[i]!.slice(1), text);
			t.false(added.encodeText(text).some((id) => added.isSpecial(id)));
			t.is(added.decode(added.encodeText(text)), text);
		}
	});
}

test('OPT’s layout: special ids, all bytes, roles', (t) => {
	const { vocabulary } = trained;
	t.deepEqual(
		['<s>', '<pad>', '</s>', '<unk>', '!', '"'].map((token) => vocabulary.get(token)),
		[0, 1, 2, 3, 4, 5],
	);
	t.is(vocabulary.size, 320);
	t.is(new Set(vocabulary.values()).size, 320);
	const { bosId, eosId, padId, vocabSize } = tokenizer;
	t.deepEqual([bosId, eosId, padId, vocabSize], [2, 2, 1, 320]);
	t.deepEqual(Array.from(tokenizer.prefixIds), [2]);
	t.deepEqual(trainByteLevelBpe(TEXTS, { vocabSize: 320, minFrequency: 1 }), trained);
	t.throws(() => trainByteLevelBpe(TEXTS, { vocabSize: 200 }), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.is(trainByteLevelBpe([], { vocabSize: 4000 }).vocabulary.size, 260);
});

test('encode and decode is the identity on any text', (t) => {
	const random = new SeededRandom(7);
	for (let round = 0; round < 500; round++) {
		let text = '';
		for (let i = random.int(60); i > 0; i--) {
			const code = random.int(round % 3 === 0 ? 0x110000 : round % 3 === 1 ? 0x80 : 0x3100);
			if (code < 0xd800 || code > 0xdfff) text += String.fromCodePoint(code);
		}
		t.is(tokenizer.decode(tokenizer.encodeText(text)), text);
	}
});

test('hostile text is plain characters', (t) => {
	for (const title of HOSTILE_TITLES) {
		const ids = tokenizer.encodeText(title);
		t.false(
			ids.some((id) => tokenizer.isSpecial(id)),
			title,
		);
		const wellFormed = title.replace(/\p{Cs}/gu, '\ufffd');
		t.is(tokenizer.decode(ids), wellFormed);
	}
	t.deepEqual(Array.from(tokenizer.encodeWithSpecials('a</s>b')), [
		2,
		trained.vocabulary.get('a')!,
		2,
		trained.vocabulary.get('b')!,
	]);
	t.is(tokenizer.decode([2, 1], { skipSpecialTokens: false }), '</s><pad>');
});

test('a merge that makes a special token is not applied to data', (t) => {
	const vocabulary = new Map(['a', 'b', 'ab'].map((token, id) => [token, id]));
	const encode = (forbidden: number[]) => {
		const ids: number[] = [];
		new ByteLevelBpe(vocabulary, [['a', 'b']], { forbidden: new Set(forbidden) }).encode('ab', ids, 9);
		return ids;
	};
	t.deepEqual(encode([]), [2]);
	t.deepEqual(encode([2]), [0, 1]);
});

test('long words: the heap merges as the scan does, in n log n', (t) => {
	const words = new SeededRandom(3);
	for (let round = 0; round < 50; round++) {
		const word = Array.from({ length: 200 }, () => 'superthgam'[words.int(10)]).join('');
		t.deepEqual(Array.from(tokenizer.encodeText(word)), mergeNaively(word));
	}
	const begun = performance.now();
	t.is(tokenizer.decode(tokenizer.encodeText('super'.repeat(20_000))).length, 100_000);
	t.true(tokenizer.encodeText('x'.repeat(2_000_000), 10).length === 10);
	t.true(performance.now() - begun < 20_000);
});

/** The definition: of all neighbours the pair of the lowest rank, leftmost, until none is left. */
function mergeNaively(word: string): number[] {
	const symbols = [...word];
	for (;;) {
		const ranks = symbols.map((left, i) =>
			trained.merges.findIndex(([a, b]) => a === left && b === symbols[i + 1]),
		);
		const best = ranks.reduce((at, rank, i) => (rank >= 0 && (at < 0 || rank < ranks[at]!) ? i : at), -1);
		if (best < 0) return symbols.map((symbol) => trained.vocabulary.get(symbol)!);
		symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
	}
}

test('missing and broken files say which and what is needed', async (t) => {
	const vocab = JSON.stringify({ '<s>': 0, '<pad>': 1, '</s>': 2, '<unk>': 3, a: 4, b: 5, ab: 6 });
	const fails = async (files: Record<string, string>, pattern: RegExp) => {
		const error = await t.throwsAsync<ALLMRecError>(loadLanguageTokenizer(folderOf('', [], files)));
		t.regex(`${error!.code} ${error!.message}`, pattern);
	};
	await fails({}, /FILE_NOT_FOUND .*tokenizer\.json, or vocab\.json together with merges\.txt; found none/);
	await fails({ 'vocab.json': vocab }, /FILE_NOT_FOUND .*found vocab\.json/);
	await fails({ 'vocab.json': vocab.slice(0, 30), 'merges.txt': '' }, /CHECKPOINT .*vocab\.json.*not JSON/);
	await fails(
		{ 'vocab.json': vocab, 'merges.txt': 'a c\n' },
		/CHECKPOINT .*merges\.txt.*merge 0 \(a c\) needs c/,
	);
	await fails({ 'vocab.json': vocab, 'merges.txt': 'a b c\n' }, /CHECKPOINT .*merge 0/);
	await fails({ 'vocab.json': '{"a":"x"}', 'merges.txt': '' }, /CHECKPOINT .*"a" has the id "x"/);
	await fails({ 'vocab.json': '{"a":1}', 'merges.txt': '' }, /CHECKPOINT .*no bos_token/);
	await fails({ 'tokenizer.json': '{"model":{"type":"Unigram"}}' }, /UNSUPPORTED .*Unigram/);
	await fails(
		{ 'vocab.json': vocab, 'merges.txt': '', 'added_tokens.json': '{"x":1.5}' },
		/CHECKPOINT .*added_tokens/,
	);
	const good = await loadLanguageTokenizer(
		folderOf('', [], { 'vocab.json': vocab, 'merges.txt': '#version: 0.2\r\na b\r\n' }),
	);
	t.deepEqual(Array.from(good.encodeText('ab')), [6]);
});
