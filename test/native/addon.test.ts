import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { loadAddon, type NativeEngine, type Ragged } from '../../lib/native/addon.js';

const addon = loadAddon();
const run = promisify(execFile);
const binary = process.env.ALLMREC_ADDON ?? join(process.cwd(), 'build/Release/allmrec.node');

const pack = (rows: number[][]): Ragged => ({
	offsets: Int32Array.from([0, ...rows.map((_, i) => rows.slice(0, i + 1).flat().length)]),
	values: Int32Array.from(rows.flat()),
});
const histories = Array.from({ length: 40 }, (_, u) =>
	Array.from({ length: 8 }, (_, i) => 1 + ((u * 3 + i * 5) % 50)),
);
const config = {
	numItems: 50,
	maxLength: 10,
	hiddenUnits: 16,
	numBlocks: 2,
	numHeads: 2,
	dropoutRate: 0.1,
	variant: 'reference' as const,
};
const training = { batchSize: 16, loss: 'bce' as const, l2Embedding: 0, seed: 1, learningRate: 1e-2 };

/** Long enough to be interrupted, far longer than a test may take. */
const FOREVER = 1e9;

async function sasRec(engine: NativeEngine = new addon.Engine({ device: 'cpu', threads: 1 })) {
	const model = new addon.Backbone(engine, { kind: 'sasrec', ...config });
	await model.initialise(1);
	const trainer = new addon.BackboneTrainer(model, pack(histories), pack(histories), training);
	return { engine, model, trainer };
}

test('what it exports', (t) => {
	t.regex(addon.version, /^\d+\.\d+\.\d+/);
	t.is(addon.instructionSets[0], 'generic');
	if (process.arch === 'x64')
		t.deepEqual(addon.instructionSets, ['generic', 'avx2', 'avx512', 'avx512+vnni', 'avx512+vnni+bf16']);
	const [cpu] = addon.listDevices();
	t.like(cpu, { backend: 'cpu', available: true, reason: '' });
	t.true(addon.instructionSets.includes(cpu!.instruction));
	for (const device of addon.listDevices()) t.is(device.available, device.reason === '');
});

