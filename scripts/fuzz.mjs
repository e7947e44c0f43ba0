// Builds the fuzzers of the native readers with sanitizers and runs them: clang's libFuzzer where it is, else a plain
// driver that replays the corpus and seeded mutations of it.
// Usage: node scripts/fuzz.mjs [--seconds 60] [--plain] [--build-only] [--seeds] [--merge] [target …]
//   --seconds  of each target
//   --plain    the plain driver, whether or not there is clang
//   --seeds    writes the first inputs of every target into the corpus, and ends
//   --merge    afterwards keeps in the committed corpus what covers something, the new finds among it
// What a fuzzer stops at lies in build-fuzz/findings; mended, it belongs into native/fuzz/regressions under a telling name.
import { spawn, spawnSync } from 'node:child_process';
import {
	mkdirSync,
	mkdtempSync,
	readdirSync,
	readFileSync,
	renameSync,
	rmSync,
	statSync,
	writeFileSync,
} from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const TARGETS = ['json', 'safetensors', 'torch', 'pickle', 'zip', 'weights', 'token-trie'];
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const flags = new Set(process.argv.slice(2).filter((argument) => argument.startsWith('--')));
const at = process.argv.indexOf('--seconds');
const seconds = at < 0 ? 60 : Number(process.argv[at + 1]);
const named = process.argv.slice(2).filter((argument, i) => !argument.startsWith('--') && i + 2 !== at + 1);
const targets = named.length > 0 ? named : TARGETS;
for (const name of targets)
	if (!TARGETS.includes(name)) fail(`There is no target \`${name}\`; there are ${TARGETS.join(', ')}.`);
if (!(seconds >= 0)) fail('Expected `--seconds` to be a number of seconds.');

const clang = flags.has('--plain') || flags.has('--seeds') ? undefined : findClang();
if (!clang) console.log('fuzz: without clang++ and its libFuzzer: seeded mutations by the plain driver');
const folder = join(root, 'build-fuzz', clang ? 'libfuzzer' : 'plain');
const program = join(folder, 'fuzz');
await build();
if (flags.has('--seeds')) {
	call(program, ['--write-seeds', join(root, 'native', 'fuzz', 'corpus')]);
	process.exit();
}
if (flags.has('--build-only')) process.exit();

let findings = 0;
for (const target of targets) {
	const { executions, status } = await fuzz(target);
	if (status !== 0) findings++;
	console.log(`fuzz ${target}: ${executions} executions, ${status === 0 ? 'no finding' : 'A FINDING'}`);
	if (status === 0 && flags.has('--merge') && clang) merge(target);
}
console.log(`fuzz: ${targets.length - findings} passed, ${findings} failed`);
process.exitCode = findings === 0 ? 0 : 1;

function corpusOf(target) {
	const folders = ['corpus', 'regressions'].map((kind) => join(root, 'native', 'fuzz', kind, target));
	return folders.filter((path) => statSync(path, { throwIfNoEntry: false })?.isDirectory());
}

async function fuzz(target) {
	const found = join(root, 'build-fuzz', 'found', target);
	const results = join(root, 'build-fuzz', 'findings');
	mkdirSync(found, { recursive: true });
	mkdirSync(results, { recursive: true });
	const options = clang
		? [
				`-max_total_time=${Math.max(1, Math.round(seconds))}`,
				'-max_len=16384',
				'-timeout=10',
				'-rss_limit_mb=1024',
				'-malloc_limit_mb=128',
				'-print_final_stats=1',
				'-verbosity=0',
				`-artifact_prefix=${join(results, target)}-`,
				found,
			]
		: ['--seconds', String(seconds), '--save', join(results, `${target}-input`)];
	const child = spawn(program, [...options, ...corpusOf(target)], {
		env: {
			...process.env,
			ALLMREC_FUZZ_TARGET: target,
			ASAN_OPTIONS: 'detect_leaks=1:allocator_may_return_null=0',
		},
		stdio: ['ignore', 'pipe', 'pipe'],
	});
	let output = '';
	for (const stream of [child.stdout, child.stderr])
		stream.setEncoding('utf8').on('data', (text) => {
			output = (output + text).slice(-200_000);
		});
	const status = await finished(child);
	if (status !== 0) console.log(output.slice(-8000));
	const executions = /(?:number_of_executed_units|executions): (\d+)/.exec(output)?.[1] ?? '?';
	return { executions, status };
}

