import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { Database, literal } from '../../lib/data/database.js';
import { type Dataset, type PrepareOptions, prepare } from '../../lib/data/dataset.js';
import { fixture, freshPath, rejects } from './folders.js';

/** Sequences by user id, as item ids, for comparison by eye. */
function histories(dataset: Dataset): Record<string, string[]> {
	return Object.fromEntries(
		dataset.userIds.map((id, user) => [
			id,
			Array.from(dataset.sequence(user), (item) => dataset.items[item]!.id),
		]),
	);
}

function all(options: Omit<PrepareOptions, 'out' | 'kCore'>): Promise<Dataset> {
	return prepare({ kCore: 1, out: freshPath(), ...options });
}

const reviews = [
	{ reviewerID: 'A2', asin: 'B2', overall: 5, unixReviewTime: 30, reviewText: 'x', style: { a: 1 } },
	{ reviewerID: 'A1', asin: 'B1', overall: 4.0, unixReviewTime: 20 },
	{ reviewerID: 'A1', asin: 'B2', overall: 2, unixReviewTime: 10 },
	{ reviewerID: 'A2', asin: 'B1', overall: 3, unixReviewTime: 40 },
];
const metadata = [
	{
		asin: 'B1',
		title: 'One &amp; <i>only</i>',
		description: ['<p>first</p>', 'second'],
		category: ['C', 'D'],
	},
	{ asin: 'B9', title: 'not kept', description: [] },
	{ asin: 'B2', title: 'var aPageStart = (new Date()).getTime();', description: 'text', brand: 'Acme' },
	{ asin: 'B1', title: 'a later line does not count' },
];
const lines = (rows: object[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join('');

for (const gzipped of [false, true])
	test(`amazon 2018${gzipped ? ', gzipped' : ''}`, async (t) => {
		const pack = (text: string) => (gzipped ? gzipSync(text) : text);
		const suffix = gzipped ? '.json.gz' : '.json';
		const dataset = await all({
			format: 'amazon',
			interactions: [await fixture(`reviews${suffix}`, pack(lines(reviews)))],
			items: [await fixture(`meta${suffix}`, pack(lines(metadata)))],
		});
		t.deepEqual(dataset.userIds, ['A2', 'A1'], 'users in order of first appearance');
		t.deepEqual(dataset.items.slice(1), [
			{ id: 'B2', title: 'B2', description: 'text', genres: [] },
			{ id: 'B1', title: 'One & only', description: 'first second', genres: ['C', 'D'] },
		]);
		t.deepEqual(dataset.items[0], { id: '', title: '', description: '', genres: [] });
		t.deepEqual(histories(dataset), { A2: ['B2', 'B1'], A1: ['B2', 'B1'] });
		t.deepEqual([...dataset.sequences.times], [30, 40, 10, 20]);
		t.is(dataset.summary?.itemsWithoutTitle, 1);
		t.is(dataset.summary?.rawLines, 4);
	});

test('amazon 2023: other names, milliseconds', async (t) => {
	const rows = [
		{ user_id: 'U', parent_asin: 'P1', asin: 'variant', rating: 5, timestamp: 1_588_687_728_923 },
		{ user_id: 'U', parent_asin: 'P2', asin: 'P2', rating: 1, timestamp: 1_588_687_700_000 },
	];
	const dataset = await all({
		format: 'amazon',
		interactions: [await fixture('r.jsonl', lines(rows))],
		items: [
			await fixture(
				'm.jsonl',
				lines([{ parent_asin: 'P1', title: 'T', description: [], categories: ['x', 'y'] }]),
			),
		],
	});
	t.deepEqual(histories(dataset), { U: ['P2', 'P1'] });
	t.is(dataset.sequences.times[1], 1_588_687_728.923);
	t.is(dataset.items[dataset.itemIndex('P1')]!.description, 'x, y');
});

test('recbole atomic files', async (t) => {
	const dataset = await all({
		format: 'recbole',
		interactions: [
			await fixture(
				'a.inter',
				'user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\t"i1\t5\t2\nu1\ti2\t3\t1\n',
			),
		],
		items: [
			await fixture(
				'a.item',
				'item_id:token\tmovie_title:token_seq\tclass:token_seq\n"i1\tSay "hi"\tDrama War\ni2\tTwo\t\n',
			),
		],
	});
	t.deepEqual(histories(dataset), { u1: ['i2', '"i1'] });
	t.deepEqual(dataset.items[1], {
		id: '"i1',
		title: 'Say "hi"',
		description: 'Drama, War',
		genres: ['Drama', 'War'],
	});
	t.deepEqual(dataset.items[2], { id: 'i2', title: 'Two', description: '', genres: [] });
});

async function folderOf(files: Record<string, string | Buffer>): Promise<string> {
	const folder = freshPath('ml');
	for (const [name, contents] of Object.entries(files)) {
		await mkdir(dirname(join(folder, name)), { recursive: true });
		await writeFile(join(folder, name), contents);
	}
	return folder;
}

const flags = (...on: number[]) => Array.from({ length: 19 }, (_, i) => (on.includes(i) ? 1 : 0)).join('|');
const movielens: [string, Record<string, string | Buffer>][] = [
	[
		'100k',
		{
			'u.data': '7\t2\t5\t20\n7\t1\t3\t10\n8\t1\t4\t5\n',
			'u.item': Buffer.from(
				`1|Caf\u00e9 (1995)|01-Jan-1995||http://x|${flags(5, 8)}\n2|Two (1996)||||${flags()}\n`,
				'latin1',
			),
		},
	],
	[
		'1m',
		{
			'ratings.dat': '7::2::5::20\n7::1::3::10\n8::1::4::5\n',
			'movies.dat': Buffer.from('1::Caf\u00e9 (1995)::Comedy|Drama\n2::Two (1996)::\n', 'latin1'),
		},
	],
	[
		'latest',
		{
			'ratings.csv': 'userId,movieId,rating,timestamp\n7,2,5.0,20\n7,1,3.0,10\n8,1,4.0,5\n',
			'movies.csv': 'movieId,title,genres\n1,"Café (1995)",Comedy|Drama\n2,Two (1996),(no genres listed)\n',
		},
	],
];

for (const [release, files] of movielens)
	test(`movielens ${release}`, async (t) => {
		const folder = await folderOf(files);
		const dataset = await all({ format: 'movielens', interactions: [folder] });
		t.deepEqual(histories(dataset), { 7: ['1', '2'], 8: ['1'] });
		const item = dataset.items[dataset.itemIndex('1')]!;
		t.deepEqual(item, {
			id: '1',
			title: 'Café (1995)',
			description: 'Comedy, Drama',
			genres: ['Comedy', 'Drama'],
		});
		t.deepEqual(dataset.items[dataset.itemIndex('2')]!.genres, []);
		const ratings = join(folder, Object.keys(files)[0]!);
		const byFile = await all({ format: 'movielens', interactions: [ratings], minRating: 4 });
		t.deepEqual(histories(byFile), { 7: ['2'], 8: ['1'] });
	});

test('movielens: an unknown file is named', async (t) => {
	const file = await fixture('my.csv', 'a,b\n');
	await rejects(
		t,
		() => all({ format: 'movielens', interactions: [file] }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/u\.data/,
	);
});

const interactionCsv = 'who,what,when,stars\nu,"a,1",2020-01-02 00:00:00,5\nu,b,2020-01-01T00:00:00,4\n';

test('csv: named columns, quotes, ISO times', async (t) => {
	const dataset = await all({
		format: 'csv',
		interactions: [await fixture('log.csv', interactionCsv)],
		items: [
			await fixture('items.csv', 'key,label,text,tags\n"a,1","A ""quoted"" title","two\nlines",x|y\nb,B,,\n'),
		],
		columns: {
			user: 'who',
			item: 'what',
			time: 'when',
			rating: 'stars',
			id: 'key',
			title: 'label',
			genres: 'tags',
		},
	});
	t.deepEqual(histories(dataset), { u: ['b', 'a,1'] });
	t.deepEqual([...dataset.sequences.times], [1_577_836_800, 1_577_923_200]);
	t.deepEqual(dataset.items[1], {
		id: 'a,1',
		title: 'A "quoted" title',
		description: 'two lines',
		genres: ['x', 'y'],
	});
});

test('csv: semicolons, tabs, gzip, byte order mark, several files, no time', async (t) => {
	for (const [name, contents] of [
		['a.csv', '\ufeffuser;item\nu;x\nu;y\n'],
		['a.tsv', 'user\titem\nu\tx\nu\ty\n'],
		['a.csv.gz', gzipSync('user_id,item_id\nu,x\nu,y\n')],
		['[a]*?.csv', 'user,item\r\nu,x\r\nu,y\r\n'],
	] as const)
		t.deepEqual(
			histories(await all({ format: 'csv', interactions: [await fixture(name, contents)] })),
			{ u: ['x', 'y'] },
			name,
		);
	const two = [await fixture('1.csv', 'user,item\nu,z\n'), await fixture('2.csv', 'user,item\nu,a\n')];
	t.deepEqual(histories(await all({ format: 'csv', interactions: two })), { u: ['z', 'a'] });
	const other = await fixture('3.csv', 'item,user\nz,u\n');
	await rejects(
		t,
		() => all({ format: 'csv', interactions: [two[0]!, other] }),
		'ERR_ALLMREC_FILE_FORMAT',
		/header/,
	);
});

test('csv: parquet with typed columns', async (t) => {
	const database = await Database.open({});
	const log = await fixture('log.parquet', '');
	const items = await fixture('items.parquet', '');
	await database.run(
		`COPY (SELECT * FROM (VALUES (7, 1, TIMESTAMP '2020-01-02', 5.0), (7, 2, TIMESTAMP '2020-01-01', 3.5)) AS t("user", item, time, rating)) TO ${literal(log)} (FORMAT parquet)`,
	);
	await database.run(
		`COPY (SELECT * FROM (VALUES (1, 'One', ['x', 'y z']), (2, 'Two', NULL)) AS t(id, title, genres)) TO ${literal(items)} (FORMAT parquet)`,
	);
	database.close();
	const dataset = await all({ format: 'csv', interactions: [log], items: [items] });
	t.deepEqual(histories(dataset), { 7: ['2', '1'] });
	t.deepEqual(dataset.items[1], { id: '1', title: 'One', description: 'x, y z', genres: ['x', 'y z'] });
});

test('a wrong column is named, with the present ones', async (t) => {
	const file = await fixture('log.csv', interactionCsv);
	await rejects(
		t,
		() => all({ format: 'csv', interactions: [file], columns: { user: 'whom' } }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/`whom`.*`who`, `what`, `when`, `stars`/,
	);
	await rejects(
		t,
		() => all({ format: 'csv', interactions: [file] }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/columns\.user.*`who`/,
	);
	const wrongRole = { usr: 'who' } as object;
	await rejects(
		t,
		() => all({ format: 'csv', interactions: [file], columns: wrongRole }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/usr/,
	);
});

test('missing, empty and cut-off files', async (t) => {
	await rejects(
		t,
		() => all({ format: 'amazon', interactions: ['/nowhere/x.json'] }),
		'ERR_ALLMREC_FILE_NOT_FOUND',
		/nowhere/,
	);
	const empty = await fixture('empty.csv', '');
	await rejects(t, () => all({ format: 'csv', interactions: [empty] }), 'ERR_ALLMREC_FILE_FORMAT', /empty/);
	const onlyHeader = await fixture('head.csv', 'user,item\n');
	await rejects(t, () => all({ format: 'csv', interactions: [onlyHeader] }), 'ERR_ALLMREC_EMPTY_DATASET');
	const whole = gzipSync(
		lines(Array.from({ length: 5000 }, (_, n) => ({ ...reviews[0], asin: `B${n * 7919}` }))),
	);
	const cut = await fixture('cut.json.gz', whole.subarray(0, whole.length / 2));
	await rejects(t, () => all({ format: 'amazon', interactions: [cut] }), 'ERR_ALLMREC_FILE_FORMAT');
});

test('malformed lines are counted, not fatal', async (t) => {
	const bad = [
		'{broken',
		'[1, 2]',
		'{"asin": "B1"}',
		'{"reviewerID": "A1", "asin": "B1", "unixReviewTime": "soon"}',
	];
	const text = lines(reviews).replace('\n', `\n${bad.join('\n')}\n\n`);
	const dataset = await all({ format: 'amazon', interactions: [await fixture('r.json', text)] });
	t.is(dataset.summary?.malformedLines, 4);
	t.is(dataset.summary?.rawLines, 8);
	t.is(dataset.numInteractions, 4);
	const csv = 'user,item,time\nu,a,1\nu,b\nu,c,3,4\nu,d,never\n,e,5\nu,f,6\n';
	const fromCsv = await all({ format: 'csv', interactions: [await fixture('log.csv', csv)] });
	t.deepEqual(histories(fromCsv), { u: ['a', 'f'] });
	t.is(fromCsv.summary?.rawLines, 6);
	t.is(fromCsv.summary?.malformedLines, 4);
});

test('too many malformed lines mean another format', async (t) => {
	const rows = Array.from({ length: 100 }, (_, n) => (n % 5 === 0 ? 'nonsense' : JSON.stringify(reviews[0])));
	const file = await fixture('r.json', rows.join('\n'));
	await rejects(
		t,
		() => all({ format: 'amazon', interactions: [file] }),
		'ERR_ALLMREC_FILE_FORMAT',
		/20 of 100/,
	);
	const tsv = await fixture('r.json', 'user\titem\n1\t2\n');
	await rejects(t, () => all({ format: 'amazon', interactions: [tsv] }), 'ERR_ALLMREC_FILE_FORMAT');
	const otherNames = await fixture('r.json', '{"person": 1, "thing": 2}\n');
	await rejects(
		t,
		() => all({ format: 'amazon', interactions: [otherNames] }),
		'ERR_ALLMREC_FILE_FORMAT',
		/person, thing/,
	);
});
