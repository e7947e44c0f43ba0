import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { huggingFaceOptConfig, optConfig } from '../../lib/llm/opt-config.js';
import { loadAddon, type NativeTensorToWrite } from '../../lib/native/addon.js';
import { ragged } from '../../lib/native/session.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const source = tinyLlm({ maxPositions: 64 });

/** A copy of the checkpoint with some files changed: new contents, or null to delete. */
async function changed(files: Record<string, string | Buffer | null>): Promise<string> {
	const folder = freshPath('llm');
	await cp(await source, folder, { recursive: true });
	for (const [name, contents] of Object.entries(files))
		if (contents === null) await rm(join(folder, name));
		else await writeFile(join(folder, name), contents);
	return folder;
}

/** A copy with changes to its `config.json`. */
async function configured(changes: object): Promise<string> {
	const config = JSON.parse(await readFile(join(await source, 'config.json'), 'utf8'));
	return changed({ 'config.json': JSON.stringify({ ...config, ...changes }) });
}

/** A copy whose tensors are passed through a function; one that gives undefined leaves its tensor out. */
async function rewritten(
	change: (tensor: NativeTensorToWrite) => NativeTensorToWrite | undefined,
): Promise<string> {
	const file = loadAddon().openTensorFile(join(await source, 'model.safetensors'));
	const tensors = file.tensors().map(({ name, shape }) => ({
		name,
		shape,
		dtype: 'F32' as const,
		data: file.readFloat32(name),
	}));
	file.close();
	const folder = await changed({});
	loadAddon().writeSafetensors(
		join(folder, 'model.safetensors'),
		tensors.flatMap((tensor) => change(tensor) ?? []),
		{},
	);
	return folder;
}

const load = async (folder?: string | Promise<string>) =>
	CausalLM.load((await folder) ?? (await source), CPU);

/** Argmax of the logits after the last token, over and over: what generation has to equal. */
async function naiveGreedy(llm: CausalLM, prompt: readonly number[], count: number): Promise<number[]> {
	const ids = [...prompt];
	for (let i = 0; i < count; i++) {
		const { offsets, values } = ragged([ids]);
		const last = Int32Array.of(ids.length - 1);
		const logits = await llm.native.logits({ ids: values, offsets }, new Float32Array(0), last);
		ids.push(logits.indexOf(logits.reduce((a, b) => Math.max(a, b))));
	}
	return ids.slice(prompt.length);
}

test('generation is greedy, the same every time, and the same in a batch as alone', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const prompts = [
		[2, 40, 50, 60],
		[2, 300],
		[2, 7, 8, 9, 10, 11, 12, 13],
	];
	const options = { maxNewTokens: 8, eosId: -1 };
	const together = await llm.generateIds(prompts, undefined, options);
	t.deepEqual(await llm.generateIds(prompts, undefined, options), together);
	for (const [i, prompt] of prompts.entries()) {
		const [alone] = await llm.generateIds([prompt], undefined, options);
		t.deepEqual(alone, together[i]);
		t.deepEqual([...alone!], await naiveGreedy(llm, prompt, 8));
	}
});

test('a text ends with the end token, or after `maxNewTokens`', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const prompt = [2, 40, 50, 60];
	const [free] = await llm.generateIds([prompt], undefined, { maxNewTokens: 8, eosId: -1 });
	const [ended] = await llm.generateIds([prompt], undefined, { maxNewTokens: 8, eosId: free![3]! });
	t.deepEqual(ended, free!.slice(0, free!.indexOf(free![3]!) + 1));
	const [short] = await llm.generateIds([prompt], undefined, { maxNewTokens: 2, eosId: -1 });
	t.deepEqual(short, free!.slice(0, 2));
	t.deepEqual(await llm.generateIds([]), []);
});

test('a repetition penalty lets no token come twice when it is strong', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const prompt = [2, 40, 50, 60];
	const options = { maxNewTokens: 20, eosId: -1 };
	const [ids] = await llm.generateIds([prompt], undefined, { ...options, repetitionPenalty: 1e6 });
	t.is(new Set(ids).size, 20);
	t.false(
		ids!.some((id) => prompt.includes(id)),
		'the tokens of the prompt count as seen',
	);
	const [free] = await llm.generateIds([prompt], undefined, options);
	t.deepEqual((await llm.generateIds([prompt], undefined, { ...options, repetitionPenalty: 1 }))[0], free);
});

