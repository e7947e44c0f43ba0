import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { csv, jsonLines, write } from '../support/hostile-world.js';
import { held } from '../support/reliability.js';
import { tinyRunOptions } from '../support/tiny-run.js';

const DEVICE = ['--device', 'cpu', '--threads', '1'];

/** Writes a log of sequences and prepares it by the command. */
async function prepare(t: ExecutionContext, sequences: readonly (readonly string[])[]): Promise<string> {
	const rows = sequences.flatMap((items, u) => items.map((item) => [`u${u}`, item]));
	const log = await write('log.csv', csv([['user', 'item'], ...rows]));
	const out = freshPath('dataset');
	const made = await command([
		...['prepare', '--format', 'csv', '--interactions', log, '--k-core', '1', '--duplicates', 'keep'],
		...['--threads', '1', '--out', out],
	]);
	t.is(made.code, 0, made.err);
	return out;
}

async function train(
	dataset: string,
): Promise<{ run: string; code: number | null; err: string; out: string }> {
	const { textEncoder, llm, words: _, ...options } = await tinyRunOptions();
	const config = await write(
		'options.json',
		JSON.stringify({ ...options, negatives: 1, projection: { ...options.projection, candidates: 2 } }),
	);
	const run = freshPath('run');
	const result = await command([
		...['train', dataset, '--out', run, '--config', config, '--text-encoder', textEncoder!, '--llm', llm!],
		...DEVICE,
	]);
	return { run, ...result };
}

const items = (count: number) => Array.from({ length: count }, (_, i) => `i${i + 1}`);
/** What no output may hold. */
const NO_NUMBER = /NaN|Infinity|undefined/;

test.serial('one user, and three items: every verb answers', async (t) => {
	const dataset = await prepare(t, [['i1', 'i2', 'i1', 'i2'], ['i3']]);
	const { run, code, err } = await train(dataset);
	t.is(code, 0, err);
	t.notRegex(err, NO_NUMBER);

	const metrics = join(dirname(run), 'metrics.json');
	const evaluated = await command(['evaluate', run, '--json', metrics, ...DEVICE]);
	t.is(evaluated.code, 0, evaluated.err);
	t.notRegex(evaluated.out, NO_NUMBER);
	t.regex(evaluated.out, /overall \(1 user, not enough for intervals and tests\)/);
	t.is(JSON.parse(await readFile(metrics, 'utf8')).candidates.protocol.users, 1);

	const all = items(3).join();
	const nothing = await command(['recommend', run, '--history', all, '--json', ...DEVICE]);
	t.deepEqual(JSON.parse(nothing.out), { recommendations: [] }, nothing.err);
	const table = await command(['recommend', run, '--history', 'i1,i2', '--top-k', '1000', ...DEVICE]);
	t.regex(table.out, /^1 +i3 /m, table.err);

	const users = await write(
		'users.jsonl',
		jsonLines([
			{ user: 'all', history: items(3) },
			{ user: 'long', history: Array.from({ length: 10_000 }, (_, i) => `i${1 + (i % 2)}`) },
			{ user: 'same', history: ['i1', 'i1'], candidates: ['i1', 'i1', 'i1'] },
			{ user: 'none', history: [] },
		]),
	);
	const out = join(dirname(users), 'out.jsonl');
	const scored = await command(['score', run, '--users', users, '--out', out, ...DEVICE]);
	t.is(scored.code, 0, scored.err);
	t.regex(scored.out, /^1 rejected: ERR_ALLMREC_EMPTY_HISTORY$/m);
	const lists = (await readFile(out, 'utf8'))
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line));
	t.deepEqual(
		lists.map(({ user, recommendations }) => [user, recommendations.map(({ id }: { id: string }) => id)]),
		[
			['all', []],
			['long', ['i3']],
			['same', ['i1']],
		],
	);
	for (const [args, message] of [
		[['--history', ''], /ERR_ALLMREC_EMPTY_HISTORY/],
		[['--history', 'i1', '--top-k', '0'], /ERR_ALLMREC_INVALID_ARGUMENT.*topK/],
		[['--history', 'i1', '--candidates', ''], /ERR_ALLMREC_INVALID_ARGUMENT.*candidates/],
	] as const) {
		const refused = await command(['recommend', run, ...args, ...DEVICE]);
		t.is(refused.code, 1);
		t.regex(refused.err, message);
	}
	held('Numbers', 'The command answers for one user and three items, or says what to do; it prints no NaN.', {
		verbs: 5,
		'history items': 10_000,
	});
});

test.serial('a log that nothing can be learned from is refused by train, with what to do', async (t) => {
	for (const [sequences, message] of [
		[[['i1']], /longer histories/],
		[[['i1', 'i1', 'i1', 'i1']], /larger data set/],
	] as const) {
		const { code, err, out } = await train(await prepare(t, sequences));
		t.is(code, 1);
		t.is(out, '');
		t.regex(err, /^error ERR_ALLMREC_EMPTY_DATASET: /m);
		t.regex(err, message);
	}
});
