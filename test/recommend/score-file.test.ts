import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import * as zlib from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { Database, literal } from '../../lib/data/database.js';
import { SeededRandom } from '../../lib/data/random.js';
import type { LongCallOptions, Progress } from '../../lib/progress.js';
import type { ALLMRec } from '../../lib/recommend/a-llm-rec.js';
import { loadRun } from '../../lib/recommend/run.js';
import { type ScoreFileOptions, scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const { gunzipSync, gzipSync } = zlib;
const trained = tinyRun();
const loaded = (async () => loadRun((await trained).folder, CPU))();
test.after.always(async () => (await loaded).dispose());

interface User {
	user: string;
	history: string[];
	candidates?: string[];
}

/** Users over a recommender's catalogue, some with candidates of their own. */
function makeUsers(model: ALLMRec, count: number): User[] {
	const random = new SeededRandom(count);
	const item = () => model.catalogue.item(1 + random.int(model.catalogue.size - 1)).id;
	const items = (most: number) => Array.from({ length: 1 + random.int(most) }, item);
	return Array.from({ length: count }, (_, u) => ({
		user: `u${u}`,
		history: items(8),
		...(u % 5 === 3 ? { candidates: items(30) } : {}),
	}));
}

const jsonl = (users: readonly unknown[]) => `${users.map((user) => JSON.stringify(user)).join('\n')}\n`;

/** A path for results in a fresh folder. */
async function newOut(name: string): Promise<string> {
	const out = freshPath(name);
	await mkdir(dirname(out), { recursive: true });
	return out;
}

/** Aborts a job once so many rows are done. */
async function stopAfter(
	t: ExecutionContext,
	rows: number,
	job: (calls: LongCallOptions) => Promise<unknown>,
): Promise<void> {
	const controller = new AbortController();
	const reason = new Error('enough');
	const onProgress = ({ done }: Progress) => {
		if (done >= rows) controller.abort(reason);
	};
	await t.throwsAsync(job({ signal: controller.signal, onProgress }), { is: reason });
}

/** Scores into a fresh folder; gives what is there then. */
async function score(
	model: ALLMRec,
	users: string,
	{ name = 'out.jsonl', ...options }: Partial<ScoreFileOptions> & { name?: string } = {},
) {
	const out = await newOut(name);
	const summary = await scoreFile(model, { users, out, ...options });
	const files = (await readdir(dirname(out))).sort();
	return { out, summary, files, bytes: await readFile(out) };
}

async function parquetOf(rows: string, columns: string): Promise<string> {
	const path = freshPath('users.parquet');
	await mkdir(dirname(path), { recursive: true });
	const source = await fixture('rows.jsonl', rows);
	const database = await Database.open({});
	await database.run(
		`COPY (SELECT ${columns} FROM read_json(${literal(source)}, columns = {user: 'VARCHAR', history: 'VARCHAR[]', candidates: 'VARCHAR[]'}))
		TO ${literal(path)} (FORMAT parquet)`,
	);
	database.close();
	return path;
}

test('every input format gives the same results', async (t) => {
	const model = await loaded;
	const users = makeUsers(model, 40);
	const text = jsonl(users);
	const expected = await score(model, await fixture('users.jsonl', text));
	t.is(expected.summary.users, 40);
	t.deepEqual(expected.files, ['out.jsonl']);
	const bar = (list: string[] | undefined) => list?.join('|') ?? '';
	const array = (list: string[] | undefined) =>
		list ? `"${JSON.stringify(list).replaceAll('"', '""')}"` : '';
	const csv = (delimiter: string, cell: typeof bar) =>
		[
			['User', 'note', 'history', 'candidates'].join(delimiter),
			...users.map(({ user, history, candidates }) =>
				[user, '"a ""note"""', cell(history), cell(candidates)].join(delimiter),
			),
		].join('\r\n');
	const inputs = {
		'gzipped JSON lines': await fixture('users.ndjson.gz', gzipSync(text)),
		CSV: await fixture('users.csv', csv(',', bar)),
		'CSV with JSON arrays': await fixture('users.csv', csv(',', array)),
		'gzipped TSV': await fixture('users.tsv.gz', gzipSync(csv('\t', bar))),
		'Parquet with lists': await parquetOf(text, '*'),
		'Parquet with JSON': await parquetOf(
			text,
			'user, to_json(history) AS history, to_json(candidates) AS candidates',
		),
	};
	for (const [name, path] of Object.entries(inputs)) {
		const { bytes, summary } = await score(model, path);
		t.true(bytes.equals(expected.bytes), name);
		t.deepEqual(summary.rejected, {}, name);
	}
	const told = await fixture(
		'users.txt',
		csv(';', (list) => list?.join(' ') ?? ''),
	);
	const { bytes } = await score(model, told, { inputFormat: 'csv', listSeparator: ' ' });
	t.true(bytes.equals(expected.bytes));
});

test('zstd is read where Node.js can', async (t) => {
	const model = await loaded;
	const text = jsonl(makeUsers(model, 3));
	const { zstdCompressSync } = zlib as unknown as { zstdCompressSync?: (text: string) => Buffer };
	const path = await fixture('users.jsonl.zst', zstdCompressSync?.(text) ?? text);
	if (!zstdCompressSync) {
		await rejects(t, () => score(model, path), 'ERR_ALLMREC_UNSUPPORTED', /zstd/);
		return;
	}
	const { bytes } = await score(model, path);
	t.true(bytes.equals((await score(model, await fixture('users.jsonl', text))).bytes));
});

test('results as lines, gzipped lines and Parquet say the same', async (t) => {
	const model = await loaded;
	const users = makeUsers(model, 300);
	const path = await fixture('users.jsonl', jsonl(users));
	const plain = await score(model, path, { topK: 3 });
	const lists = plain.bytes
		.toString()
		.trimEnd()
		.split('\n')
		.map((line) => JSON.parse(line));
	t.deepEqual(
		lists.map(({ user }) => user),
		users.map(({ user }) => user),
	);
	const recommended = await model.recommend(users, { topK: 3 });
	t.deepEqual(
		lists.map(({ recommendations }) => recommendations),
		recommended,
	);
	const zipped = await score(model, path, { topK: 3, name: 'out.jsonl.gz' });
	t.true(gunzipSync(zipped.bytes).equals(plain.bytes));
	const table = await score(model, path, { topK: 3, name: 'out.parquet' });
	t.deepEqual(table.files, ['out.parquet']);
	const database = await Database.open({});
	const rows = await database.rows(`SELECT * FROM read_parquet(${literal(table.out)})`);
	database.close();
	t.deepEqual(
		rows,
		lists.flatMap(({ user, recommendations }) =>
			recommendations.map((r: Record<string, number>) => [user, r.rank, r.id, r.score, r.cf, r.llm, r.fused]),
		),
	);
});

test('bytes depend neither on batches nor on threads', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', jsonl(makeUsers(model, 70)));
	const parallel = await loadRun((await trained).folder, { device: 'cpu', threads: 3 });
	t.teardown(() => parallel.dispose());
	const expected = await score(model, path);
	for (const [batchSize, tokensPerBatch] of [
		[1, 1],
		[7, 300],
		[64, 20_000],
	]) {
		const { bytes } = await score(model, path, { batchSize, tokensPerBatch });
		t.true(bytes.equals(expected.bytes), `${batchSize} users, ${tokensPerBatch} tokens`);
	}
	t.true((await score(parallel, path)).bytes.equals(expected.bytes), 'three threads');
	for (const name of ['out.jsonl.gz', 'out.parquet']) {
		const [one, other] = [
			await score(model, path, { name }),
			await score(parallel, path, { name, batchSize: 9 }),
		];
		t.true(one.bytes.equals(other.bytes), name);
	}
});

