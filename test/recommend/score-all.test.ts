import { mkdir } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import type { Progress } from '../../lib/progress.js';
import type { ALLMRec } from '../../lib/recommend/a-llm-rec.js';
import { loadRun } from '../../lib/recommend/run.js';
import type { ScoreAllOptions, ScoredUser } from '../../lib/recommend/score-all/score-users.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const loaded = (async () => loadRun((await tinyRun()).folder, CPU))();
test.after.always(async () => (await loaded).dispose());

const good = (user: string, ...history: string[]) => JSON.stringify({ user, history });
const MIXED = [
	good('ann', 'i03', 'i17'),
	'{"user": "cut", "history": ["i03"',
	'',
	good('bob', 'i44'),
	good('none'),
	good('who', 'i03', 'nothing'),
	'{"history": ["i05"]}',
	'{"user": 7, "history": ["i05"], "candidates": ["i01", "i02"]}',
	'{"user": "odd", "history": "i05"}',
	'{"user": "odd", "history": ["i05"], "candidates": [1]}',
	'null',
	'  ',
	good('eve', 'i10'),
].join('\n');

async function collect(model: ALLMRec, path: string, options?: ScoreAllOptions): Promise<ScoredUser[]> {
	const rows: ScoredUser[] = [];
	for await (const row of model.scoreAll(path, options)) rows.push(row);
	return rows;
}

const summary = ({ user, recommendations, error }: ScoredUser) => [
	user,
	error?.code ?? recommendations!.length,
];
const FORMAT = 'ERR_ALLMREC_FILE_FORMAT';

test('every line has its row, in order, those that cannot be served an error', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', MIXED);
	const expected = [
		['ann', 5],
		['2', FORMAT],
		['bob', 5],
		['none', 'ERR_ALLMREC_EMPTY_HISTORY'],
		['who', 'ERR_ALLMREC_UNKNOWN_ITEM'],
		['7', 5],
		['7', 2],
		['9', FORMAT],
		['10', FORMAT],
		['11', FORMAT],
		['eve', 5],
	];
	for (const batchSize of [1, 2, 3, 64]) {
		const rows = await collect(model, path, { topK: 5, batchSize });
		t.deepEqual(rows.map(summary), expected, `${batchSize}`);
		t.regex(rows[1]!.error!.message, /not JSON/);
		t.regex(rows[4]!.error!.message, /`nothing`/);
	}
});

test('rows are what recommend gives', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', `${good('ann', 'i03', 'i17')}\r\n${good('bob', 'i44')}\r\n`);
	const rows = await collect(model, path, { topK: 4, by: 'llm' });
	const lists = await model.recommend([{ history: ['i03', 'i17'] }, { history: ['i44'] }], {
		topK: 4,
		by: 'llm',
	});
	t.deepEqual(
		rows,
		['ann', 'bob'].map((user, i) => ({ user, recommendations: lists[i]! })),
	);
});

test('gzipped files are read alike', async (t) => {
	const model = await loaded;
	const plain = await collect(model, await fixture('users.jsonl', MIXED));
	t.deepEqual(await collect(model, await fixture('users.jsonl.gz', gzipSync(MIXED))), plain);
});

test('files that are not there, empty, damaged, or folders', async (t) => {
	const model = await loaded;
	await rejects(t, () => collect(model, '/no/such/users.jsonl'), 'ERR_ALLMREC_FILE_NOT_FOUND');
	t.deepEqual(await collect(model, await fixture('users.jsonl', '\n\n')), []);
	const whole = gzipSync(MIXED.repeat(50));
	const cut = await fixture('users.jsonl.gz', whole.subarray(0, whole.length - 20));
	await rejects(t, () => collect(model, cut), FORMAT, /users\.jsonl\.gz/);
	const plain = await fixture('users.jsonl.gz', MIXED);
	await rejects(t, () => collect(model, plain), FORMAT);
	for (const name of ['folder.jsonl', 'folder.jsonl.gz']) {
		const folder = freshPath(name);
		await mkdir(folder, { recursive: true });
		await rejects(t, () => collect(model, folder), 'ERR_ALLMREC_FILE_NOT_FOUND', /is a folder/);
	}
});

test('progress, an abort, and a reader that has had enough', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', MIXED);
	const reports: Progress[] = [];
	await collect(model, path, { batchSize: 4, onProgress: (progress) => reports.push(progress) });
	t.deepEqual(
		reports.map(({ stage, done, unit }) => [stage, done, unit]),
		[
			['score', 4, 'users'],
			['score', 8, 'users'],
			['score', 11, 'users'],
		],
	);
	const reason = new Error('enough');
	await t.throwsAsync(collect(model, path, { signal: AbortSignal.abort(reason) }), { is: reason });
	const controller = new AbortController();
	await t.throwsAsync(
		collect(model, path, {
			batchSize: 1,
			signal: controller.signal,
			onProgress: () => controller.abort(reason),
		}),
		{ is: reason },
	);
	for await (const { user } of model.scoreAll(path, { batchSize: 1 })) {
		t.is(user, 'ann');
		break;
	}
});

test('options that cannot be are errors of the call, not of every user', async (t) => {
	const model = await loaded;
	const path = await fixture('users.jsonl', MIXED);
	await rejects(t, () => collect(model, path, { topK: 0 }), 'ERR_ALLMREC_INVALID_ARGUMENT', /`topK`/);
	await rejects(
		t,
		() => collect(model, path, { batchSize: 0 }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/`batchSize`/,
	);
});

test('an iterable of users is read no further ahead than three batches', async (t) => {
	const model = await loaded;
	let read = 0;
	async function* users() {
		for (; read < 200; ) yield { user: `u${read++}`, history: ['i03'] };
	}
	const batchSize = 5;
	let done = 0;
	let most = 0;
	for await (const { user, recommendations } of model.scoreAll(users(), { batchSize, topK: 1 })) {
		t.is(user, `u${done++}`);
		t.is(recommendations!.length, 1);
		most = Math.max(most, read - done);
	}
	t.is(done, 200);
	t.true(most <= 3 * batchSize, `${most}`);
	t.true(most >= batchSize, 'the next batch is read while one is computed');
});

test('users of an iterable that are none yield errors', async (t) => {
	const model = await loaded;
	const users = [{ user: 'a', history: ['i03'] }, { user: 'b' }, null, { user: 'c', history: [] }];
	const rows: ScoredUser[] = [];
	for await (const row of model.scoreAll(users as { user: string; history: string[] }[])) rows.push(row);
	t.deepEqual(
		rows.map(({ user, error }) => [user, error?.code]),
		[
			['a', undefined],
			['2', 'ERR_ALLMREC_INVALID_ARGUMENT'],
			['3', 'ERR_ALLMREC_INVALID_ARGUMENT'],
			['c', 'ERR_ALLMREC_EMPTY_HISTORY'],
		],
	);
});
