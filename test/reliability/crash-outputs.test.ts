import { cp, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { Dataset } from '../../lib/data/dataset.js';
import { writeWorldCsv } from '../../lib/data/demo-world.js';
import { SeededRandom } from '../../lib/data/random.js';
import { fixture, freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { buildFaultyDisk, FaultyDisk } from '../support/faulty-disk.js';
import { held, LONG, times } from '../support/reliability.js';
import { hashes, tinyRun } from '../support/tiny-run.js';
import { tinyWorld } from '../support/tiny-world.js';

const CPU = ['--device', 'cpu', '--threads', '1'];

const trained = tinyRun();

/** Skips loudly where a process cannot be killed at a given call. */
function skipped(t: ExecutionContext): boolean {
	const { missing } = buildFaultyDisk();
	if (missing) {
		t.log(`SKIP: ${missing}`);
		t.pass();
	}
	return missing !== undefined;
}

/**
 * Runs a command that is killed at `tries` of its calls that change files in `folder`. `check` sees what is left each
 * time. Gives the number of kills.
 */
async function killedEverywhere(
	t: ExecutionContext,
	args: readonly string[],
	folder: string,
	tries: number,
	check: (left: Record<string, string>) => Promise<void>,
): Promise<number> {
	const counting = `${folder}-counting`;
	await cp(folder, counting, { recursive: true });
	const count = new FaultyDisk([counting]);
	const whole = await command(
		args.map((argument) => argument.replace(folder, counting)),
		undefined,
		count.env,
	);
	t.is(whole.code, 0, whole.err);
	const random = new SeededRandom(Date.now());
	const calls = Array.from({ length: count.calls }, (_, i) => i + 1);
	random.shuffle(calls);
	let kills = 0;
	for (const call of calls.slice(0, tries)) {
		const disk = new FaultyDisk([folder]);
		disk.fail('KILL', call);
		const { code, err } = await command(args, undefined, disk.env);
		if (code === null) kills++;
		else t.is(code, 0, `${call} (${disk.failedPath}): ${err}`);
		await check(await hashes(folder));
	}
	return kills;
}

function expectNothingLeft(t: ExecutionContext, left: Record<string, string>) {
	const names = Object.keys(left).filter((name) =>
		/\.tmp-|\.lock$|\.partial-|\.part|\.state\.json/.test(name),
	);
	t.deepEqual(names, []);
}

test('score, killed while it writes lines, states, Parquet and the final files', async (t) => {
	if (skipped(t)) return;
	const { folder: run, dataset } = await trained;
	const lines = Array.from({ length: 600 }, (_, u) => {
		const history = u % 50 === 7 ? ['nothing'] : [1, 5, 9].map((n) => dataset.items[1 + ((u + n) % 50)]!.id);
		return JSON.stringify({ user: `u${u}`, history });
	});
	const users = await fixture('users.jsonl', `${lines.join('\n')}\n`);
	let kills = 0;
	for (const name of LONG ? ['out.jsonl', 'out.jsonl.gz', 'out.parquet'] : ['out.parquet']) {
		const folder = freshPath('results');
		await mkdir(folder, { recursive: true });
		await writeFile(join(folder, name), 'of before');
		const args = ['score', run, '--users', users, '--out', join(folder, name), '--top-k', '3', ...CPU];
		const old = (await hashes(folder))[name];
		const expected = await (async () => {
			const whole = freshPath('whole');
			await mkdir(whole, { recursive: true });
			const { code, err } = await command(args.map((each) => each.replace(folder, whole)));
			t.is(code, 0, err);
			return hashes(whole);
		})();
		kills += await killedEverywhere(t, args, folder, times(3, 20), async (left) => {
			t.true(left[name] === old || left[name] === expected[name], 'the old results or the new ones');
			const rejects = `${name}.rejects.jsonl`;
			t.true(left[rejects] === undefined || left[rejects] === expected[rejects]);
		});
		const { code, err } = await command(args);
		t.is(code, 0, err);
		t.deepEqual(await hashes(folder), expected);
		expectNothingLeft(t, expected);
	}
	held(
		'Crash safety',
		'A scoring job killed at any write goes on, and its files come out the same to the byte.',
		{
			kills,
			'results that differ': 0,
		},
	);
});

test('prepare and quantize, killed while they replace a folder', async (t) => {
	if (skipped(t)) return;
	const { options } = await trained;
	const worlds = [tinyWorld({ seed: 4 }), tinyWorld()];
	const logs = await Promise.all(worlds.map((world) => writeWorldCsv(freshPath('log'), world)));
	const folder = freshPath('folders');
	await mkdir(folder, { recursive: true });
	const preparing = (log: { interactions: string; items: string }) => [
		...[
			'prepare',
			'--format',
			'csv',
			'--interactions',
			log.interactions,
			'--items',
			log.items,
			'--k-core',
			'1',
		],
		...['--threads', '1', '--out', join(folder, 'set')],
	];
	const quantizing = (dtype: string) => [
		...['quantize', options.llm!, '--dtype', dtype, '--out', join(folder, 'stored'), '--force', '--no-error'],
		...CPU,
	];
	const figures: Record<string, number> = {};
	for (const [name, older, newer] of [
		['set', preparing(logs[0]!), preparing(logs[1]!)],
		['stored', quantizing('int4'), quantizing('int8')],
	] as const) {
		const states: Record<string, string>[] = [];
		for (const args of [newer, older]) {
			const { code, err } = await command(args);
			t.is(code, 0, err);
			states.push(partOf(await hashes(folder), name));
		}
		const [expected, old] = states as [Record<string, string>, Record<string, string>];
		const before = freshPath('before');
		await cp(join(folder, name), before, { recursive: true });
		const kills = await killedEverywhere(t, newer, folder, times(2, 30), async (left) => {
			const found = partOf(left, name);
			const whole = [old, expected].some((each) => isDeepStrictEqual(found, each));
			t.true(whole, `the old folder or the new one, not ${Object.keys(found)}`);
			if (name === 'set') t.true((await Dataset.open(join(folder, name))).numUsers > 0);
			// The old one again, to be replaced.
			await rm(join(folder, name), { recursive: true });
			await cp(before, join(folder, name), { recursive: true });
		});
		const { code, err } = await command(newer);
		t.is(code, 0, err);
		const left = await hashes(folder);
		t.deepEqual(partOf(left, name), expected);
		expectNothingLeft(t, left);
		figures[name === 'set' ? 'kills of prepare' : 'kills of quantize'] = kills;
	}
	held(
		'Crash safety',
		'A folder that is replaced is the old one or the new one, whenever the process is killed.',
		{
			...figures,
			'folders lost or half': 0,
		},
	);
});

function partOf(all: Record<string, string>, name: string): Record<string, string> {
	return Object.fromEntries(Object.entries(all).filter(([path]) => path.startsWith(`${name}/`)));
}

test('results to a full device, and progress to one or to nobody', async (t) => {
	const { folder, dataset } = await trained;
	const args = ['recommend', folder, '--history', dataset.items[1]!.id, ...CPU];
	const full = await command(args, undefined, {}, { out: '/dev/full' });
	t.is(full.code, 1, full.err);
	t.regex(full.err, /error ERR_ALLMREC_WRITE: The standard output/);
	const quiet = await command(args, undefined, {}, { err: '/dev/full' });
	t.is(quiet.code, 0);
	t.true(quiet.out.length > 0);
	const unread = await command(args, (child) => child.stderr!.destroy());
	t.is(unread.code, 0);
	t.is(unread.out, quiet.out);
	t.true((await readFile(join(folder, 'config.json'))).length > 0);
});