test('bad rows are named with their reasons and stop nothing', async (t) => {
	const model = await loaded;
	const [first, last] = makeUsers(model, 2) as [User, User];
	const long = `{"user": "long", "history": [${'"i01", '.repeat(3_000_000)}"i02"]}`;
	const lines = [
		JSON.stringify(first),
		'{"user": "cut", "history": ["i03"',
		'',
		'{"user": "none", "history": []}',
		'{"user": "who", "history": ["i03", "nothing"]}',
		'{"user": "odd", "history": "i03"}',
		'[1]',
		long,
		JSON.stringify(last),
	];
	const { out, summary, bytes, files } = await score(model, await fixture('users.jsonl', lines.join('\n')));
	t.like(summary, {
		users: 2,
		rejected: {
			ERR_ALLMREC_FILE_FORMAT: 4,
			ERR_ALLMREC_EMPTY_HISTORY: 1,
			ERR_ALLMREC_UNKNOWN_ITEM: 1,
		},
		rejects: `${out}.rejects.jsonl`,
	});
	t.deepEqual(files, ['out.jsonl', 'out.jsonl.rejects.jsonl']);
	const good = await score(model, await fixture('users.jsonl', jsonl([first, last])));
	t.true(bytes.equals(good.bytes));
	const rejected = (await readFile(summary.rejects!, 'utf8'))
		.trimEnd()
		.split('\n')
		.map((line) => JSON.parse(line));
	t.deepEqual(
		rejected.map(({ row, user }) => [row, user]),
		[
			[2, '2'],
			[4, 'none'],
			[5, 'who'],
			[6, '6'],
			[7, '7'],
			[8, '8'],
		],
	);
	t.is(rejected[0].raw, lines[1]);
	t.regex(rejected[2].message, /`nothing`/);
	t.true(rejected[5].raw.length < 5000);
});

