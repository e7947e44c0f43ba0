import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test from 'ava';
import { Dataset, type PrepareOptions, prepare } from '../../lib/data/dataset.js';
import { SeededRandom } from '../../lib/data/random.js';
import { summaryRows } from '../../lib/data/summary.js';
import { fixture, freshPath, rejects } from './folders.js';

interface Row {
	user: number;
	item: number;
	time: number;
	rating: number;
}

const csvOf = (rows: Row[]) =>
	`user,item,time,rating\n${rows.map(({ user, item, time, rating }) => `${user},${item},${time},${rating}\n`).join('')}`;

async function prepareRows(rows: Row[], options: Partial<PrepareOptions> = {}): Promise<Dataset> {
	const log = await fixture('log.csv', csvOf(rows));
	return prepare({ format: 'csv', interactions: [log], out: freshPath(), ...options });
}

/** The rules of SPEC section 5 in the plainest way: what is left, as [user, item, time] of the source. */
function naive(rows: Row[], options: Partial<PrepareOptions>): [string, string, number][] {
	const { kCore = 5, singlePass = false, minRating = 0, duplicates = 'drop' } = options;
	let left = rows.map((row, line) => ({ ...row, line })).filter(({ rating }) => rating >= minRating);
	if (duplicates === 'drop')
		left = left.filter(
			(row) =>
				!left.some(
					(other) =>
						other.user === row.user &&
						other.item === row.item &&
						(other.time < row.time || (other.time === row.time && other.line < row.line)),
				),
		);
	for (;;) {
		const before = left;
		left = before.filter(
			(row) =>
				before.filter(({ user }) => user === row.user).length >= kCore &&
				before.filter(({ item }) => item === row.item).length >= kCore,
		);
		if (singlePass || left.length === before.length) break;
	}
	const users = [...new Set(left.map(({ user }) => user))];
	return left
		.sort((a, b) => users.indexOf(a.user) - users.indexOf(b.user) || a.time - b.time || a.line - b.line)
		.map(({ user, item, time }) => [String(user), String(item), time]);
}

function flatten(dataset: Dataset): [string, string, number][] {
	const { offsets, items, times } = dataset.sequences;
	return dataset.userIds.flatMap((user, u) =>
		Array.from({ length: offsets[u + 1]! - offsets[u]! }, (_, n): [string, string, number] => {
			const at = offsets[u]! + n;
			return [user, dataset.items[items[at]!]!.id, times[at]!];
		}),
	);
}

function randomRows(seed: number): Row[] {
	const random = new SeededRandom(seed);
	return Array.from({ length: 400 }, () => ({
		user: Math.floor(30 * random.uniform() ** 1.5),
		item: Math.floor(40 * random.uniform() ** 1.5),
		// Few different times, so that the order of the file decides often.
		time: random.int(12),
		rating: 1 + random.int(5),
	}));
}

const variants: Partial<PrepareOptions>[] = [
	{},
	{ kCore: 3 },
	{ kCore: 4, singlePass: true },
	{ kCore: 3, duplicates: 'keep' },
	{ kCore: 4, duplicates: 'keep', singlePass: true },
	{ kCore: 3, minRating: 3 },
	{ kCore: 1, minRating: 2, threads: 1 },
];

for (const options of variants)
	test(`as the naive rules: ${JSON.stringify(options)}`, async (t) => {
		for (const seed of [1, 2]) {
			const rows = randomRows(seed);
			const expected = naive(rows, options);
			t.true(expected.length > 0, 'the case is not empty');
			const dataset = await prepareRows(rows, options);
			t.deepEqual(flatten(dataset), expected);
		}
	});

test('single pass and fixed point differ where they should', async (t) => {
	// User 3 has two items, of which item 9 has one user only: the second round takes the user, the third item 8.
	const pairs = [
		[1, 1],
		[1, 2],
		[2, 1],
		[2, 2],
		[2, 8],
		[3, 8],
		[3, 9],
	] as const;
	const rows = pairs.map(([user, item], time) => ({ user, item, time, rating: 5 }));
	const once = await prepareRows(rows, { kCore: 2, singlePass: true });
	t.deepEqual([once.numUsers, once.numItems, once.numInteractions], [3, 3, 6]);
	const core = await prepareRows(rows, { kCore: 2 });
	t.deepEqual([core.numUsers, core.numItems, core.numInteractions], [2, 2, 4]);
	t.deepEqual(
		core.summary?.coreRounds.map(({ interactions }) => interactions),
		[6, 5, 4],
	);
});

