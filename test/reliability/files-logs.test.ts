import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { Database, literal } from '../../lib/data/database.js';
import { Dataset, type PrepareOptions } from '../../lib/data/dataset.js';
import { SeededRandom } from '../../lib/data/random.js';
import type { ErrorCode } from '../../lib/errors.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import {
	figures,
	flips,
	newTally,
	type Reader,
	some,
	textDamages,
	truncations,
	tryDamages,
	tryImpostors,
} from '../support/damage.js';
import { held, LONG, times } from '../support/reliability.js';

const CODES: readonly ErrorCode[] = [
	'ERR_ALLMREC_FILE_FORMAT',
	'ERR_ALLMREC_FILE_NOT_FOUND',
	'ERR_ALLMREC_EMPTY_DATASET',
	'ERR_ALLMREC_INVALID_ARGUMENT',
];

/** A log of 12 users over 8 items, with texts that are no ASCII. */
const events = Array.from({ length: 60 }, (_, i) => ({
	user: `Ü${i % 12}`,
	item: `B00${(i * 5 + Math.floor(i / 12)) % 8}`,
	rating: 1 + (i % 5),
	time: 1_400_000_000 + 1000 * i,
}));
const items = Array.from({ length: 8 }, (_, i) => ({
	id: `B00${i}`,
	title: `Tïtle, "the" ${i}`,
	description: i % 2 === 0 ? 'A <b>good</b> thing & more' : '',
	genres: 'Toys|Games',
}));

/** What prepare gives is whole: sizes agree, ids are in range and known, times are finite and in order. */
async function prepared(options: Omit<PrepareOptions, 'out' | 'kCore' | 'threads'>): Promise<unknown> {
	const out = freshPath('out');
	try {
		const dataset = await Dataset.prepare({ kCore: 1, threads: 1, memoryLimit: '500MB', ...options, out });
		const { offsets, items: dense, times: at } = dataset.sequences;
		if (offsets.length !== dataset.numUsers + 1 || offsets.at(-1) !== dense.length)
			throw new Error('offsets');
		if (!dense.every((item) => item >= 1 && item <= dataset.numItems))
			throw new Error('an item out of range');
		if (!at.every(Number.isFinite)) throw new Error('a time that is not finite');
		for (let u = 0; u < dataset.numUsers; u++)
			for (let i = offsets[u]! + 1; i < offsets[u + 1]!; i++)
				if (at[i]! < at[i - 1]!) throw new Error('times out of order');
		for (const { id, title } of dataset.items.slice(1))
			if (typeof id !== 'string' || id === '' || typeof title !== 'string') throw new Error('an item');
		const { rawLines, malformedLines } = dataset.summary!;
		if (malformedLines > Math.max(10, rawLines / 100)) throw new Error(`${malformedLines} of ${rawLines}`);
		return undefined;
	} finally {
		await rm(out, { recursive: true, force: true });
	}
}