test('an engine tells what it runs on', (t) => {
	const engine = new addon.Engine({ device: 'cpu', threads: 2 });
	t.like(engine.info(), { backend: 'cpu', available: true, threads: 2 });
	engine.dispose();
	engine.dispose();
	t.throws(() => engine.info(), { code: 'ERR_ALLMREC_DISPOSED' });
	t.throws(() => new addon.Backbone(engine, { kind: 'sasrec', ...config }), { code: 'ERR_ALLMREC_DISPOSED' });
	t.throws(() => new addon.Engine({ device: 'tpu', threads: 0 }), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('dispose twice, use after dispose', async (t) => {
	const { engine, model, trainer } = await sasRec();
	engine.dispose();
	t.is((await model.getParameter('last_layernorm.weight')).length, 16);
	model.dispose();
	model.dispose();
	t.throws(() => model.parameters(), { code: 'ERR_ALLMREC_DISPOSED' });
	await t.throwsAsync(model.initialise(1), { code: 'ERR_ALLMREC_DISPOSED' });
	await trainer.run(1); // it still holds the model
	trainer.dispose();
	trainer.dispose();
	await t.throwsAsync(trainer.run(1), { code: 'ERR_ALLMREC_DISPOSED' });
	t.throws(() => trainer.steps(), { code: 'ERR_ALLMREC_DISPOSED' });
});

test('dispose while a job runs', async (t) => {
	const { engine, model, trainer } = await sasRec();
	const loss = trainer.run(20);
	trainer.dispose();
	model.dispose();
	engine.dispose();
	t.true(Number.isFinite(await loss));
});

test('wrong arguments are named', async (t) => {
	const { engine, model, trainer } = await sasRec();
	const invalid = { code: 'ERR_ALLMREC_INVALID_ARGUMENT' };
	const any = (value: unknown) => value as never;
	t.throws(() => new addon.Backbone(any({}), { kind: 'sasrec', ...config }), {
		...invalid,
		message: /^Expected `engine` to be an Engine/,
	});
	t.throws(() => new addon.Backbone(any(model), { kind: 'sasrec', ...config }), {
		...invalid,
		message: /^Expected `engine`/,
	});
	t.throws(() => new addon.Backbone(engine, any(undefined)), {
		...invalid,
		message: /`config` to be an object, got `undefined`/,
	});
	t.throws(() => new addon.Backbone(engine, { kind: 'sasrec', ...config, numItems: 1.5 }), {
		...invalid,
		message: 'Expected `config.numItems` to be an integer from 1 to 2147483646, got `1.5`.',
	});
	t.throws(() => new addon.Backbone(engine, { kind: 'sasrec', ...config, numHeads: 3 }), {
		...invalid,
		message: /numHeads/,
	});
	t.throws(() => new addon.Backbone(engine, { kind: 'sasrec', ...config, variant: any('other') }), {
		...invalid,
		message: 'Expected `config.variant` to be one of reference, preNorm, postNorm, got `other` (string).',
	});
	t.throws(() => addon.openTensorFile(any(3)), {
		...invalid,
		message: 'Expected `path` to be a string, got `3`.',
	});
	t.throws(() => addon.openTensorFile('/no/such/file'), { code: 'ERR_ALLMREC_FILE_NOT_FOUND' });
	await t.throwsAsync(model.initialise(-1), { ...invalid, message: /^Expected `seed`/ });
	await t.throwsAsync(model.getParameter('x'), {
		...invalid,
		message: /a parameter of the Backbone, got `x`/,
	});
	await t.throwsAsync(model.setParameter('last_layernorm.bias', new Float32Array(3)), {
		...invalid,
		message: 'Expected `values` to hold 16 numbers, got 3.',
	});
	await t.throwsAsync(model.userVectors(any([[1, 2]])), {
		...invalid,
		message: /`histories` to be an object, got an array/,
	});
	await t.throwsAsync(
		model.userVectors({ offsets: Int32Array.of(0, 2, 1, 3), values: Int32Array.of(1, 2, 3) }),
		invalid,
	);
	await t.throwsAsync(
		model.userVectors({ offsets: Int32Array.of(0, 2), values: Int32Array.of(1, 2, 3) }),
		invalid,
	);
	await t.throwsAsync(model.userVectors({ offsets: Int32Array.of(), values: Int32Array.of() }), invalid);
	await t.throwsAsync(model.userVectors(pack([[1, 51]])), { code: 'ERR_ALLMREC_UNKNOWN_ITEM' });
	await t.throwsAsync(model.userVectors(pack([[1, 0]])), { code: 'ERR_ALLMREC_UNKNOWN_ITEM' });
	await t.throwsAsync(model.userVectors(pack([[1]]), undefined, any({ cancel() {} })), {
		...invalid,
		message: /a CancelFlag/,
	});
	await t.throwsAsync(model.features(pack([Array(11).fill(1)])), { ...invalid, message: /maxLength/ });
	await t.throwsAsync(model.scoreCandidates(new Float32Array(16), Int32Array.of(1, 2), 3), invalid);
	await t.throwsAsync(model.load(['/no/such/file']), { code: 'ERR_ALLMREC_FILE_NOT_FOUND' });
	await t.throwsAsync(trainer.step(pack([[1, 2]]), Int32Array.of(2), Int32Array.of(3, 4)), invalid);
	t.throws(() => trainer.setLearningRate(Number.NaN), invalid);
	t.throws(() => new addon.BackboneTrainer(model, pack([[1]]), pack([[1]]), training), {
		...invalid,
		message: /nothing to train/,
	});
	const method = addon.Backbone.prototype.parameters as () => unknown;
	t.throws(() => method.call({}));
});

test('arrays are copied at the call', async (t) => {
	const { model } = await sasRec();
	const values = new Float32Array(16).fill(3);
	const done = model.setParameter('last_layernorm.bias', values);
	values.fill(4);
	await done;
	t.deepEqual(await model.getParameter('last_layernorm.bias'), new Float32Array(16).fill(3));
});

test('promises settle in the order of the calls', async (t) => {
	const { model, trainer } = await sasRec();
	const order: number[] = [];
	await Promise.all([
		trainer.run(50).then(() => order.push(0)),
		model.getParameter('item_emb.weight').then(() => order.push(1)),
		trainer.run(1).then(() => order.push(2)),
		model.setParameter('last_layernorm.bias', new Float32Array(16)).then(() => order.push(3)),
		model.userVectors(pack(histories)).then(() => order.push(4)),
	]);
	t.deepEqual(order, [0, 1, 2, 3, 4]);
	t.is(trainer.steps(), 51);
});

test('the event loop stays free, and a cancelled job rejects', async (t) => {
	const { model, trainer } = await sasRec();
	const flag = new addon.CancelFlag();
	const job = trainer.run(FOREVER, flag);
	const queued = trainer.run(FOREVER, flag);
	const later = model.getParameter('last_layernorm.bias');
	let turns = 0;
	for (let i = 0; i < 20; i++) {
		await sleep(5);
		turns++;
	}
	t.is(turns, 20);
	flag.cancel();
	await t.throwsAsync(job, { code: 'ERR_ALLMREC_CANCELLED' });
	await t.throwsAsync(queued, { code: 'ERR_ALLMREC_CANCELLED' });
	t.is((await later).length, 16);
	t.true(trainer.steps() > 0 && trainer.steps() < FOREVER);
});

test('training learns, and goes on from a saved optimizer as if never stopped', async (t) => {
	const file = join(tmpdir(), `allmrec-addon-${process.pid}`);
	t.teardown(() => Promise.all(['.model', '.adam'].map((end) => rm(file + end, { force: true }))));
	const { engine, model, trainer } = await sasRec();
	const first = await trainer.run(10);
	await model.save(`${file}.model`, { note: 'ten steps' });
	await trainer.saveOptimizer(`${file}.adam`, {});
	const second = await trainer.run(40);
	t.true(second < first);

	const other = new addon.Backbone(engine, { kind: 'sasrec', ...config });
	await other.load([`${file}.model`]);
	const resumed = new addon.BackboneTrainer(other, pack(histories), pack(histories), training);
	await resumed.loadOptimizer(`${file}.adam`);
	t.is(resumed.steps(), 10);
	t.is(await resumed.run(40), second);
	for (const { name } of model.parameters())
		t.deepEqual(await other.getParameter(name), await model.getParameter(name));

	await t.throwsAsync(resumed.loadOptimizer(`${file}.model`), { code: 'ERR_ALLMREC_CHECKPOINT' });
	const saved = addon.openTensorFile(`${file}.model`);
	t.is(saved.format, 'safetensors');
	t.is(saved.metadata().note, 'ten steps');
	t.deepEqual(
		saved
			.tensors()
			.map(({ name }) => name)
			.sort(),
		model
			.parameters()
			.map(({ name }) => name)
			.sort(),
	);
	saved.close();
	t.throws(() => saved.tensors(), { code: 'ERR_ALLMREC_DISPOSED' });
});

test('gradients are left for inspection and do not leak into the next step', async (t) => {
	const batch = [pack([[1, 2, 3]]), Int32Array.of(2, 3, 4), Int32Array.of(7, 8, 9)] as const;
	const [a, b] = [await sasRec(), await sasRec()];
	const losses = await a.trainer.gradients(...batch);
	t.true((await a.model.getGradient('last_layernorm.weight')).some((g) => g !== 0));
	t.deepEqual(await a.trainer.gradients(...batch), losses);
	t.deepEqual(await a.trainer.step(...batch), losses);
	t.deepEqual(await b.trainer.step(...batch), losses);
	t.deepEqual(await a.model.getParameter('item_emb.weight'), await b.model.getParameter('item_emb.weight'));
	t.true((await a.model.getGradient('last_layernorm.weight')).every((g) => g === 0));
});

test('writing and reading tensors', async (t) => {
	const path = join(tmpdir(), `allmrec-tensors-${process.pid}.safetensors`);
	t.teardown(() => rm(path, { force: true }));
	const data = Float32Array.of(1, -2, 0.5, 65504, 0, -0);
	addon.writeSafetensors(
		path,
		(['F32', 'F16', 'BF16'] as const).map((dtype) => ({ name: dtype, dtype, shape: [2, 3], data })),
		{ key: 'value' },
	);
	const file = addon.openTensorFile(path);
	t.deepEqual(file.metadata(), { key: 'value' });
	t.deepEqual(file.readFloat32('F32'), data);
	t.deepEqual(file.readFloat32('F16'), data);
	t.is(file.readFloat32('BF16')[1], -2);
	t.throws(() => file.readInt64('F32'));
	t.throws(() => file.readFloat32('none'), { code: 'ERR_ALLMREC_CHECKPOINT' });
	t.throws(() => addon.writeSafetensors(path, [{ name: 'a', dtype: 'F32', shape: [7], data }], {}), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
});

/** Plain JavaScript for workers and children: loads the addon and starts a run that does not end by itself. */
const script = `
const addon = require(${JSON.stringify(binary)});
const pack = ${pack.toString()};
const rows = ${JSON.stringify(histories)};
async function start() {
	const engine = new addon.Engine({ device: 'cpu', threads: 2 });
	const model = new addon.Backbone(engine, ${JSON.stringify({ kind: 'sasrec', ...config })});
	await model.initialise(1);
	const trainer = new addon.BackboneTrainer(model, pack(rows), pack(rows), ${JSON.stringify(training)});
	const first = await trainer.run(5);
	return { engine, model, trainer, first };
}
`;

test('two workers at a time, one terminated during a run', async (t) => {
	const worker = (then: string) =>
		new Worker(`${script} const { parentPort } = require('node:worker_threads'); start().then(${then})`, {
			eval: true,
		});
	for (let round = 0; round < 3; round++) {
		const endless = worker(
			`({ model, trainer }) => { trainer.run(${FOREVER}); model.getParameter('item_emb.weight'); parentPort.postMessage('running') }`,
		);
		const finite = worker(`async ({ trainer }) => parentPort.postMessage(await trainer.run(100))`);
		// Listened to from the start: it may be done before the other one is.
		const finished = once(finite, 'message');
		const [message] = await once(endless, 'message');
		t.is(message, 'running');
		await sleep(10 * round);
		const started = performance.now();
		await endless.terminate();
		t.true(performance.now() - started < 5000);
		const [loss] = await finished;
		t.true(Number.isFinite(loss));
	}
	const { trainer } = await sasRec(); // and this thread's own still works
	t.true(Number.isFinite(await trainer.run(1)));
});

async function child(code: string): Promise<string> {
	const path = join(tmpdir(), `allmrec-child-${process.pid}-${Math.random().toString(36).slice(2)}.cjs`);
	await writeFile(path, script + code);
	try {
		return (await run(process.execPath, [path], { timeout: 60_000 })).stdout.trim();
	} finally {
		await rm(path, { force: true });
	}
}

test('process.exit during a run', async (t) => {
	const out = await child(
		`start().then(({ trainer }) => { trainer.run(${FOREVER}); setTimeout(() => { console.log('leaving'); process.exit(0) }, 30) })`,
	);
	t.is(out, 'leaving');
});

test('an idle engine lets the process end, a pending job keeps it', async (t) => {
	t.is(
		await child(`start().then(({ trainer }) => { trainer.run(200).then(() => console.log('done')) })`),
		'done',
	);
});

test('garbage collection while jobs run', async (t) => {
	const out = await child(`
		require('node:v8').setFlagsFromString('--expose-gc');
		const gc = require('node:vm').runInNewContext('gc');
		(async () => {
			const jobs = [];
			for (let i = 0; i < 10; i++) {
				const { trainer } = await start();
				jobs.push(trainer.run(50));
				gc();
			}
			for (let i = 0; i < 10; i++) { gc(); await new Promise(setImmediate); }
			console.log((await Promise.all(jobs)).every(Number.isFinite));
		})();
	`);
	t.is(out, 'true');
});
