import { type Command, InvalidArgumentError } from 'commander';
import { writeReport } from '../index.js';
import { interruptible } from './interrupt.js';
import { printable } from './printable.js';
import { formatBytes } from './terminal.js';

interface Flags {
	out: string;
	tables?: string;
	title?: string;
	reference?: string;
	resamples?: number;
}

export function register(program: Command): void {
	program
		.command('report')
		.description('write one HTML page of the results of experiments')
		.argument('<folder...>', 'folders of experiments, each with its results')
		.option('--out <file>', 'the page', 'report.html')
		.option('--tables <file>', 'the tables in Markdown too, without anything of single users and items')
		.option('--title <text>', 'its title')
		.option('--reference <model>', 'model that the others are compared with (default: A-LLMRec)')
		.option('--resamples <n>', 'of the bootstrap (default: 2000)', positive)
		.action(run);
}

function positive(text: string): number {
	if (!/^[1-9]\d*$/.test(text)) throw new InvalidArgumentError('It has to be a whole number of at least 1.');
	return Number(text);
}

async function run(folders: string[], flags: Flags): Promise<void> {
	const { path, results, sections, bytes } = await interruptible((signal, onProgress) =>
		writeReport({ folders, ...flags, signal, onProgress }),
	);
	console.log(
		`${printable(path)}: ${results} ${results === 1 ? 'result' : 'results'}, ${sections.length} sections, ${formatBytes(bytes)}`,
	);
}