const csv = `user,item,rating,timestamp\n${events.map((e) => `${e.user},${e.item},${e.rating},${e.time}\n`).join('')}`;
const csvItems = `item,title,description,genres\n${items.map((i) => `${i.id},"${i.title.replaceAll('"', '""')}",${i.description},${i.genres}\n`).join('')}`;
const lines = (values: object[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');
const amazon = lines(
	events.map((e) => ({
		reviewerID: e.user,
		asin: e.item,
		overall: e.rating,
		unixReviewTime: e.time,
		reviewText: 'good',
	})),
);
const amazonItems = lines(
	items.map((i) => ({
		asin: i.id,
		title: i.title,
		description: [i.description],
		category: ['Toys'],
		brand: 'b',
	})),
);
const recbole = `user_id:token\titem_id:token\trating:float\ttimestamp:float\n${events.map((e) => `${e.user}\t${e.item}\t${e.rating}\t${e.time}\n`).join('')}`;
const recboleItems = `item_id:token\ttitle:token_seq\tclass:token_seq\n${items.map((i) => `${i.id}\t${i.title}\tToys Games\n`).join('')}`;
const dat = events.map((e, i) => `${1 + (i % 12)}::${e.item.slice(3)}::${e.rating}::${e.time}\n`).join('');
const movies = items.map((i) => `${i.id.slice(3)}::${i.title}::Drama|War\n`).join('');

async function readers(): Promise<(Reader & { text: boolean })[]> {
	const common = { codes: CODES, named: false, limit: 20_000 };
	const one = async (
		name: string,
		content: string | Buffer,
		options: (path: string) => Omit<PrepareOptions, 'out' | 'kCore' | 'threads'>,
		text = true,
	) => ({
		...common,
		name,
		text,
		source: await fixture(name, content),
		read: (path: string) => prepared(options(path)),
	});
	const logs = {
		csv: await fixture('log.csv', csv),
		amazon: await fixture('log.json', amazon),
		recbole: await fixture('log.inter', recbole),
	};
	const movielens = freshPath('ml');
	await mkdir(movielens, { recursive: true });
	await writeFile(join(movielens, 'ratings.dat'), dat);
	await writeFile(join(movielens, 'movies.dat'), movies);
	const inMovielens = (file: string): Reader & { text: boolean } => ({
		...{ ...common, name: file, source: movielens, file, text: true },
		read: (path) => prepared({ format: 'movielens', interactions: [path] }),
	});
	return [
		await one('reviews.json', amazon, (path) => ({ format: 'amazon', interactions: [path] })),
		await one('meta.json', amazonItems, (path) => ({
			format: 'amazon',
			interactions: [logs.amazon],
			items: [path],
		})),
		await one(
			'reviews.json.gz',
			gzipSync(amazon),
			(path) => ({ format: 'amazon', interactions: [path] }),
			false,
		),
		await one('interactions.csv', csv, (path) => ({ format: 'csv', interactions: [path] })),
		await one('items.csv', csvItems, (path) => ({ format: 'csv', interactions: [logs.csv], items: [path] })),
		await one(
			'interactions.csv.gz',
			gzipSync(csv),
			(path) => ({ format: 'csv', interactions: [path] }),
			false,
		),
		await one('x.inter', recbole, (path) => ({ format: 'recbole', interactions: [path] })),
		await one('x.item', recboleItems, (path) => ({
			format: 'recbole',
			interactions: [logs.recbole],
			items: [path],
		})),
		await one('log.parquet', await parquet(csv), (path) => ({ format: 'csv', interactions: [path] }), false),
		await one(
			'items.parquet',
			await parquet(csvItems),
			(path) => ({ format: 'csv', interactions: [logs.csv], items: [path] }),
			false,
		),
		inMovielens('ratings.dat'),
		inMovielens('movies.dat'),
	];
}

async function parquet(text: string): Promise<Buffer> {
	const from = await fixture('from.csv', text);
	const to = join(dirname(from), 'to.parquet');
	const database = await Database.open({ threads: 1 });
	await database.run(
		`COPY (SELECT * FROM read_csv(${literal(from)}, header = true)) TO ${literal(to)} (FORMAT parquet, COMPRESSION zstd)`,
	);
	database.close();
	return readFile(to);
}

test('logs and catalogues of every format', async (t) => {
	const tally = newTally();
	for (const { text, ...reader } of await readers()) {
		const { name } = reader;
		const bytes = await readFile(reader.file ? join(reader.source, reader.file) : reader.source);
		const flipped = times(20, 60);
		const binary = [...truncations(bytes), ...flips(bytes, times(40, 200), new SeededRandom(7))];
		const damages = text ? textDamages(bytes, 7, { flipped }) : binary;
		await tryDamages(reader, some(damages, times(10, 1e6)), tally);
		if (LONG || name === 'interactions.csv') await tryImpostors(reader, tally);
	}
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A damaged log or catalogue is rejected by name or prepared to a consistent data set.',
		figures(tally),
	);
});

test('a gzipped log that is cut off or damaged anywhere is never taken for a shorter one', async (t) => {
	const members = Buffer.concat([gzipSync(amazon.slice(0, 3000)), gzipSync(amazon.slice(3000))]);
	const tally = newTally();
	const reader: Reader = {
		...{ name: 'two members', source: await fixture('two.json.gz', members), codes: CODES, named: true },
		read: async (path) => {
			const out = freshPath('out');
			const dataset = await Dataset.prepare({
				format: 'amazon',
				interactions: [path],
				kCore: 1,
				threads: 1,
				out,
			});
			await rm(out, { recursive: true, force: true });
			return dataset.numInteractions;
		},
		sealed: true,
	};
	await tryDamages(reader, some(truncations(members), times(6, 1e6)), tally);
	await tryDamages(reader, flips(members, times(12, 400), new SeededRandom(3)), tally);
	// The second member's header: what stands behind the first would be taken for the end.
	const second = members.indexOf(Buffer.from([0x1f, 0x8b, 8]), 10);
	await tryDamages(
		reader,
		[0, 1, 2].map((at) => {
			const bytes = Buffer.from(members);
			bytes[second + at] = 0;
			return { what: `the second header's byte ${at}`, bytes };
		}),
		tally,
	);
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A gzipped log that lost anything is rejected, never taken for a shorter one.',
		figures(tally),
	);
});

