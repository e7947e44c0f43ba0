import { type Command, InvalidArgumentError, Option } from 'commander';
import { type PrepareOptions, prepare } from '../data/dataset.js';
import { summaryRows } from '../data/summary.js';
import { interruptible } from './interrupt.js';
import { printable } from './printable.js';
import { formatTable } from './terminal.js';

type Flags = Omit<PrepareOptions, 'signal' | 'onProgress'>;

export function register(program: Command): void {
	program
		.command('prepare')
		.description('read a log of interactions and write a data set folder')
		.addOption(
			new Option('--format <format>', 'layout of the files')
				.choices(['amazon', 'movielens', 'recbole', 'csv'])
				.makeOptionMandatory(),
		)
		.requiredOption('--interactions <file...>', 'interaction files, or the folder of a MovieLens release')
		.option('--items <file...>', 'item files: titles, descriptions, genres')
		.option(
			'--columns <role=name,...>',
			'column names: user, item, time, rating; id, title, description, genres, brand',
			columns,
		)
		.option('--k-core <n>', 'interactions each user and item must have', wholeNumber, 5)
		.option('--single-pass', "count once, as the authors' code does, instead of to the fixed point", false)
		.option('--min-rating <x>', 'least rating to keep', number)
		.addOption(
			new Option('--duplicates <what>', 'further interactions of the same user and item')
				.choices(['keep', 'drop'])
				.default('drop'),
		)
		.option('--name <name>', 'name of the data set (default: that of the folder)')
		.option('--memory-limit <size>', 'memory of DuckDB; the rest is spilled to the disk of --out', '1GB')
		.option('--threads <n>', 'threads (default: one per core)', wholeNumber)
		.requiredOption('--out <folder>', 'data set folder to write; an older data set there is replaced')
		.action(run);
}

async function run(flags: Flags): Promise<void> {
	const { name, summary } = await interruptible((signal, onProgress) =>
		prepare({ ...flags, signal, onProgress }),
	);
	console.log(`data set ${printable(name)} in ${flags.out}`);
	if (summary) console.log(formatTable(summaryRows(summary)));
}

function wholeNumber(text: string): number {
	if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It has to be a whole number.');
	return Number(text);
}

function number(text: string): number {
	const value = Number(text);
	if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('It has to be a number.');
	return value;
}

/** `user=uid,item=iid`; may be given several times. */
function columns(text: string, before: Record<string, string> = {}): Record<string, string> {
	const pairs = text.split(',').map((pair) => {
		const equals = pair.indexOf('=');
		if (equals < 1 || equals === pair.length - 1)
			throw new InvalidArgumentError(`\`${pair}\` has to be role=name.`);
		return [pair.slice(0, equals).trim(), pair.slice(equals + 1).trim()] as const;
	});
	return { ...before, ...Object.fromEntries(pairs) };
}
