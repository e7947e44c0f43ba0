import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Dataset } from '../../lib/data/dataset.js';
import { type World, writeWorldCsv } from '../../lib/data/demo-world.js';
import { type TrainRunOptions, trainRun } from '../../lib/recommend/run.js';
import type { RunOptions } from '../../lib/recommend/run-config.js';
import { freshPath } from '../data/folders.js';
import { tinyEncoder, tinyLlm } from './tiny-checkpoints.js';
import { CPU, tinyDataset, tinyWorld } from './tiny-world.js';

/** Options of a run that trains in a second or two, with tiny random checkpoints. */
export async function tinyRunOptions(): Promise<RunOptions> {
	return {
		seed: 2,
		textEncoder: await tinyEncoder(),
		llm: await tinyLlm(),
		textTokens: 24,
		cf: { hiddenUnits: 16, maxLength: 10, batchSize: 16, epochs: 10, learningRate: 1e-2, dropoutRate: 0.2 },
		alignment: { jointSize: 8, batchSize: 16, epochs: 2, learningRate: 2e-3 },
		projection: { candidates: 4, batchSize: 8, epochs: 1, learningRate: 2e-3, validationUsers: 10 },
		words: 'game',
		historyLength: 4,
		negatives: 9,
	};
}

export interface TinyRun {
	folder: string;
	dataset: Dataset;
	options: RunOptions;
}

/** Trains all stages of a run. */
export async function tinyRun(dataset: Dataset = tinyDataset(), changes: RunOptions = {}): Promise<TinyRun> {
	const folder = freshPath('run');
	const options = { ...(await tinyRunOptions()), ...changes };
	await trainTinyRun(folder, dataset, options);
	return { folder, dataset, options };
}

export function trainTinyRun(
	folder: string,
	dataset: Dataset,
	options: RunOptions,
	calls: Partial<TrainRunOptions> = {},
): Promise<void> {
	return trainRun(dataset, { out: folder, datasetPath: 'in memory', options, ...CPU, ...calls });
}

/** Writes a world as CSV and prepares it; gives the data set's folder and what it holds. */
export async function preparedWorld(world: World = tinyWorld()): Promise<{ path: string; dataset: Dataset }> {
	const { interactions, items } = await writeWorldCsv(freshPath('log'), world);
	const path = freshPath('dataset');
	const dataset = await Dataset.prepare({
		format: 'csv',
		interactions: [interactions],
		items: [items],
		kCore: 1,
		out: path,
		threads: 1,
	});
	return { path, dataset };
}

/** Hash of every file of a folder and its folders, by path. */
export async function hashes(folder: string): Promise<Record<string, string>> {
	const found: Record<string, string> = {};
	for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
		if (!entry.isFile()) continue;
		const path = join(entry.parentPath, entry.name);
		found[path.slice(folder.length + 1)] = createHash('sha256')
			.update(await readFile(path))
			.digest('hex');
	}
	return found;
}
