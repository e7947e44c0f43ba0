import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM, type CausalLMOptions } from '../../lib/llm/causal-lm.js';
import { LoraAdapter } from '../../lib/llm/lora.js';
import { type LlmDtype, loadAddon } from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const RANK = 3;
const ALPHA = 5;
const session = Session.open(CPU);
const source = tinyLlm({ maxPositions: 64 });
const NO_SOFT = new Float32Array(0);
// Two sequences, the second with targets in its middle: the last layer computes some rows alone.
const batch = { ids: Int32Array.of(2, 40, 50, 60, 7, 2, 300, 41, 9), offsets: Int32Array.of(0, 5, 9) };
const targets = { rows: Int32Array.of(3, 6, 7), tokens: Int32Array.of(11, 12, 499) };
const everyRow = batch.ids.map((_, i) => i);

const load = async (options: CausalLMOptions = {}) => CausalLM.load(await source, { ...options, session });

/** An adapter whose A and B are random numbers, both. */
async function randomAdapter(llm: CausalLM, dropout = 0): Promise<LoraAdapter> {
	const adapter = await LoraAdapter.create(
		session,
		llm.config,
		{ rank: RANK, alpha: ALPHA, dropout },
		{ base: llm.source, seed: 4 },
	);
	const random = new SeededRandom(9);
	for (const { name, shape } of adapter.native.parameters())
		await adapter.native.setParameter(
			name,
			Float32Array.from({ length: shape[0]! * shape[1]! }, () => 0.2 * random.normal()),
		);
	return adapter;
}

const saved = (async () => {
	const llm = await load();
	const adapter = await randomAdapter(llm);
	const folder = freshPath('adapter');
	await adapter.save(folder);
	adapter.dispose();
	llm.dispose();
	return folder;
})();

/** (rows, inner) · (inner, cols) */
function product(a: Float32Array, b: Float32Array, rows: number, inner: number, cols: number): Float64Array {
	const c = new Float64Array(rows * cols);
	for (let i = 0; i < rows; i++)
		for (let k = 0; k < inner; k++)
			for (let j = 0; j < cols; j++) c[i * cols + j]! += a[i * inner + k]! * b[k * cols + j]!;
	return c;
}

function transposed(a: Float32Array, rows: number, cols: number): Float32Array {
	return Float32Array.from({ length: a.length }, (_, i) => a[(i % rows) * cols + Math.floor(i / rows)]!);
}

test.serial('a fresh adapter changes nothing; A is uniform within 1 / sqrt(C), B zero', async (t) => {
	const llm = await load();
	const plain = await llm.native.logits(batch, NO_SOFT, everyRow);
	const adapter = await LoraAdapter.create(
		session,
		llm.config,
		{ rank: RANK, alpha: ALPHA, dropout: 0.5 },
		{ base: '', seed: 4 },
	);
	await llm.native.setAdapter(adapter.native);
	t.true(maxDifference(await llm.native.logits(batch, NO_SOFT, everyRow), plain) < 1e-6);
	const bound = 1 / Math.sqrt(llm.config.hiddenSize);
	for (const [name, values] of Object.entries(await weightsOf(adapter.native))) {
		const most = values.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
		if (name.endsWith('lora_B.weight')) t.is(most, 0, name);
		else t.true(most <= bound && most > 0.8 * bound, `${name}: ${most}`);
	}
	adapter.dispose();
	llm.dispose();
});

for (const dtype of ['float32', 'bfloat16', 'float16'] as const satisfies LlmDtype[])
	test.serial(
		`${dtype}: merged, beside the weights and for one call, an adapter gives the same`,
		async (t) => {
			const adapter = await saved;
			const plain = await load({ dtype });
			const merged = await load({ dtype, adapter });
			const beside = await load({ dtype, adapter, mergeAdapter: false });
			t.teardown(() => {
				for (const llm of [plain, merged, beside]) llm.dispose();
			});
			// A merged weight is rounded to the dtype's 8 or 11 bits.
			const tolerance = { float32: 1e-5, bfloat16: 0.05, float16: 0.005 }[dtype];
			for (const rows of [everyRow, targets.rows]) {
				const expected = await beside.native.logits(batch, NO_SOFT, rows);
				t.true(maxDifference(await merged.native.logits(batch, NO_SOFT, rows), expected) < tolerance);
				t.true(maxDifference(await plain.native.logits(batch, NO_SOFT, rows), expected) > 10 * tolerance);
			}
			const own = await LoraAdapter.load(adapter, session, plain.config);
			const pairs = Int32Array.of(0, 1, 2);
			const [once, always] = await Promise.all([
				plain.logProbs(batch, NO_SOFT, targets.rows, pairs, targets.tokens, undefined, own),
				beside.logProbs(batch, NO_SOFT, targets.rows, pairs, targets.tokens),
			]);
			t.deepEqual(once, always);
			const without = await plain.logProbs(batch, NO_SOFT, targets.rows, pairs, targets.tokens);
			t.true(maxDifference(without, always) > 0);
			await t.throwsAsync(
				beside.logProbs(batch, NO_SOFT, targets.rows, pairs, targets.tokens, undefined, own),
				{ message: /has an adapter already/ },
			);
			own.dispose();
		},
	);

