import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { ErrorCode } from '../../lib/errors.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { openOptCheckpoint } from '../../lib/llm/opt-checkpoint.js';
import { huggingFaceOptConfig } from '../../lib/llm/opt-config.js';
import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import { Session } from '../../lib/native/session.js';
import { readModelConfig, weightFiles } from '../../lib/text/checkpoint.js';
import { resolveCheckpoint } from '../../lib/text/hub.js';
import { encoderConfig, SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';
import { freshPath, rejects } from '../data/folders.js';
import { figures, newTally, type Reader, textDamages, tryDamages, tryImpostors } from '../support/damage.js';
import { held, times } from '../support/reliability.js';
import { tinyEncoder, tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';

const CODES: readonly ErrorCode[] = [
	'ERR_ALLMREC_CHECKPOINT',
	'ERR_ALLMREC_FILE_NOT_FOUND',
	'ERR_ALLMREC_UNSUPPORTED',
];
const TEXTS = ['The old lighthouse', 'ünïcödé 漢字 \u0000', '</s> [CLS] ##ing', '', 'x'.repeat(300)];

/** Ids are of the vocabulary and text comes back as text. */
async function useTokenizer(tokenizer: Tokenizer): Promise<unknown> {
	if (!(tokenizer.vocabSize >= 1 && tokenizer.vocabSize < 2 ** 25)) throw new Error('an absurd vocabulary');
	const encoded = TEXTS.map((text) => [...tokenizer.encodeText(text)]);
	const sequence = tokenizer.encodeSequence('a title', 64);
	for (const ids of [...encoded, [...sequence], [...tokenizer.encodeWithSpecials('a </s> b')]]) {
		for (const id of ids)
			if (!(Number.isInteger(id) && id >= 0 && id < tokenizer.vocabSize))
				throw new Error(`the id ${id} of ${tokenizer.vocabSize}`);
		if (typeof tokenizer.decode(ids) !== 'string') throw new Error('decoded to no text');
	}
	return encoded;
}

/** The tiny checkpoints as one file: `tokenizer.json` beside what the folder has. */
async function withTokenizerJson(folder: string, kind: 'bpe' | 'wordpiece'): Promise<string> {
	const read = async (name: string) => readFile(join(folder, name), 'utf8');
	const token = (id: number, content: string) => ({ id, content, special: true, normalized: false });
	let json: object;
	if (kind === 'bpe') {
		const merges = (await read('merges.txt')).split('\n').slice(1, -1);
		json = {
			added_tokens: [token(0, '<s>'), token(1, '<pad>'), token(2, '</s>')],
			normalizer: null,
			pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
			post_processor: {
				type: 'TemplateProcessing',
				single: [{ SpecialToken: { id: '</s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
				special_tokens: { '</s>': { id: '</s>', ids: [2], tokens: ['</s>'] } },
			},
			model: { type: 'BPE', vocab: JSON.parse(await read('vocab.json')), merges },
		};
	} else {
		const vocab = Object.fromEntries(
			(await read('vocab.txt'))
				.trimEnd()
				.split('\n')
				.map((line, id) => [line, id]),
		);
		const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'];
		json = {
			added_tokens: special.map((content) => token(vocab[content]!, content)),
			normalizer: { type: 'BertNormalizer', lowercase: true, strip_accents: null },
			pre_tokenizer: { type: 'BertPreTokenizer' },
			post_processor: {
				type: 'BertProcessing',
				cls: ['[CLS]', vocab['[CLS]']],
				sep: ['[SEP]', vocab['[SEP]']],
			},
			model: {
				type: 'WordPiece',
				unk_token: '[UNK]',
				continuing_subword_prefix: '##',
				max_input_chars_per_word: 100,
				vocab,
			},
		};
	}
	const copy = freshPath('one');
	await mkdir(copy, { recursive: true });
	await writeFile(join(copy, 'tokenizer.json'), JSON.stringify(json));
	await writeFile(join(copy, 'tokenizer_config.json'), await read('tokenizer_config.json'));
	await writeFile(join(copy, 'added_tokens.json'), '{}');
	await writeFile(join(copy, 'special_tokens_map.json'), '{"unk_token": {"content": "[UNK]"}}');
	return copy;
}

test('tokenizers', async (t) => {
	const [llm, encoder] = [await tinyLlm(), await tinyEncoder()];
	const [bpe, wordPiece] = [
		await withTokenizerJson(llm, 'bpe'),
		await withTokenizerJson(encoder, 'wordpiece'),
	];
	const language = async (path: string) => useTokenizer(await loadLanguageTokenizer(path));
	const sentence = async (path: string) => useTokenizer(await loadSentenceTokenizer(path));
	const of = (source: string, files: string[], read: Reader['read']): Reader[] =>
		files.map((file) => ({
			name: file,
			source,
			file,
			// Another file may be the one that does not go with it, e.g. the vocabulary with the merges.
			...{ read, codes: CODES, named: false },
		}));
	const tally = newTally();
	for (const reader of [
		...of(llm, ['vocab.json', 'merges.txt', 'tokenizer_config.json', 'special_tokens_map.json'], language),
		...of(bpe, ['tokenizer.json', 'tokenizer_config.json', 'added_tokens.json'], language),
		...of(encoder, ['vocab.txt', 'tokenizer_config.json'], sentence),
		...of(wordPiece, ['tokenizer.json', 'special_tokens_map.json', 'added_tokens.json'], sentence),
	]) {
		const bytes = await readFile(join(reader.source, reader.file!));
		const json = reader.file!.endsWith('.json') ? times(25, 600) : 0;
		const flipped = times(20, Math.min(8 * bytes.length, 600));
		await tryDamages(reader, textDamages(bytes, 1, { flipped, json }), tally);
		await tryImpostors({ ...reader, named: false }, tally);
	}
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A damaged tokenizer file is rejected by name or read to ids of its vocabulary.',
		figures(tally),
	);
});

test('configurations of models', async (t) => {
	const llm = await tinyLlm();
	const encoder = await tinyEncoder();
	const bert = freshPath('bert');
	const stored = freshPath('stored');
	await mkdir(bert, { recursive: true });
	await mkdir(stored, { recursive: true });
	await writeFile(
		join(bert, 'config.json'),
		JSON.stringify({
			...{ model_type: 'bert', vocab_size: 30, hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 2 },
			...{ intermediate_size: 16, max_position_embeddings: 8, type_vocab_size: 2, layer_norm_eps: 1e-12 },
			...{ hidden_act: 'gelu', hidden_dropout_prob: 0.1, position_embedding_type: 'absolute' },
		}),
	);
	const json = JSON.parse(await readFile(join(llm, 'config.json'), 'utf8'));
	await writeFile(
		join(stored, 'config.json'),
		JSON.stringify({ ...json, allmrec_weights: { version: 1, dtype: 'int8' } }),
	);
	const sane = (config: object) => {
		for (const [name, value] of Object.entries(config))
			if (typeof value === 'number' && !(Number.isFinite(value) && value >= 0 && value < 2 ** 31))
				throw new Error(`${name} is ${value}`);
		return config;
	};
	const opt = async (path: string) => sane((await openOptCheckpoint(path, { withoutWeights: true })).config);
	const sentence = async (path: string) => sane(encoderConfig(await readModelConfig(path), path));
	const tally = newTally();
	for (const [source, read] of [
		[stored, opt],
		[llm, opt],
		[encoder, sentence],
		[bert, sentence],
	] as const) {
		const reader: Reader = { name: 'config.json', source, file: 'config.json', read, codes: CODES };
		const bytes = await readFile(join(source, 'config.json'));
		const flipped = times(40, 8 * bytes.length);
		await tryDamages(reader, textDamages(bytes, 2, { flipped, json: times(100, 1e6) }), tally);
		await tryImpostors(reader, tally);
	}
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A damaged config.json of a model is rejected by name or read to sizes in range.',
		figures(tally),
	);
});

test('models whose configuration is not that of their weights', async (t) => {
	const session = Session.open(CPU);
	const tally = newTally();
	const models: [string, Reader['read']][] = [
		[
			await tinyLlm(),
			async (path) => {
				const llm = await CausalLM.load(path, { session });
				try {
					const { sum } = await llm.scoreCandidates('a', ['b', 'c']);
					if (!sum.every(Number.isFinite)) throw new Error(`log p ${sum.join()}`);
				} finally {
					llm.dispose();
				}
			},
		],
		[
			await tinyEncoder(),
			async (path) => {
				const encoder = await SentenceEncoder.load(path, { session });
				try {
					const vectors = await encoder.encode(['a title']);
					if (!vectors.every(Number.isFinite)) throw new Error('a vector that is not finite');
				} finally {
					encoder.dispose();
				}
			},
		],
	];
	for (const [source, read] of models) {
		const reader: Reader = { name: 'model', source, file: 'config.json', read, codes: CODES, named: false };
		const bytes = await readFile(join(source, 'config.json'));
		await tryDamages(reader, textDamages(bytes, 3, { flipped: times(20, 400), json: times(60, 1e6) }), tally);
	}
	session.release();
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A model whose config.json does not fit its weights is rejected or computes finite numbers.',
		figures(tally),
	);
});

test('indexes of shards', async (t) => {
	const source = freshPath('sharded');
	await mkdir(source, { recursive: true });
	const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
	for (const name of names) await writeFile(join(source, name), 'weights');
	const index = 'model.safetensors.index.json';
	const map = { a: names[0], b: names[1], c: names[0] };
	await writeFile(join(source, index), JSON.stringify({ metadata: { total_size: 12 }, weight_map: map }));
	const reader: Reader = {
		...{ name: index, source, file: index, codes: CODES, named: false },
		read: async (path) => {
			const files = await weightFiles(path);
			for (const file of files)
				if (!names.some((name) => file === join(path, name))) throw new Error(`leads to ${file}`);
		},
	};
	const bytes = await readFile(join(source, index));
	const counts = { flipped: times(100, 8 * bytes.length), json: times(100, 1e6) };
	const tally = await tryDamages(reader, textDamages(bytes, 4, counts));
	await tryImpostors(reader, tally);
	const hostile = freshPath('hostile');
	await mkdir(hostile, { recursive: true });
	for (const shard of [
		...['../secret.safetensors', '/etc/passwd', '..', '.', '', 'a/b.safetensors', 'a\\b.safetensors'],
		...['model.safetensors.index.json', 'con\0.safetensors', '.safetensors', 'x'.repeat(5000)],
	]) {
		await writeFile(join(hostile, index), JSON.stringify({ weight_map: { a: shard } }));
		const error = await t.throwsAsync<Error & { code: ErrorCode }>(() => weightFiles(hostile));
		t.true(CODES.includes(error.code), `${shard}: ${error.message}`);
		tally.tried++;
		tally.rejected++;
	}
	await writeFile(join(hostile, index), JSON.stringify({ weight_map: { a: names[0] } }));
	await rejects(t, () => weightFiles(hostile), 'ERR_ALLMREC_FILE_NOT_FOUND', /lacks the shard/);
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'An index of shards names files beside it or is rejected: no path leads elsewhere.',
		figures(tally),
	);
});

test('a cache of the Hub', async (t) => {
	const cacheDir = freshPath('hub');
	const commit = 'c'.repeat(40);
	const folder = join(cacheDir, 'models--owner--name');
	const snapshot = join(folder, 'snapshots', commit);
	await mkdir(join(folder, 'refs'), { recursive: true });
	await mkdir(snapshot, { recursive: true });
	await writeFile(join(folder, 'refs', 'main'), commit);
	await writeFile(join(snapshot, 'config.json'), JSON.stringify(huggingFaceOptConfig({} as never)));
	const index = 'model.safetensors.index.json';
	await writeFile(join(snapshot, 'model-1.safetensors'), '');
	await writeFile(join(snapshot, index), JSON.stringify({ weight_map: { a: 'model-1.safetensors' } }));
	const tally = newTally();
	for (const file of ['refs/main', `snapshots/${commit}/${index}`]) {
		const reader: Reader = {
			...{ name: file, source: cacheDir, file: `models--owner--name/${file}`, named: false },
			codes: ['ERR_ALLMREC_DOWNLOAD'],
			read: async (path) => {
				const found = await resolveCheckpoint('owner/name', { cacheDir: path, offline: true });
				if (!found.endsWith(`models--owner--name/snapshots/${commit}`)) throw new Error(`leads to ${found}`);
			},
		};
		const bytes = await readFile(join(cacheDir, reader.file!));
		const json = file.endsWith('.json') ? times(60, 1e6) : 0;
		await tryDamages(reader, textDamages(bytes, 5, { flipped: times(60, 1e6), json }), tally);
		await tryImpostors(reader, tally);
	}
	t.deepEqual(tally.failures, []);
	held('Files', 'A damaged cache of the Hub leads to no other folder.', figures(tally));
});
