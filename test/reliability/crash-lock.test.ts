import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { prepare } from '../../lib/data/dataset.js';
import { writeWorldCsv } from '../../lib/data/demo-world.js';
import type { ALLMRecError } from '../../lib/errors.js';
import { withLock } from '../../lib/files/lock.js';
import { quantizeCheckpoint } from '../../lib/llm/quantization.js';
import { loadRun } from '../../lib/recommend/run.js';
import { scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { command } from '../support/command.js';
import { readJson } from '../support/killing.js';
import { held, times } from '../support/reliability.js';
import { tinyRun, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

const child = fileURLToPath(new URL('../support/lock-child.js', import.meta.url));
const LOCKED = 'ERR_ALLMREC_LOCKED';

const trained = tinyRun();

test('of ten processes that start in the same millisecond one gets the lock', async (t) => {
	const folder = freshPath('locks');
	await mkdir(folder, { recursive: true });
	const rounds = times(20, 300);
	const start = Date.now() + times(3000, 10_000);
	const processes = Array.from({ length: 10 }, () => {
		const args = [child, folder, rounds, start, 20].map(String);
		return spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
	});
	const won = await Promise.all(
		processes.map(async ({ stdout }) => {
			for await (const line of stdout) return JSON.parse(String(line)) as number[];
			throw new Error('A process ended early.');
		}),
	);
	t.deepEqual(
		won.flat().sort((a, b) => a - b),
		Array.from({ length: rounds }, (_, round) => round),
		'each lock once',
	);
	t.log(`locks by process: ${won.map((each) => each.length).join(', ')}`);
	// Killed, or ended in order: all locks are free, and those who end in order leave no file.
	processes[0]!.kill('SIGKILL');
	for (const { stdin } of processes.slice(1)) stdin.end();
	await Promise.all(processes.map((each) => new Promise((resolve) => each.once('close', resolve))));
	t.is((await readdir(folder)).length, won[0]!.length);
	for (let round = 0; round < rounds; round++)
		await withLock(join(folder, `${round}.lock`), 'The test', async () => {});
	t.deepEqual(await readdir(folder), []);
	held('Crash safety', 'Of processes that start at the same moment on the same output one works.', {
		'starts of ten': rounds,
		'with none or two': 0,
		'stale locks that blocked': 0,
	});
});

test('a lock says who has it, within a process too, and is free with its owner', async (t) => {
	const path = freshPath('.lock');
	await mkdir(dirname(path), { recursive: true });
	await withLock(path, 'The run', async () => {
		const error = await rejects(
			t,
			() => withLock(path, 'The run', async () => {}),
			LOCKED,
			/^The run is being worked on by another call of this process \(\d+\) since 20.*Wait for it to end/,
		);
		t.true(error.message.includes(path));
		// Another thread is another owner.
		const worker = new Worker(
			`import(${JSON.stringify(new URL('../../lib/files/lock.js', import.meta.url).href)})
				.then(({ withLock }) => withLock(${JSON.stringify(path)}, 'The run', async () => 'taken'))
				.then(() => 'taken', (error) => error.code)
				.then((outcome) => require('node:worker_threads').parentPort.postMessage(outcome));`,
			{ eval: true },
		);
		t.is(await new Promise((resolve) => worker.once('message', resolve)), LOCKED);
	});
	t.false(existsSync(path));
	// What a dead process wrote, on this machine or another, or whose number lives again.
	for (const text of [
		'',
		'{',
		JSON.stringify({ pid: process.ppid, host: hostname() }),
		'{"pid":1,"host":"x"}',
	]) {
		await writeFile(path, text);
		t.is(await withLock(path, 'The run', async () => 'taken'), 'taken');
	}
	await t.throwsAsync(
		withLock(path, 'The run', async () => {
			throw new Error('work');
		}),
		{ message: 'work' },
	);
	t.false(existsSync(path));
});

test('a second training, scoring, preparing or quantizing of the same output is refused', async (t) => {
	const { folder, dataset, options } = await trained;
	const model = await loadRun(folder, CPU);
	const users = await fixture(
		'users.jsonl',
		`${JSON.stringify({ user: 'u', history: [dataset.items[1]!.id] })}\n`,
	);
	const log = await writeWorldCsv(freshPath('log'), tinyWorld());
	const [run, out, set, stored] = [freshPath('run'), freshPath('out.jsonl'), freshPath(), freshPath()];
	await mkdir(join(out, '..'), { recursive: true });
	const jobs: Record<string, () => Promise<unknown>> = {
		[run]: () => trainTinyRun(run, dataset, options),
		[out]: () => scoreFile(model, { users, out }),
		[set]: () =>
			prepare({
				format: 'csv',
				interactions: [log.interactions],
				items: [log.items],
				kCore: 1,
				out: set,
				threads: 1,
			}),
		[stored]: () => quantizeCheckpoint(options.llm!, { dtype: 'int8', out: stored, force: true, ...CPU }),
	};
	for (const [output, job] of Object.entries(jobs)) {
		const outcomes = await Promise.allSettled([job(), job(), job()]);
		const refused = outcomes.filter(({ status }) => status === 'rejected') as PromiseRejectedResult[];
		t.is(refused.length, 2, output);
		for (const { reason } of refused) {
			t.is((reason as ALLMRecError).code, LOCKED, String(reason));
			t.true((reason as ALLMRecError).message.includes(output));
		}
		await job();
	}
	model.dispose();
});

test('the command: the process that trains is named, and gone with kill -9; reading needs no lock', async (t) => {
	const { folder, dataset, options } = await trained;
	const path = freshPath('dataset');
	const log = await writeWorldCsv(freshPath('log'), tinyWorld());
	const out = freshPath('run');
	await prepare({
		format: 'csv',
		interactions: [log.interactions],
		items: [log.items],
		kCore: 1,
		out: path,
		threads: 1,
	});
	const endless = { ...options, cf: { ...options.cf, epochs: 1_000_000, validateEvery: 0 } };
	const config = await fixture('options.json', JSON.stringify(endless));
	const args = ['train', path, '--out', out, '--config', config, '--device', 'cpu', '--threads', '1'];
	let pid = 0;
	const first = await command(args, async (training) => {
		pid = training.pid!;
		while (readJson(join(out, 'cf/.lock'))?.pid !== pid && training.exitCode === null) await sleep(5);
		const second = await command(args);
		t.is(second.code, 1);
		t.regex(
			second.err,
			new RegExp(`error ERR_ALLMREC_LOCKED: The run folder .* process ${pid} on ${hostname()} since`),
		);
		training.kill('SIGKILL');
	});
	t.is(first.code, null, first.err);
	t.is(readJson(join(out, '.lock'))?.pid, pid, 'a killed process leaves its file');
	const third = await command(args, async (training) => {
		while (readJson(join(out, 'cf/.lock'))?.pid !== training.pid && training.exitCode === null)
			await sleep(5);
		training.kill('SIGTERM');
	});
	t.is(third.code, 143, third.err);
	t.false(existsSync(join(out, '.lock')));

	await withLock(join(folder, '.lock'), 'The run', async () => {
		const model = await loadRun(folder, CPU);
		t.is((await model.recommend([{ history: [dataset.items[1]!.id] }], { topK: 3 }))[0]!.length, 3);
		model.dispose();
	});
	t.true((await readFile(join(folder, 'config.json'))).length > 0);
});
