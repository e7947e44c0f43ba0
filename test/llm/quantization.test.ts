import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import {
	agreement,
	quantizationError,
	quantizeCheckpoint,
	STORED_DTYPES,
	type StoredDtype,
} from '../../lib/llm/quantization.js';
import { loadAddon } from '../../lib/native/addon.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';
import { weightsOf } from '../support/weights.js';

const source = tinyLlm({ maxPositions: 256 });
const TEXT =
	'This user has bought the quiet lamp, the green kettle and the small clock in the previous. '.repeat(4);

for (const dtype of STORED_DTYPES)
	test(`${dtype}: the folder written is the model that would be loaded`, async (t) => {
		const out = freshPath(`quantized-${dtype}`);
		const result = await quantizeCheckpoint(await source, { dtype, out, ...CPU });
		t.is(result.bytesBefore, (await stat(join(await source, 'model.safetensors'))).size);
		t.is(result.bytesAfter, (await stat(join(out, 'model.safetensors'))).size);
		t.true(result.bytesAfter < result.bytesBefore);
		const expected = await CausalLM.load(await source, { ...CPU, dtype });
		t.teardown(() => expected.dispose());
		const stored = await CausalLM.load(out, CPU);
		t.teardown(() => stored.dispose());
		t.deepEqual(stored.config, expected.config);
		t.deepEqual(await weightsOf(stored.native), await weightsOf(expected.native));
		const [a, b] = [stored, expected].map((llm) =>
			llm.generate(' This user has bought', { maxNewTokens: 6 }),
		);
		t.deepEqual(await a, await b);
		t.false((await readdir(join(out, '..'))).some((name) => name.includes('.part-')));
	});

test('quants and scales are tensors of their own, of the shapes that are documented', async (t) => {
	const tensors = async (dtype: StoredDtype) => {
		const out = freshPath('quantized');
		await quantizeCheckpoint(await source, { dtype, out, ...CPU });
		const file = loadAddon().openTensorFile(join(out, 'model.safetensors'));
		const found = new Map(file.tensors().map((tensor) => [tensor.name, tensor]));
		file.close();
		return (name: string) => {
			const { dtype, shape } = found.get(`model.decoder.${name}`)!;
			return `${dtype} ${shape.join('×')}`;
		};
	};
	const int8 = await tensors('int8');
	t.is(int8('layers.0.fc2.weight'), 'I8 32×64');
	t.is(int8('layers.0.fc2.weight.scales'), 'F32 32');
	t.is(int8('layers.0.fc2.bias'), 'F32 32');
	const int4 = await tensors('int4');
	t.is(int4('layers.0.fc2.weight'), 'U8 32×32');
	t.is(int4('layers.0.fc2.weight.scales'), 'F16 32×2');
	t.is((await tensors('bfloat16'))('layers.0.fc2.weight'), 'BF16 32×64');
});

test('nothing is overwritten but what was written before, and that only by force', async (t) => {
	const out = freshPath('quantized');
	const quantize = async (force?: boolean, dtype: StoredDtype = 'int8') =>
		quantizeCheckpoint(await source, { dtype, out, force, ...CPU });
	await quantize();
	const before = await readFile(join(out, 'model.safetensors'));
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => quantize(false, 'int4'), code, /exists already.*--force/);
	t.deepEqual(await readFile(join(out, 'model.safetensors')), before);
	await quantize(true, 'int4');
	t.notDeepEqual(await readFile(join(out, 'model.safetensors')), before);
	await rejects(
		t,
		async () =>
			quantizeCheckpoint(await source, { dtype: 'int8', out: await tinyLlm(), force: true, ...CPU }),
		code,
		/not written by quantize/,
	);
	await rejects(t, async () => quantizeCheckpoint(await source, { dtype: 'int8', out: await source }), code);
	await rejects(t, () => quantize(true, 'float32' as StoredDtype), code, /`dtype`/);
	await rejects(
		t,
		() => quantizeCheckpoint(out, { dtype: 'int8', out: freshPath('again') }),
		'ERR_ALLMREC_CHECKPOINT',
	);
});

test('stored quants are read in their own dtype alone, and only when they are whole', async (t) => {
	const out = freshPath('quantized');
	await quantizeCheckpoint(await source, { dtype: 'int8', out, ...CPU });
	const code = 'ERR_ALLMREC_CHECKPOINT';
	await rejects(t, () => CausalLM.load(out, { ...CPU, dtype: 'float32' }), code, /stored in int8.*float32/);
	const path = join(out, 'config.json');
	const config = JSON.parse(await readFile(path, 'utf8'));
	const as = async (stored: unknown) =>
		writeFile(path, JSON.stringify({ ...config, allmrec_weights: stored }));
	await as({ version: 1, dtype: 'int4' });
	await rejects(t, () => CausalLM.load(out, CPU), code, /stored quantised/);
	for (const stored of [{ version: 2, dtype: 'int8' }, { version: 1, dtype: 'int3' }, null, 'int8']) {
		await as(stored);
		await rejects(t, () => CausalLM.load(out, CPU), code, /allmrec_weights/);
	}
});