test.serial('it generates with the adapter as with merged weights', async (t) => {
	const adapter = await saved;
	const generated = [];
	for (const mergeAdapter of [true, false]) {
		const llm = await load({ adapter, mergeAdapter });
		generated.push(await llm.generateIds([[2, 40, 50, 60]], undefined, { maxNewTokens: 8, eosId: -1 }));
		llm.dispose();
	}
	t.deepEqual(generated[0], generated[1]);
});

test.serial('quantised weights: beside them by default, and never merged', async (t) => {
	const adapter = await saved;
	const llm = await load({ dtype: 'int8', adapter });
	const plain = await load({ dtype: 'int8' });
	const [a, b] = await Promise.all([llm, plain].map((m) => m.native.logits(batch, NO_SOFT, everyRow)));
	t.true(maxDifference(a!, b!) > 0.1);
	llm.dispose();
	plain.dispose();
	await rejects(
		t,
		() => load({ dtype: 'int8', adapter, mergeAdapter: true }),
		'ERR_ALLMREC_UNSUPPORTED',
		/cannot be merged into int8 or int4/,
	);
});

// d/dB of W + s·B·A is s·dW·Aᵀ and d/dA is s·Bᵀ·dW; dW comes from training the merged model's own weights.
test.serial('the gradients of A and B are those of the merged weights, by the chain rule', async (t) => {
	const folder = await saved;
	const llm = await load();
	const merged = await load({ adapter: folder });
	const adapter = await LoraAdapter.load(folder, session, llm.config);
	const trainer = new session.addon.LoraTrainer(adapter.native, llm.native, { learningRate: 1e-3, seed: 0 });
	const whole = new session.addon.LlmTrainer(merged.native, { learningRate: 1e-3 });
	t.teardown(() => {
		for (const part of [trainer, whole, adapter, llm, merged]) part.dispose();
	});
	const { losses } = await whole.gradients(batch, NO_SOFT, targets);
	const own = await trainer.gradients(batch, NO_SOFT, targets);
	t.true(Math.abs(own.loss! - losses.loss!) < 1e-5);
	const size = llm.config.hiddenSize;
	const scale = ALPHA / RANK;
	for (let layer = 0; layer < llm.config.numLayers; layer++)
		for (const projection of ['q_proj', 'v_proj']) {
			const name = `model.decoder.layers.${layer}.self_attn.${projection}`;
			const weight = await merged.native.getGradient(`${name}.weight`);
			const a = await adapter.native.getParameter(`base_model.model.${name}.lora_A.weight`);
			const b = await adapter.native.getParameter(`base_model.model.${name}.lora_B.weight`);
			const expected = {
				A: product(transposed(b, size, RANK), weight, RANK, size, size),
				B: product(weight, transposed(a, RANK, size), size, size, RANK),
			};
			for (const part of ['A', 'B'] as const) {
				const gradient = await adapter.native.getGradient(`base_model.model.${name}.lora_${part}.weight`);
				const wanted = expected[part].map((x) => scale * x);
				const most = wanted.reduce((m, x) => Math.max(m, Math.abs(x)), 0);
				t.true(most > 1e-3, `${name} ${part}: ${most}`);
				t.true(maxDifference(gradient, wanted) < 1e-5 * Math.max(1, most), `${name} ${part}`);
			}
		}
});

for (const dtype of ['float32', 'bfloat16'] as const)
	test.serial(`${dtype}: the loss falls, and the base stays bit by bit`, async (t) => {
		const llm = await load({ dtype });
		const before = await weightsOf(llm.native);
		const adapter = await randomAdapter(llm, 0.1);
		const trainer = new session.addon.LoraTrainer(adapter.native, llm.native, {
			learningRate: 1e-2,
			seed: 1,
		});
		t.teardown(() => {
			for (const part of [trainer, adapter, llm]) part.dispose();
		});
		const first = (await trainer.evaluate(batch, NO_SOFT, targets)).loss!;
		for (let step = 0; step < 30; step++) await trainer.step(batch, NO_SOFT, targets);
		const last = (await trainer.evaluate(batch, NO_SOFT, targets)).loss!;
		t.true(last < 0.7 * first, `${first} to ${last}`);
		t.deepEqual(await weightsOf(llm.native), before);
	});

