import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test from 'ava';
import { writeWorldCsv } from '../../lib/data/demo-world.js';
import { fixture, freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { tinyRunOptions } from '../support/tiny-run.js';
import { tinyWorld } from '../support/tiny-world.js';

const CPU = ['--device', 'cpu', '--threads', '1'];

/** Prepares and trains by the command, once for all tests. */
const trained = (async () => {
	const log = await writeWorldCsv(freshPath('log'), tinyWorld());
	const dataset = freshPath('dataset');
	const prepared = await command([
		...['prepare', '--format', 'csv', '--interactions', log.interactions, '--items', log.items],
		...['--k-core', '1', '--threads', '1', '--out', dataset],
	]);
	const { textEncoder, llm, seed: _, words: __, ...options } = await tinyRunOptions();
	const config = await fixture('options.json', JSON.stringify(options));
	const run = freshPath('run');
	const train = [
		...['train', dataset, '--out', run, '--config', config, '--text-encoder', textEncoder!, '--llm', llm!],
		...['--seed', '2', '--words', 'game', ...CPU],
	];
	return { dataset, run, train, prepared, first: await command(train) };
})();

test('prepare, then train, in one go or stage by stage', async (t) => {
	const { prepared, first, run, train } = await trained;
	t.is(prepared.code, 0, prepared.err);
	t.is(first.code, 0, first.err);
	t.is(first.out, `run in ${run}\n`);
	for (const stage of ['cf', 'align', 'project']) t.regex(first.err, new RegExp(`^${stage}: `, 'm'));
	const config = JSON.parse(await readFile(join(run, 'config.json'), 'utf8'));
	t.like(config.options, { seed: 2, words: 'game', historyLength: 4 });

	const again = await command(train);
	t.is(again.code, 0, again.err);
	t.notRegex(again.err, /^cf: /m, 'there is nothing left to train');

	const other = await command([...train, '--seed', '3']);
	t.is(other.code, 1);
	t.regex(other.err, /^error ERR_ALLMREC_RUN: .*other options/m);

	const staged = [...train];
	staged[staged.indexOf(run)] = freshPath('staged');
	const later = await command([...staged, '--stages', 'project']);
	t.is(later.code, 1);
	t.regex(later.err, /^error ERR_ALLMREC_RUN: Stage `cf`/m);
	t.is((await command([...staged, '--stages', 'cf'])).code, 0);
	const inspected = await command(['inspect', staged[3]!]);
	t.regex(inspected.out, /stage cf .*done/);
	t.regex(inspected.out, /stage align +not trained/);
});

test('evaluate prints its tables and writes every figure', async (t) => {
	const { run } = await trained;
	const missing = await command(['evaluate', run, '--dataset', '/no/such/data', ...CPU]);
	t.is(missing.code, 1);
	t.regex(missing.err, /^error ERR_ALLMREC_FILE_NOT_FOUND/m);
	const path = await fixture('metrics.json', '');
	const { code, out, err } = await command([
		'evaluate',
		run,
		'--json',
		path,
		'--users',
		'20',
		'--full-users',
		'5',
		...CPU,
	]);
	t.is(code, 0, err);
	for (const name of ['CF', 'LLM-Only', 'A-LLMRec (e)', 'A-LLMRec (q)', 'Fused'])
		t.true(out.includes(name), name);
	t.regex(out, /^latents: mean cosine/m);
	const result = JSON.parse(await readFile(path, 'utf8'));
	t.is(result.candidates.protocol.users, 20);
	t.is(result.catalogue.protocol.users, 5);
	t.deepEqual(JSON.parse(await readFile(join(run, 'metrics.json'), 'utf8')), result);
});

test('recommend prints a table, or JSON', async (t) => {
	const { run } = await trained;
	const table = await command([
		'recommend',
		run,
		'--history',
		'i03,i17',
		'--history',
		'i44',
		'--top-k',
		'4',
		...CPU,
	]);
	t.is(table.code, 0, table.err);
	t.regex(table.out, /# +item +title +score +CF +LLM/);
	t.is(table.out.match(/^ ?\d+ +i\d\d /gm)!.length, 4);
	const json = await command([
		...['recommend', run, '--history', 'i03, i17,i44', '--top-k', '4', '--by', 'llm', '--genres', '--json'],
		...['--candidates', 'i01,i02,i05', ...CPU],
	]);
	t.is(json.code, 0, json.err);
	const { recommendations, genres } = JSON.parse(json.out);
	t.deepEqual(recommendations.map(({ id }: { id: string }) => id).sort(), ['i01', 'i02', 'i05']);
	t.is(typeof genres, 'string');
	const unknown = await command(['recommend', run, '--history', 'i033', ...CPU]);
	t.is(unknown.code, 1);
	t.regex(unknown.err, /^error ERR_ALLMREC_UNKNOWN_ITEM: .*Did you mean/m);
	const empty = await command(['recommend', run, '--history', ',', ...CPU]);
	t.is(empty.code, 1);
	t.regex(empty.err, /^error ERR_ALLMREC_EMPTY_HISTORY/m);
});

test('score writes a line for every user it can serve, and tells of the others', async (t) => {
	const { run } = await trained;
	const users = await fixture(
		'users.jsonl.gz',
		gzipSync(
			'{"user": "a", "history": ["i03"]}\nbad\n{"user": "b", "history": ["none"]}\n{"user": "c", "history": ["i05"]}\n',
		),
	);
	const out = await fixture('lists.jsonl', '');
	const {
		code,
		out: said,
		err,
	} = await command(['score', run, '--users', users, '--out', out, '--top-k', '3', ...CPU]);
	t.is(code, 0, err);
	t.regex(said, /^2 users in .*lists\.jsonl \(/);
	t.regex(said, /^1 rejected: ERR_ALLMREC_FILE_FORMAT$/m);
	t.regex(said, /^1 rejected: ERR_ALLMREC_UNKNOWN_ITEM$/m);
	const rows = (await readFile(out, 'utf8'))
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line));
	t.deepEqual(
		rows.map(({ user, recommendations }) => [user, recommendations.length]),
		[
			['a', 3],
			['c', 3],
		],
	);

	const missing = await command(['score', run, '--users', '/no/such/users', '--out', out, ...CPU]);
	t.is(missing.code, 1);
	t.regex(missing.err, /^error ERR_ALLMREC_FILE_NOT_FOUND/m);
	t.is((await readFile(out, 'utf8')).trim().split('\n').length, 2, 'what was there stays');
	t.false(existsSync(`${out}.part`));
	const nowhere = await command([
		'score',
		run,
		'--users',
		users,
		'--out',
		'/no/such/folder/lists.jsonl',
		...CPU,
	]);
	t.is(nowhere.code, 1);
	t.regex(nowhere.err, /^error [A-Z_]+: .*\/no\/such\/folder/m);
	t.notRegex(nowhere.err, /\n\s+at /, 'no stack');
});

test('inspect tells what a run holds', async (t) => {
	const { run } = await trained;
	const { code, out } = await command(['inspect', run]);
	t.is(code, 0);
	t.regex(out, /data set .*60 users, 50 items/);
	t.regex(out, /stage cf +done, \d+ steps in [\d.]+ s, best at epoch \d+: NDCG@10 0\.\d+/);
	t.regex(out, /stage align +done/);
	t.regex(out, /stage project +done/);
	t.regex(out, /million parameters/, 'of its language model, too');
});

test('models of a run in other dtypes', async (t) => {
	const { run, train } = await trained;
	const args = ['recommend', run, '--history', 'i03,i17', '--by', 'llm', '--json', ...CPU];
	const [own, int8] = [
		await command(args),
		await command([...args, '--llm-dtype', 'int8', '--encoder-dtype', 'bfloat16']),
	];
	t.is(int8.code, 0, int8.err);
	t.notDeepEqual(JSON.parse(int8.out), JSON.parse(own.out));
	t.is((await command([...args, '--llm-dtype', 'int3'])).code, 2);
	const refused = await command([...train, '--llm-dtype', 'int4']);
	t.is(refused.code, 1);
	t.regex(refused.err, /^error ERR_ALLMREC_UNSUPPORTED: .*float32 or bfloat16/m);
});

test('Ctrl-C ends a training with 130', async (t) => {
	const { train, run } = await trained;
	const config = await fixture(
		'options.json',
		JSON.stringify({ cf: { epochs: 1_000_000, validateEvery: 0 } }),
	);
	const args = [...train, '--config', config];
	args[args.indexOf(run)] = freshPath('endless');
	const begun = performance.now();
	const { code, err } = await command(args, (child) => {
		child.stderr!.on('data', (data) => {
			if (String(data).includes('cf:')) child.kill('SIGINT');
		});
	});
	t.is(code, 130, err);
	t.regex(err, /interrupted\n$/);
	t.true(performance.now() - begun < 60_000);
});
