import test from 'ava';
import { fixture, freshPath } from '../data/folders.js';
import { command } from '../support/command.js';

const run = (...args: string[]) => command(args);

test('help is printed for the command and for its verbs', async (t) => {
	const main = await run('--help');
	t.is(main.code, 0);
	const verbs = [
		'prepare',
		'train',
		'evaluate',
		'report',
		'recommend',
		'score',
		'quantize',
		'inspect',
		'demo',
	];
	for (const verb of verbs) t.regex(main.out, new RegExp(`^  ${verb} `, 'm'));
	for (const verb of ['train', 'score']) {
		const { code, out, err } = await run(verb, '--help');
		t.is(code, 0, verb);
		t.regex(out, new RegExp(`Usage: a-llmrec ${verb}`));
		t.is(err, '');
	}
});

test('a wrong command line exits with 2, and says what may be meant', async (t) => {
	for (const [args, message] of [
		[
			['train', 'data', '--out', 'x', '--stage', 'cf'],
			/unknown option '--stage'[\s\S]*Did you mean --stages/,
		],
		[['train', 'data'], /required option '--out <folder>'/],
		[
			['train', 'data', '--out', 'x', '--stages', 'cf,algin'],
			/`algin` is no stage; the stages are cf, align, project/,
		],
		[['train', 'data', '--out', 'x', '--seed', 'one'], /whole number/],
		[['recommend', 'run', '--history', 'a', '--by', 'luck'], /Allowed choices are fused, llm, cf/],
		[['recomend', 'run'], /unknown command 'recomend'[\s\S]*Did you mean recommend/],
		[[], /Usage: a-llmrec/],
	] as const) {
		const { code, out, err } = await run(...args);
		t.is(code, 2, args.join(' '));
		t.regex(err, message);
		t.is(out, '');
	}
});

test('work that fails exits with 1 and tells the code of its error', async (t) => {
	const out = freshPath();
	const broken = await fixture('config.json', '{"cf": ');
	const list = await fixture('config.json', '[1]');
	for (const [args, message] of [
		[['train', '/no/such/data', '--out', out], /^error ERR_ALLMREC_FILE_NOT_FOUND: .*\/no\/such\/data/m],
		[
			['train', 'x', '--out', out, '--config', '/no/such/file'],
			/^error ERR_ALLMREC_FILE_NOT_FOUND: .*\/no\/such\/file/m,
		],
		[
			['train', 'x', '--out', out, '--config', broken],
			/^error ERR_ALLMREC_FILE_FORMAT: .*config\.json cannot be used: it is not JSON/m,
		],
		[['train', 'x', '--out', out, '--config', list], /^error ERR_ALLMREC_FILE_FORMAT: .*config\.json/m],
		[['evaluate', '/no/such/run'], /^error ERR_ALLMREC_RUN: .*\/no\/such\/run is no run/m],
		[['score', '/no/such/run', '--users', 'x', '--out', 'y'], /^error ERR_ALLMREC_RUN: /m],
	] as const) {
		const { code, err } = await run(...args);
		t.is(code, 1, args.join(' '));
		t.regex(err, message);
		t.notRegex(err, /\n\s+at /, 'no stack');
	}
	const { code, err } = await run('--debug', 'inspect', '/no/such/run');
	t.is(code, 1);
	t.regex(err, /\n\s+at /, 'a stack when it is asked for');
});

test('inspect shows the devices', async (t) => {
	const { code, out } = await run('inspect');
	t.is(code, 0);
	t.regex(out, /^Node v\d+/);
	t.regex(out, /^cpu .*threads.*GiB$/m);
});
