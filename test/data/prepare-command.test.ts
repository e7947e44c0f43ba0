import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { Dataset } from '../../lib/data/dataset.js';
import { fixture, freshPath } from './folders.js';

const program = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

function run(...args: string[]): Promise<{ code: number | null; out: string; err: string }> {
	const child = spawn(process.execPath, [program, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
	let [out, err] = ['', ''];
	child.stdout.on('data', (data) => {
		out += data;
	});
	child.stderr.on('data', (data) => {
		err += data;
	});
	return new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err })));
}

test('prepare writes a data set and prints its table', async (t) => {
	const log = await fixture('log.csv', 'who,what,when,stars\na,x,1,5\na,y,2,4\nb,x,3,2\nb,y,4,3\n');
	const items = await fixture('items.csv', 'what,title\nx,The X\n');
	const out = freshPath();
	const common = ['prepare', '--format', 'csv', '--interactions', log, '--items', items, '--out', out];
	const result = await run(
		...common,
		'--columns',
		'user=who,item=what',
		'--columns',
		'time=when,rating=stars',
		'--k-core',
		'1',
		'--min-rating',
		'3',
		'--duplicates',
		'keep',
		'--name',
		'tiny',
	);
	t.is(result.code, 0, result.err);
	t.regex(result.out, /data set tiny/);
	t.regex(result.out, /^interactions +3$/m);
	t.regex(result.out, /^items without title +1$/m);
	t.regex(result.err, /prepare: .*steps/);
	const dataset = await Dataset.open(out);
	t.deepEqual([dataset.name, dataset.numUsers, dataset.numItems, dataset.numInteractions], ['tiny', 2, 2, 3]);
	const { options } = JSON.parse(await readFile(`${out}/dataset.json`, 'utf8'));
	t.deepEqual(options, {
		format: 'csv',
		kCore: 1,
		singlePass: false,
		duplicates: 'keep',
		minRating: 3,
		columns: { user: 'who', item: 'what', time: 'when', rating: 'stars' },
	});
});

test('exit codes: 1 for work that failed, 2 for a wrong command line', async (t) => {
	const missing = await run(
		'prepare',
		'--format',
		'csv',
		'--interactions',
		'/nowhere.csv',
		'--out',
		freshPath(),
	);
	t.is(missing.code, 1);
	t.regex(missing.err, /^error ERR_ALLMREC_FILE_NOT_FOUND: .*nowhere/m);
	const required = ['--format', 'csv', '--interactions', 'x', '--out', 'y'];
	const unknown = await run('prepare', ...required, '--k-cor', '3');
	t.is(unknown.code, 2);
	t.regex(unknown.err, /--k-core/);
	const verb = await run('prepar');
	t.is(verb.code, 2);
	t.regex(verb.err, /Did you mean prepare/);
	for (const wrong of [
		['--format', 'xml'],
		['--k-core', 'many'],
		['--min-rating', ''],
		['--columns', 'user'],
	])
		t.is((await run('prepare', ...required, ...wrong)).code, 2, wrong.join(' '));
	const version = await run('--version');
	t.is(version.code, 0);
	t.regex(version.out, /^\d+\.\d+\.\d+/);
	t.is((await run('prepare', '--help')).code, 0);
});
