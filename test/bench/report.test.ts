import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import type { Limits } from '../../bench/limits.js';
import { type Case, type Measured, measureGroup, type PeerCase } from '../../bench/measure.js';
import { findPrograms, noPrograms } from '../../bench/peer.js';
import { type Row, rowsOf, summary } from '../../bench/report.js';

const limits: Limits = {
	gigaflops: 100,
	bfloat16Gigaflops: 200,
	int8Gigaflops: 400,
	readGigabytes: 20,
	copyGigabytes: 20,
};
const peer = (program: PeerCase['program']): PeerCase => ({ program, kind: 'decode', settings: {} });

/** Ours takes 2 s an iteration, whose floor is 1 s. */
function decode(name: string, units: number, goals: Case['goals'], rounds: [PeerCase, number[]][]): Measured {
	return {
		case: {
			name,
			dtype: 'int8',
			units,
			unit: 'tokens/s',
			floor: () => 1,
			open: async () => ({ run: async () => 2, dispose() {} }),
			peers: rounds.map(([item]) => item),
			goals,
		},
		ours: [2, 2, 2],
		peers: rounds.map(([item, theirs]) => ({
			peer: item,
			rounds: theirs.map((seconds) => ({ ours: 2, theirs: seconds })),
			problem: '',
		})),
		problem: '',
	};
}

test('the fastest peer comes first and bears the goals, each met or not', (t) => {
	const rows = rowsOf(
		[
			decode('batch 1', 1, { ratio: 1, fraction: 0.6, value: 0.4 }, [
				[peer('PyTorch'), [8, 6, 10]],
				[peer('onnxruntime'), [1, 3, 1.5]],
			]),
			decode('batch 8', 8, { speedup: { over: 'batch 1', least: 5 } }, [[peer('PyTorch'), [4]]]),
		],
		2,
		limits,
	);
	t.deepEqual(
		rows.map(({ name, program, best, ratio, ours }) => [name, program, best, ratio, ours]),
		[
			['batch 1', 'onnxruntime', true, 0.75, 0.5],
			['batch 1', 'PyTorch', false, 4, 0.5],
			['batch 8', 'PyTorch', true, 2, 4],
		],
	);
	t.deepEqual(
		rows.map(({ goals }) => goals.map(({ of, measured, met }) => [of, measured, met])),
		[
			[
				['ratio', 0.75, false],
				['fraction', 0.5, false],
				['value', 0.5, true],
			],
			[],
			[['speedup', 8, true]],
		],
	);
	t.is(rows[2]!.note, 'the limit allows 8.0× batch 1');
	t.regex(summary(rows), /^Ahead of the best peer in 1 of 2 rows; 2 of 4 goals met\.\n {2}batch 1, int8/);
});

test('of a time less is more, and what nobody measured is neither met nor missed', (t) => {
	const scoring = decode('scoring', 1, { ratio: 1, value: 1.1 }, [
		[peer('PyTorch'), [3]],
		[peer('onnxruntime'), []],
	]);
	scoring.case.unit = 's/user';
	scoring.peers[1]!.problem = 'no onnxruntime-node';
	const [row, other] = rowsOf([scoring], 1, limits);
	t.is(row!.program, 'PyTorch');
	t.is(row!.ratio, 1.5);
	t.deepEqual(
		row!.goals.map(({ met }) => met),
		[true, false],
	);
	t.is(other!.peer, null);
	t.is(other!.note, 'no onnxruntime-node');
	const [unmeasured] = rowsOf([{ ...scoring, ours: [], peers: [], problem: 'failed: x' }], 1, limits);
	t.true(unmeasured!.goals.every(({ met }) => met === null));
	t.is(unmeasured!.note, 'failed: x');
});

test('a case fails alone, and a peer with as many threads as the row is the row itself', async (t) => {
	const item = decode('case', 1, {}, [[{ ...peer('node-llama-cpp'), threads: 1 }, []]]).case;
	const bad: Case = {
		...item,
		name: 'bad',
		open: async () => {
			throw new Error('too little memory');
		},
	};
	const group = { name: 'group', script: 'language_model', cases: [bad, item], dispose() {} };
	const options = {
		rounds: 2,
		budget: 1,
		seconds: 0.1,
		processorTime: false,
		programs: noPrograms('left out'),
	};
	const [failed, measured] = await measureGroup(group, group.cases, 1, options);
	t.is(failed!.problem, 'failed: too little memory');
	t.true(measured!.ours.length > 0);
	t.is(measured!.peers.length, 0);
	const [, two] = await measureGroup(group, group.cases, 2, options);
	t.is(two!.peers[0]!.problem, 'left out');
});

test('a package that is not there is named', (t) => {
	const { onnxruntime } = findPrograms({ python: 'no-such-interpreter', folder: tmpdir() });
	if ('problem' in onnxruntime) t.regex(onnxruntime.problem, /no onnxruntime-node/);
	else t.regex(onnxruntime.version, /^onnxruntime-node \d/);
});

test('the program measures what is asked for and writes its rows', async (t) => {
	const folder = await mkdtemp(join(tmpdir(), 'a-llmrec-bench-test-'));
	t.teardown(() => rm(folder, { recursive: true }));
	const json = join(folder, 'rows.json');
	const program = fileURLToPath(new URL('../../bench/bench.js', import.meta.url));
	await promisify(execFile)(process.execPath, [
		program,
		...['--quick', '--no-peers', '--threads', '1', '--json', json],
		...['--only', 'small OPT decode at 64, batch \\d, int'],
	]);
	const all = JSON.parse(await readFile(json, 'utf8')) as Row[];
	const rows = all.filter(({ best }) => best);
	t.deepEqual(
		rows.map(({ name, dtype }) => [name, dtype]),
		['int8', 'int4'].flatMap((dtype) =>
			[1, 8].map((batch) => [`small OPT decode at 64, batch ${batch}`, dtype]),
		),
	);
	for (const row of rows) t.true(row.ours! > 0, row.note);
	t.true(rows[1]!.goals.find(({ of }) => of === 'speedup')!.measured! > 0);
});
