// The package as its users get it: packed, installed without scripts where there is no compiler, and run.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import test from 'ava';
import { held, LONG } from '../support/reliability.js';

const npm = join(dirname(dirname(process.execPath)), 'lib/node_modules/npm/bin/npm-cli.js');
const place = mkdtempSync(join(tmpdir(), 'a-llmrec-install-'));
const programs = join(place, 'bin');
const home = join(place, 'home');
const project = join(place, 'project');
const installed = join(project, 'node_modules', 'a-llmrec');
const cache = spawnSync(process.execPath, [npm, 'config', 'get', 'cache'], {
	encoding: 'utf8',
}).stdout.trim();
let size = '';

interface Result {
	status: number | null;
	out: string;
	err: string;
}

function start(
	program: string,
	args: readonly string[],
	options: { cwd: string; env?: NodeJS.ProcessEnv },
): Result {
	const { status, stdout, stderr } = spawnSync(program, args, {
		encoding: 'utf8',
		maxBuffer: 2 ** 28,
		...options,
	});
	return { status, out: stdout, err: stderr };
}

/** In the empty project, with a PATH that has Node and a shell, and no compiler. */
function inProject(args: readonly string[]): Result {
	return start(process.execPath, args, {
		cwd: project,
		env: { PATH: programs, HOME: home, npm_config_cache: cache },
	});
}

const command = (...args: string[]) => inProject([npm, 'exec', '--offline', '--', 'a-llmrec', ...args]);

test.before((t) => {
	t.timeout(20 * 60_000);
	for (const folder of [programs, home, project]) mkdirSync(folder);
	for (const program of ['sh', 'env']) symlinkSync(`/bin/${program}`, join(programs, program));
	symlinkSync(process.execPath, join(programs, 'node'));
	const prebuild = start(process.execPath, ['scripts/prebuild.mjs'], { cwd: process.cwd() });
	t.is(prebuild.status, 0, prebuild.err);
	const packed = start(process.execPath, [npm, 'pack', '--ignore-scripts', '--pack-destination', place], {
		cwd: process.cwd(),
	});
	t.is(packed.status, 0, packed.err);
	const tarball = join(place, readdirSync(place).find((name) => name.endsWith('.tgz'))!);
	const checked = start(process.execPath, ['scripts/tarball-check.mjs', tarball], { cwd: process.cwd() });
	t.is(checked.status, 0, checked.err);
	size = checked.out.trim();
	t.log(prebuild.out.trim(), size);
	writeFileSync(join(project, 'package.json'), '{ "private": true }');
	const install = inProject([
		npm,
		'install',
		'--ignore-scripts',
		'--no-audit',
		'--no-fund',
		'--prefer-offline',
		tarball,
	]);
	t.is(install.status, 0, install.err);
});
test.after.always(() => rmSync(place, { recursive: true, force: true }));

test.serial('the packed addon works without scripts and without a compiler', (t) => {
	const inspect = command('inspect');
	t.is(inspect.status, 0, inspect.err);
	t.regex(inspect.out, /a-llmrec \d+\.\d+\.\d+, addon .*prebuilds.*\(prebuilt; generic/);
	t.regex(inspect.out, /^cpu +\S.*, (generic|avx2|avx512\S*), \d+ threads/m);
	t.regex(
		inspect.out,
		/^cuda +(no_library|no_driver|cannot_open): /m,
		'a reason code for what cannot be used',
	);
	t.false(existsSync(join(installed, 'build')), 'nothing was built');
});

test.serial('the demo runs from the tarball', (t) => {
	if (!LONG && !process.env.CI) return t.pass('only in CI and in the long run');
	t.timeout(20 * 60_000);
	const json = join(place, 'demo.json');
	const demo = command('demo', '--json', json);
	t.is(demo.status, 0, demo.err);
	t.true(existsSync(json));
	t.regex(demo.out, /A-LLMRec/);
	held(
		'Install',
		'`npm install --ignore-scripts` of the tarball in an empty folder without a compiler, then `npx a-llmrec demo`, works',
		{
			tarball: size,
		},
	);
});

test.serial('without an addon, one command is named that builds it', (t) => {
	rmSync(join(installed, 'prebuilds'), { recursive: true });
	const inspect = command('inspect');
	t.is(inspect.status, 1);
	t.regex(inspect.err, /^error ERR_ALLMREC_ADDON_NOT_FOUND: /m);
	const build = /: (npm explore a-llmrec -- npm run build:addon)$/m.exec(inspect.err)?.[1];
	t.truthy(build, inspect.err);
	if (!LONG) return;
	t.timeout(30 * 60_000);
	const built = start('sh', ['-c', build!], { cwd: project });
	t.is(built.status, 0, built.err);
	t.regex(command('inspect').out, /\(built; generic/);
	held('Install', 'without a prebuilt addon the error names one command, and that command builds it', {
		builds: 1,
	});
});
