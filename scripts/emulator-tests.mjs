// Builds the CUDA kernels for the emulator and runs the op table on it: three schedules of the fast build, and once
// each under the address and undefined-behaviour sanitizers and under the race detector; the emulator's own tests with
// planted faults; and the programs without Node on the emulated device: model steps beside the CPU's, every benchmark
// at a tiny size.
// Usage: node scripts/emulator-tests.mjs [--build-only] [--library-only]
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, 'build-emulator');
const jobs = availableParallelism();
const calls = join(folder, 'fake-cublaslt-calls');
const libraryOnly = process.argv.includes('--library-only');
const BUILDS = ['fast', 'asan', 'race'];
const PROGRAMS = ['a-llmrec-parity', 'a-llmrec-bench'];

const targets = libraryOnly
	? ['allmrec_cudaemu', 'old_backend']
	: [
			'allmrec_cudaemu',
			'fake_cublaslt',
			'cublaslt_test',
			'cuda_backend_test',
			'old_backend',
			...BUILDS.flatMap((build) => [`op_test_${build}`, `emulator_test_${build}`]),
		];
call('cmake', ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', '-DALLMREC_EMULATOR=ON'], 'ignore');
const begin = performance.now();
call('cmake', ['--build', folder, '-j', String(jobs), '--target', ...targets], 'inherit');
// The programs have the CPU back end in them: they are built where the native tests are.
const native = join(root, 'build-native');
if (!libraryOnly) {
	call('cmake', ['-S', root, '-B', native, '-DCMAKE_BUILD_TYPE=Release', '-DALLMREC_ADDON=OFF'], 'ignore');
	call('cmake', ['--build', native, '-j', String(jobs), '--target', ...PROGRAMS], 'inherit');
}
console.log(`built in ${seconds(begin)}`);
if (libraryOnly || process.argv.includes('--build-only')) process.exit(0);

const table = (build, schedule, args = []) => ({
	name: `op table, ${build}, ${schedule}`,
	program: `op_test_${build}`,
	args: ['--device', 'cudaemu', ...args],
	env: { ALLMREC_EMULATOR_SCHEDULE: schedule },
});
const runs = [
	table('race', 'forward', ['--once']),
	table('asan', 'forward', ['--once']),
	table('fast', 'forward'),
	table('fast', 'reverse', ['--once']),
	table('fast', 'random:7', ['--once']),
	{
		...table('fast', 'forward', ['--once', 'gemm']),
		name: 'products through the stand-in for cuBLASLt',
		env: { ALLMREC_CUBLASLT: join(folder, 'libfake_cublaslt.so'), FAKE_CUBLASLT_CALLS: calls },
	},
	{
		name: 'opening cuBLASLt',
		program: 'cublaslt_test',
		args: [join(folder, 'libfake_cublaslt.so')],
		env: {},
	},
	{ name: "the device's own part", program: 'cuda_backend_test', args: [], env: {} },
	{
		...table('fast', 'forward', ['--once']),
		name: 'op table, fast, streams that run late',
		env: { ALLMREC_EMULATOR_STREAMS: 'late' },
	},
	{
		name: 'model steps beside the CPU',
		program: join(native, 'a-llmrec-parity'),
		args: ['--device', 'cudaemu'],
		env: { ALLMREC_CUDAEMU_LIBRARY: join(folder, 'allmrec_cudaemu.so') },
	},
	{
		name: 'every benchmark once',
		program: join(native, 'a-llmrec-bench'),
		args: ['--device', 'cudaemu', '--suite', 'all', '--quick'],
		env: { ALLMREC_CUDAEMU_LIBRARY: join(folder, 'allmrec_cudaemu.so') },
		silent: true, // says nothing of tests; its exit status counts as one
	},
	...BUILDS.map((build) => ({
		name: `emulator, ${build}`,
		program: `emulator_test_${build}`,
		args: [],
		env: {},
	})),
];
rmSync(calls, { force: true });
const started = performance.now();
let passed = 0;
let failed = 0;
const waiting = [...runs];
const work = async () => {
	for (let next = waiting.shift(); next; next = waiting.shift()) {
		const from = performance.now();
		const { status, output } = await run(next);
		const total = [...output.matchAll(/(\d+) passed, (\d+) failed/g)].at(-1);
		const failures = Number(total?.[2] ?? 0);
		passed += Number(total?.[1] ?? 0);
		failed += status === 0 && (total || next.silent) ? failures : Math.max(1, failures);
		if (next.silent && status === 0) passed++;
		console.log(
			`${next.name}: ${total?.[0] ?? (next.silent ? `ended with ${status}` : 'no result')} in ${seconds(from)}`,
		);
		if (status !== 0 || failures > 0) console.log(`${output}\nended with ${status}`);
	}
};
await Promise.all(Array.from({ length: jobs }, work));
if (!existsSync(calls) || statSync(calls).size === 0) {
	console.log('FAIL: no product reached the stand-in for cuBLASLt');
	failed++;
} else passed++;
console.log(`emulator: ${passed} passed, ${failed} failed in ${seconds(started)}`);
process.exitCode = failed === 0 ? 0 : 1;

function run({ program, args, env }) {
	return new Promise((done) => {
		const child = spawn(resolve(folder, program), args, {
			cwd: root,
			env: { ...process.env, ...env },
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		let output = '';
		for (const stream of [child.stdout, child.stderr])
			stream.setEncoding('utf8').on('data', (text) => (output += text));
		child.on('error', (error) => done({ status: error.message, output }));
		child.on('close', (code, signal) => done({ status: signal ?? code, output }));
	});
}

function seconds(from) {
	return `${((performance.now() - from) / 1000).toFixed(1)} s`;
}

function call(program, args, stdout) {
	const { status, error } = spawnSync(program, args, { stdio: ['ignore', stdout, 'inherit'] });
	if (error || status !== 0) {
		console.error(`${program} failed${error ? `: ${error.message}` : ''}.`);
		process.exit(1);
	}
}
