import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { Command, InvalidArgumentError } from 'commander';
import { wholeNumber } from '../lib/cli/arguments.js';
import { formatTable } from '../lib/cli/terminal.js';
import { addon, disposeEngines } from './devices.js';
import { languageModelGroup } from './language-model.js';
import { type Limits, measureLimits } from './limits.js';
import {
	type Group,
	type MeasureOptions,
	measure,
	type Row,
	startPeer,
	useProcessorTime,
} from './measure.js';
import { findPython } from './peer.js';
import { sasRecGroup } from './sasrec.js';
import { sentenceEncoderGroup } from './sentence-encoder.js';

interface Flags {
	only?: RegExp;
	rounds?: number;
	seconds?: number;
	threads: number[];
	quick: boolean;
	processorTime: boolean;
	peers: boolean;
	python?: string;
	json?: string;
}

const empty = {
	ours: null,
	peer: null,
	ratio: null,
	limit: null,
	fraction: null,
	goal: null,
	met: null,
	note: '',
};

/** Above it the other programs' share is felt. */
const quietLoad = 1.5;

const program = new Command('bench')
	.description('times a-llmrec beside PyTorch, interleaved, and beside the limits of the machine')
	.option('--only <pattern>', 'rows whose name matches this regular expression', regularExpression)
	.option('--rounds <n>', 'pairs of runs each row is the median of (default: 5, quick: 2)', positive)
	.option('--seconds <n>', 'seconds each side runs in a round (default: 1, quick: 0.1)', Number)
	.option('--threads <n,…>', 'numbers of threads', counts, [availableParallelism()])
	.option('--quick', 'small sizes: whether it works, not how fast it is', false)
	.option(
		'--processor-time',
		'processor time instead of the wall clock: for one thread on a busy machine',
		false,
	)
	.option('--no-peers', 'ours alone')
	.option(
		'--python <path>',
		'an interpreter with PyTorch and transformers (default: python3, if it has them)',
	)
	.option('--json <file>', 'write the rows')
	.action(run);

await program.parseAsync();

async function run(flags: Flags): Promise<void> {
	const { only, rounds, seconds, threads, quick, processorTime, peers, python, json } = flags;
	if (processorTime && threads.some((count) => count !== 1))
		program.error('error: `--processor-time` asks for `--threads 1`');
	if (processorTime) useProcessorTime();
	const load = loadavg()[0]!;
	if (load > quietLoad)
		console.error(
			`The load of this machine is ${load.toFixed(1)}: other programs are running, so the numbers are not to be trusted.`,
		);
	const found = peers ? findPython(python) : { reason: 'peers left out' };
	if (python && 'reason' in found) program.error(`error: ${found.reason}`);
	const options: MeasureOptions = {
		rounds: rounds ?? (quick ? 2 : 5),
		seconds: seconds ?? (quick ? 0.1 : 1),
		processorTime,
		python: found,
	};
	const cpu = addon()
		.listDevices()
		.find(({ backend }) => backend === 'cpu');
	console.log(
		`${cpus()[0]?.model ?? 'unknown processor'}, ${cpu?.instruction ?? '?'}; ${'versions' in found ? found.versions : `no peers (${found.reason})`}; load ${load.toFixed(1)}; ${options.rounds} rounds of ${options.seconds} s`,
	);
	const { limits, problem } = measureLimits(threads, processorTime);
	if (problem) console.error(`The limits are unknown: ${problem}.`);
	const rows = limitRows(limits).filter(({ name }) => !only || only.test(name));
	for (const make of [sasRecGroup, sentenceEncoderGroup, languageModelGroup]) {
		const group = make(quick);
		try {
			for (const count of threads)
				rows.push(...(await measureGroup(group, count, limits.get(count)!, only, options)));
		} finally {
			group.dispose();
		}
	}
	disposeEngines();
	console.log(table(rows));
	if (json) writeFileSync(json, `${JSON.stringify(rows, null, '\t')}\n`);
	if (rows.some(({ note }) => note.startsWith('failed'))) process.exitCode = 1;
}

async function measureGroup(
	group: Group,
	threads: number,
	limits: Limits,
	only: RegExp | undefined,
	options: MeasureOptions,
): Promise<Row[]> {
	const cases = group.cases.filter(({ name }) => !only || only.test(name));
	if (cases.length === 0) return [];
	const peer = startPeer(group, threads, options);
	const rows: Row[] = [];
	try {
		for (const item of cases) {
			const before = rows.length;
			try {
				rows.push(...(await measure(item, threads, limits, peer, options)));
			} catch (error) {
				rows.push(failed(item.name, item.dtype, threads, item.unit, error as Error));
			}
			for (const { name, dtype, ours, peer: theirs, unit, ratio } of rows.slice(before))
				process.stderr.write(
					`  ${name}, ${dtype}: ${number(ours)} beside ${number(theirs)} ${unit}${ratio === null ? '' : `, ${ratio.toFixed(2)}×`}\n`,
				);
		}
	} finally {
		if (typeof peer !== 'string') peer.dispose();
	}
	return rows;
}

function failed(name: string, dtype: string, threads: number, unit: string, error: Error): Row {
	return { ...empty, name, dtype, threads, unit, note: `failed: ${error.message}` };
}

function limitRows(limits: ReadonlyMap<number, Limits>): Row[] {
	return [...limits].flatMap(([threads, measured]) => {
		const row = (name: string, dtype: string, unit: string, limit: number | null): Row => ({
			...empty,
			name,
			dtype,
			threads,
			unit,
			limit,
		});
		return [
			row('limit: multiply-adds', 'float32', 'GFLOP/s', measured.gigaflops),
			row('limit: dot products', 'bfloat16', 'GFLOP/s', measured.bfloat16Gigaflops),
			row('limit: memory read', '', 'GB/s', measured.readGigabytes),
			row('limit: memory copy', '', 'GB/s', measured.copyGigabytes),
		];
	});
}

function table(rows: readonly Row[]): string {
	const cells = rows.map((row) => [
		row.name,
		row.dtype,
		row.threads,
		number(row.ours),
		number(row.peer),
		row.unit,
		row.ratio === null ? '–' : `${row.ratio.toFixed(2)}×`,
		number(row.limit),
		row.fraction === null ? '–' : `${(100 * row.fraction).toFixed(0)} %`,
		row.goal === null ? '–' : `${row.goal.toFixed(2)}×`,
		row.met === null ? '–' : row.met ? 'yes' : 'no',
		row.note,
	]);
	const head = ['', 'dtype', 'threads', 'ours', 'peer', 'unit', 'ratio', 'limit', 'of it', 'goal', 'met', ''];
	return formatTable(cells, { head });
}

function number(value: number | null): string {
	if (value === null) return '–';
	return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}

function regularExpression(text: string): RegExp {
	try {
		return new RegExp(text, 'i');
	} catch (error) {
		throw new InvalidArgumentError((error as Error).message);
	}
}

function positive(text: string): number {
	const value = wholeNumber(text);
	if (value < 1) throw new InvalidArgumentError('It has to be at least 1.');
	return value;
}

function counts(text: string): number[] {
	return text.split(',').map((part) => positive(part.trim()));
}
