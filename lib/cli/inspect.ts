import { join } from 'node:path';
import { type Command, InvalidArgumentError, Option } from 'commander';
import { z } from 'zod';
import { tryReadJson } from '../files/read.js';
import {
	addonInfo,
	type LanguageModelMemoryOptions,
	LLM_DTYPES,
	type LlmDtype,
	languageModelMemory,
	listDevices,
	type MemoryUse,
	readRunFile,
	resolveEmbedded,
} from '../index.js';
import { formatBytes, formatTable } from './terminal.js';

interface Flags {
	dtype?: LlmDtype;
	tokens: number;
	batch: number;
	context?: number;
	threads?: number;
}

export function register(program: Command): void {
	program
		.command('inspect')
		.description('show devices, what a run holds, or the memory a language model takes')
		.argument('[run|checkpoint]', 'run folder, or the folder or Hub id of an OPT')
		.addOption(new Option('--dtype <dtype>', 'of the weights').choices(LLM_DTYPES))
		.option('--tokens <n>', 'packed tokens of a scoring pass', positive, 4096)
		.option('--batch <n>', 'prompts that are continued at once', positive, 1)
		.option('--context <n>', "positions of each (default: all of the model's)", positive)
		.option('--threads <n>', 'CPU threads (default: as many as the process may use)', positive)
		.action(run);
}

function positive(text: string): number {
	if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('It has to be a whole number of at least 1.');
	return Number(text);
}

async function run(source: string | undefined, flags: Flags): Promise<void> {
	if (source === undefined) return printDevices();
	if (await isModel(source)) return printMemory(source, flags);
	await printRun(source, flags);
}

/** A run is a folder too; what is neither is taken for a run. */
async function isModel(source: string): Promise<boolean> {
	return (await describesModel(source)) ?? HUB_ID.test(source);
}

const HUB_ID = /^[\w-][\w.-]*\/[\w.-]*[\w-](@[\w./-]+)?$/;

/** Whether a folder's configuration is a model's; undefined where there is none. */
async function describesModel(source: string): Promise<boolean | undefined> {
	const path = join(resolveEmbedded(source), 'config.json');
	const config = await tryReadJson(path, modelSchema).catch(() => ({ model_type: undefined }));
	return config && config.model_type !== undefined;
}

const modelSchema = z.looseObject({ model_type: z.string().optional() });

function printDevices(): void {
	console.log(`Node ${process.version}, ${process.platform}-${process.arch}`);
	const { version, path, origin, instructionSets } = addonInfo();
	console.log(`a-llmrec ${version}, addon ${path} (${origin}; ${instructionSets.join(', ')})`);
	const rows = listDevices().map(
		({ device, available, name, instruction, memoryBytes, threads, libraries, reason }) => [
			device,
			available
				? `${name}, ${instruction}, ${threads} ${device === 'cpu' ? 'threads' : 'multiprocessors'}, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB${libraries && `, ${libraries}`}`
				: reason,
		],
	);
	console.log(formatTable(rows));
}

async function printRun(folder: string, flags: Flags): Promise<void> {
	const { dataset, options } = await readRunFile(folder);
	const rows: [string, string][] = [
		[
			'data set',
			`${dataset.name} (${dataset.numUsers} users, ${dataset.numItems} items, ${dataset.numInteractions} interactions)`,
		],
		['text encoder', `${options.textEncoder} (${options.encoderDtype})`],
		['language model', `${options.llm} (${options.llmDtype})`],
		['seed', String(options.seed)],
	];
	for (const stage of ['cf', 'align', 'project'])
		rows.push([`stage ${stage}`, await stageState(join(folder, stage))]);
	console.log(formatTable(rows));
	// Of a Hub id the configuration would have to be downloaded; who wants that gives the id itself.
	if (await describesModel(options.llm))
		await printMemory(options.llm, { ...flags, dtype: flags.dtype ?? options.llmDtype }).catch(
			(error: Error) => console.log(`memory of the language model: ${error.message}`),
		);
}

async function printMemory(source: string, flags: Flags): Promise<void> {
	const { tokens, batch, context, dtype, threads } = flags;
	const options: LanguageModelMemoryOptions = { tokens, batch, context, dtype, threads };
	const memory = await languageModelMemory(resolveEmbedded(source), options);
	console.log(`${(memory.parameters / 1e6).toFixed(1)} million parameters; on the CPU, beside Node itself:`);
	const weights = Object.entries(memory.weights).map(([name, bytes]) => [name, formatBytes(bytes)]);
	console.log(formatTable(weights, { head: ['weights in', 'bytes'] }));
	const row = (what: string, { weights, cache, arena, work, peak }: MemoryUse) => [
		what,
		...[weights, cache, arena, work, peak].map(formatBytes),
	];
	const rows = [
		row(`scoring ${tokens} packed tokens`, memory.scoring),
		row(`continuing ${batch} prompt${batch === 1 ? '' : 's'}`, memory.generation),
	];
	console.log(formatTable(rows, { head: [memory.dtype, 'weights', 'cache', 'arena', 'work', 'peak'] }));
}

const stateSchema = z.looseObject({
	step: z.int(),
	done: z.boolean(),
	stoppedEarly: z.boolean(),
	seconds: z.number(),
	best: z.looseObject({ epoch: z.number(), metrics: z.record(z.string(), z.number()) }).optional(),
});

async function stageState(folder: string): Promise<string> {
	const state = await tryReadJson(join(folder, 'state.json'), stateSchema).catch(() => null);
	if (!state) return state === null ? 'damaged: its state.json cannot be read' : 'not trained';
	const best = state.best
		? `, best at epoch ${state.best.epoch}: ${Object.entries(state.best.metrics)
				.map(([name, value]) => `${name} ${value.toFixed(4)}`)
				.join(', ')}`
		: '';
	const how = state.done ? (state.stoppedEarly ? 'stopped early' : 'done') : 'in training';
	return `${how}, ${state.step} steps in ${state.seconds.toFixed(1)} s${best}`;
}