test('ids follow the first appearance in the file, not time', async (t) => {
	const dataset = await prepareRows(
		[
			{ user: 5, item: 30, time: 9, rating: 1 },
			{ user: 4, item: 20, time: 1, rating: 1 },
			{ user: 5, item: 10, time: 2, rating: 1 },
		],
		{ kCore: 1 },
	);
	t.deepEqual(dataset.userIds, ['5', '4']);
	t.deepEqual(
		dataset.items.map(({ id }) => id),
		['', '30', '20', '10'],
	);
	t.deepEqual([...dataset.sequence(0)], [3, 1]);
});

test('of duplicates the earliest stays, and ties keep the order of the file', async (t) => {
	const rows = [
		{ user: 1, item: 1, time: 5, rating: 1 },
		{ user: 1, item: 2, time: 3, rating: 1 },
		{ user: 1, item: 1, time: 2, rating: 1 },
		{ user: 1, item: 3, time: 3, rating: 1 },
		{ user: 1, item: 2, time: 3, rating: 1 },
	];
	const dropped = await prepareRows(rows, { kCore: 1 });
	t.deepEqual(flatten(dropped), [
		['1', '1', 2],
		['1', '2', 3],
		['1', '3', 3],
	]);
	t.is(dropped.summary?.afterDuplicates, 3);
	const kept = await prepareRows(rows, { kCore: 1, duplicates: 'keep' });
	t.deepEqual(
		flatten(kept).map(([, item]) => item),
		['1', '2', '3', '2', '1'],
	);
});

test('the order of a large file survives parallel reading', async (t) => {
	const rows = Array.from({ length: 300_000 }, (_, n) => ({ user: n % 3, item: n, time: 0, rating: 1 }));
	const dataset = await prepareRows(rows, { kCore: 1 });
	t.is(dataset.numInteractions, rows.length);
	t.true(dataset.items.every(({ id }, index) => index === 0 || id === String(index - 1)));
	t.true(dataset.sequence(1).every((item, n) => item === 3 * n + 2));
});

test('the summary counts every step', async (t) => {
	const dataset = await prepareRows(randomRows(3), { kCore: 3, minRating: 2, name: 'random' });
	const summary = dataset.summary!;
	t.is(dataset.name, 'random');
	t.is(summary.rawLines, 400);
	t.true(summary.afterRating < 400 && summary.afterDuplicates < summary.afterRating);
	t.is(summary.coreRounds.at(-1)?.interactions, summary.interactions);
	t.is(summary.itemsWithoutTitle, dataset.numItems);
	t.is(summary.density, dataset.numInteractions / (dataset.numUsers * dataset.numItems));
	const lengths = dataset.userIds.map((_, u) => dataset.sequence(u).length).sort((a, b) => a - b);
	const middle = [lengths[(lengths.length - 1) >> 1]!, lengths[lengths.length >> 1]!];
	t.is(summary.medianLength, (middle[0]! + middle[1]!) / 2);
	t.true(summaryRows(summary).some(([label, figure]) => label === 'raw lines' && figure === '400'));
});

test('nothing left is an error that says why, and leaves nothing behind', async (t) => {
	const out = freshPath();
	await rejects(
		t,
		() => prepareRows(randomRows(1), { kCore: 40, out }),
		'ERR_ALLMREC_EMPTY_DATASET',
		/40-core/,
	);
	t.false(existsSync(out));
	t.deepEqual(await readdir(dirname(out)), []);
});

