import { type Command, InvalidArgumentError } from 'commander';
import { z } from 'zod';
import { readJson } from '../files/read.js';
import { Dataset, type RunOptions, STAGES, type StageName, trainRun } from '../index.js';
import { type ModelFlags, modelOptions, wholeNumber } from './arguments.js';
import { Interrupted, interruptible } from './interrupt.js';

interface Flags extends ModelFlags {
	out: string;
	stages: StageName[];
	textEncoder?: string;
	llm?: string;
	seed?: number;
	words?: string;
	checkpointSeconds?: number;
	config?: string;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('train')
			.description('train a run on a data set; run it again to go on where it stopped')
			.argument('<dataset>', 'data set folder, written by prepare')
			.requiredOption('--out <folder>', 'run folder')
			.option('--stages <list>', 'stages to train now: cf, align, project', stages, [...STAGES])
			.option(
				'--text-encoder <folder|id>',
				'sentence encoder: a folder or a Hub id (default: the embedded tiny one)',
			)
			.option('--llm <folder|id>', 'language model: a folder or a Hub id (default: the embedded tiny one)')
			.option('--seed <n>', 'seed of everything random', wholeNumber)
			.option('--words <domain>', 'words of the prompt: movie, game or item')
			.option(
				'--checkpoint-seconds <n>',
				'time between checkpoints, which is what a crash can cost (default: 60)',
				wholeNumber,
			)
			.option('--config <file>', 'JSON file with the options of all stages; see docs/options.md'),
	).action(run);
}

async function run(
	path: string,
	{ out, stages, config, checkpointSeconds, device, threads, ...flags }: Flags,
): Promise<void> {
	const options = { ...(config ? await readConfig(config) : {}), ...defined(flags) } as RunOptions;
	const work = interruptible(async (signal, onProgress) => {
		const dataset = await Dataset.open(path, { signal });
		const calls = { device, threads, checkpointSeconds, signal, onProgress };
		await trainRun(dataset, { out, datasetPath: path, stages, options, ...calls });
	});
	await work.catch((error) => {
		if (error instanceof Interrupted) console.error('stopped; the same command goes on from here');
		throw error;
	});
	console.log(`run in ${out}`);
}

function readConfig(path: string): Promise<RunOptions> {
	return readJson(path, optionsSchema, { limit: 1 << 24 });
}

const optionsSchema = z.custom<RunOptions>(
	(value) => typeof value === 'object' && value !== null && !Array.isArray(value),
	'expected an object of options',
);

function stages(text: string): StageName[] {
	const names = text.split(',').map((name) => name.trim());
	for (const name of names)
		if (!STAGES.includes(name as StageName))
			throw new InvalidArgumentError(`\`${name}\` is no stage; the stages are ${STAGES.join(', ')}.`);
	return STAGES.filter((stage) => names.includes(stage));
}

function defined(flags: object): object {
	return Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined));
}