test('bad rows of CSV: fields, quotes, and an open quote that takes no other row with it', async (t) => {
	const model = await loaded;
	const [a, b] = makeUsers(model, 2).map(({ history }) => history.join('|'));
	const lines = [
		'user,history,candidates',
		`first,${a},`,
		'two,fields',
		'"a" b,i01,',
		'empty,,',
		'broken,"[""i01""",',
		'"two\nlines",i03,',
		'"open,i03,',
		`last,${b},`,
	];
	const { bytes, summary } = await score(model, await fixture('users.csv', lines.join('\n')));
	const users = bytes
		.toString()
		.trimEnd()
		.split('\n')
		.map((line) => JSON.parse(line).user);
	t.deepEqual(users, ['first', 'two\nlines', 'last']);
	t.deepEqual(summary.rejected, { ERR_ALLMREC_FILE_FORMAT: 4, ERR_ALLMREC_EMPTY_HISTORY: 1 });
	const file = await fixture('users.csv', 'user,items\na,b\n');
	await rejects(t, () => score(model, file), 'ERR_ALLMREC_FILE_FORMAT', /no column `history`/);
});

test('Parquet rows with nothing in them are rejected, tables without histories refused', async (t) => {
	const model = await loaded;
	const [one] = makeUsers(model, 1);
	const text = jsonl([one, { user: 'null' }, { user: 'item', history: [null] }, one]);
	const { summary } = await score(model, await parquetOf(text, '*'));
	t.is(summary.users, 2);
	t.deepEqual(summary.rejected, { ERR_ALLMREC_FILE_FORMAT: 2 });
	const other = await parquetOf(text, 'user');
	await rejects(t, () => score(model, other), 'ERR_ALLMREC_FILE_FORMAT', /no column `history`/);
});

test('a job that was stopped goes on, and its files are the same', async (t) => {
	const model = await loaded;
	const users: unknown[] = makeUsers(model, 620);
	for (let i = 50; i < users.length; i += 97) users[i] = { user: `bad${i}`, history: ['nothing'] };
	const inputs = {
		jsonl: await fixture('users.jsonl', jsonl(users)),
		gzip: await fixture('users.jsonl.gz', gzipSync(jsonl(users))),
		parquet: await parquetOf(jsonl(users), '*'),
	};
	const outputs = { jsonl: 'out.jsonl.gz', gzip: 'out.jsonl', parquet: 'out.parquet' };
	for (const [kind, path] of Object.entries(inputs)) {
		const name = outputs[kind as keyof typeof inputs];
		const whole = await score(model, path, { name });
		const out = await newOut(name);
		let resumed = 0;
		for (const after of [1, 300, 520]) {
			await stopAfter(t, after, (calls) => scoreFile(model, { users: path, out, batchSize: 64, ...calls }));
			t.false(existsSync(out));
			t.deepEqual(
				(await readdir(dirname(out))).filter((file) => !/\.(part|state\.json)$/.test(file)),
				[],
			);
		}
		const summary = await scoreFile(model, { users: path, out });
		resumed += summary.resumedRows;
		t.true(resumed >= 256 && resumed % 256 === 0, `${resumed}`);
		t.deepEqual(summary.rejected, whole.summary.rejected);
		t.is(summary.users, whole.summary.users);
		t.true((await readFile(out)).equals(whole.bytes), `${kind} to ${name}`);
		t.deepEqual(await readFile(summary.rejects!), await readFile(whole.summary.rejects!));
		t.deepEqual((await readdir(dirname(out))).sort(), [basename(out), basename(summary.rejects!)].sort());
	}
});

