import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { writeFileAtomic } from '../files/atomic.js';
import { writing } from '../files/write-error.js';
import { evaluateRun, formatEvaluation, loadRun, openRunDataset, type RunEvaluation } from '../index.js';
import { type ModelFlags, modelOptions, wholeNumber } from './arguments.js';
import { interruptible } from './interrupt.js';

interface Flags extends ModelFlags {
	json?: string;
	dataset?: string;
	users?: number;
	fullUsers: number;
	rerank: number;
	llm?: string;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('evaluate')
			.description('evaluate CF, LLM-Only, A-LLMRec and their fusion on the same users and candidates')
			.argument('<run>', 'run folder')
			.option('--json <file>', 'write every metric, interval and test')
			.option('--dataset <folder>', 'the data set, where it has moved')
			.option('--users <n>', 'evaluate so many users at most (default: all)', wholeNumber)
			.option(
				'--full-users <n>',
				'users of the ranking over the whole catalogue; 0 leaves it out',
				wholeNumber,
				500,
			)
			.option('--rerank <n>', 'best items by CF that are re-ranked there', wholeNumber, 20)
			.option('--llm <folder|id>', 'the language model, where it has moved'),
	).action(run);
}

async function run(folder: string, flags: Flags): Promise<void> {
	const {
		json,
		dataset: path,
		users,
		fullUsers,
		rerank,
		llm,
		llmDtype,
		encoderDtype,
		device,
		threads,
	} = flags;
	const result = await interruptible(async (signal, onProgress) => {
		const { split, test } = await openRunDataset(folder, path, signal);
		const model = await loadRun(folder, { llm, llmDtype, encoderDtype, device, threads, signal, onProgress });
		try {
			return await evaluateRun(model, split, test, { users, fullUsers, rerank, signal, onProgress });
		} finally {
			model.dispose();
		}
	});
	const text = `${JSON.stringify(result, null, '\t')}\n`;
	await writeFileAtomic(join(folder, 'metrics.json'), [text]);
	if (json) await writing(json, () => writeFile(json, text));
	printEvaluation(result);
}

/** Both tables, the protocol's and the whole catalogue's. */
export function printEvaluation({ candidates, catalogue, latents }: RunEvaluation): void {
	console.log(formatEvaluation(candidates));
	if (catalogue) console.log(formatEvaluation(catalogue));
	const { meanCosineE, meanCosineQ, itemReconstruction } = latents;
	console.log(
		`latents: mean cosine of e ${meanCosineE.toFixed(3)}, of q ${meanCosineQ.toFixed(3)}; item reconstruction error ${itemReconstruction.toFixed(4)}`,
	);
}
