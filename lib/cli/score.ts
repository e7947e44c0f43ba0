import { open, rename, rm } from 'node:fs/promises';
import type { Command } from 'commander';
import { loadRun, scoreUsers } from '../index.js';
import { type ModelFlags, modelOptions, wholeNumber } from './arguments.js';
import { interruptible } from './interrupt.js';

interface Flags extends ModelFlags {
	users: string;
	out: string;
	topK: number;
	retrieve: number;
	batchSize: number;
	llm?: string;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('score')
			.description('recommend to every user of a file')
			.argument('<run>', 'run folder')
			.requiredOption(
				'--users <file>',
				'JSON lines {"user": "id", "history": ["id", …], "candidates": [optional]}, gzipped or not',
			)
			.requiredOption(
				'--out <file>',
				'JSON lines {"user": …, "recommendations": […]}, in the order of the input',
			)
			.option('--top-k <n>', 'length of each list', wholeNumber, 10)
			.option('--retrieve <n>', 'candidates taken from the catalogue', wholeNumber, 20)
			.option('--batch-size <n>', 'users scored at once', wholeNumber, 64)
			.option('--llm <folder|id>', 'the language model, where it has moved'),
	).action(run);
}

async function run(
	folder: string,
	{ users, out, topK, retrieve, batchSize, llm, llmDtype, encoderDtype, device, threads }: Flags,
): Promise<void> {
	const counts = await interruptible(async (signal, onProgress) => {
		const model = await loadRun(folder, { llm, llmDtype, encoderDtype, device, threads, signal, onProgress });
		const partial = `${out}.part`;
		const counts = { users: 0, errors: 0 };
		try {
			const file = await open(partial, 'w');
			try {
				for await (const result of scoreUsers(model, users, {
					topK,
					retrieve,
					batchSize,
					signal,
					onProgress,
				})) {
					counts.users++;
					if (result.error) counts.errors++;
					await file.appendFile(`${JSON.stringify(result)}\n`);
				}
			} finally {
				await file.close();
			}
			await rename(partial, out);
			return counts;
		} finally {
			await rm(partial, { force: true });
			model.dispose();
		}
	});
	console.log(
		`${counts.users} users in ${out}${counts.errors > 0 ? `, ${counts.errors} of them with an error` : ''}`,
	);
}
