import { cp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import {
	type LlmDtype,
	loadAddon,
	type NativeTensorToWrite,
	type OptConfig,
} from '../../lib/native/addon.js';
import { freshPath, rejects } from '../data/folders.js';
import { referenceLogits } from '../support/opt-reference.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const IDS = [2, 40, 50, 60, 7, 300, 11];

async function logitsOf(llm: CausalLM, ids: readonly number[] = IDS): Promise<Float32Array> {
	const batch = { ids: Int32Array.from(ids), offsets: Int32Array.of(0, ids.length) };
	return llm.native.logits(batch, new Float32Array(0), Int32Array.from(ids.keys()));
}

type Change = (tensor: NativeTensorToWrite) => NativeTensorToWrite[];

async function tensorsOf(folder: string): Promise<NativeTensorToWrite[]> {
	const file = loadAddon().openTensorFile(join(folder, 'model.safetensors'));
	const tensors = file.tensors().map(({ name, shape }) => ({
		name,
		shape,
		dtype: 'F32' as const,
		data: file.readFloat32(name),
	}));
	file.close();
	return tensors;
}

/** A copy whose tensors are passed through a function, and whose configuration is changed. */
async function rewritten(source: string, change: Change, config: object = {}): Promise<string> {
	const folder = freshPath('llm');
	await cp(source, folder, { recursive: true });
	const tensors = (await tensorsOf(source)).flatMap(change);
	loadAddon().writeSafetensors(join(folder, 'model.safetensors'), tensors, {});
	const json = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
	await writeFile(join(folder, 'config.json'), JSON.stringify({ ...json, ...config }));
	return folder;
}

const VARIANTS: Record<string, Partial<OptConfig>> = {
	'pre-norm': {},
	"350m's post-norm and projections": { normBefore: false, finalNorm: false, embedSize: 16 },
	'projections and pre-norm': { embedSize: 48 },
	'no final norm': { finalNorm: false },
	'biasless and gelu, as Galactica': { bias: false, activation: 'gelu' },
	'gelu by tanh': { activation: 'gelu_tanh' },
	'norms without weights': { normAffine: false },
	'norms without weights, post-norm and biasless': { normAffine: false, normBefore: false, bias: false },
	'a head of its own': { tiedHead: false },
	'a head of its own behind a projection': { tiedHead: false, embedSize: 16, normBefore: false },
};

for (const [name, changes] of Object.entries(VARIANTS))
	test(`${name}: logits of the definition`, async (t) => {
		const llm = await CausalLM.load(await tinyLlm({ maxPositions: 64, ...changes }), CPU);
		t.teardown(() => llm.dispose());
		const random = new SeededRandom(3);
		for (const { name, shape } of llm.native.parameters())
			if (shape.length === 1) {
				const around = name.endsWith('weight') ? 1 : 0;
				const values = Float32Array.from({ length: shape[0]! }, () => around + 0.3 * random.normal());
				await llm.native.setParameter(name, values);
			}
		const logits = await logitsOf(llm);
		const expected = referenceLogits(await weightsOf(llm.native), llm.config, IDS);
		const size = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
		// Float32 with sums of up to 64 numbers through two layers: some hundred roundings of 6e-8 in a row.
		t.true(maxDifference(logits, expected) < 1e-5 * Math.max(1, size), `${maxDifference(logits, expected)}`);
	});

test('names of activations, and one that is not known', async (t) => {
	const source = await tinyLlm({ maxPositions: 64, activation: 'gelu_tanh' });
	const expected = await CausalLM.load(source, CPU);
	t.teardown(() => expected.dispose());
	for (const activation_function of ['gelu_new', 'gelu_pytorch_tanh', 'gelu_fast']) {
		const llm = await CausalLM.load(await rewritten(source, (x) => [x], { activation_function }), CPU);
		t.deepEqual(await logitsOf(llm), await logitsOf(expected));
		llm.dispose();
	}
});

test('a padded vocabulary: rows that no token has are left out', async (t) => {
	const source = await tinyLlm({ maxPositions: 64 });
	const plain = await CausalLM.load(source, CPU);
	t.teardown(() => plain.dispose());
	const resized =
		(rows: number): Change =>
		(tensor) => {
			if (!tensor.name.endsWith('embed_tokens.weight')) return [tensor];
			const width = tensor.shape[1]!;
			const data = new Float32Array(rows * width).fill(9);
			data.set(tensor.data.subarray(0, rows * width));
			return [{ ...tensor, shape: [rows, width], data }];
		};
	const more = await CausalLM.load(await rewritten(source, resized(528)), CPU);
	t.is(more.config.vocabSize, 520);
	t.deepEqual(await logitsOf(more), await logitsOf(plain));
	more.dispose();

	const tokens = plain.tokenizer.vocabSize;
	const fewer = await CausalLM.load(await rewritten(source, resized(tokens)), CPU);
	t.is(fewer.config.vocabSize, tokens);
	const all = await logitsOf(plain);
	const expected = IDS.flatMap((_, row) => [...all.subarray(row * 520, row * 520 + tokens)]);
	t.true(maxDifference(await logitsOf(fewer), expected) < 1e-5);
	fewer.dispose();
	await rejects(
		t,
		async () => CausalLM.load(await rewritten(source, resized(tokens - 1)), CPU),
		'ERR_ALLMREC_CHECKPOINT',
		/tokenizer has \d+ tokens, the model only/,
	);
});

test('an untied head that the files lack is named', async (t) => {
	const source = await tinyLlm({ maxPositions: 64 });
	const folder = await rewritten(source, (x) => [x], { tie_word_embeddings: false });
	await rejects(t, () => CausalLM.load(folder, CPU), 'ERR_ALLMREC_CHECKPOINT', /`lm_head\.weight`/);
});

test('shards of several files, in half precision', async (t) => {
	const source = await tinyLlm({ maxPositions: 64 });
	const folder = freshPath('llm');
	await cp(source, folder, { recursive: true });
	await rm(join(folder, 'model.safetensors'));
	const tensors = await tensorsOf(source);
	const weight_map: Record<string, string> = {};
	for (let shard = 0; shard < 3; shard++) {
		const name = `model-0000${shard + 1}-of-00003.safetensors`;
		const own = tensors.filter((_, i) => i % 3 === shard).map((x) => ({ ...x, dtype: 'BF16' as const }));
		for (const tensor of own) weight_map[tensor.name] = name;
		loadAddon().writeSafetensors(join(folder, name), own, {});
	}
	const index = join(folder, 'model.safetensors.index.json');
	await writeFile(index, JSON.stringify({ metadata: {}, weight_map }));
	const sharded = await CausalLM.load(folder, CPU);
	t.teardown(() => sharded.dispose());
	const whole = await CausalLM.load(await rewritten(source, (x) => [{ ...x, dtype: 'BF16' }]), CPU);
	t.teardown(() => whole.dispose());
	t.deepEqual(await weightsOf(sharded.native), await weightsOf(whole.native));
});

/** What a weight may be off by, as a share of the largest number that shares its scale (or of itself). */
const ROUNDING: Record<LlmDtype, number> = {
	float32: 0,
	bfloat16: 2 ** -8,
	float16: 2 ** -11,
	int8: 1 / 254,
	int4: 1 / 8 + 2 ** -11, // the far end of the scale is −8, so 8 is rounded to 7; the scale is a float16
};

for (const [dtype, bound] of Object.entries(ROUNDING) as [LlmDtype, number][])
	for (const file of ['F32', 'F16', 'BF16'] as const)
		test(`${file} is loaded as ${dtype}`, async (t) => {
			const source = await tinyLlm({ maxPositions: 64 });
			const folder = await rewritten(source, (x) => [{ ...x, dtype: file }]);
			const exact = await CausalLM.load(folder, CPU);
			t.teardown(() => exact.dispose());
			const llm = await CausalLM.load(folder, { ...CPU, dtype });
			t.teardown(() => llm.dispose());
			const [expected, actual] = [await weightsOf(exact.native), await weightsOf(llm.native)];
			for (const [name, x] of Object.entries(expected)) {
				const matrix = /(proj|fc[12]|embed_tokens)\.weight$/.test(name);
				const group = dtype === 'int4' ? 32 : dtype === 'int8' ? (/fc2/.test(name) ? 64 : 32) : 1;
				let worst = 0;
				for (let at = 0; at < x.length; at += group) {
					const own = x.subarray(at, at + group);
					const most = own.reduce((m, value) => Math.max(m, Math.abs(value)), 0);
					const off = maxDifference(actual[name]!.subarray(at, at + group), own);
					if (most > 1e-4) worst = Math.max(worst, off / most); // float16 has few bits below
				}
				t.true(worst <= (matrix ? bound * 1.001 : 0), `${name}: ${worst}`);
			}
		});

test('what is not a number, and what float16 cannot hold, is refused wherever it stands', async (t) => {
	const source = await tinyLlm({ maxPositions: 64 });
	const spoilt = (value: number, place: 'first' | 'last', dtype: 'F32' | 'F16' | 'BF16' = 'F32') =>
		rewritten(source, (tensor) => {
			if (!tensor.name.endsWith('1.fc2.weight')) return [{ ...tensor, dtype }];
			const data = tensor.data.slice();
			data[place === 'first' ? 0 : data.length - 1] = value;
			return [{ ...tensor, dtype, data }];
		});
	const code = 'ERR_ALLMREC_NUMERIC';
	for (const file of ['F32', 'F16', 'BF16'] as const)
		for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])
			for (const dtype of ['float32', 'int8'] as const)
				await rejects(
					t,
					async () => CausalLM.load(await spoilt(value, 'last', file), { ...CPU, dtype }),
					code,
					/1\.fc2\.weight.*NaN or an infinity/,
				);
	for (const file of ['F32', 'BF16'] as const) {
		const large = await spoilt(-70000, 'first', file);
		await rejects(t, () => CausalLM.load(large, { ...CPU, dtype: 'float16' }), code, /float16 cannot hold/);
		(await CausalLM.load(large, { ...CPU, dtype: 'bfloat16' })).dispose();
	}
});

test('safetensors whose data is not aligned', async (t) => {
	const source = await tinyLlm({ maxPositions: 64 });
	const folder = freshPath('llm');
	await cp(source, folder, { recursive: true });
	const path = join(folder, 'model.safetensors');
	const bytes = await readFile(path);
	const header = Number(bytes.readBigUInt64LE(0));
	const odd = Buffer.concat([
		Buffer.alloc(8),
		bytes.subarray(8, 8 + header),
		Buffer.from(' '),
		bytes.subarray(8 + header),
	]);
	odd.writeBigUInt64LE(BigInt(header + 1));
	await writeFile(path, odd);
	t.is((await stat(path)).size, bytes.length + 1);
	for (const dtype of ['float32', 'int8'] as const) {
		const [expected, actual] = [
			await CausalLM.load(source, { ...CPU, dtype }),
			await CausalLM.load(folder, { ...CPU, dtype }),
		];
		t.deepEqual(await weightsOf(actual.native), await weightsOf(expected.native));
		expected.dispose();
		actual.dispose();
	}
});
