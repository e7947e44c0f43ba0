// Numbers that are not finite in what users give: checkpoints, vectors, options of generation.
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import test from 'ava';
import { Alignment } from '../../lib/alignment/alignment.js';
import { SASRec } from '../../lib/cf/sasrec.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { quantizeCheckpoint } from '../../lib/llm/quantization.js';
import type { LlmDtype } from '../../lib/native/addon.js';
import { run } from '../../lib/native/session.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { freshPath, rejects } from '../data/folders.js';
import { held } from '../support/reliability.js';
import { tinyEncoder, tinyLlm } from '../support/tiny-checkpoints.js';
import { type StageOne, stageOne } from '../support/tiny-stages.js';
import { CPU } from '../support/tiny-world.js';

let one: StageOne;
test.before(async () => {
	one = await stageOne();
});
test.after.always(() => {
	one?.cf.dispose();
	one?.session.release();
});

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;

const BITS: Record<string, [number, (view: DataView, at: number, value: number) => void]> = {
	F32: [4, (view, at, value) => view.setFloat32(at, value, true)],
	F16: [2, (view, at, value) => view.setUint16(at, Number.isNaN(value) ? 0x7e00 : 0x7c00, true)],
	BF16: [2, (view, at, value) => view.setUint16(at, Number.isNaN(value) ? 0x7fc0 : 0x7f80, true)],
};

/** Writes a value over the last number of a tensor of a safetensors file; gives the tensor's name. */
async function spoil(file: string, which: RegExp, value: number): Promise<string> {
	const bytes = await readFile(file);
	const length = Number(bytes.readBigUInt64LE(0));
	const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Header;
	const name = Object.keys(header).find((key) => which.test(key));
	if (!name) throw new Error(`${file} has no tensor like ${which}`);
	const { dtype, data_offsets } = header[name]!;
	const [size, put] = BITS[dtype]!;
	put(new DataView(bytes.buffer, bytes.byteOffset), 8 + length + data_offsets[1] - size, value);
	await writeFile(file, bytes);
	return name;
}

test.serial(
	'weights that are not finite are refused at load, with file and tensor, in every model and dtype',
	async (t) => {
		const { session, cf } = one;
		let refused = 0;
		const values = [Number.NaN, Number.POSITIVE_INFINITY];
		const refuses = async (file: string, which: RegExp, load: () => Promise<unknown>, whole = file) => {
			const good = await readFile(file);
			for (const value of values) {
				const tensor = await spoil(file, which, value);
				const error = await rejects(t, load, 'ERR_ALLMREC_NUMERIC');
				t.true(error.message.includes(tensor), error.message);
				t.true(error.message.includes(basename(whole)), error.message);
				await writeFile(file, good);
				refused++;
			}
			await load().then((model) => (model as { dispose(): void }).dispose());
		};
		const sasrec = await place('sasrec.safetensors');
		await cf.save(sasrec);
		await refuses(sasrec, /^item_emb/, () => SASRec.load(sasrec, CPU));
		await refuses(sasrec, /conv1\.bias/, () => SASRec.load(sasrec, CPU));
		const aligned = await place('alignment.safetensors');
		const encoderFolder = await tinyEncoder();
		const encoder = await SentenceEncoder.load(encoderFolder, { session });
		const alignment = await Alignment.train(
			one.dataset,
			cf,
			encoder,
			{ jointSize: 8, epochs: 1, freezeEncoder: true },
			{ split: one.split, session },
		);
		await alignment.save(aligned);
		alignment.dispose();
		encoder.dispose();
		await refuses(aligned, /mlp2\.fc2\.weight/, () => Alignment.load(aligned, session));
		const weights = join(encoderFolder, 'model.safetensors');
		for (const dtype of ['float32', 'bfloat16'] as const)
			await refuses(weights, /\.0\..*q_lin\.weight/, () =>
				SentenceEncoder.load(encoderFolder, { ...CPU, dtype }),
			);
		for (const dtype of ['float32', 'float16', 'bfloat16', 'int8', 'int4'] as LlmDtype[]) {
			const folder = await tinyLlm();
			await refuses(join(folder, 'model.safetensors'), /1\.fc1\.weight/, () =>
				CausalLM.load(folder, { ...CPU, dtype }),
			);
		}
		for (const dtype of ['int8', 'int4'] as const) {
			const folder = freshPath(dtype);
			await quantizeCheckpoint(await tinyLlm(), { out: folder, dtype });
			const file = (await readdir(folder)).find((name) => name.endsWith('.safetensors'))!;
			await refuses(join(folder, file), /fc1\.weight\.scales/, () => CausalLM.load(folder, CPU));
		}
		held('Numbers', 'Weights that are NaN or infinite are refused at load with file and tensor', {
			'models and dtypes': refused / values.length,
			refused,
			accepted: 0,
		});
	},
);

/** A path of this name in a fresh folder that exists. */
async function place(name: string): Promise<string> {
	const path = freshPath(name);
	await mkdir(dirname(path), { recursive: true });
	return path;
}

