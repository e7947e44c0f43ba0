// Removes each synchronisation of the CUDA kernels in turn and runs the op tests of the kernels that have it: at
// least one must fail, or a race must be reported. A survivor is a barrier no test needs; it must go, or say why it
// stays in a comment `// survives: <reason>` on its line or the line above.
// Usage: node scripts/mutation-test.mjs [part of a file name]
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const build = join(root, 'build-emulator');
const kernels = join(root, 'native/cuda');
const only = process.argv[2] ?? '';
const TIME_LIMIT = 120_000;
const SCHEDULES = ['forward', 'reverse', 'random:7'];

const folder = mkdtempSync(join(tmpdir(), 'mutation-'));
const ops = [
	...readFileSync(join(root, 'native/cpp/backend/backend.h'), 'utf8').matchAll(/^ {2}X\((\w+),/gm),
].map(([, op]) => op);

// Which sites each op's tests reach.
const opsOf = new Map();
await parallel(ops, async (op) => {
	const file = join(folder, op);
	const { status, output } = await run('op_test_fast', [op], { ALLMREC_EMULATOR_SITES: file });
	if (status !== 0) fail(`The tests of ${op} fail before anything is removed:\n${output}`);
	for (const line of lines(file)) {
		const [site, kind] = line.split(' ');
		const known = opsOf.get(site) ?? { kind, ops: [] };
		known.ops.push(op);
		opsOf.set(site, known);
	}
});

const written = sitesInSource();
const sites = [...new Set([...written.keys(), ...[...opsOf.keys()].map((site) => key(site))])]
	.filter((site) => site.includes(only))
	.sort();
const survivors = [];
const excused = [];
let killed = 0;
await parallel(sites, async (site) => {
	const reached = [...opsOf].find(([name]) => key(name) === site)?.[1];
	const by = reached ? await killer(site, reached.ops) : undefined;
	if (by) {
		killed++;
		console.log(`killed    ${site} by ${by}`);
		return;
	}
	const reason = written.get(site);
	(reason ? excused : survivors).push(site);
	console.log(
		`${reason ? 'excused ' : 'SURVIVED'}  ${site}${reached ? '' : ' (never run)'}${reason ? `: ${reason}` : ''}`,
	);
});
rmSync(folder, { recursive: true });
console.log(
	`mutation: ${killed} killed, ${excused.length} excused, ${survivors.length} survived of ${sites.length}`,
);
console.log(`${killed + excused.length} passed, ${survivors.length} failed`);
process.exitCode = survivors.length === 0 && sites.length > 0 ? 0 : 1;

/** What notices that a site is gone: a schedule of the fast build, or the race build; undefined when nothing does. */
async function killer(site, reached) {
	const skip = { ALLMREC_EMULATOR_SKIP: `cuda/${site}` };
	for (const op of reached) if ((await run('op_test_race', [op], skip)).status !== 0) return `race (${op})`;
	for (const schedule of SCHEDULES)
		for (const op of reached)
			if ((await run('op_test_fast', [op], { ...skip, ALLMREC_EMULATOR_SCHEDULE: schedule })).status !== 0)
				return `${schedule} (${op})`;
	return undefined;
}

/** Sites as `file:line` → the reason to survive, or empty. */
function sitesInSource() {
	const found = new Map();
	for (const name of readdirSync(kernels).filter((file) => /\.(cu|h)$/.test(file))) {
		if (name === 'intrinsics.h' || name === 'platform.h') continue;
		const text = readFileSync(join(kernels, name), 'utf8').split('\n');
		for (const [i, line] of text.entries()) {
			if (!/__sync(threads|warp)\w*\(|cp_async_wait</.test(line.replace(/\/\/.*/, ''))) continue;
			const comment = /survives: (.*)/.exec(line) ?? /survives: (.*)/.exec(text[i - 1] ?? '');
			found.set(`${name}:${i + 1}`, comment?.[1] ?? '');
		}
	}
	return found;
}

function key(site) {
	return basename(site);
}

function lines(file) {
	try {
		return readFileSync(file, 'utf8').split('\n').filter(Boolean);
	} catch {
		return []; // no synchronisation was run
	}
}

function run(program, args, env) {
	return new Promise((done) => {
		const child = spawn(join(build, program), ['--device', 'cudaemu', '--once', ...args], {
			env: { ...process.env, ...env },
			stdio: ['ignore', 'pipe', 'pipe'],
			timeout: TIME_LIMIT,
		});
		let output = '';
		for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += text));
		child.on('error', (error) =>
			fail(`${program} cannot be run (${error.message}); npm run build:emulator makes it.`),
		);
		child.on('close', (code, signal) => done({ status: signal ?? code, output }));
	});
}

async function parallel(items, work) {
	const waiting = [...items];
	const next = async () => {
		for (let item = waiting.shift(); item !== undefined; item = waiting.shift()) await work(item);
	};
	await Promise.all(Array.from({ length: availableParallelism() }, next));
}

function fail(message) {
	console.error(message);
	process.exit(1);
}