/** The smallest set of files that covers what all together do. */
function merge(target) {
	const fresh = mkdtempSync(join(tmpdir(), 'allmrec-corpus-'));
	const committed = join(root, 'native', 'fuzz', 'corpus', target);
	const found = join(root, 'build-fuzz', 'found', target);
	call(
		program,
		['-merge=1', '-use_counters=0', '-verbosity=0', '-max_len=4096', fresh, ...corpusOf(target), found],
		{
			ALLMREC_FUZZ_TARGET: target,
		},
	);
	rmSync(committed, { recursive: true, force: true });
	mkdirSync(committed, { recursive: true });
	for (const name of readdirSync(fresh)) {
		writeFileSync(join(committed, name), readFileSync(join(fresh, name)));
	}
	rmSync(fresh, { recursive: true });
}

/** Compiles the readers and the targets; objects newer than every header and their source are kept. */
async function build() {
	const list = JSON.parse(readFileSync(join(root, 'native', 'sources.json'), 'utf8'));
	const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
	const sources = [
		...list.io,
		...list.fuzz.readers,
		...list.fuzz.targets,
		...(clang ? [] : list.fuzz.driver),
	];
	const compiler = clang ?? process.env.CXX?.split(' ') ?? ['c++'];
	const sanitizers = `-fsanitize=address,undefined${clang ? ',fuzzer-no-link' : ''}`;
	const options = [
		'-O1',
		'-std=c++17',
		'-g1',
		'-fno-omit-frame-pointer',
		'-fno-sanitize-recover=all',
		'-Wall',
		'-Wextra',
		sanitizers,
		`-I${join(root, 'native/cpp')}`,
		`-DALLMREC_VERSION="${version}"`,
	];
	const headers = Math.max(...headersBelow(['native/cpp', 'native/fuzz', 'native/test']).map(changed));
	const objects = sources.map((file) => join(folder, `${file.replaceAll('/', '_')}.o`));
	const waiting = sources.flatMap((file, i) =>
		changed(objects[i]) > Math.max(headers, changed(join(root, file))) ? [] : [{ file, object: objects[i] }],
	);
	if (waiting.length === 0 && changed(program) > Math.max(...objects.map(changed))) return;
	mkdirSync(folder, { recursive: true });
	const work = async () => {
		for (let next = waiting.pop(); next; next = waiting.pop()) {
			const part = `${next.object}.part`;
			const args = [...compiler.slice(1), ...options, '-c', join(root, next.file), '-o', part];
			if ((await finished(spawn(compiler[0], args, { stdio: 'inherit' }))) !== 0)
				fail(`Cannot compile ${next.file}.`);
			renameSync(part, next.object);
		}
	};
	await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work));
	const link = sanitizers.replace('fuzzer-no-link', 'fuzzer');
	call(compiler[0], [...compiler.slice(1), ...objects, link, '-o', program, '-lpthread']);
}

function headersBelow(folders) {
	return folders.flatMap((folder) =>
		readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })
			.filter((name) => name.endsWith('.h'))
			.map((name) => join(root, folder, name)),
	);
}

/** When a file was last changed; 0 where there is none. */
function changed(path) {
	return statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
}

/** The words of a command that compiles with libFuzzer, or undefined. */
function findClang() {
	const folder = mkdtempSync(join(tmpdir(), 'allmrec-clang-'));
	const source = join(folder, 'probe.cpp');
	writeFileSync(
		source,
		'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }',
	);
	const cache = process.env.CXX?.startsWith('ccache ') ? ['ccache'] : [];
	const args = ['-fsanitize=fuzzer,address,undefined', source, '-o', join(folder, 'probe')];
	const versions = ['', ...[20, 19, 18, 17, 16, 15, 14].map((version) => `-${version}`)];
	const found = versions
		.map((version) => `clang++${version}`)
		.find((name) => spawnSync(name, args, { stdio: 'ignore' }).status === 0);
	rmSync(folder, { recursive: true });
	return found && [...cache, found];
}

function finished(child) {
	return new Promise((done) => {
		child.on('error', (error) => done(error.message));
		child.on('close', (code, signal) => done(signal ?? code));
	});
}

function call(command, args, env = {}) {
	const { status, error } = spawnSync(command, args, {
		stdio: ['ignore', 'inherit', 'inherit'],
		env: { ...process.env, ...env },
	});
	if (error || status !== 0) fail(`${command} failed${error ? `: ${error.message}` : ''}.`);
}

function fail(message) {
	console.error(message);
	process.exit(1);
}
