// Builds the native tests and the addon with sanitizers and runs them: memory errors, leaks and undefined behaviour
// (address), data races (thread), and the CUDA kernels' own such builds on the emulator. Every finding is a failure.
// Usage: node scripts/sanitize.mjs [--short] [--list] [words of names …]
//   --short   what `npm test` runs: the executor and the file readers, compiled without CMake in less than a minute
import { spawn, spawnSync } from 'node:child_process';
import {
	existsSync,
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	rmSync,
	writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, 'build-sanitize');
const sources = JSON.parse(readFileSync(join(root, 'native', 'sources.json'), 'utf8'));
const jobs = availableParallelism();
const short = process.argv.includes('--short');
const words = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const reports = mkdtempSync(join(tmpdir(), 'a-llmrec-sanitize-'));
process.on('exit', () => rmSync(reports, { recursive: true, force: true }));

// GCC's runtimes are shared libraries that can be loaded into a Node that knows nothing of them.
const [compiler, ...compilerArguments] = (process.env.CXX ?? 'g++').trim().split(/\s+/);
const log = { log_path: join(reports, 'report') };
const options = (values) =>
	Object.entries({ ...log, ...values })
		.map(([name, value]) => `${name}=${value}`)
		.join(':');
const ENVIRONMENT = {
	address: {
		// Tests ask for memory that is not to be had and expect to be told so.
		ASAN_OPTIONS: options({ allocator_may_return_null: 1, detect_stack_use_after_return: 1 }),
		UBSAN_OPTIONS: options({ print_stacktrace: 1 }),
	},
	thread: { TSAN_OPTIONS: options({ second_deadlock_stack: 1 }) },
};
/** A runtime also reports that memory was not to be had, which some tests want. */
const FINDING = /ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error:/;
const RUNTIME = { address: 'libasan.so', thread: 'libtsan.so' };
const FLAGS = {
	address: '-fsanitize=address,undefined,float-cast-overflow',
	thread: '-fsanitize=thread',
};

/** A native test program; `args` beside its name where it needs less than all. */
const native = (sanitizer, test, args = []) => ({
	name: `${sanitizer}/${test}`,
	sanitizer,
	targets: [test],
	run: () => [join(folder, sanitizer, test), args, ENVIRONMENT[sanitizer]],
});

/** The ava suite, or files of it, on an addon of a build with sanitizers. */
const ava = (sanitizer, name, args, more) => ({
	name: `${sanitizer}/${name}`,
	sanitizer,
	targets: ['allmrec'],
	run: () => [
		'npx',
		['ava', '--timeout', '60m', ...args],
		{
			ALLMREC_ADDON: join(folder, sanitizer, 'allmrec.node'),
			ALLMREC_SANITIZE: sanitizer,
			LD_PRELOAD: runtime(sanitizer),
			[sanitizer === 'address' ? 'ASAN_OPTIONS' : 'TSAN_OPTIONS']: options(more),
			UBSAN_OPTIONS: ENVIRONMENT.address.UBSAN_OPTIONS,
		},
	],
});

/** The op table's results for several numbers of threads are compared without sanitizers. */
const ONE_ROUND = { op_test: ['--threads', '4'] };

const PARTS = [
	...Object.keys(sources.tests).map((test) => native('address', test, ONE_ROUND[test])),
	ava('address', 'ava', [], {
		allocator_may_return_null: 1,
		detect_stack_use_after_return: 1,
		// V8 gives its heap back to nobody when a process ends, and Node neither: what the addon itself loses is
		// found by the native tests, which do look for leaks.
		detect_leaks: 0,
	}),
	// Of io_test everything runs on one thread; files that several use are in thread_test.
	...Object.keys(sources.tests)
		.filter((test) => test !== 'io_test')
		.map((test) => native('thread', test, ONE_ROUND[test])),
	ava('thread', 'addon', ['dist/test/native/addon.test.js'], {
		// Node and V8 are not instrumented: locks and handovers inside them are not seen, and what looks like a
		// race there may be none.
		ignore_noninstrumented_modules: 1,
	}),
	{
		name: 'emulator',
		targets: [],
		run: () => [process.execPath, [join(root, 'scripts', 'emulator-tests.mjs')], {}],
	},
];
const SHORT = [
	{ test: 'executor_test', sanitizer: 'thread', group: 'core', without: ['native/cpp/core/arena.cpp'] },
	{ test: 'io_test', sanitizer: 'address', group: 'io', without: [] },
];

const started = performance.now();
let passed = 0;
let failed = 0;
if (short) await runShort();
else await runAll();
console.log(`sanitize: ${passed} passed, ${failed} failed in ${seconds(started)}`);
process.exitCode = failed === 0 ? 0 : 1;

async function runAll() {
	const parts = PARTS.filter(({ name }) => words.length === 0 || words.some((word) => name.includes(word)));
	if (process.argv.includes('--list') || parts.length === 0) {
		console.log(PARTS.map(({ name }) => name).join('\n'));
		process.exit(parts.length === 0 ? 1 : 0);
	}
	for (const sanitizer of ['address', 'thread']) {
		const targets = [...new Set(parts.filter((p) => p.sanitizer === sanitizer).flatMap((p) => p.targets))];
		if (targets.length > 0) await build(sanitizer, targets);
	}
	for (const { name, run } of parts) await check(name, ...run());
}

