import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { Database, literal } from '../../lib/data/database.js';
import { SeededRandom } from '../../lib/data/random.js';
import type { ErrorCode } from '../../lib/errors.js';
import { openUsers } from '../../lib/recommend/score-all/user-files.js';
import { fixture, rejects } from '../data/folders.js';
import {
	type Damage,
	figures,
	flips,
	jsonDamages,
	newTally,
	type Reader,
	some,
	textDamages,
	truncations,
	tryDamages,
	tryImpostors,
} from '../support/damage.js';
import { held, times } from '../support/reliability.js';

const CODES: readonly ErrorCode[] = ['ERR_ALLMREC_FILE_FORMAT', 'ERR_ALLMREC_FILE_NOT_FOUND'];
const users = Array.from({ length: 40 }, (_, i) => ({
	user: `ü${i}`,
	history: [`a${i}`, `b${i % 7}`],
	...(i % 3 === 0 ? { candidates: ['x', 'y', `z${i}`] } : {}),
}));
const jsonl = users.map((user) => `${JSON.stringify(user)}\n`).join('');
const csv = `user,history,candidates\n${users
	.map(
		({ user, history, candidates }) =>
			`"${user}",${history.join('|')},${candidates ? `"${JSON.stringify(candidates).replaceAll('"', '""')}"` : ''}\n`,
	)
	.join('')}`;

/** Every row is a request that can be scored or has a problem, and rows go on where the one before ended. */
async function rowsOf(path: string): Promise<(string | undefined)[]> {
	const file = await openUsers(path);
	const seen: (string | undefined)[] = [];
	let last = { rows: 0, bytes: 0 };
	for await (const rows of file.rows())
		for (const { user, request, problem, raw, end, row } of rows) {
			if (typeof user !== 'string' || (request === undefined) === (problem === undefined))
				throw new Error(`row ${row} is neither a request nor a problem`);
			if (!(end.rows > last.rows && end.bytes >= last.bytes))
				throw new Error(`row ${row} ends before its time`);
			if (raw.length > 2000 || (problem && problem.message.length > 2000)) throw new Error('an endless row');
			for (const id of [...(request?.history ?? []), ...(request?.candidates ?? [])])
				if (typeof id !== 'string' || id.includes('\ufffd')) throw new Error(`the id ${id}`);
			last = end;
			const share = file.share(end);
			if (!(share >= 0 && share <= 1)) throw new Error(`the share ${share}`);
			seen.push(problem ? undefined : JSON.stringify([user, request]));
		}
	return seen;
}

async function parquetUsers(): Promise<string> {
	const from = await fixture('from.jsonl', jsonl);
	const to = join(dirname(from), 'users.parquet');
	const database = await Database.open({ threads: 1 });
	await database.run(`COPY (SELECT * FROM read_json(${literal(from)})) TO ${literal(to)} (FORMAT parquet)`);
	database.close();
	return to;
}

test('files of users to score', async (t) => {
	const tally = newTally();
	const common = { codes: CODES, read: async (path: string) => void (await rowsOf(path)) };
	for (const [source, flipped] of [
		[await fixture('users.jsonl', jsonl), times(60, 4000)],
		[await fixture('users.csv', csv), times(60, 4000)],
		[await fixture('users.jsonl.gz', gzipSync(jsonl)), times(30, 2000)],
		[await fixture('users.csv.gz', gzipSync(csv)), times(30, 2000)],
	] as const) {
		const reader: Reader = { ...common, name: source.split('/').at(-1)!, source };
		const bytes = await readFile(source);
		await tryDamages(reader, textDamages(bytes, 21, { flipped }), tally);
		await tryImpostors(reader, tally);
	}
	const source = await parquetUsers();
	const bytes = await readFile(source);
	const binary: Damage[] = [...truncations(bytes), ...flips(bytes, times(40, 2500), new SeededRandom(5))];
	await tryDamages({ ...common, name: 'users.parquet', source }, some(binary, times(30, 1e6)), tally);
	t.deepEqual(tally.failures, []);
	held('Files', 'A damaged file of users is rejected by name, or row by row.', figures(tally));
});

test('every line that is not what it should be is a row of its own with a problem', async (t) => {
	const [first, second] = jsonl.split('\n') as [string, string];
	const random = new SeededRandom(8);
	let tried = 0;
	for (const { bytes } of jsonDamages(Buffer.from(first), times(150, 1e6), random)) {
		if (bytes.includes(10)) continue;
		const path = await fixture('users.jsonl', Buffer.concat([bytes, Buffer.from(`\n${second}\n`)]));
		const rows = await rowsOf(path);
		t.is(rows.length, bytes.toString().trim() === '' ? 1 : 2);
		t.is(rows.at(-1), (await rowsOf(await fixture('one.jsonl', `${second}\n`)))[0]);
		tried++;
	}
	held('Files', 'A user whose line is damaged costs no other user a list.', { 'lines tried': tried });
});

test('a gzipped file of users that lost anything is never taken for a shorter one', async (t) => {
	const half = jsonl.indexOf('\n', jsonl.length / 2) + 1;
	const bytes = Buffer.concat([gzipSync(jsonl.slice(0, half)), gzipSync(jsonl.slice(half))]);
	const reader: Reader = {
		...{ name: 'users.jsonl.gz', source: await fixture('users.jsonl.gz', bytes), codes: CODES },
		...{ read: rowsOf, sealed: true },
	};
	const second = bytes.indexOf(Buffer.from([0x1f, 0x8b, 8]), 10);
	// Zeros where a member would begin are taken for padding.
	const zeros = Buffer.from(bytes);
	zeros[second] = 0;
	const tally = await tryDamages(reader, [
		...truncations(bytes),
		// What does not begin as a member would be taken for the end.
		...[...flips(bytes.subarray(second, second + 3), 24, new SeededRandom(0))].map(
			({ what, bytes: head }) => ({
				what: `of the second header, ${what}`,
				bytes: Buffer.concat([bytes.subarray(0, second), head, bytes.subarray(second + 3)]),
			}),
		),
		{ what: 'zeros for the second header', bytes: zeros },
		...flips(bytes, times(120, 8 * bytes.length), new SeededRandom(6)),
	]);
	t.deepEqual(tally.failures, []);
	held('Files', 'A gzipped file of users that lost anything is rejected.', figures(tally));
});

test('a position behind the end of a file of users', async (t) => {
	for (const path of [
		await fixture('users.jsonl', jsonl),
		await fixture('users.jsonl.gz', gzipSync(jsonl)),
		await fixture('users.csv', csv),
	]) {
		const file = await openUsers(path);
		const far = { rows: 1000, bytes: 1e9 };
		const read = async () => {
			for await (const _ of file.rows(far));
		};
		await rejects(t, read, 'ERR_ALLMREC_FILE_FORMAT', /ends before the row/);
	}
});
