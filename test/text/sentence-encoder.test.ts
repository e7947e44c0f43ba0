import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { encoderConfig, huggingFaceConfig, SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyEncoder } from '../support/tiny-checkpoints.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const source = tinyEncoder();
const texts = [
	'one',
	'Title: A far longer text than the others, so that the batch is anything but even',
	'',
	'two words',
	...tinyDataset()
		.items.slice(1, 12)
		.map(({ title, description }) => `Title: ${title}, Description: ${description}`),
];

const load = async (options = {}) => SentenceEncoder.load(await source, { ...CPU, ...options });

/** A copy of the checkpoint with some files changed: new contents, or null to delete. */
async function changed(files: Record<string, string | Buffer | null>): Promise<string> {
	const folder = freshPath('encoder');
	await cp(await source, folder, { recursive: true });
	for (const [name, contents] of Object.entries(files))
		if (contents === null) await rm(join(folder, name));
		else await writeFile(join(folder, name), contents);
	return folder;
}

test('texts of different lengths have the same vectors together as one by one', async (t) => {
	const encoder = await load();
	t.teardown(() => encoder.dispose());
	const together = await encoder.encode(texts);
	t.is(together.length, texts.length * encoder.size);
	t.true(together.every(Number.isFinite));
	for (const [i, text] of texts.entries()) {
		const alone = await encoder.encode([text]);
		t.true(maxDifference(alone, together.subarray(i * encoder.size, (i + 1) * encoder.size)) < 1e-5, text);
	}
	t.deepEqual(await encoder.encode(await encoder.tokenize(texts)), together, 'tokens instead of texts');
	t.is((await encoder.encode([])).length, 0);
});

test('a vector is the mean of the hidden states of its text', async (t) => {
	const encoder = await load();
	t.teardown(() => encoder.dispose());
	const { offsets, ids } = await encoder.tokenize(texts.slice(0, 2));
	const states = await encoder.native.hiddenStates({ offsets, values: ids });
	const vectors = await encoder.encode(texts.slice(0, 2));
	const { size } = encoder;
	for (const i of [0, 1])
		for (let c = 0; c < size; c++) {
			let sum = 0;
			for (let row = offsets[i]!; row < offsets[i + 1]!; row++) sum += states[row * size + c]!;
			t.true(Math.abs(vectors[i * size + c]! - sum / (offsets[i + 1]! - offsets[i]!)) < 1e-5);
		}
});

test('texts are cut to `maxTokens`, and to the positions of the encoder', async (t) => {
	const [short, long] = [await load({ maxTokens: 6 }), await load({ maxTokens: 1000 })];
	t.is(short.maxTokens, 6);
	t.is(long.maxTokens, 48);
	const words = 'word '.repeat(200);
	const { offsets, ids } = await short.tokenize([words, 'x']);
	t.is(offsets[1], 6);
	t.is(ids[0], short.tokenizer.clsId);
	t.is(ids[5], short.tokenizer.sepId);
	t.is((await long.tokenize([words])).offsets[1], 48);
	t.is((await long.encode([words])).length, long.size);
	short.dispose();
	long.dispose();
});

test('a saved encoder is loaded with its weights, its configuration and its vocabulary', async (t) => {
	const encoder = await load({ dropoutRate: 0.25 });
	const name = 'transformer.layer.1.ffn.lin2.bias';
	await encoder.native.setParameter(name, new Float32Array(encoder.size).fill(0.5)); // as if it had learnt
	const folder = freshPath('saved');
	await encoder.save(folder);
	t.deepEqual((await readdir(folder)).sort(), [
		'config.json',
		'model.safetensors',
		'tokenizer_config.json',
		'vocab.txt',
	]);
	const loaded = await SentenceEncoder.load(folder, CPU);
	t.deepEqual(loaded.config, encoder.config);
	t.deepEqual(await weightsOf(loaded.native), await weightsOf(encoder.native));
	t.deepEqual(await loaded.encode(texts), await encoder.encode(texts));
	encoder.dispose();
	loaded.dispose();
});

test('configurations written are read as they were', async (t) => {
	const encoder = await load();
	encoder.dispose();
	t.deepEqual(encoderConfig(huggingFaceConfig(encoder.config), ''), encoder.config);
	const bert = {
		...encoder.config,
		kind: 'bert' as const,
		typeVocabSize: 2,
		activation: 'gelu_tanh' as const,
	};
	t.deepEqual(encoderConfig(huggingFaceConfig(bert), ''), bert);
});

test('a BERT loads, encodes and is saved as a DistilBERT is', async (t) => {
	const bert = await SentenceEncoder.load(await tinyEncoder({ kind: 'bert', typeVocabSize: 2 }), CPU);
	const folder = freshPath('bert');
	await bert.save(folder);
	const loaded = await SentenceEncoder.load(folder, CPU);
	t.is(loaded.config.kind, 'bert');
	t.deepEqual(await loaded.encode(texts), await bert.encode(texts));
	bert.dispose();
	loaded.dispose();
});

test('checkpoints of other models, and damaged ones', async (t) => {
	const config = JSON.parse(await readFile(join(await source, 'config.json'), 'utf8'));
	const configured = (changes: object) =>
		changed({ 'config.json': JSON.stringify({ ...config, ...changes }) }).then((folder) =>
			SentenceEncoder.load(folder, CPU),
		);
	const code = 'ERR_ALLMREC_CHECKPOINT';
	await rejects(t, () => configured({ model_type: 'opt' }), code, /`opt`.*DistilBERT or BERT/);
	await rejects(t, () => configured({ activation: 'silu' }), code, /`silu`/);
	await rejects(t, () => configured({ dim: null }), code, /`dim` to be a whole number/);
	await rejects(t, () => configured({ n_heads: 3 }), code, /heads/);
	await rejects(t, () => configured({ n_layers: 3 }), code, /transformer\.layer\.2/);
	await rejects(t, () => configured({ vocab_size: 300 }), code);
	const weights = await readFile(join(await source, 'model.safetensors'));
	const files = (contents: Record<string, string | Buffer | null>) =>
		changed(contents).then((folder) => SentenceEncoder.load(folder, CPU));
	await rejects(t, () => files({ 'model.safetensors': null }), 'ERR_ALLMREC_FILE_NOT_FOUND', /no weights/);
	await rejects(t, () => files({ 'model.safetensors': weights.subarray(0, 1000) }), code);
	await rejects(t, () => files({ 'vocab.txt': null }), 'ERR_ALLMREC_FILE_NOT_FOUND');
	await rejects(t, () => files({ 'config.json': '{' }), code);
});

test('a vocabulary larger than the model is an error when it is loaded, not when a text needs it', async (t) => {
	const vocabulary = await readFile(join(await source, 'vocab.txt'), 'utf8');
	const folder = await changed({ 'vocab.txt': `${vocabulary}extra\nmore\n` });
	await rejects(
		t,
		() => SentenceEncoder.load(folder, CPU),
		'ERR_ALLMREC_CHECKPOINT',
		/tokenizer has 402 tokens/,
	);
});

test('an abort rejects with the reason of the signal', async (t) => {
	const encoder = await load();
	const reason = new Error('enough');
	const signal = AbortSignal.abort(reason);
	await t.throwsAsync(encoder.encode(texts, { signal }), { is: reason });
	await t.throwsAsync(load({ signal }), { is: reason });
	encoder.dispose();
});

test('dispose twice, use after dispose', async (t) => {
	const encoder = await load();
	encoder.dispose();
	encoder.dispose();
	await rejects(t, () => encoder.encode(['x']), 'ERR_ALLMREC_DISPOSED');
});
