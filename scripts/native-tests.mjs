// Builds the native tests with CMake into build-native and runs each.
// Usage: node scripts/native-tests.mjs [name of one test]
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, 'build-native');
const sources = JSON.parse(readFileSync(join(root, 'native', 'sources.json'), 'utf8'));
const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
const jobs = availableParallelism();
const tests = Object.keys(sources.tests).filter((name) => !process.argv[2] || name === process.argv[2]);

if (tests.length === 0)
	fail(`There is no native test \`${process.argv[2]}\`; there are ${Object.keys(sources.tests).join(', ')}.`);
if (has('cmake')) buildWithCmake();
else await buildDirectly();

let passed = 0;
let failed = 0;
for (const name of tests) {
	console.log(`— ${name}`);
	const { output, status } = await runTest(join(folder, name));
	const sum = (pattern) => [...output.matchAll(pattern)].reduce((total, [, n]) => total + Number(n), 0);
	// A program that sums up several devices ends with a total of its own.
	const last = output.trimEnd().split('\n').at(-1) ?? '';
	const total = /^(?:\w+: )?(\d+) passed, (\d+) failed$/.exec(last);
	passed += total ? Number(total[1]) : sum(/(\d+) passed/g);
	const failures = total ? Number(total[2]) : sum(/(\d+) failed/g);
	if (status !== 0 && failures === 0) console.log(`${name} ended with ${status}`);
	failed += status !== 0 ? Math.max(1, failures) : failures;
}
console.log(`native: ${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

/** The tests, and from the same objects the addon as cmake-js builds it; test/native/builds.test.ts compares it. */
function buildWithCmake() {
	const cmakeJs = join(root, 'node_modules', 'cmake-js', 'bin', 'cmake-js');
	const settings = [
		'configure',
		'--directory',
		root,
		'--out',
		folder,
		'--CDALLMREC_ADDON=ON',
		'--log-level',
		'error',
	];
	// A folder keeps the generator it was begun with.
	const cache = join(folder, 'CMakeCache.txt');
	const generator =
		existsSync(cache) && /^CMAKE_GENERATOR:INTERNAL=(.+)$/m.exec(readFileSync(cache, 'utf8'))?.[1];
	if (generator) settings.push('--generator', generator);
	call(process.execPath, [cmakeJs, ...settings], 'ignore');
	call('cmake', ['--build', folder, '-j', String(jobs), '--target', ...tests, 'allmrec'], 'inherit');
}

/** The same list of sources without CMake; files older than their object are kept. */
async function buildDirectly() {
	const compiler = process.env.CXX ?? 'c++';
	const flags = [
		'-O3',
		'-std=c++17',
		'-fno-math-errno',
		'-fno-trapping-math',
		'-Wall',
		'-Wextra',
		`-I${join(root, 'native/cpp')}`,
		`-DALLMREC_VERSION="${version}"`,
	];
	const sets = { generic: [] };
	if (process.arch === 'x64') {
		sets.avx2 = ['-mavx2', '-mfma', '-mf16c'];
		sets.avx512 = ['-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma', '-mf16c'];
	}
	const compilations = [];
	const object = (file, set, extra) => {
		const path = join(folder, 'direct', set, `${file.replaceAll('/', '_')}.o`);
		compilations.push({
			path,
			args: [...flags, ...extra, '-c', join(root, file), '-o', path],
			source: join(root, file),
		});
		return path;
	};
	const core = ['core', 'io', 'backend', 'cpu', 'autograd', 'nn', 'models'].flatMap(
		(group) => sources[group],
	);
	const shared = core.map((file) => object(file, 'core', []));
	const kernels = Object.entries(sets).flatMap(([set, extra]) =>
		sources.cpu_kernels.map((file) => object(file, set, [...extra, `-DALLMREC_ISA=${set}`])),
	);
	const programs = tests.map((name) => [name, sources.tests[name].map((file) => object(file, 'test', []))]);
	for (const { path } of compilations) mkdirSync(dirname(path), { recursive: true });
	const waiting = compilations.filter(({ path, source }) => !isNewer(path, source));
	const work = async () => {
		for (let next = waiting.pop(); next; next = waiting.pop())
			if ((await finished(spawn(compiler, next.args, { stdio: 'inherit' }))) !== 0)
				fail(`Cannot compile ${next.source}.`);
	};
	await Promise.all(Array.from({ length: jobs }, work));
	// Objects of the plainest set come first: the linker keeps the first copy of an inline function.
	for (const [name, objects] of programs)
		call(
			compiler,
			[...objects, ...shared, ...kernels, '-o', join(folder, name), '-ldl', '-lpthread'],
			'inherit',
		);
}

function isNewer(path, source) {
	try {
		return statSync(path).mtimeMs > statSync(source).mtimeMs;
	} catch {
		return false;
	}
}

/** Passes the output through and keeps it. */
async function runTest(program) {
	const child = spawn(program, [], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
	let output = '';
	child.stdout.setEncoding('utf8').on('data', (text) => {
		output += text;
		process.stdout.write(text);
	});
	return { status: await finished(child), output };
}

function finished(child) {
	return new Promise((done) => {
		child.on('error', (error) => done(error.message));
		child.on('close', (code, signal) => done(signal ?? code));
	});
}

function has(program) {
	return spawnSync(program, ['--version'], { stdio: 'ignore' }).status === 0;
}

function call(program, args, stdout) {
	const { status, error } = spawnSync(program, args, { stdio: ['ignore', stdout, 'inherit'] });
	if (error || status !== 0) fail(`${program} failed${error ? `: ${error.message}` : ''}.`);
}

function fail(message) {
	console.error(message);
	process.exit(1);
}