test.serial('vectors and weights that are not finite are refused, with their place', async (t) => {
	const { session, cf } = one;
	const d = cf.size;
	const llm = await CausalLM.load(await tinyLlm(), CPU);
	const alignment = new session.addon.Alignment(session.engine, {
		itemSize: d,
		textSize: d,
		jointSize: 4,
		activation: 'none',
		matchingWeight: 1,
		itemReconstructionWeight: 1,
		textReconstructionWeight: 1,
		recommendationWeight: 1,
		referenceCompat: false,
	});
	const projector = new session.addon.Projector(session.engine, {
		kind: 'mlp',
		userSize: d,
		jointSize: d,
		tokenSize: 8,
	});
	const calls: [number, (bad: Float32Array) => Promise<unknown>][] = [
		[d, (users) => cf.scoreCandidates(users, Int32Array.of(1, 2), 2)],
		[d, (users) => cf.retrieve(users, [[]], 3)],
		[d, (users) => cf.rankTargets(users, Int32Array.of(1), [[]])],
		[d, (rows) => alignment.encodeItems(rows)],
		[d, (rows) => alignment.encodeTexts(rows)],
		[d, (rows) => projector.users(rows)],
		[d, (rows) => projector.items(rows)],
		[2 * d, (values) => projector.setParameter('log_emb_proj.0.bias', values.subarray(0, 8))],
		[llm.tokenSize, (rows) => llm.scoreCandidates([4, -1, 5], [[6, 2]], { soft: rows })],
		[llm.tokenSize, (rows) => llm.generateIds([[4, -1, 5]], rows, { maxNewTokens: 2 })],
		[
			llm.tokenSize,
			(rows) => llm.logProbs(batchOf([4, -1]), rows, Int32Array.of(1), Int32Array.of(0), Int32Array.of(5)),
		],
	];
	let refused = 0;
	for (const [length, call] of calls)
		for (const [value, name] of [
			[Number.NaN, 'NaN'],
			[Number.POSITIVE_INFINITY, 'Infinity'],
			[Number.NEGATIVE_INFINITY, '-Infinity'],
		] as const) {
			const bad = new Float32Array(length).fill(0.1);
			bad[3] = value;
			await rejects(
				t,
				() => run(() => call(bad)),
				'ERR_ALLMREC_INVALID_ARGUMENT',
				new RegExp(`got ${name} at 3`),
			);
			refused++;
		}
	const wrong: object[] = [
		{ doSample: true, temperature: 0 },
		{ doSample: true, temperature: -1 },
		{ doSample: true, temperature: 1e-30 },
		{ doSample: true, temperature: 1e30 },
		{ doSample: true, temperature: Number.NaN },
		{ doSample: true, topP: 0 },
		{ doSample: true, topP: 1.01 },
		{ doSample: true, topP: Number.NaN },
		{ doSample: true, topK: -1 },
		{ repetitionPenalty: 0 },
		{ repetitionPenalty: Number.NaN },
		{ maxNewTokens: Number.POSITIVE_INFINITY },
	];
	for (const options of wrong) {
		await rejects(
			t,
			() => llm.generate('a game', { maxNewTokens: 2, ...options }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
		);
		refused++;
	}
	for (const options of [
		{ temperature: 1e-6 },
		{ temperature: 1e6 },
		{ topP: 1e-6 },
		{ topP: 1 },
		{ topK: 1 },
	]) {
		const { ids } = await llm.generate('a game', { maxNewTokens: 3, doSample: true, seed: 1, ...options });
		t.true(ids.length > 0 && ids.every((id) => id >= 0 && id < llm.config.vocabSize));
	}
	// Weights that are numbers, but too large for what is computed from them.
	const name = 'model.decoder.layers.1.fc2.weight';
	const values = await llm.native.getParameter(name);
	await llm.native.setParameter(name, values.slice().fill(3e38));
	const finite =
		/not finite: the first number that is not finite is (-?infinity|NaN), in row \d+ and column \d+ of what the op `\w+` wrote \(.*with the weight `model\.decoder\.layers\.1\.fc2\.weight`/;
	for (const call of [
		() => llm.generate('a game', { maxNewTokens: 2 }),
		() => llm.generate('a game', { maxNewTokens: 2, numBeams: 2 }),
		() => llm.generate('a game', { maxNewTokens: 2, doSample: true }),
		() => llm.scoreCandidates('a', ['game', 'word']),
	])
		await rejects(t, call, 'ERR_ALLMREC_NUMERIC', finite);
	// The model works again as soon as its weights do.
	await llm.native.setParameter(name, values);
	t.true((await llm.generate('a game', { maxNewTokens: 2 })).ids.length > 0);
	llm.dispose();
	alignment.dispose();
	projector.dispose();
	held('Numbers', 'Vectors and options that are NaN, infinite or out of range are refused with their place', {
		refused,
	});
});

function batchOf(ids: number[]) {
	return {
		ids: Int32Array.from(ids),
		offsets: Int32Array.of(0, ids.length),
		positions: Int32Array.from(ids, (_, i) => i),
		prefix: new Int32Array(ids.length),
		ownBegin: new Int32Array(ids.length),
	};
}