test('what a killed run wrote behind its checkpoint is cut off', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', jsonl(makeUsers(model, 600)));
	const whole = await score(model, path);
	const out = await newOut('out.jsonl');
	await stopAfter(t, 300, (calls) => scoreFile(model, { users: path, out, batchSize: 64, ...calls }));
	const part = await readFile(`${out}.part`);
	await writeFile(`${out}.part`, Buffer.concat([part, Buffer.from('{"user": "half')]));
	await scoreFile(model, { users: path, out });
	t.true((await readFile(out)).equals(whole.bytes));
});

test('a job goes on with nothing but what it was begun with', async (t) => {
	const model = await loaded;
	const users = makeUsers(model, 600);
	const path = await fixture('users.jsonl', jsonl(users));
	const out = await newOut('out.jsonl');
	const stop = () => stopAfter(t, 256, (calls) => scoreFile(model, { users: path, out, ...calls }));
	await stop();
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => scoreFile(model, { users: path, out, topK: 3 }), code, /other options/);
	const other = await tinyRun(undefined, { seed: 5 });
	const another = await loadRun(other.folder, CPU);
	t.teardown(() => another.dispose());
	await rejects(t, () => scoreFile(another, { users: path, out }), code, /other models/);
	await writeFile(path, jsonl([...users, users[0]]));
	await utimes(path, 1, 1);
	await rejects(t, () => scoreFile(model, { users: path, out }), code, /another users file/);
	const { resumedRows } = await scoreFile(model, { users: path, out, restart: true });
	t.is(resumedRows, 0);
	t.is((await readFile(out, 'utf8')).trimEnd().split('\n').length, 601);

	await rm(out);
	await stop();
	await writeFile(`${out}.part`, '');
	await rejects(t, () => scoreFile(model, { users: path, out }), 'ERR_ALLMREC_FILE_FORMAT', /restart/);
	await writeFile(`${out}.state.json`, '{');
	await rejects(t, () => scoreFile(model, { users: path, out }), 'ERR_ALLMREC_FILE_FORMAT', /state\.json/);
});

test('a run that was killed while it put its files in place does the rest', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', jsonl(makeUsers(model, 20)));
	const whole = await score(model, path, { name: 'out.parquet' });
	const out = await newOut('out.parquet');
	// A folder where the file should be makes the renaming fail.
	await mkdir(out, { recursive: true });
	await rejects(t, () => scoreFile(model, { users: path, out }), 'ERR_ALLMREC_WRITE', /out\.parquet/);
	t.true(existsSync(`${out}.state.json`));
	await rm(out, { recursive: true });
	const summary = await scoreFile(model, { users: path, out });
	t.is(summary.resumedRows, 20);
	t.true((await readFile(out)).equals(whole.bytes));
	t.false(existsSync(`${out}.part`));
});

test('nothing to score, files that are not there, and names that say nothing', async (t) => {
	const model = await loaded;
	for (const name of ['out.jsonl', 'out.jsonl.gz', 'out.parquet']) {
		const { summary, out } = await score(model, await fixture('users.jsonl', '\n\n'), { name });
		t.is(summary.users, 0);
		if (name !== 'out.parquet') t.is((await stat(out)).size, 0);
	}
	t.is((await score(model, await fixture('users.csv', ''))).summary.users, 0);
	const out = await newOut('out.jsonl');
	await rejects(t, () => scoreFile(model, { users: '/no/users.jsonl', out }), 'ERR_ALLMREC_FILE_NOT_FOUND');
	const path = await fixture('users.jsonl', jsonl(makeUsers(model, 1)));
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => scoreFile(model, { users: path, out: '/tmp/out.txt' }), code, /outputFormat/);
	await rejects(t, () => scoreFile(model, { users: path, out: path }), code, /another file/);
	const nameless = await fixture('users', jsonl(makeUsers(model, 1)));
	await rejects(t, () => scoreFile(model, { users: nameless, out }), code, /inputFormat/);
	const damaged = gzipSync(jsonl(makeUsers(model, 3000)));
	const cut = await fixture('users.jsonl.gz', damaged.subarray(0, damaged.length - 30));
	await rejects(t, () => scoreFile(model, { users: cut, out }), 'ERR_ALLMREC_FILE_FORMAT', /to its end/);
	await rejects(
		t,
		() => scoreFile(model, { users: join(dirname(path), 'folder.jsonl'), out }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
	);
});
