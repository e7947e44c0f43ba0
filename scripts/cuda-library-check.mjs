// Checks the built CUDA library without a GPU: it exports its two entry points and nothing else, links to no part of
// CUDA (the driver and cuBLASLt are looked for at run time), and without a driver gives a reason instead of failing to
// load. Needs nm, readelf and a C++ compiler.
// Usage: node scripts/cuda-library-check.mjs [library, default build-cuda/allmrec_cuda.so]
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const library = resolve(process.argv[2] ?? join(root, 'build-cuda', 'allmrec_cuda.so'));
const EXPORTS = ['allmrec_backend_entry', 'allmrec_backend_version'];
/** What a C++ library with threads may need of the system. The C++ library itself is linked in. */
const NEEDED = /^(libc|libm|libdl|libpthread|librt|ld-linux-[\w-]+)\.so(\.\d+)?$/;
/** All six cards and PTX; more than this is a sign that something was linked in by mistake. */
const LARGEST_MEGABYTES = 64;

let passed = 0;
let failed = 0;
function check(what, ok, found) {
	if (ok) passed++;
	else failed++;
	console.log(`${ok ? 'ok  ' : 'FAIL'} ${what}: ${found}`);
}

if (!existsSync(library)) {
	console.error(`${library} is not there; npm run build:cuda makes it.`);
	process.exit(1);
}
const exported = output('nm', ['-D', '--defined-only', library])
	.split('\n')
	.filter(Boolean)
	.map((line) => line.trim().split(/\s+/).at(-1).split('@')[0])
	.sort();
check('exported symbols', exported.join() === EXPORTS.join(), exported.slice(0, 8).join(', '));

const needed = [...output('readelf', ['-d', library]).matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(
	([, name]) => name,
);
check(
	'needed libraries',
	needed.every((name) => NEEDED.test(name)),
	needed.join(', '),
);

const megabytes = statSync(library).size / 2 ** 20;
check(`size below ${LARGEST_MEGABYTES} MB`, megabytes < LARGEST_MEGABYTES, `${megabytes.toFixed(1)} MB`);

const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-library-'));
try {
	const program = join(folder, 'open_backend');
	output(process.env.CXX ?? 'c++', [
		'-std=c++17',
		join(root, 'native', 'test', 'open_backend.cpp'),
		'-o',
		program,
		'-ldl',
	]);
	const version = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version;
	// Cards that are there are hidden: the library must say so.
	const text = output(program, [library], { ...process.env, CUDA_VISIBLE_DEVICES: '' });
	check('version', text.includes(`version: ${version}\n`), /version: .*/.exec(text)?.[0] ?? text);
	const reason = /reason: .*/.exec(text)?.[0] ?? text.trim();
	check('the reason where no card can be used', /^reason: no_(driver|device): /.test(reason), reason);
} finally {
	rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;

function output(program, args, env = process.env) {
	const { stdout, stderr, status, error } = spawnSync(program, args, { encoding: 'utf8', env });
	if (error || status !== 0) {
		console.error(`${program} ${args.join(' ')}: ${error?.message ?? `${stdout}${stderr}`}`);
		process.exit(1);
	}
	return stdout;
}
