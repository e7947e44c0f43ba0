import { readFile, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { fixture } from '../data/folders.js';
import { command } from '../support/command.js';
import { tinyRun } from '../support/tiny-run.js';

const trained = tinyRun();

async function usersFile(count: number): Promise<string> {
	const { dataset } = await trained;
	const random = new SeededRandom(9);
	const lines = Array.from({ length: count }, (_, u) => {
		const history = Array.from(
			{ length: 1 + random.int(8) },
			() => dataset.items[1 + random.int(dataset.numItems)]!.id,
		);
		return JSON.stringify(u % 101 === 50 ? { user: u, history: ['nothing'] } : { user: `u${u}`, history });
	});
	return fixture('users.jsonl', `${lines.join('\n')}\n`);
}

test('a run killed at any moment goes on when the command is repeated, with the same results', async (t) => {
	const { folder } = await trained;
	const users = await usersFile(3000);
	const expected = await fixture('expected.jsonl', '');
	const score = (out: string) => [
		'score',
		'--run',
		folder,
		'--users',
		users,
		'--out',
		out,
		'--device',
		'cpu',
	];
	const whole = await command(score(expected));
	t.is(whole.code, 0, whole.err);
	t.regex(whole.out, /2970 users in /);
	t.regex(whole.out, /30 rejected: ERR_ALLMREC_UNKNOWN_ITEM/);
	t.regex(whole.out, /rejected rows in .*expected\.jsonl\.rejects\.jsonl/);
	const { size } = await stat(expected);
	const out = join(dirname(expected), 'out.jsonl');
	const random = new SeededRandom(Date.now());
	const killed: number[] = [];
	for (let part = 0; part < 3; part++) {
		const at = Math.floor(size * ((part + random.uniform()) / 4));
		const { code } = await command(score(out), async (child) => {
			while (child.exitCode === null) {
				const written = (await stat(`${out}.part`).catch(() => undefined))?.size ?? 0;
				if (written > at) break;
				await sleep(1);
			}
			child.kill('SIGKILL');
		});
		t.is(code, null, 'killed, not ended');
		killed.push(at);
	}
	const rest = await command(score(out));
	t.is(rest.code, 0, rest.err);
	t.true((await readFile(out)).equals(await readFile(expected)), `killed behind ${killed.join(', ')} bytes`);
	t.deepEqual(await readFile(`${out}.rejects.jsonl`), await readFile(`${expected}.rejects.jsonl`));
});

test('Ctrl-C leaves a state and says so', async (t) => {
	const { folder } = await trained;
	const out = join(dirname(await fixture('none', '')), 'out.parquet');
	const users = await usersFile(3000);
	const args = ['score', folder, '--users', users, '--out', out, '--top-k', '3', '--device', 'cpu'];
	const { code, err } = await command(args, async (child) => {
		while (!((await stat(`${out}.part`).catch(() => undefined))?.size ?? 0)) await sleep(1);
		child.kill('SIGINT');
	});
	t.is(code, 130, err);
	t.regex(err, /the same command goes on/);
	t.true(JSON.parse(await readFile(`${out}.state.json`, 'utf8')).position.rows > 0);
	const other = await command([...args, '--by', 'cf']);
	t.is(other.code, 1);
	t.regex(other.err, /other options/);
	const again = await command(args);
	t.is(again.code, 0, again.err);
	t.regex(again.out, /rows of it before/);
});

test('a run folder is needed, and options have to be right', async (t) => {
	const { folder } = await trained;
	const users = await usersFile(2);
	const out = join(dirname(users), 'out.jsonl');
	const none = await command(['score', '--users', users, '--out', out]);
	t.is(none.code, 1);
	t.regex(none.err, /run folder/);
	for (const flags of [
		['--by', 'luck'],
		['--cold-share', '2'],
		['--format', 'xml'],
	])
		t.is(
			(await command(['score', folder, '--users', users, '--out', out, ...flags])).code,
			2,
			flags.join(' '),
		);
	await writeFile(`${dirname(users)}/plain`, await readFile(users));
	const told = ['--users', `${dirname(users)}/plain`, '--out', `${dirname(users)}/lists`];
	const formats = ['--input-format', 'jsonl', '--format', 'jsonl', '--threads', '1', '--device', 'cpu'];
	const { code, err } = await command(['score', folder, ...told, ...formats]);
	t.is(code, 0, err);
	t.is((await readFile(`${dirname(users)}/lists`, 'utf8')).trimEnd().split('\n').length, 2);
});
