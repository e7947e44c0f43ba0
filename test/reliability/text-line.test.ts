import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import test, { type ExecutionContext } from 'ava';
import { cleanText } from '../../lib/data/catalogue/html.js';
import { Database, literal } from '../../lib/data/database.js';
import { Dataset } from '../../lib/data/dataset.js';
import { evaluateRun } from '../../lib/evaluation/protocol.js';
import type { ALLMRec } from '../../lib/recommend/a-llm-rec.js';
import { loadRun, openRunDataset, trainRun } from '../../lib/recommend/run.js';
import { scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { HOSTILE, wellFormed } from '../support/hostile-text.js';
import { csv, HOSTILE_IDS, hostileWorld, jsonLines, parquet, write } from '../support/hostile-world.js';
import { held, times } from '../support/reliability.js';
import { tinyRunOptions } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const world = hostileWorld(times(40, 400));

/** The same log as CSV, as Amazon's JSON lines and as Parquet, each prepared. */
async function prepared(): Promise<Record<'csv' | 'jsonl' | 'parquet', { path: string; dataset: Dataset }>> {
	const { items, interactions } = world;
	const make = async (format: 'csv' | 'amazon', log: string, catalogue: string) => {
		const path = freshPath('dataset');
		const source = { format, interactions: [log], items: [catalogue] };
		return { path, dataset: await Dataset.prepare({ ...source, kCore: 1, threads: 1, out: path }) };
	};
	return {
		csv: await make(
			'csv',
			await write(
				'log.csv',
				csv([['user', 'item', 'time'], ...interactions.map((row) => [row.user, row.item, String(row.time)])]),
			),
			await write(
				'items.csv',
				csv([['id', 'title', 'description'], ...items.map((row) => [row.id, row.title, row.description])]),
			),
		),
		jsonl: await make(
			'amazon',
			await write(
				'log.json',
				jsonLines(
					interactions.map(({ user, item, time }) => ({
						reviewerID: user,
						asin: item,
						unixReviewTime: time,
					})),
				),
			),
			await write(
				'items.json',
				jsonLines(
					items.map(({ id, title, description }) => ({ asin: id, title, description: [description] })),
				),
			),
		),
		parquet: await make(
			'csv',
			await parquet('log', interactions, `"user": 'VARCHAR', item: 'VARCHAR', time: 'DOUBLE'`),
			await parquet('items', items, `id: 'VARCHAR', title: 'VARCHAR', description: 'VARCHAR'`),
		),
	};
}

const line = (async () => {
	const sets = await prepared();
	const { path, dataset } = sets.csv;
	const run = freshPath('run');
	const options = {
		...(await tinyRunOptions()),
		words: { past: '</s>[UserRep]{noun}', noun: '"\n$&', verb: '\u202e' },
	};
	await trainRun(dataset, { out: run, datasetPath: path, options, ...CPU });
	return { sets, run, model: await loadRun(run, CPU) };
})();
test.after.always(async () => (await line).model.dispose());

/** The same texts in any order. */
function same(t: ExecutionContext, got: Iterable<string>, wanted: Iterable<string>, message?: string): void {
	const [found, expected] = [new Set(got), new Set(wanted)];
	t.deepEqual(
		{
			missing: [...expected].filter((text) => !found.has(text)),
			extra: [...found].filter((text) => !expected.has(text)),
		},
		{ missing: [], extra: [] },
		message,
	);
}

test.serial('prepare reads the same ids and texts from CSV, JSON lines and Parquet', async (t) => {
	const { sets } = await line;
	const byId = new Map(world.items.map((item) => [item.id, item]));
	for (const [format, { dataset }] of Object.entries(sets)) {
		same(
			t,
			dataset.items.slice(1).map(({ id }) => id),
			HOSTILE_IDS,
			format,
		);
		same(
			t,
			dataset.userIds,
			world.interactions.map(({ user }) => user),
			format,
		);
		for (const { id, title } of dataset.items.slice(1))
			t.is(title, cleanText(byId.get(id)!.title) || id, `${format}: ${JSON.stringify(id)}`);
		t.true(isDeepStrictEqual(dataset.items, sets.csv.dataset.items), format);
		t.deepEqual(dataset.sequences, sets.csv.dataset.sequences, format);
	}
});

interface Row {
	user?: string;
	history: string[];
	candidates?: string[];
}

/** Users with hostile names and histories; some cannot be served. */
function rows({ catalogue }: ALLMRec): { rows: Row[]; bad: number } {
	const ids = catalogue.items.slice(1).map(({ id }) => id);
	const served = HOSTILE.map((user, u): Row => {
		const history = [ids[u % ids.length]!, ids[(3 * u) % ids.length]!];
		return { user, history, ...(u % 4 === 0 ? { candidates: [...ids.slice(0, 8), history[0]!] } : {}) };
	});
	const unknown = HOSTILE.filter((text) => !catalogue.has(wellFormed(text))).map(
		(text): Row => ({ user: text, history: [text] }),
	);
	return { rows: [...served, ...unknown], bad: unknown.length };
}

interface ResultLine {
	user: string;
	recommendations: { id: string; title: string; rank: number; score: number }[];
}

async function lines<T>(path: string): Promise<T[]> {
	const text = await readFile(path, 'utf8');
	return text
		.split('\n')
		.slice(0, -1)
		.map((each) => JSON.parse(each) as T);
}

test.serial('each row of a result leads back to its user and its items, in every format', async (t) => {
	const { model } = await line;
	const { rows: users, bad } = rows(model);
	const well = users.map(({ user, history, candidates }) => ({
		user: wellFormed(user!),
		history: history.map(wellFormed),
		...(candidates ? { candidates } : {}),
	}));
	const inputs = {
		jsonl: await write('users.jsonl', jsonLines(users)),
		csv: await write(
			'users.csv',
			csv([
				['user', 'history', 'candidates'],
				...well.map(({ user, history, candidates }) => [
					user,
					JSON.stringify(history),
					candidates ? JSON.stringify(candidates) : '',
				]),
			]),
		),
		parquet: await parquet('users', well, `"user": 'VARCHAR', history: 'VARCHAR[]', candidates: 'VARCHAR[]'`),
	};
	const results: Record<string, ResultLine[]> = {};
	for (const [format, path] of Object.entries(inputs)) {
		const out = join(dirname(path), 'out.jsonl');
		const summary = await scoreFile(model, { users: path, out, topK: 3 });
		t.deepEqual(summary.rejected, { ERR_ALLMREC_UNKNOWN_ITEM: bad }, format);
		t.is(summary.users, users.length - bad);
		results[format] = await lines<ResultLine>(out);
		const rejects = await lines<{ row: number; user: string; code: string; raw: string }>(summary.rejects!);
		t.is(rejects.length, bad);
		const first = users.length - bad;
		// A user without a name is called by the number of its row, and so is a CSV's empty cell.
		for (const [i, { user }] of rejects.entries()) {
			const named = format === 'jsonl' ? users[first + i]!.user! : well[first + i]!.user;
			t.true(user === named || named === '', JSON.stringify([user, named]));
		}
	}
	for (const [i, { user, recommendations }] of results.jsonl!.entries()) {
		t.is(user, users[i]!.user!);
		t.is(recommendations.length, 3);
		for (const { id, title } of recommendations)
			t.is(title, model.catalogue.item(model.catalogue.index(id)).title);
		for (const format of ['csv', 'parquet'])
			t.true(isDeepStrictEqual(results[format]![i]!.recommendations, recommendations), `${format}, ${i}`);
		const named = wellFormed(user);
		t.is(results.parquet![i]!.user, named);
		t.true(results.csv![i]!.user === named || named === '', JSON.stringify([results.csv![i]!.user, named]));
	}

	const out = join(dirname(inputs.jsonl), 'out.parquet');
	await scoreFile(model, { users: inputs.jsonl, out, topK: 3 });
	const database = await Database.open({});
	// As JSON: DuckDB's client takes the byte order mark of a text away.
	const table = await database.rows(
		`SELECT to_json(["user", item])::VARCHAR, rank FROM read_parquet(${literal(out)})`,
	);
	database.close();
	const expected = results.jsonl!.flatMap(({ user, recommendations }) =>
		recommendations.map(({ id, rank }) => ({ names: [wellFormed(user), id], rank })),
	);
	t.is(table.length, expected.length);
	for (const [i, [names, rank]] of table.entries())
		t.deepEqual({ names: JSON.parse(String(names)), rank: Number(rank) }, expected[i]!);
	held('Text', 'Each row of a result leads back to its user and its items, whatever is in their names.', {
		rows: users.length,
		'input formats': 3,
		'rows lost or broken': 0,
	});
});

test.serial('quotes that never close cost a row, not the time of a file', async (t) => {
	const { model } = await line;
	const id = JSON.stringify(model.catalogue.item(1).id).replaceAll('"', '""');
	const good = `"x","[${id}]"\n`;
	const users = await write(
		'open.csv',
		`user,history\n${good}${`"a${'\n'.repeat(60_000)}`.repeat(3)}\n"b"\n${good}`,
	);
	const before = process.cpuUsage();
	const summary = await scoreFile(model, { users, out: join(dirname(users), 'out.jsonl'), by: 'cf' });
	const { user, system } = process.cpuUsage(before);
	t.is(summary.users, 2);
	t.true((user + system) / 1e6 < 5, `${(user + system) / 1e6} s`);
});

test.serial('a name of 100 kB is a row’s problem', async (t) => {
	const { model } = await line;
	const history = [model.catalogue.item(1).id];
	const users = await write(
		'long.jsonl',
		jsonLines([
			{ user: 'a'.repeat(100_000), history },
			{ user: '\0'.repeat(65_000), history },
			{ history: ['\ud800'.repeat(50_000)] },
		]),
	);
	for (const name of ['out.jsonl', 'out.parquet']) {
		const summary = await scoreFile(model, { users, out: join(dirname(users), name), by: 'cf' });
		t.is(summary.users, 1);
		t.deepEqual(summary.rejected, { ERR_ALLMREC_FILE_FORMAT: 1, ERR_ALLMREC_UNKNOWN_ITEM: 1 });
	}
});

test.serial('an item without a visible title is named by its id, also one that is added', async (t) => {
	const { run } = await line;
	const model = await loadRun(run, CPU);
	try {
		for (const [i, title] of ['', ' \t', '\u200b\u200d', '\u3164', '\0\x1b'].entries()) {
			const id = `blank ${i}`;
			await model.addItem({ id, title });
			t.is(model.catalogue.item(model.catalogue.index(id)).title, id);
		}
		for (const title of ['</s>', '"', 'x'.repeat(100_000)])
			await model.addItem({ id: `new ${title.slice(0, 9)}`, title });
		const candidates = model.catalogue.items.slice(-8).map(({ id }) => id);
		const [list] = await model.recommend([{ history: [candidates[0]!, candidates[7]!], candidates }]);
		same(
			t,
			list!.map(({ id }) => id),
			candidates,
		);
		t.true(list!.every(({ score, llm }) => Number.isFinite(score) && Number.isFinite(llm)));
	} finally {
		model.dispose();
	}
});

test.serial('hostile texts are evaluated as others are', async (t) => {
	const { run, model } = await line;
	const { split, test: candidates } = await openRunDataset(run);
	const result = await evaluateRun(model, split, candidates, { users: 20 });
	t.true(Object.values(result.candidates.models).every(({ slices }) => slices.overall!.users === 20));
	t.notRegex(JSON.stringify(result), /null(?=[,}])(?<!"negatives":null)/);
});

