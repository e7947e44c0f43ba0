/**
 * A process with endless work in it that is ended in one of several ways. Arguments: the way, the work, folders as
 * JSON, milliseconds from the work's beginning to each end, separated by commas.
 *
 * `exit`, `throw`, `reject`: in the main thread, once. `exit-both`: the main thread exits while a worker works too.
 * `terminate`, `worker-exit`: a worker for each end; the process then does some work itself and ends by itself.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { SASRec } from '../../../lib/cf/sasrec.js';
import { ENDLESS, type Folders } from '../../support/endless.js';
import { CPU, tinyDataset } from '../../support/tiny-world.js';

const [, , way, work, foldersJson, delays] = process.argv as unknown as string[];
const folders = JSON.parse(foldersJson!) as Folders;
const moments = delays!.split(',').map(Number);
const [moment] = moments as [number];

const startWorker = (exitAfter?: number) =>
	new Worker(new URL('./endless-worker.js', import.meta.url), { workerData: { work, folders, exitAfter } });

if (way === 'terminate' || way === 'worker-exit') {
	let slowest = 0;
	for (const after of moments) {
		const worker = startWorker(way === 'worker-exit' ? after : undefined);
		const exited = once(worker, 'exit');
		await once(worker, 'message');
		if (way === 'terminate') await sleep(after);
		const asked = performance.now();
		if (way === 'terminate') void worker.terminate();
		const [code] = await exited;
		slowest = Math.max(slowest, performance.now() - asked - (way === 'terminate' ? 0 : after));
		if (code !== (way === 'terminate' ? 1 : 5)) throw new Error(`the worker ended with ${code}`);
	}
	const model = await SASRec.train(tinyDataset(), { hiddenUnits: 16, epochs: 1 }, CPU);
	model.dispose();
	console.log(Math.round(slowest));
} else {
	if (way === 'exit-both') await once(startWorker(), 'message');
	await ENDLESS[work!]!(folders, () => {
		setTimeout(() => {
			if (way === 'throw') throw new Error('on purpose');
			if (way === 'reject') void Promise.reject(new Error('on purpose'));
			else process.exit(7);
		}, moment);
	});
}
