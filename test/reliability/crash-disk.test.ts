import { spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { prepare } from '../../lib/data/dataset.js';
import { writeWorldCsv } from '../../lib/data/demo-world.js';
import { quantizeCheckpoint } from '../../lib/llm/quantization.js';
import type { RunOptions } from '../../lib/recommend/run-config.js';
import { fixture, freshPath } from '../data/folders.js';
import type { SweepRequest, SweepResult } from '../support/disk-sweep.js';
import { buildFaultyDisk, type Fault, FaultyDisk } from '../support/faulty-disk.js';
import { held, LONG, times } from '../support/reliability.js';
import { tinyRun, tinyRunOptions } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

const child = fileURLToPath(new URL('../support/disk-sweep.js', import.meta.url));

/** A disk that is full for good, one bad write, a folder that became read-only, a quota, room that comes and goes. */
const FAULTS: { fault: Fault; lasts: boolean }[] = [
	{ fault: 'ENOSPC', lasts: true },
	{ fault: 'EIO', lasts: false },
	...(LONG
		? [
				{ fault: 'EROFS', lasts: true } as const,
				{ fault: 'EDQUOT', lasts: true } as const,
				{ fault: 'ENOSPC', lasts: false } as const,
			]
		: []),
];

/** Stages that are over after a few steps. */
async function briefOptions(): Promise<RunOptions> {
	const options = await tinyRunOptions();
	return {
		...options,
		cf: { ...options.cf, epochs: 2 },
		alignment: { ...options.alignment, epochs: 2 },
		trainUsers: 20,
	};
}

interface Faults {
	faults: number;
	refused: number;
}

/** Undefined, loudly, where no disk can be made to fail. */
async function sweep(
	t: ExecutionContext,
	job: Omit<SweepRequest, 'root' | 'control' | 'fault' | 'lasts'>,
): Promise<Faults | undefined> {
	const { missing } = buildFaultyDisk();
	if (missing) {
		t.log(`SKIP: ${missing}`);
		t.pass();
		return undefined;
	}
	const sum = { faults: 0, refused: 0 };
	for (const { fault, lasts } of FAULTS) {
		const root = freshPath('disk');
		await mkdir(root, { recursive: true });
		const control = freshPath('control');
		const disk = new FaultyDisk([root], control);
		const { calls, faults, refused, problems } = await inChild(
			{ ...job, root, control, fault, lasts },
			disk.env,
		);
		t.deepEqual(problems, []);
		t.true(faults > 0 && refused > 0, `${faults} faults, ${refused} refused`);
		const duration = lasts ? ' for good' : '';
		t.log(`${job.job}, ${fault}${duration}: ${faults} of ${calls} calls, ${refused} refused`);
		sum.faults += faults;
		sum.refused += refused;
	}
	return sum;
}

function inChild(request: SweepRequest, env: Record<string, string>): Promise<SweepResult> {
	const sweeping = spawn(process.execPath, [child, JSON.stringify(request)], {
		stdio: ['ignore', 'pipe', 'inherit'],
		env: { ...process.env, ...env },
	});
	let out = '';
	sweeping.stdout.on('data', (data) => {
		out += data;
	});
	return new Promise((resolve, reject) =>
		sweeping.on('close', (code) => {
			if (code === 0) resolve(JSON.parse(out) as SweepResult);
			else reject(new Error(`The sweep ended with ${code}.`));
		}),
	);
}

const trained = briefOptions().then((options) => tinyRun(undefined, options));

test('training, on a disk that fails at any call', async (t) => {
	const options = await briefOptions();
	const sum = await sweep(t, { job: 'train', input: { options }, points: times(5, 60) });
	if (!sum) return;
	held('Crash safety', 'A disk that fails at any moment of a training costs nothing that was good.', {
		'faults put in': sum.faults,
		'told as ERR_ALLMREC_WRITE': sum.refused,
		'runs that differ after going on': 0,
	});
});

test('scoring, on a disk that fails at any call', async (t) => {
	const { folder, dataset } = await trained;
	const lines = Array.from({ length: 300 }, (_, u) =>
		JSON.stringify({ user: `u${u}`, history: [u % 50 === 7 ? 'nothing' : dataset.items[1 + (u % 40)]!.id] }),
	);
	const users = await fixture('users.jsonl', `${lines.join('\n')}\n`);
	const sum = { faults: 0, refused: 0 };
	for (const out of ['lists.jsonl.gz', 'lists.parquet']) {
		const part = await sweep(t, { job: 'score', input: { run: folder, users, out }, points: times(3, 25) });
		if (!part) return;
		sum.faults += part.faults;
		sum.refused += part.refused;
	}
	held('Crash safety', 'A disk that fails at any moment of a scoring job leaves a job that goes on.', {
		'faults put in': sum.faults,
		'told as ERR_ALLMREC_WRITE': sum.refused,
		'results that differ after going on': 0,
	});
});

test('prepare and quantize, on a disk that fails at any call', async (t) => {
	const log = await writeWorldCsv(freshPath('log'), tinyWorld());
	const older = await writeWorldCsv(freshPath('log'), tinyWorld({ seed: 4 }));
	const before = freshPath('before');
	await prepare({
		format: 'csv',
		interactions: [older.interactions],
		items: [older.items],
		kCore: 1,
		out: join(before, 'set'),
		threads: 1,
	});
	const prepared = await sweep(t, {
		job: 'prepare',
		input: { log: [log.interactions, log.items] },
		before,
		points: times(4, 45),
	});
	if (!prepared) return;
	const { options } = await trained;
	const stored = freshPath('before');
	await quantizeCheckpoint(options.llm!, { dtype: 'int4', out: join(stored, 'stored'), ...CPU });
	const quantized = await sweep(t, {
		job: 'quantize',
		input: { llm: options.llm! },
		before: stored,
		points: times(3, 35),
	});
	held('Crash safety', 'A disk that fails while a folder is replaced leaves the old one whole.', {
		'faults put in': prepared.faults + quantized!.faults,
		'told as ERR_ALLMREC_WRITE': prepared.refused + quantized!.refused,
		'folders lost': 0,
	});
});
