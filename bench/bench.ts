import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg } from 'node:os';
import { Command, InvalidArgumentError } from 'commander';
import { wholeNumber } from '../lib/cli/arguments.js';
import { addon, disposeEngines } from './devices.js';
import { languageModelGroups } from './language-model.js';
import { type Limits, measureLimits } from './limits.js';
import { type Group, type MeasureOptions, measureGroup, useProcessorTime } from './measure.js';
import { findPrograms, noPrograms } from './peer.js';
import { limitRows, type Row, rowsOf, summary, table, verdict } from './report.js';
import { sasRecGroup } from './sasrec.js';
import { sentenceEncoderGroup } from './sentence-encoder.js';

interface Flags {
	only?: RegExp;
	rounds?: number;
	budget: number;
	seconds?: number;
	threads: number[];
	quick: boolean;
	processorTime: boolean;
	/** A folder; true: peers wherever they are found; false: none. */
	peers: string | boolean;
	python?: string;
	json?: string;
}

/** Above it the other programs' share is felt. */
const quietLoad = 1.5;

const program = new Command('bench')
	.description('times a-llmrec beside its peers, interleaved, and beside the limits of the machine')
	.option(
		'--only <pattern>',
		'rows whose name and precision, as in `opt-125m decode at 512, batch 1, int8`, match this regular expression',
		regularExpression,
	)
	.option('--rounds <n>', 'most pairs of runs each row is the median of (default: 5, quick: 2)', positive)
	.option('--budget <n>', 'seconds a pair may take before its rounds become fewer', Number, 5)
	.option('--seconds <n>', 'seconds each side runs in a round (default: 0.7, quick: 0.1)', Number)
	.option('--threads <n,…>', 'numbers of threads', counts, [availableParallelism()])
	.option('--quick', 'small sizes: whether it works, not how fast it is', false)
	.option(
		'--processor-time',
		'processor time instead of the wall clock: for one thread on a busy machine',
		false,
	)
	.option(
		'--peers <folder>',
		'where onnxruntime-node and node-llama-cpp are installed, besides the working directory and NODE_PATH',
		process.env.ALLMREC_BENCH_PEERS ?? true,
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
	const { only, rounds, budget, seconds, threads, quick, processorTime, peers, python, json } = flags;
	if (processorTime && threads.some((count) => count !== 1))
		program.error('error: `--processor-time` asks for `--threads 1`');
	if (processorTime) useProcessorTime();
	const load = loadavg()[0]!;
	if (load > quietLoad)
		console.error(
			`The load of this machine is ${load.toFixed(1)}: other programs are running, so the numbers are not to be trusted.`,
		);
	const folder = typeof peers === 'string' ? { folder: peers } : {};
	const programs =
		peers === false
			? noPrograms('peers left out')
			: findPrograms({ ...(python ? { python } : {}), ...folder });
	if (python && 'problem' in programs.PyTorch) program.error(`error: ${programs.PyTorch.problem}`);
	const options: MeasureOptions = {
		rounds: rounds ?? (quick ? 2 : 5),
		budget,
		seconds: seconds ?? (quick ? 0.1 : 0.7),
		processorTime,
		programs,
	};
	const cpu = addon()
		.listDevices()
		.find(({ backend }) => backend === 'cpu');
	const found = Object.values(programs).map((p) => ('problem' in p ? p.problem : p.version));
	console.log(
		`${cpus()[0]?.model ?? 'unknown processor'}, ${cpu?.instruction ?? '?'}; ${[...new Set(found)].join('; ')}; load ${load.toFixed(1)}; up to ${options.rounds} rounds of ${options.seconds} s`,
	);
	const { limits, problem } = measureLimits(threads, processorTime);
	if (problem) console.error(`The limits are unknown: ${problem}.`);
	const wanted = (name: string, dtype: string) => !only || only.test(`${name}, ${dtype}`);
	const rows = limitRows(limits).filter(({ name, dtype }) => wanted(name, dtype));
	const groups = [sasRecGroup(quick), sentenceEncoderGroup(quick), ...languageModelGroups(quick)];
	for (const group of groups) {
		try {
			for (const count of threads)
				rows.push(...(await runGroup(group, wanted, count, limits.get(count)!, options)));
		} finally {
			await group.dispose();
		}
	}
	disposeEngines();
	console.log(table(rows));
	console.log(`\n${summary(rows)}`);
	if (json) writeFileSync(json, `${JSON.stringify(rows, null, '\t')}\n`);
	if (rows.some(({ note }) => note.startsWith('failed'))) process.exitCode = 1;
}

async function runGroup(
	group: Group,
	wanted: (name: string, dtype: string) => boolean,
	threads: number,
	limits: Limits,
	options: MeasureOptions,
): Promise<Row[]> {
	const cases = group.cases.filter(({ name, dtype }) => wanted(name, dtype));
	if (cases.length === 0) return [];
	const rows = rowsOf(await measureGroup(group, cases, threads, options), threads, limits);
	for (const row of rows.filter(({ best }) => best)) process.stderr.write(`  ${verdict(row)}\n`);
	return rows;
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