test('soft tokens stand where negative ids say; those of a token change nothing', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const table = await llm.native.getParameter('model.decoder.embed_tokens.weight');
	const width = llm.tokenSize;
	const soft = Float32Array.from([
		...table.subarray(50 * width, 51 * width),
		...new Float32Array(width).fill(3),
	]);
	const options = { maxNewTokens: 6, eosId: -1 };
	const [plain] = await llm.generateIds([[2, 40, 50, 60]], undefined, options);
	const [same] = await llm.generateIds([[2, 40, -1, 60]], soft, options);
	t.deepEqual(same, plain);
	const rows = Int32Array.of(3);
	const of = (ids: number[]) =>
		llm.native.logits({ ids: Int32Array.from(ids), offsets: Int32Array.of(0, 4) }, soft, rows);
	t.true(maxDifference(await of([2, 40, -2, 60]), await of([2, 40, -1, 60])) > 1e-3);
});

test('log-likelihoods of pairs are those of the logits', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const batch = { ids: Int32Array.of(2, 40, 50, 60, 2, 7), offsets: Int32Array.of(0, 4, 6) };
	const rows = Int32Array.of(1, 3, 5);
	const none = new Float32Array(0);
	const logits = await llm.native.logits(batch, none, rows);
	const pairRows = Int32Array.of(0, 0, 1, 2);
	const targets = Int32Array.of(0, 99, 5, 519);
	const expected = Array.from(pairRows, (row, pair) => {
		const own = Array.from(logits.subarray(row * 520, (row + 1) * 520));
		const most = Math.max(...own);
		return own[targets[pair]!]! - most - Math.log(own.reduce((sum, x) => sum + Math.exp(x - most), 0));
	});
	t.true(maxDifference(await llm.logProbs(batch, none, rows, pairRows, targets), expected) < 1e-4);
});

test('text in, text out', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const { text } = await llm.generate(' This user has bought', { maxNewTokens: 5 });
	t.is((await llm.generate(' This user has bought', { maxNewTokens: 5 })).text, text);
	t.false(text.includes('</s>'));
});

test('prompts that are too long, empty, or hold tokens there are not', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const long = Array.from({ length: 64 }, () => 5);
	const options = { eosId: -1, maxNewTokens: 99 };
	const error = await rejects(t, () => llm.generateIds([[2], long]), 'ERR_ALLMREC_PROMPT_TOO_LONG');
	t.regex(error.message, /64 tokens.*64 positions/);
	const [rest] = await llm.generateIds([long.slice(0, 60)], undefined, options);
	t.is(rest!.length, 4, 'as many as there are positions left');
	await rejects(t, () => llm.generateIds([[]]), 'ERR_ALLMREC_INVALID_ARGUMENT', /empty prompt/);
	await rejects(t, () => llm.generateIds([[2, 520]]), 'ERR_ALLMREC_INVALID_ARGUMENT');
	await rejects(t, () => llm.generateIds([[2, -1]]), 'ERR_ALLMREC_INVALID_ARGUMENT');
	for (const maxNewTokens of [-1, 1.5, Number.NaN])
		await rejects(
			t,
			() => llm.generateIds([[2]], undefined, { maxNewTokens }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
		);
});

test('an abort rejects with the reason of the signal', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const reason = new Error('enough');
	const signal = AbortSignal.abort(reason);
	await t.throwsAsync(llm.generateIds([[2]], undefined, { signal }), { is: reason });
	await t.throwsAsync(CausalLM.load(await source, { ...CPU, signal }), { is: reason });
});

test('dispose twice, use after dispose', async (t) => {
	const llm = await load();
	llm.dispose();
	llm.dispose();
	await rejects(t, () => llm.generateIds([[2]]), 'ERR_ALLMREC_DISPOSED');
});