test.serial('parts of a step add up to its loss and to its weights', async (t) => {
	const parts = [
		{ batch: { ids: batch.ids.slice(0, 5), offsets: Int32Array.of(0, 5) }, rows: [3], tokens: [11] },
		{ batch: { ids: batch.ids.slice(5), offsets: Int32Array.of(0, 4) }, rows: [1, 2], tokens: [12, 499] },
	].map((part) => ({
		batch: part.batch,
		targets: { rows: Int32Array.from(part.rows), tokens: Int32Array.from(part.tokens) },
	}));
	const results = [];
	for (const whole of [true, false]) {
		const llm = await load();
		const adapter = await randomAdapter(llm);
		const trainer = new session.addon.LoraTrainer(adapter.native, llm.native, {
			learningRate: 1e-2,
			seed: 1,
		});
		let loss = 0;
		if (whole) loss = (await trainer.step(batch, NO_SOFT, targets)).loss!;
		else {
			const [a, b] = parts;
			loss += (await trainer.accumulate(a!.batch, NO_SOFT, a!.targets, 3)).loss!;
			loss += (await trainer.step(b!.batch, NO_SOFT, b!.targets, 3)).loss!;
		}
		t.is(trainer.steps(), 1);
		results.push({ loss, weights: await weightsOf(adapter.native) });
		for (const part of [trainer, adapter, llm]) part.dispose();
	}
	const [one, two] = results;
	t.true(Math.abs(one!.loss - two!.loss) < 1e-5);
	for (const [name, values] of Object.entries(one!.weights))
		t.true(maxDifference(values, two!.weights[name]!) < 1e-4, name);
});

test.serial('a folder read and written again holds the same', async (t) => {
	const folder = await saved;
	const llm = await load();
	const adapter = await LoraAdapter.load(folder, session, llm.config);
	const again = freshPath('adapter');
	await adapter.save(again);
	for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
		t.deepEqual(await readFile(join(again, name)), await readFile(join(folder, name)), name);
	t.is(adapter.base, await source);
	adapter.dispose();
	llm.dispose();
});

const CHECKPOINT = 'ERR_ALLMREC_CHECKPOINT';
const damaged: [string, object, RegExp][] = [
	['another kind', { peft_type: 'IA3' }, /adapter_config\.json.*peft_type/],
	['other modules', { target_modules: ['q_proj', 'k_proj'] }, /adapter_config\.json.*target_modules/],
	['one module', { target_modules: ['q_proj'] }, /adapter_config\.json.*target_modules/],
	['modules as a text', { target_modules: 'all-linear' }, /adapter_config\.json.*target_modules/],
	['a rank of none', { r: 0 }, /adapter_config\.json.*`r`/],
	['a rank without end', { r: 2 ** 52 }, /adapter_config\.json/],
	['a rank beyond the file', { r: 1000 }, /adapter_config\.json.*describes/],
	['another rank', { r: RANK + 1 }, /adapter_model\.safetensors.*shape \(4, 32\), got \(3, 32\)/],
	['trained biases', { bias: 'all' }, /adapter_config\.json.*bias/],
	['an infinite alpha', { lora_alpha: '1e999' }, /adapter_config\.json.*lora_alpha/],
	['another scale', { use_rslora: true }, /adapter_config\.json.*use_rslora/],
	['ranks by name', { rank_pattern: { q_proj: 2 } }, /adapter_config\.json.*rank_pattern/],
];
for (const [what, changes, message] of damaged)
	test.serial(`an adapter folder with ${what} is refused by name`, async (t) => {
		const folder = freshPath('adapter');
		await cp(await saved, folder, { recursive: true });
		const path = join(folder, 'adapter_config.json');
		const config = JSON.parse(await readFile(path, 'utf8'));
		await writeFile(path, JSON.stringify({ ...config, ...changes }));
		await rejects(t, () => load({ adapter: folder }), CHECKPOINT, message);
	});

test.serial('tensors that are missing, of another model, or cut off are refused by name', async (t) => {
	const good = await saved;
	const file = loadAddon().openTensorFile(join(good, 'adapter_model.safetensors'));
	const tensors = file
		.tensors()
		.map(({ name, shape }) => ({ name, shape, dtype: 'F32' as const, data: file.readFloat32(name) }));
	file.close();
	const folder = freshPath('adapter');
	await cp(good, folder, { recursive: true });
	const path = join(folder, 'adapter_model.safetensors');
	const refused = (message: RegExp) => rejects(t, () => load({ adapter: folder }), CHECKPOINT, message);
	const [first] = tensors;
	const extra = { ...first!, name: first!.name.replace('q_proj', 'k_proj') };
	loadAddon().writeSafetensors(path, [...tensors, extra], {});
	await refused(/adapter_model\.safetensors.*k_proj\.lora_A/);
	loadAddon().writeSafetensors(
		path,
		[...tensors.slice(1), { ...extra, name: 'x'.repeat(9), data: first!.data }],
		{},
	);
	await refused(/adapter_model\.safetensors.*xxx/);
	// As many bytes as it should have, one tensor less.
	loadAddon().writeSafetensors(path, tensors.slice(1), {});
	await refused(/adapter_model\.safetensors.*lacks.*lora_A/);
	const bytes = await readFile(join(good, 'adapter_model.safetensors'));
	await writeFile(path, bytes.subarray(0, bytes.length >> 1));
	await refused(/adapter_model\.safetensors/);
	await rejects(
		t,
		() => load({ adapter: freshPath('none') }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/adapter_config/,
	);
});
