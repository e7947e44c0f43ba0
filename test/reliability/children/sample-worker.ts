import { parentPort, workerData } from 'node:worker_threads';
import type { Folders } from '../../support/endless.js';
import { sampleResults } from '../../support/sample-results.js';

/** A worker thread that works as the main thread does, round after round. */
const { folders, threads, rounds } = workerData as { folders: Folders; threads: number; rounds: number };
const results: object[] = [];
for (let round = 0; round < rounds; round++) results.push(await sampleResults(folders, threads));
parentPort!.postMessage(results);