/** What a terminal would obey, line feeds apart. */
const OBEYED = /(?!\n)[\p{Cc}\u2028-\u202e\u2066-\u2069]/u;

async function shown(
	t: ExecutionContext,
	args: readonly string[],
	code = 0,
): Promise<{ out: string; err: string }> {
	const result = await command(args);
	t.is(result.code, code, result.err);
	t.notRegex(result.out, OBEYED, args[0]);
	t.notRegex(result.err, OBEYED, args[0]);
	return result;
}

test.serial('no title, id or name reaches the terminal as more than text', async (t) => {
	const { run, model, sets } = await line;
	const device = ['--device', 'cpu', '--threads', '1'];
	const all = model.catalogue.items.slice(1).map(({ id }) => id);
	// Arguments of a process cannot hold NUL.
	const ids = all.filter((id) => !id.includes('\0'));
	const history = JSON.stringify(ids.slice(0, 4));
	const candidates = JSON.stringify(ids);
	const args = ['recommend', run, '--history', history, '--candidates', candidates, ...device];
	const table = await shown(t, [...args, '--top-k', '1000', '--genres']);
	t.is(table.out.split('\n').length, 2 + ids.length + 2, 'a line for each item');
	const json = await shown(t, [...args, '--top-k', '1000', '--json']);
	const [list] = await model.recommend([{ history: ids.slice(0, 4), candidates: ids }], { topK: 1000 });
	const parsed = JSON.parse(json.out).recommendations as typeof list;
	t.is(parsed!.length, list!.length);
	for (const [i, each] of parsed!.entries()) t.like(each, { id: list![i]!.id, score: list![i]!.score });
	t.true(isDeepStrictEqual(parsed, JSON.parse(JSON.stringify(list))));

	const unknown = await shown(
		t,
		['recommend', run, '--history', '["\u001b[31m\\nerror ERR_FAKE: \u202e"]', ...device],
		1,
	);
	t.is(unknown.err.split('\n').filter((each) => each.startsWith('error ')).length, 1);
	await shown(t, ['--debug', 'recommend', run, '--history', 'x\x1b[31m\x9b\ny', ...device], 1);
	await shown(t, ['evaluate', run, '--users', '5', ...device]);
	await shown(t, ['inspect', run]);
	const log = await write(
		'log.csv',
		csv([
			['user', 'item'],
			['u', 'i'],
			['u', 'j'],
		]),
	);
	const out = freshPath('named');
	await shown(t, [
		'prepare',
		'--format',
		'csv',
		'--interactions',
		log,
		'--k-core',
		'1',
		'--name',
		'\x1b[31m\u202e\nx',
		'--out',
		out,
	]);
	t.is((await Dataset.open(out)).name, '\x1b[31m\u202e\nx');
	t.true(sets.csv.dataset.numItems === all.length);
	held(
		'Text',
		'No title, id or name reaches the terminal as more than text; JSON output parses to what it was.',
		{
			titles: ids.length,
			verbs: 5,
			'control characters printed': 0,
		},
	);
});
