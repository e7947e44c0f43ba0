import { type Command, Option } from 'commander';
import { ALLMRecError, loadRun, type ScoreSummary, scoreFile } from '../index.js';
import { type ModelFlags, modelOptions, share, wholeNumber } from './arguments.js';
import { Interrupted, interruptible } from './interrupt.js';
import { duration } from './terminal.js';

interface Flags extends ModelFlags {
	run?: string;
	users: string;
	out: string;
	inputFormat?: 'jsonl' | 'csv' | 'parquet';
	format?: 'jsonl' | 'parquet';
	listSeparator?: string;
	rejects?: string;
	restart?: boolean;
	topK: number;
	retrieve: number;
	coldShare?: number;
	by?: 'fused' | 'llm' | 'cf';
	batchSize?: number;
	tokensPerBatch?: number;
	llm?: string;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('score')
			.description('recommend to every user of a file; a stopped job goes on when the command is repeated')
			.argument('[run]', 'run folder')
			.option('--run <folder>', 'the run folder, by name')
			.requiredOption(
				'--users <file>',
				'JSON lines {"user": "id", "history": ["id", …], "candidates": [optional]}, or CSV or Parquet with these columns; texts also gzipped',
			)
			.requiredOption('--out <file>', 'results in the order of the input, .jsonl, .jsonl.gz or .parquet')
			.addOption(
				new Option('--input-format <format>', 'where the name does not tell').choices([
					'jsonl',
					'csv',
					'parquet',
				]),
			)
			.addOption(
				new Option('--format <format>', 'of the results, where the name does not tell').choices([
					'jsonl',
					'parquet',
				]),
			)
			.option('--list-separator <text>', 'between ids of a CSV cell (default: |)')
			.option('--rejects <file>', 'rows that cannot be scored (default: <out>.rejects.jsonl)')
			.option('--restart', 'start over where a stopped job would be gone on with')
			.option('--top-k <n>', 'length of each list', wholeNumber, 10)
			.option('--retrieve <n>', 'candidates taken from the catalogue', wholeNumber, 20)
			.option('--cold-share <share>', 'of them for items known by their texts alone (default: 0.1)', share)
			.addOption(
				new Option('--by <score>', 'what lists are ordered by (default: fused)').choices([
					'fused',
					'llm',
					'cf',
				]),
			)
			.option('--batch-size <n>', 'users retrieved for at once (default: 256)', wholeNumber)
			.option('--tokens-per-batch <n>', 'tokens of one pass (default: 4096)', wholeNumber)
			.option('--llm <folder|id>', 'the language model, where it has moved'),
	).action(run);
}

async function run(argument: string | undefined, flags: Flags): Promise<void> {
	const {
		run: named,
		llm,
		llmDtype,
		encoderDtype,
		device,
		threads,
		format: outputFormat,
		...options
	} = flags;
	const folder = named ?? argument;
	if (folder === undefined)
		throw new ALLMRecError('ERR_ALLMREC_INVALID_ARGUMENT', 'Give the run folder: `a-llmrec score <run> …`.');
	try {
		const summary = await interruptible(async (signal, onProgress) => {
			const model = await loadRun(folder, {
				llm,
				llmDtype,
				encoderDtype,
				device,
				threads,
				signal,
				onProgress,
			});
			try {
				return await scoreFile(model, { ...options, outputFormat, signal, onProgress });
			} finally {
				model.dispose();
			}
		});
		print(summary, flags.out);
	} catch (error) {
		if (error instanceof Interrupted)
			console.error(`stopped; the same command goes on from the last checkpoint (${flags.out}.state.json)`);
		throw error;
	}
}

function print(
	{ users, rejected, rejects, resumedRows, seconds, usersPerSecond }: ScoreSummary,
	out: string,
): void {
	const before = resumedRows > 0 ? `, ${resumedRows} rows of it before` : '';
	const speed = `${usersPerSecond.toFixed(1)} users/s for ${duration(seconds)}`;
	console.log(`${users} users in ${out} (${speed}${before})`);
	for (const [code, count] of Object.entries(rejected)) console.log(`${count} rejected: ${code}`);
	if (rejects) console.log(`rejected rows in ${rejects}`);
}