test('a folder that is no data set is not overwritten', async (t) => {
	const out = freshPath();
	await mkdir(out, { recursive: true });
	await writeFile(join(out, 'thesis.txt'), 'mine');
	await rejects(
		t,
		() => prepareRows(randomRows(1), { out }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/not a data set/,
	);
	t.is(await readFile(join(out, 'thesis.txt'), 'utf8'), 'mine');
	await rejects(
		t,
		() => prepareRows(randomRows(1), { out: join(out, 'thesis.txt') }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/not a file/,
	);
	t.deepEqual(await readdir(dirname(out)), ['set']);
});

test('a data set is replaced as a whole, an empty folder is used', async (t) => {
	const out = freshPath();
	await mkdir(out, { recursive: true });
	await prepareRows(randomRows(1), { out, kCore: 3 });
	const second = await prepareRows(randomRows(2), { out, kCore: 1 });
	const again = await Dataset.open(out);
	t.deepEqual(flatten(again), flatten(second));
	t.deepEqual(await readdir(dirname(out)), ['set']);
	t.deepEqual(await readdir(out), ['dataset.json', 'interactions.parquet', 'items.parquet', 'users.parquet']);
	const manifest = await readFile(join(out, 'dataset.json'), 'utf8');
	t.false(manifest.includes(dirname(out)), 'no path of the machine in it');
});

test('aborting rejects with the reason and leaves nothing behind', async (t) => {
	const out = freshPath();
	const reason = new Error('enough');
	const controller = new AbortController();
	const error = await t.throwsAsync(() =>
		prepareRows(randomRows(1), {
			out,
			kCore: 2,
			signal: controller.signal,
			onProgress: ({ message }) => message?.startsWith('writing') && controller.abort(reason),
		}),
	);
	t.is(error, reason);
	t.deepEqual(await readdir(dirname(out)), []);
	const before = await t.throwsAsync(() => prepareRows(randomRows(1), { signal: AbortSignal.abort(reason) }));
	t.is(before, reason);
});

test('progress goes from step to step', async (t) => {
	const seen: number[] = [];
	await prepareRows(randomRows(1), {
		kCore: 2,
		onProgress: ({ stage, done, total, unit }) => {
			t.is(stage, 'prepare');
			t.is(unit, 'steps');
			t.is(total, 6);
			seen.push(done);
		},
	});
	t.is(seen.at(-1), 6);
	t.deepEqual(
		seen,
		[...seen].sort((a, b) => a - b),
	);
});

test('options are checked', async (t) => {
	for (const [wrong, message] of [
		[{ format: 'json' }, /`format`.*amazon.*`json`/],
		[{ kcore: 3 }, /no option `kcore`; did you mean `kCore`/],
		[{ format: 'toString' }, /`format`/],
		[{ kCore: 0 }, /`kCore`/],
		[{ kCore: 2.5 }, /`kCore`/],
		[{ minRating: Number.NaN }, /`minRating`/],
		[{ duplicates: 'last' }, /`duplicates`/],
		[{ out: '' }, /`out`/],
		[{ interactions: 'log.csv' }, /`interactions`/],
		[{ interactions: [] }, /`interactions`/],
		[{ memoryLimit: 'much' }, /`memoryLimit`/],
	] as const)
		await rejects(
			t,
			() => prepareRows(randomRows(1), wrong as Partial<PrepareOptions>),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			message,
		);
	const log = await fixture('log.csv', 'user,item\n1,2\n');
	await rejects(
		t,
		() => prepare({ format: 'csv', interactions: [log], minRating: 3, out: freshPath() }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/no ratings/,
	);
});

test('open: not there, not a data set, damaged', async (t) => {
	await rejects(t, () => Dataset.open(freshPath()), 'ERR_ALLMREC_FILE_NOT_FOUND', /a-llmrec prepare/);
	const out = freshPath();
	await prepareRows(randomRows(1), { out, kCore: 2 });
	await rejects(t, () => Dataset.open(dirname(out)), 'ERR_ALLMREC_FILE_NOT_FOUND', /dataset\.json/);
	await truncate(join(out, 'interactions.parquet'), 100);
	await rejects(t, () => Dataset.open(out), 'ERR_ALLMREC_FILE_FORMAT');
	const manifest = JSON.parse(await readFile(join(out, 'dataset.json'), 'utf8'));
	await writeFile(join(out, 'dataset.json'), JSON.stringify({ ...manifest, version: 2 }));
	await rejects(t, () => Dataset.open(out), 'ERR_ALLMREC_FILE_FORMAT', /version/);
	await writeFile(join(out, 'dataset.json'), '{"format"');
	await rejects(t, () => Dataset.open(out), 'ERR_ALLMREC_FILE_FORMAT', /not JSON/);
});

test('ids are looked up, and unknown ones get a hint', async (t) => {
	const log = await fixture('log.csv', 'user,item\nanna,B00004SVVT\nbert,B00005JLXH\n');
	const items = await fixture('items.csv', 'id,title\nB00004SVVT,The Abyss\n');
	const dataset = await prepare({
		format: 'csv',
		interactions: [log],
		items: [items],
		kCore: 1,
		out: freshPath(),
	});
	t.is(dataset.itemIndex('B00005JLXH'), 2);
	t.is(dataset.userIndex('bert'), 1);
	const unknown = (id: string) => rejects(t, async () => dataset.itemIndex(id), 'ERR_ALLMREC_UNKNOWN_ITEM');
	t.regex((await unknown('B00004SVVX')).message, /Did you mean `B00004SVVT`/);
	t.regex((await unknown('the abyss')).message, /title of item `B00004SVVT`/);
	t.notRegex((await unknown('something else')).message, /mean/);
	await unknown('');
	await rejects(t, async () => dataset.userIndex('ana'), 'ERR_ALLMREC_UNKNOWN_USER', /`anna`/);
});