async function build(sanitizer, targets) {
	const from = performance.now();
	const missing = missingRuntime(sanitizer);
	if (missing) fail(missing);
	const addon = targets.includes('allmrec');
	const configured = spawnSync(
		'cmake',
		[
			...['-S', root, '-B', join(folder, sanitizer), '-DCMAKE_BUILD_TYPE=Release'],
			`-DALLMREC_SANITIZE=${sanitizer}`,
			...(process.env.CXX ? [] : ['-DCMAKE_CXX_COMPILER=g++']),
			...(addon ? ['-DALLMREC_ADDON=ON', `-DCMAKE_JS_INC=${nodeHeaders()}`] : []),
		],
		{ stdio: ['ignore', 'ignore', 'inherit'] },
	);
	if (configured.status !== 0)
		fail(`cmake failed${configured.error ? `: ${configured.error.message}` : ''}.`);
	const built = spawnSync(
		'cmake',
		['--build', join(folder, sanitizer), '-j', String(jobs), '--target', ...targets],
		{ stdio: ['ignore', 'ignore', 'inherit'] },
	);
	if (built.status !== 0) fail(`The ${sanitizer} build failed.`);
	console.log(`built ${sanitizer}: ${targets.join(', ')} in ${seconds(from)}`);
}

/** Runs a program; a status, a failed check or a report of a sanitizer, in any process it starts, is a failure. */
async function check(name, program, args, env) {
	const from = performance.now();
	const { status, output } = await finished(program, args, { ...process.env, ...env });
	const found = readdirSync(reports).flatMap((file) => {
		const text = readFileSync(join(reports, file), 'utf8');
		rmSync(join(reports, file));
		return FINDING.test(text) ? [text] : [];
	});
	const good = status === 0 && found.length === 0;
	if (good) passed++;
	else failed++;
	const sum = (pattern) => [...output.matchAll(pattern)].reduce((total, [, n]) => total + Number(n), 0);
	const last = output.trimEnd().split('\n').at(-1) ?? '';
	const counts = /(\d+) passed, (\d+) failed/.exec(last)?.[0] ?? `${sum(/^ *(\d+) tests? passed/gm)} passed`;
	console.log(
		`${good ? 'passed' : 'FAILED'} ${name}: ${counts}, ${found.length} findings in ${seconds(from)}`,
	);
	if (!good) {
		const folder = join(root, 'build-sanitize', 'findings');
		mkdirSync(folder, { recursive: true });
		const file = join(folder, `${name.replaceAll('/', '-')}.txt`);
		writeFileSync(file, `${found.join('\n')}\n${output}`);
		console.log([...found, output].join('\n').slice(0, 4000));
		console.log(`ended with ${status}; all of it is in ${file}`);
	}
}

async function runShort() {
	for (const { test, sanitizer, group, without } of SHORT) {
		const missing = missingRuntime(sanitizer);
		if (missing) {
			console.log(`SKIP ${sanitizer}/${test}: ${missing}`);
			continue;
		}
		const from = performance.now();
		const files = [...sources[group].filter((file) => !without.includes(file)), ...sources.tests[test]];
		const objects = join(folder, 'short', sanitizer);
		mkdirSync(objects, { recursive: true });
		const flags = ['-std=c++17', '-Og', '-g1', '-D_GLIBCXX_ASSERTIONS', `-I${join(root, 'native/cpp')}`];
		const sanitize = [FLAGS[sanitizer], '-fno-sanitize-recover=all'];
		const object = (file) => join(objects, `${file.replaceAll('/', '_')}.o`);
		const waiting = [...files];
		const work = async () => {
			for (let file = waiting.pop(); file; file = waiting.pop())
				await compile([...flags, ...sanitize, '-c', join(root, file), '-o', object(file)]);
		};
		await Promise.all(Array.from({ length: jobs }, work));
		const program = join(objects, test);
		await compile([...sanitize, ...files.map(object), '-o', program, '-ldl', '-lpthread']);
		console.log(`built ${sanitizer}/${test} in ${seconds(from)}`);
		await check(`${sanitizer}/${test}`, program, [], ENVIRONMENT[sanitizer]);
	}
}

async function compile(args) {
	const { status, output } = await finished(compiler, [...compilerArguments, ...args], process.env);
	if (status !== 0) fail(`${output}\nCannot compile: ${args.at(-1)}`);
}

function finished(program, args, env) {
	return new Promise((done) => {
		const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
		let output = '';
		for (const stream of [child.stdout, child.stderr])
			stream.setEncoding('utf8').on('data', (text) => (output += text));
		child.on('error', (error) => done({ status: error.message, output }));
		child.on('close', (code, signal) => done({ status: signal ?? code, output }));
	});
}

/** The shared runtime's path; the name alone is what the compiler answers where there is none. */
function runtime(sanitizer) {
	const { stdout } = spawnSync(compiler, [...compilerArguments, `-print-file-name=${RUNTIME[sanitizer]}`], {
		encoding: 'utf8',
	});
	return stdout?.trim() ?? '';
}

function missingRuntime(sanitizer) {
	return existsSync(runtime(sanitizer))
		? undefined
		: `${compiler} has no ${RUNTIME[sanitizer]}; install GCC with its sanitizers (Debian: apt-get install g++).`;
}

function nodeHeaders() {
	const prefixes = [process.env.npm_config_nodedir, dirname(dirname(process.execPath))];
	for (const prefix of prefixes) {
		const headers = prefix && join(prefix, 'include', 'node');
		if (headers && existsSync(join(headers, 'node_api.h'))) return headers;
	}
	return fail("Node's headers were not found; set npm_config_nodedir to their prefix.");
}

function seconds(from) {
	return `${((performance.now() - from) / 1000).toFixed(1)} s`;
}

function fail(message) {
	console.error(message);
	process.exit(1);
}
