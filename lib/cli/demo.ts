import { mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Command } from 'commander';
import { writeFileAtomic } from '../files/atomic.js';
import { writing } from '../files/write-error.js';
import {
	Dataset,
	demoLexicon,
	evaluateRun,
	generateWorld,
	loadRun,
	openRunDataset,
	type RunOptions,
	trainRun,
	writeWorldCsv,
} from '../index.js';
import { type DeviceFlags, deviceOptions, wholeNumber } from './arguments.js';
import { printEvaluation } from './evaluate.js';
import { interruptible } from './interrupt.js';

interface Flags extends DeviceFlags {
	json?: string;
	out?: string;
	seed: number;
	textEncoder?: string;
	llm?: string;
}

export function register(program: Command): void {
	deviceOptions(
		program
			.command('demo')
			.description('the whole line on a generated catalogue: prepare, train all stages, evaluate')
			.option('--json <file>', 'write every metric, interval and test')
			.option('--out <folder>', 'folder for the data set and the run (default: a new temporary one)')
			.option('--seed <n>', 'seed of the catalogue, the users and the training', wholeNumber, 0)
			.option('--text-encoder <folder|id>', 'sentence encoder (default: the embedded tiny one)')
			.option('--llm <folder|id>', 'language model (default: the embedded tiny one)'),
	).action(run);
}

async function run({ json, out, seed, textEncoder, llm, device, threads }: Flags): Promise<void> {
	const folder = out ?? (await mkdtemp(join(tmpdir(), 'a-llmrec-demo-')));
	const runFolder = join(folder, 'run');
	const result = await interruptible(async (signal, onProgress) => {
		await mkdir(folder, { recursive: true });
		const log = await writeWorldCsv(folder, generateWorld({ seed, lexicon: demoLexicon }));
		const path = join(folder, 'dataset');
		const dataset = await Dataset.prepare({
			format: 'csv',
			interactions: [log.interactions],
			items: [log.items],
			kCore: 1,
			name: 'demo',
			out: path,
			signal,
		});
		const options: RunOptions = {
			seed,
			words: 'game',
			...(textEncoder ? { textEncoder } : {}),
			...(llm ? { llm } : {}),
		};
		await trainRun(dataset, {
			out: runFolder,
			datasetPath: path,
			options,
			device,
			threads,
			signal,
			onProgress,
		});
		const { split, test } = await openRunDataset(runFolder, path, signal);
		const model = await loadRun(runFolder, { device, threads, signal });
		try {
			return await evaluateRun(model, split, test, { signal, onProgress });
		} finally {
			model.dispose();
		}
	});
	const text = `${JSON.stringify(result, null, '\t')}\n`;
	await writeFileAtomic(join(runFolder, 'metrics.json'), [text]);
	if (json) await writing(json, () => writeFile(json, text));
	printEvaluation(result);
	console.log(`run in ${runFolder}`);
}
