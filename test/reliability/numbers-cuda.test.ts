// Steps that a CUDA device records and replays: numbers that are not finite are found there as on the CPU.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import type { NativeBackbone, NativeEngine, Ragged } from '../../lib/native/addon.js';
import { loadAddon } from '../../lib/native/addon.js';
import { ragged } from '../../lib/native/session.js';
import { rejects } from '../data/folders.js';
import { held } from '../support/reliability.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';

process.env.ALLMREC_CUDAEMU_LIBRARY ??= join(process.cwd(), 'build-emulator/allmrec_cudaemu.so');
const LIBRARY = process.env.ALLMREC_CUDAEMU_LIBRARY;
const addon = loadAddon();
const emulated = existsSync(LIBRARY) ? test.serial : test.serial.skip;

const USERS: Ragged = ragged(
	Array.from({ length: 6 }, (_, u) => Array.from({ length: 5 }, (_, i) => 1 + ((u * 2 + i * 3) % 12))),
);

function training(engine: NativeEngine, learningRate: number) {
	const model = new addon.Backbone(engine, {
		kind: 'sasrec',
		numItems: 12,
		maxLength: 6,
		hiddenUnits: 16,
		numBlocks: 1,
		numHeads: 2,
		dropoutRate: 0.2,
		variant: 'reference',
	});
	const trainer = new addon.BackboneTrainer(model, USERS, USERS, {
		batchSize: 3,
		loss: 'bce',
		l2Embedding: 0,
		seed: 1,
		learningRate,
	});
	return { model, trainer };
}

const weights = (model: NativeBackbone) =>
	Promise.all(model.parameters().map(({ name }) => model.getParameter(name)));

emulated('recorded steps that diverge are taken back and name step and op', async (t) => {
	const said: string[] = [];
	for (const device of ['cpu', 'cudaemu']) {
		const engine = new addon.Engine({ device, threads: 1 });
		const { model, trainer } = training(engine, 1e6);
		await model.initialise(1);
		const error = (await t.throwsAsync(trainer.run(40), { code: 'ERR_ALLMREC_NUMERIC' })) as Error;
		said.push(error.message);
		const [, step, op] = /not finite at step (\d+) .* the op `(\w+)`/.exec(error.message) ?? [];
		t.truthy(op, error.message);
		t.is(trainer.steps(), Number(step) - 1);
		// The weights are those of a training that ended a step earlier.
		const again = training(engine, 1e6);
		await again.model.initialise(1);
		await again.trainer.run(Number(step) - 1);
		t.deepEqual(await weights(model), await weights(again.model));
		for (const each of [model, trainer, again.model, again.trainer]) each.dispose();
		engine.dispose();
	}
	t.log(said.join('\n'));
	held('Numbers', 'Recorded steps of a CUDA device that diverge are taken back, and step and op are named', {
		devices: 2,
		'weights that differ from a step earlier': 0,
	});
});

emulated('replayed decoding steps whose logits are not finite name the op', async (t) => {
	const llm = await CausalLM.load(await tinyLlm({ maxPositions: 64 }), { device: 'cudaemu', threads: 1 });
	const name = 'model.decoder.layers.1.fc2.weight';
	const values = await llm.native.getParameter(name);
	await llm.native.setParameter(name, values.slice().fill(3e38));
	await rejects(
		t,
		() => llm.generate('a', { maxNewTokens: 2 }),
		'ERR_ALLMREC_NUMERIC',
		/logits are not finite: .*the op `gemm`.*fc2\.weight/,
	);
	await llm.native.setParameter(name, values);
	t.true((await llm.generate('a', { maxNewTokens: 2 })).ids.length > 0);
	llm.dispose();
});