test('bfloat16 and float16 folders can be loaded in any dtype', async (t) => {
	const out = freshPath('quantized');
	await quantizeCheckpoint(await source, { dtype: 'bfloat16', out, ...CPU });
	const llm = await CausalLM.load(out, { ...CPU, dtype: 'float32' });
	t.is(llm.config.dtype, 'float32');
	llm.dispose();
});

test('an abort leaves no folder', async (t) => {
	const out = freshPath('quantized');
	const reason = new Error('enough');
	const controller = new AbortController();
	const done = quantizeCheckpoint(await source, { dtype: 'int8', out, ...CPU, signal: controller.signal });
	controller.abort(reason);
	await t.throwsAsync(done, { is: reason });
	t.is(await stat(out).catch(() => undefined), undefined);
});

test('float32 against itself has no error; fewer bits have more', async (t) => {
	const options = { text: TEXT, prompts: 12, candidates: 10, ...CPU };
	const none = await quantizationError(await source, { dtype: 'float32', ...options });
	t.is(none.perplexity.float32, none.perplexity.quantized);
	t.is(none.kendallTau, 1);
	t.is(none.sameTop, 1);
	const int8 = await quantizationError(await source, { dtype: 'int8', ...options });
	const int4 = await quantizationError(await source, { dtype: 'int4', ...options });
	t.true(int8.kendallTau < 1 && int8.kendallTau > int4.kendallTau, `${int8.kendallTau}, ${int4.kendallTau}`);
	t.true(int4.kendallTau > 0);
	t.is(int8.perplexity.float32, none.perplexity.float32);
	// The same numbers from what was stored.
	const out = freshPath('quantized');
	await quantizeCheckpoint(await source, { dtype: 'int8', out, ...CPU });
	t.deepEqual(await quantizationError(await source, { quantized: out, ...options }), int8);
});

test("a text's perplexity is that of its tokens' likelihoods, whatever the window", async (t) => {
	const llm = await CausalLM.load(await source, CPU);
	t.teardown(() => llm.dispose());
	const ids = llm.tokenizer.encodeWithSpecials(TEXT);
	t.true(ids.length > 40 && ids.length < 256);
	const batch = { ids, offsets: Int32Array.of(0, ids.length) };
	const logits = await llm.native.logits(batch, new Float32Array(0), Int32Array.from(ids.keys()));
	const size = llm.config.vocabSize;
	let sum = 0;
	for (let i = 1; i < ids.length; i++) {
		const row = Array.from(logits.subarray((i - 1) * size, i * size));
		sum += row[ids[i]!]! - Math.log(row.reduce((total, x) => total + Math.exp(x), 0));
	}
	const options = { dtype: 'float32', text: TEXT, prompts: 1, candidates: 2, ...CPU } as const;
	const { perplexity, tokens } = await quantizationError(await source, options);
	t.is(tokens, ids.length - 1);
	// Likelihoods of some float32 roundings each.
	t.true(Math.abs(Math.log(perplexity.float32) + sum / tokens) < 1e-5);
	t.is((await quantizationError(await source, { ...options, window: 7 })).tokens, tokens);
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, async () => quantizationError(await source, { ...options, text: '' }), code, /`text`/);
	await rejects(t, async () => quantizationError(await source, { ...options, window: 1 }), code, /`window`/);
	await rejects(t, async () => quantizationError(await source, { text: TEXT }), code, /either/);
});

test("Kendall's tau and the share of equal best ones, by hand", (t) => {
	t.deepEqual(agreement([[1, 2, 3]], [[10, 20, 30]]), { kendallTau: 1, sameTop: 1 });
	t.deepEqual(agreement([[1, 2, 3]], [[3, 2, 1]]), { kendallTau: -1, sameTop: 0 });
	// Of three pairs two in order, one not.
	t.is(agreement([[1, 2, 3]], [[2, 1, 3]]).kendallTau, 1 / 3);
	// One pair is tied in b: 2 / √(3 · 2).
	t.true(Math.abs(agreement([[1, 2, 3]], [[1, 1, 3]]).kendallTau - 2 / Math.sqrt(6)) < 1e-12);
	t.is(
		agreement(
			[
				[1, 2],
				[1, 2],
			],
			[
				[1, 2],
				[2, 1],
			],
		).sameTop,
		0.5,
	);
});
