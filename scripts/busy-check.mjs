// Throughput beside other work: decoding and scoring alone and while every core also runs a busy loop.
// Prints how many times slower they are and fails above a limit. With fair scheduling it is 2; threads that
// spin while a descheduled one holds their work make it far more.
//   node scripts/busy-check.mjs [--bench build-native/a-llmrec-bench] [--rounds 3] [--limit 2.5]
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values: options } = parseArgs({
	options: {
		bench: { type: 'string', default: 'build-native/a-llmrec-bench' },
		rounds: { type: 'string', default: '3' },
		limit: { type: 'string', default: '2.5' },
	},
});
const cores = availableParallelism();
const rounds = Number(options.rounds);
const limit = Number(options.limit);
const workloads = [
	{ suite: 'models', filter: 'decode 1 sequence, context 512 float16' },
	{ suite: 'scoring', filter: 'float32' },
];
const folder = mkdtempSync(join(tmpdir(), 'busy-check-'));

/** The rate of the one row a workload has. */
function rate({ suite, filter }) {
	const report = join(folder, 'report.json');
	const args = [
		'--device',
		'cpu',
		'--suite',
		suite,
		'--models',
		'125m',
		'--filter',
		filter,
		'--json',
		report,
	];
	const { status, error, stderr } = spawnSync(options.bench, args, { encoding: 'utf8' });
	if (status !== 0) throw error ?? new Error(`${options.bench} failed: ${stderr}`);
	const { rows } = JSON.parse(readFileSync(report, 'utf8'));
	if (rows.length !== 1 || !(rows[0].rate > 0)) throw new Error(`Expected one figure of \`${filter}\`.`);
	return rows[0];
}

/** Runs `work` while every core also runs a busy loop of the same priority. */
function beside(work) {
	const loops = Array.from({ length: cores }, () => spawn('yes', { stdio: 'ignore' }));
	try {
		return work();
	} finally {
		for (const loop of loops) loop.kill();
	}
}

const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

try {
	let failed = false;
	for (const workload of workloads) {
		const quiet = [];
		const busy = [];
		let row;
		for (let i = 0; i < rounds; i++) {
			row = rate(workload);
			quiet.push(row.rate);
			busy.push(beside(() => rate(workload).rate));
		}
		const ratio = median(quiet) / median(busy);
		failed ||= !(ratio <= limit);
		console.log(
			`${row.name} ${row.dtype}: ${median(quiet).toFixed(2)} ${row.unit} alone, ${median(busy).toFixed(2)} beside ` +
				`${cores} busy loops: ${ratio.toFixed(2)} times slower (at most ${limit})`,
		);
	}
	process.exitCode = failed ? 1 : 0;
} finally {
	rmSync(folder, { recursive: true, force: true });
}