test('headers and values that are out of all bounds', async (t) => {
	const row = (fields: Record<string, string>) =>
		`user,item,rating,timestamp\n${csv.split('\n').slice(1, 20).join('\n')}\n${[fields.user ?? 'u', fields.item ?? 'i', fields.rating ?? '3', fields.time ?? '5'].join(',')}\n`;
	let tried = 0;
	for (const number of [
		'1e308',
		'-1',
		'9007199254740993',
		'1e400',
		'NaN',
		'inf',
		'-inf',
		'infinity',
		'0x10',
		'1e39',
		'',
	]) {
		for (const fields of [{ rating: number }, { time: number }] as Record<string, string>[]) {
			await prepared({ format: 'csv', interactions: [await fixture('log.csv', row(fields))] });
			tried++;
		}
	}
	for (const time of [
		'infinity',
		'294247-01-10 04:00:54',
		'-290308-12-22',
		'9999-99-99',
		'2020-01-01T00:00:00Z',
		'epoch',
	]) {
		await prepared({ format: 'csv', interactions: [await fixture('log.csv', row({ time }))] });
		tried++;
	}
	const ids = [
		'a',
		'A',
		' a',
		'a ',
		'é',
		'e\u0301',
		'a\u200b',
		'\ufeffa',
		'x'.repeat(100_000),
		'0',
		'00',
		'1e3',
	];
	const log = `user,item,timestamp\n${ids.flatMap((user, i) => ids.map((item, j) => `"${user}","${item}",${i + j}\n`)).join('')}`;
	const out = freshPath('out');
	const dataset = await Dataset.prepare({
		format: 'csv',
		interactions: [await fixture('log.csv', log)],
		kCore: 1,
		threads: 1,
		out,
	});
	// White space and marks around an id are no part of it; case and normalisation are.
	t.is(dataset.numItems, ids.length - 3);
	const wide = `user,item,${Array.from({ length: 10_000 }, (_, i) => `c${i}`).join(',')}\nu,i,${'x,'.repeat(9999)}x\n`;
	await prepared({ format: 'csv', interactions: [await fixture('log.csv', wide)] });
	for (const [header, code] of [
		['user,user,item', 'ERR_ALLMREC_FILE_FORMAT'],
		['user,USER,item', 'ERR_ALLMREC_FILE_FORMAT'],
		['user,time', 'ERR_ALLMREC_INVALID_ARGUMENT'],
		[',,', 'ERR_ALLMREC_INVALID_ARGUMENT'],
		['"user,item', 'ERR_ALLMREC_INVALID_ARGUMENT'],
	] as const) {
		const path = await fixture('log.csv', `${header}\na,b,c\n`);
		await rejects(t, () => prepared({ format: 'csv', interactions: [path] }), code, /log\.csv/);
		tried++;
	}
	const indexed = `,user,item\n${'0,u,i\n'.repeat(3)}`;
	await prepared({ format: 'csv', interactions: [await fixture('log.csv', indexed)] });
	const open = `user,item\n${'u,i\n'.repeat(500)}"u,i\n${'u,i\n'.repeat(50_000)}`;
	await rejects(
		t,
		async () => prepared({ format: 'csv', interactions: [await fixture('log.csv', open)] }),
		'ERR_ALLMREC_FILE_FORMAT',
	);
	held('Files', 'Numbers, times, ids and headers out of all bounds are rejected or left out.', {
		'inputs tried': tried + 4 + ids.length,
	});
});
