import { appendFile, readdir, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { loadRun } from '../../lib/recommend/run.js';
import { scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { command } from '../support/command.js';
import { crashWorld, runHashes } from '../support/crash-world.js';
import { readJson } from '../support/killing.js';
import { held, LONG } from '../support/reliability.js';
import { CPU } from '../support/tiny-world.js';

const world = crashWorld();

/** Until the process trains a stage and has a checkpoint of it, if there is to be one. */
async function inStage(run: string, stage: string, child: { exitCode: number | null; pid?: number }) {
	while (child.exitCode === null && readJson(join(run, stage, '.lock'))?.pid !== child.pid) await sleep(2);
}

test('Ctrl-C and SIGTERM leave a checkpoint, of whatever stage, and a second Ctrl-C does not wait', async (t) => {
	const { train, expected } = await world;
	const out = freshPath('run');
	// Between two checkpoints a minute passes: what is there was left by the signal.
	const args = [...train(out), '--checkpoint-seconds', '60'];
	let stops = 0;
	const all = [
		['cf', 'SIGINT', 130],
		['cf', 'SIGTERM', 143],
		['align', 'SIGINT', 130],
		['project', 'SIGTERM', 143],
	] as const;
	for (const [stage, signal, exit] of LONG ? all : all.slice(1, 3)) {
		const { code, err } = await command(args, async (child) => {
			await inStage(out, stage, child);
			await sleep(20);
			child.kill(signal);
		});
		// Faster than the signal, which then finds a process that ends anyway.
		if (code === 0 || (code === null && /^fusion: /m.test(err))) break;
		t.is(code, exit, err);
		t.regex(err, /stopped; the same command goes on from here\ninterrupted\n$/);
		stops++;
		const state = readJson(join(out, stage, 'state.json'));
		if (stage !== 'project')
			t.true(state !== undefined && (state.step as number) > 0, `${stage} has a checkpoint`);
	}
	t.true(stops > 0, 'every training ended before its signal');
	const rest = await command(args);
	t.is(rest.code, 0, rest.err);
	t.deepEqual(await runHashes(out), expected);
	const twice = await command([...train(freshPath('run'))], async (child) => {
		child.stderr!.once('data', () => {
			child.kill('SIGINT');
			child.kill('SIGINT');
		});
	});
	t.true(twice.code === null || twice.code === 130);
	held(
		'Crash safety',
		'Ctrl-C and SIGTERM lose no training: a checkpoint is left, and the same command goes on.',
		{
			stops,
			'runs that differ': 0,
		},
	);
});

test('a run folder that vanishes, and one that comes back', async (t) => {
	const { train, expected } = await world;
	const out = freshPath('run');
	const away = `${out}-away`;
	const { code, err } = await command(train(out), async (child) => {
		await inStage(out, 'cf', child);
		await sleep(100);
		await rename(out, away).catch(() => {});
	});
	t.is(code, 1, err);
	t.regex(err, /error ERR_ALLMREC_WRITE: .*run.*its folder is not there/);
	await rm(out, { recursive: true, force: true }); // of a stage that began meanwhile
	await rename(away, out);
	const again = await command(train(out));
	t.is(again.code, 0, again.err);
	t.deepEqual(await runHashes(out), expected);
});

test('a language model that vanishes during training stops it before its stage, and it goes on', async (t) => {
	const { train, expected, llm } = await world;
	const out = freshPath('run');
	const away = `${llm}-away`;
	const { code, err } = await command(train(out), async (child) => {
		await inStage(out, 'cf', child);
		await rename(llm, away);
	});
	t.is(code, 1, err);
	t.regex(err, /error ERR_ALLMREC_FILE_NOT_FOUND: .*llm/);
	await rename(away, llm);
	const again = await command(train(out));
	t.is(again.code, 0, again.err);
	t.deepEqual(await runHashes(out), expected);
});

(LONG ? test : test.skip)('a data set that vanishes or is another one when a training goes on', async (t) => {
	const { train, dataset, prepare, expected } = await world;
	const out = freshPath('run');
	await command(train(out), async (child) => {
		await inStage(out, 'cf', child);
		await sleep(100);
		child.kill('SIGKILL');
	});
	const away = `${dataset}-away`;
	await rename(dataset, away);
	const none = await command(train(out));
	t.is(none.code, 1);
	t.regex(none.err, /error ERR_ALLMREC_FILE_NOT_FOUND: /);
	const fewer = await command([...prepare, '--min-rating', '4', '--out', dataset]);
	if (fewer.code === 0) {
		const other = await command(train(out));
		t.is(other.code, 1, other.err);
		t.regex(other.err, /error ERR_ALLMREC_RUN: .*other data/);
		await rm(dataset, { recursive: true });
	}
	await rename(away, dataset);
	const again = await command(train(out));
	t.is(again.code, 0, again.err);
	t.deepEqual(await runHashes(out), expected);
});

/** Does it at the first call. */
function once(work: () => Promise<void>): () => void {
	let begun = false;
	return () => {
		if (!begun) void work();
		begun = true;
	};
}

test('users that vanish or change while they are scored', async (t) => {
	const { run } = await world;
	const model = await loadRun(run, CPU);
	const item = model.catalogue.item(1).id;
	const lines = (count: number) =>
		Array.from({ length: count }, (_, u) => `${JSON.stringify({ user: `u${u}`, history: [item] })}\n`).join(
			'',
		);
	const changes: Record<string, (users: string) => Promise<void>> = {
		longer: (users) => appendFile(users, lines(3)),
		shorter: async (users) => truncate(users, (await stat(users)).size >> 1),
		other: (users) => writeFile(users, lines(700).replaceAll('u1', 'v1')),
	};
	for (const [name, change] of Object.entries(changes)) {
		const users = await fixture('users.jsonl', lines(700));
		const out = join(dirname(users), 'out.jsonl');
		const begin = once(() => change(users));
		const score = (restart: boolean) =>
			scoreFile(model, {
				users,
				out,
				restart,
				batchSize: 64,
				onProgress: begin,
			});
		await rejects(t, () => score(false), 'ERR_ALLMREC_FILE_FORMAT', /users\.jsonl.*start over.*--restart/);
		t.false((await readdir(dirname(out))).includes('out.jsonl'), name);
		await rejects(t, () => score(false), 'ERR_ALLMREC_INVALID_ARGUMENT', /another users file/);
		await score(true);
		t.true((await readFile(out, 'utf8')).endsWith('\n'));
	}
	// Read from an open file to its end, it may go.
	const users = await fixture('users.jsonl', lines(700));
	const out = join(dirname(users), 'out.jsonl');
	await scoreFile(model, { users, out, batchSize: 64, onProgress: once(() => rm(users)) });
	t.is((await readFile(out, 'utf8')).trimEnd().split('\n').length, 700);
	await rejects(t, () => scoreFile(model, { users, out }), 'ERR_ALLMREC_FILE_NOT_FOUND', /users\.jsonl/);
	model.dispose();
	held(
		'Crash safety',
		'An input that vanishes or changes midway is an error that says so, and never half a result.',
		{
			cases: 7,
			'results that are half': 0,
		},
	);
});
