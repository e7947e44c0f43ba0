import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, mkdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import vm from 'node:vm';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { loadAddon, type NativeAddon, type Ragged } from '../../lib/native/addon.js';
import { freshPath } from '../data/folders.js';
import type { Folders } from '../support/endless.js';
import { held, times } from '../support/reliability.js';
import { sampleResults } from '../support/sample-results.js';
import { tinyRun } from '../support/tiny-run.js';

const require = createRequire(import.meta.url);
const execute = promisify(execFile);
const file = join(process.cwd(), 'build/Release/allmrec.node');
const child = (name: string) => new URL(`./children/${name}.js`, import.meta.url);

test('the main thread and two workers at once give what one alone gives', async (t) => {
	const { folder, options } = await tinyRun();
	const folders: Folders = { run: folder, encoder: String(options.textEncoder), llm: String(options.llm) };
	const rounds = times(2, 20);
	for (const threads of [1, 2]) {
		const alone = await sampleResults(folders, threads);
		const workers = [0, 1].map(
			() => new Worker(child('sample-worker'), { workerData: { folders, threads, rounds } }),
		);
		const answers = workers.map((worker) => once(worker, 'message'));
		for (let round = 0; round < rounds; round++) t.deepEqual(await sampleResults(folders, threads), alone);
		for (const answer of answers) {
			const [results] = (await answer) as [object[]];
			t.is(results.length, rounds);
			for (const result of results) t.deepEqual(result, alone);
		}
	}
	held(
		'Node',
		'The main thread and two workers that train, score and generate at once give, to the bit, what one gives alone',
		{
			rounds: 2 * 3 * rounds,
			differences: 0,
		},
	);
});

const rows: Ragged = {
	offsets: Int32Array.from({ length: 33 }, (_, i) => 8 * i),
	values: Int32Array.from({ length: 256 }, (_, i) => 1 + ((i * 7) % 50)),
};
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

async function train(addon: NativeAddon, steps: number): Promise<number> {
	const engine = new addon.Engine({ device: 'cpu', threads: 2 });
	const model = new addon.Backbone(engine, { kind: 'sasrec', ...config });
	await model.initialise(1);
	const trainer = new addon.BackboneTrainer(model, rows, rows, training);
	const loss = await trainer.run(steps);
	for (const each of [trainer, model, engine]) each.dispose();
	return loss;
}

test('two copies of the addon in one process, and one loaded several times', async (t) => {
	const copies = [freshPath('a.node'), freshPath('b.node')];
	for (const copy of copies) {
		await mkdir(join(copy, '..'), { recursive: true });
		await copyFile(file, copy);
	}
	const load = (path: string) => require(path) as NativeAddon;
	const again = (path: string) => {
		const module = { exports: {} } as NodeJS.Module;
		process.dlopen(module, path);
		return module.exports as NativeAddon;
	};
	const inContext = vm.runInNewContext('load(file)', { load: again, file }) as NativeAddon;
	const addons = [loadAddon(), ...copies.map(load), again(file), inContext];
	t.is(new Set(addons).size, addons.length, 'each load gives classes of its own');
	const losses = await Promise.all(addons.map((addon) => train(addon, 200)));
	t.deepEqual(losses, Array(addons.length).fill(losses[0]));
	// Classes of two copies may differ in their layout: they do not take each other's objects.
	const [own, other] = addons as [NativeAddon, NativeAddon];
	const engine = new own.Engine({ device: 'cpu', threads: 1 });
	t.throws(() => new other.Backbone(engine, { kind: 'sasrec', ...config }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
		message: /^Expected `engine` to be an Engine/,
	});
	const model = new own.Backbone(engine, { kind: 'sasrec', ...config });
	t.throws(() => new other.BackboneTrainer(model, rows, rows, training), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
	t.throws(() => other.Engine.prototype.info.call(engine));
	held('Node', 'Two copies of the addon, and one loaded several times, work side by side in one process', {
		loads: addons.length,
		'objects taken from another copy': 0,
	});
});

test('the addon is loaded by workers alone, again and again', async (t) => {
	const count = times(6, 200);
	const program = fileURLToPath(child('only-worker'));
	const { stdout, stderr } = await execute(process.execPath, [program, file, String(count)], {
		timeout: 600_000,
	});
	t.is(stderr, '');
	t.is(stdout.trim(), '1', 'every worker computes the same loss');
	held('Node', 'An addon that only workers load, one after the other, survives their ends', {
		workers: count,
		crashes: 0,
	});
});
