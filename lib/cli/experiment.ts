import type { Command } from 'commander';
import { runExperiment } from '../index.js';
import { type DeviceFlags, deviceOptions, wholeNumber } from './arguments.js';
import { Interrupted, interruptible } from './interrupt.js';
import { printable, printableLines } from './printable.js';

interface Flags extends DeviceFlags {
	out: string;
	jobs?: number;
	checkpointSeconds?: number;
}

export function register(program: Command): void {
	deviceOptions(
		program
			.command('experiment')
			.description('train and evaluate all that a file asks for; run it again to go on where it stopped')
			.argument('<file>', 'YAML or JSON; see docs/experiments.md')
			.requiredOption('--out <folder>', 'folder of the results and of what was trained for them')
			.option('--jobs <n>', 'tasks done at once (default: as many as cores and memory allow)', wholeNumber)
			.option('--checkpoint-seconds <n>', 'time between checkpoints (default: 60)', wholeNumber),
	).action(run);
}

async function run(file: string, { out, jobs, checkpointSeconds, device, threads }: Flags): Promise<void> {
	const command = ['a-llmrec', ...process.argv.slice(2)].join(' ');
	const work = interruptible((signal, onProgress) =>
		runExperiment(file, { out, jobs, checkpointSeconds, device, threads, command, signal, onProgress }),
	);
	const { results, done, found, failures } = await work.catch((error) => {
		if (error instanceof Interrupted) console.error('stopped; the same command goes on from here');
		throw error;
	});
	for (const { task, error } of failures)
		console.error(`failed: ${printable(task)}: ${printableLines(error.message)}`);
	const tasks = found > 0 ? `${done} done, ${found} found done` : `${done} done`;
	console.log(`${results.length} results in ${printable(out)} (tasks: ${tasks}); a-llmrec report shows them`);
	if (failures[0]) throw failures[0].error;
}
