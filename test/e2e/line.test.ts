import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import * as api from '../../lib/index.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyRunOptions } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

const index = fileURLToPath(new URL('../../lib/index.js', import.meta.url));
const HISTORY = ['i03', 'i17', 'i44'];

/** From a log on disk to a trained run, through the public interface alone. */
const trained = (async () => {
	const log = await api.writeWorldCsv(freshPath('log'), tinyWorld());
	const datasetPath = freshPath('dataset');
	const dataset = await api.prepare({
		format: 'csv',
		interactions: [log.interactions],
		items: [log.items],
		kCore: 1,
		out: datasetPath,
	});
	const out = freshPath('run');
	const stages: string[] = [];
	const onProgress = ({ stage }: api.Progress) => {
		if (stages.at(-1) !== stage) stages.push(stage);
	};
	await api.trainRun(dataset, { out, datasetPath, options: await tinyRunOptions(), onProgress, ...CPU });
	return { out, stages };
})();

async function recommended(): Promise<string[]> {
	const { out } = await trained;
	await using model = await api.loadRun(out, CPU);
	const [list] = await model.recommend([{ history: HISTORY }], { topK: 5 });
	return list!.map(({ id }) => id);
}

test('from a log to recommendations, a new item, genres and an evaluation', async (t) => {
	const { out, stages } = await trained;
	const order = stages.filter((stage) => ['cf', 'align', 'project', 'fusion'].includes(stage));
	t.deepEqual(order, ['cf', 'align', 'project', 'fusion']);
	await using model = await api.loadRun(out, CPU);
	const [list] = await model.recommend([{ history: HISTORY }], { topK: 5 });
	t.is(list!.length, 5);
	await model.addItem({ id: 'new', title: 'Out Today' });
	const [again] = await model.recommend([{ history: HISTORY, candidates: ['new', list![0]!.id] }]);
	t.is(again!.length, 2);
	t.is(typeof (await model.generate({ history: HISTORY })), 'string');
	const { split, test: drawn } = await api.openRunDataset(out);
	const { candidates } = await api.evaluateRun(model, split, drawn, { users: 10, fullUsers: 0 });
	t.true(candidates.models.Fused!.slices.overall!.metrics['hit@1']!.value >= 0);
});

test('the devices are listed, each usable or with the reason why not', (t) => {
	const devices = api.listDevices();
	t.like(devices[0], { device: 'cpu', available: true, reason: '' });
	t.true(devices[0]!.threads >= 1 && devices[0]!.memoryBytes > 0);
	for (const { available, reason } of devices) t.is(available, reason === '');
});

test('a device that cannot be used is an error where it is asked for, and passed over by `auto`', async (t) => {
	const { out } = await trained;
	const gpu = api.listDevices().find(({ device }) => device === 'cuda');
	if (!gpu?.available) await rejects(t, () => api.loadRun(out, { device: 'cuda' }), 'ERR_ALLMREC_DEVICE');
	await using model = await api.loadRun(out, { device: 'auto' });
	t.is((await model.recommend([{ history: HISTORY }])).length, 1);
});

/** The same in plain JavaScript, for processes and threads of their own. */
async function script(then: string): Promise<string> {
	const { out } = await trained;
	return `
		import { loadRun } from ${JSON.stringify(index)};
		const model = await loadRun(${JSON.stringify(out)}, ${JSON.stringify(CPU)});
		const [list] = await model.recommend([{ history: ${JSON.stringify(HISTORY)} }], { topK: 5 });
		${then}
	`;
}

test('a process that used a run ends by itself, with and without dispose', async (t) => {
	const expected = await recommended();
	for (const last of ['', 'model.dispose();']) {
		const path = join(await trained.then(({ out }) => out), `child-${last.length}.mjs`);
		await writeFile(path, await script(`console.log(list.map(({ id }) => id).join()); ${last}`));
		const { stdout } = await promisify(execFile)(process.execPath, [path], { timeout: 60_000 });
		t.is(stdout.trim(), expected.join());
	}
});

test('two threads use one run at the same time', async (t) => {
	const expected = await recommended();
	const path = join(await trained.then(({ out }) => out), 'worker.mjs');
	await writeFile(
		path,
		`import { parentPort } from 'node:worker_threads';${await script('parentPort.postMessage(list.map(({ id }) => id));')}`,
	);
	const answers = await Promise.all(
		[0, 1].map(async () => {
			const worker = new Worker(path);
			const [ids] = await once(worker, 'message');
			await once(worker, 'exit');
			return ids;
		}),
	);
	t.deepEqual(answers, [expected, expected]);
	t.deepEqual(await recommended(), expected);
});
