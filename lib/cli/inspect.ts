import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Command } from 'commander';
import { listDevices, readRunFile } from '../index.js';
import { formatTable } from './terminal.js';

export function register(program: Command): void {
	program
		.command('inspect')
		.description('show devices, or what a run holds')
		.argument('[run]', 'run folder')
		.action(run);
}

async function run(folder: string | undefined): Promise<void> {
	if (folder === undefined) {
		console.log(`Node ${process.version}, ${process.platform}-${process.arch}`);
		const rows = listDevices().map(
			({ device, available, name, instruction, memoryBytes, threads, libraries, reason }) => [
				device,
				available
					? `${name}, ${instruction}, ${threads} ${device === 'cpu' ? 'threads' : 'multiprocessors'}, ${(memoryBytes / 2 ** 30).toFixed(1)} GiB${libraries && `, ${libraries}`}`
					: reason,
			],
		);
		console.log(formatTable(rows));
		return;
	}
	const { dataset, options } = await readRunFile(folder);
	const rows: [string, string][] = [
		[
			'data set',
			`${dataset.name} (${dataset.numUsers} users, ${dataset.numItems} items, ${dataset.numInteractions} interactions)`,
		],
		['text encoder', options.textEncoder],
		['language model', options.llm],
		['seed', String(options.seed)],
	];
	for (const stage of ['cf', 'align', 'project'])
		rows.push([`stage ${stage}`, await stageState(join(folder, stage))]);
	console.log(formatTable(rows));
}

async function stageState(folder: string): Promise<string> {
	let state: {
		step: number;
		done: boolean;
		stoppedEarly: boolean;
		seconds: number;
		best?: { epoch: number; metrics: Record<string, number> };
	};
	try {
		state = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
	} catch {
		return 'not trained';
	}
	const best = state.best
		? `, best at epoch ${state.best.epoch}: ${Object.entries(state.best.metrics)
				.map(([name, value]) => `${name} ${value.toFixed(4)}`)
				.join(', ')}`
		: '';
	const how = state.done ? (state.stoppedEarly ? 'stopped early' : 'done') : 'in training';
	return `${how}, ${state.step} steps in ${state.seconds.toFixed(1)} s${best}`;
}