test('checkpoints of other models are told apart by their configuration', async (t) => {
	const code = 'ERR_ALLMREC_CHECKPOINT';
	await rejects(t, () => load(configured({ model_type: 'llama' })), code, /`llama`.*OPT family/);
	await rejects(t, () => load(configured({ model_type: undefined })), code, /model type/);
	await rejects(t, () => load(configured({ quantization_config: {} })), code, /another program/);
	await rejects(t, () => load(configured({ activation_function: 'silu' })), code, /`silu`/);
	await rejects(t, () => load(configured({ hidden_size: '32' })), code, /`hidden_size` to be a whole number/);
	await rejects(t, () => load(configured({ num_attention_heads: 5 })), code, /heads/);
	await rejects(
		t,
		() => load(configured({ vocab_size: 400 })),
		code,
		/tokenizer has \d+ tokens, the model only 400/,
	);
	await rejects(t, () => load(changed({ 'config.json': '{"model_type": "opt"' })), code, /config\.json/);
	await rejects(t, () => load(changed({ 'config.json': '[1]' })), code, /config\.json/);
	await rejects(
		t,
		() => load(changed({ 'config.json': null })),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/config\.json/,
	);
});

test('weights that are missing, damaged or of another shape', async (t) => {
	const weights = await readFile(join(await source, 'model.safetensors'));
	await rejects(
		t,
		() => load(changed({ 'model.safetensors': null })),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/holds no weights/,
	);
	for (const bytes of [
		weights.subarray(0, 4),
		weights.subarray(0, weights.length - 4),
		Buffer.alloc(0),
		Buffer.alloc(100, 255),
	])
		await rejects(
			t,
			() => load(changed({ 'model.safetensors': bytes })),
			'ERR_ALLMREC_CHECKPOINT',
			/model\.safetensors/,
		);
	await rejects(
		t,
		() => load(rewritten((tensor) => (tensor.name.endsWith('1.fc1.bias') ? undefined : tensor))),
		'ERR_ALLMREC_CHECKPOINT',
		/1\.fc1\.bias/,
	);
	await rejects(
		t,
		() => load(configured({ hidden_size: 64, word_embed_proj_dim: 64 })),
		'ERR_ALLMREC_CHECKPOINT',
	);
});

test('shards are found by their index', async (t) => {
	const weights = await readFile(join(await source, 'model.safetensors'));
	const index = (weight_map: unknown) => JSON.stringify({ metadata: {}, weight_map });
	const shard = 'model-00001-of-00001.safetensors';
	const sharded = (text: string, file = shard) =>
		changed({ 'model.safetensors': null, 'model.safetensors.index.json': text, [file]: weights });
	const llm = await load(sharded(index({ 'model.decoder.embed_tokens.weight': shard })));
	t.is((await llm.generateIds([[2, 5]], undefined, { maxNewTokens: 3, eosId: -1 }))[0]!.length, 3);
	llm.dispose();
	const missing = index({ a: shard, b: 'model-00002-of-00002.safetensors' });
	await rejects(t, () => load(sharded(missing)), 'ERR_ALLMREC_FILE_NOT_FOUND', /00002-of-00002/);
	for (const text of ['{"weight_map": {', 'null', '{"weight_map": 3}', index([1])])
		await rejects(t, () => load(sharded(text)), 'ERR_ALLMREC_CHECKPOINT', /index\.json/);
});

test('a checkpoint without the `model.` prefix, or of the bare decoder, is the same model', async (t) => {
	const expected = await load();
	const options = { maxNewTokens: 6, eosId: -1 };
	const ids = await expected.generateIds([[2, 40, 50]], undefined, options);
	for (const prefix of ['model.', 'model.decoder.']) {
		const llm = await load(rewritten((tensor) => ({ ...tensor, name: tensor.name.slice(prefix.length) })));
		t.deepEqual(await llm.generateIds([[2, 40, 50]], undefined, options), ids);
		llm.dispose();
	}
	expected.dispose();
});

test('a configuration written is read as it was', async (t) => {
	const llm = await load();
	const { dtype, ...config } = llm.config;
	t.is(dtype, 'float32');
	t.deepEqual(optConfig(huggingFaceOptConfig(config), ''), config);
	llm.dispose();
	const postNorm = { ...config, embedSize: 16, normBefore: false, finalNorm: false };
	t.deepEqual(optConfig(huggingFaceOptConfig(postNorm), ''), postNorm);
});

test('folders that are no checkpoint', async (t) => {
	await rejects(t, () => CausalLM.load(freshPath('nothing'), CPU), 'ERR_ALLMREC_FILE_NOT_FOUND');
	await rejects(
		t,
		() => load(changed({ 'vocab.json': null, 'merges.txt': null })),
		'ERR_ALLMREC_FILE_NOT_FOUND',
	);
});
