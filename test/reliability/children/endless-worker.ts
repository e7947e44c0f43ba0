import { parentPort, workerData } from 'node:worker_threads';
import { ENDLESS, type Folders } from '../../support/endless.js';

/** A worker thread with work that does not end; with `exitAfter` it ends itself after so many milliseconds. */
const { work, folders, exitAfter } = workerData as { work: string; folders: Folders; exitAfter?: number };

await ENDLESS[work]!(folders, () => {
	parentPort!.postMessage('begun');
	if (exitAfter !== undefined) setTimeout(() => process.exit(5), exitAfter);
});
