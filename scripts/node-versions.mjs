// Runs the addon's tests and those of reliability in every version of Node that is supported. The addon is built once:
// it uses Node-API 8 alone, so one binary serves all of them. Versions come from npm's package `node` into a folder of
// the system's temporary one, and stay there.
// Usage: node scripts/node-versions.mjs [--quick] [--versions 20,22,24] [words of a test file's name …]
// --quick: the addon, the line from a log to a recommendation, and what docs/reliability.md says about Node.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const VERSIONS = ['20', '22', '24'];
const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const { quick, versions, words } = readArguments(process.argv.slice(2));

/** Groups of test files with the configuration of ava each needs. */
const GROUPS = [
	{
		config: 'ava.config.js',
		files: [...testFiles('native'), ...(quick ? testFiles('e2e') : [])],
	},
	{
		config: 'ava.reliability.config.js',
		files: testFiles('reliability').filter((file) => !quick || file.includes('node-')),
	},
].map(({ config, files }) => ({
	config,
	files: files.filter((file) => words.length === 0 || words.some((word) => file.includes(word))),
}));

if (GROUPS.every(({ files }) => files.length === 0)) {
	console.error(`No test file of test/native or test/reliability is called like ${words.join(' or ')}.`);
	process.exit(2);
}
let failures = 0;
for (const version of versions) {
	const line = runVersion(version);
	console.log(line.text);
	if (!line.good) failures++;
}
process.exitCode = failures > 0 ? 1 : 0;

function runVersion(version) {
	const node = version === process.versions.node.split('.')[0] ? process.execPath : fetchNode(version);
	if (!node) return { good: false, text: `Node ${version}: could not be fetched by npm (package \`node\`)` };
	const exact = spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim();
	const begun = performance.now();
	let passed = 0;
	const failed = [];
	for (const { config, files } of GROUPS) {
		if (files.length === 0) continue;
		const ava = join(root, 'node_modules', 'ava', 'entrypoints', 'cli.mjs');
		const run = spawnSync(node, [ava, '--config', config, '--tap', ...files], {
			cwd: root,
			encoding: 'utf8',
			maxBuffer: 2 ** 28,
		});
		passed += count(run.stdout, /^ok /gm);
		failed.push(...[...run.stdout.matchAll(/^not ok \d+ - (.*)$/gm)].map(([, name]) => name));
		if (run.status !== 0 && failed.length === 0)
			failed.push(`ava did not run: ${run.stderr.trim().slice(-2000)}`);
		if (run.status !== 0) process.stdout.write(run.stdout);
	}
	const seconds = Math.round((performance.now() - begun) / 1000);
	const text = `Node ${exact}: ${passed} passed, ${failed.length} failed (${seconds} s)`;
	return { good: failed.length === 0, text: [text, ...failed.map((name) => `  failed: ${name}`)].join('\n') };
}

/** The program of a version; undefined where npm cannot get it. */
function fetchNode(version) {
	const folder = join(tmpdir(), 'a-llmrec-node-versions', version);
	const node = join(folder, 'node_modules', 'node', 'bin', 'node');
	if (existsSync(node)) return node;
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
	spawnSync('npm', ['install', '--no-audit', '--no-fund', `node@${version}`], {
		cwd: folder,
		stdio: ['ignore', 'ignore', 'inherit'],
	});
	return existsSync(node) ? node : undefined;
}

/** Compiled test files of a folder of test/, relative to the root. */
function testFiles(folder) {
	const path = join(root, 'dist', 'test', folder);
	if (!existsSync(path)) {
		console.error('Compile the tests first: npm run build:ts');
		process.exit(2);
	}
	return readdirSync(path, { recursive: true })
		.filter((name) => name.endsWith('.test.js'))
		.map((name) => relative(root, join(path, name)));
}

function count(text, pattern) {
	return [...text.matchAll(pattern)].length;
}

function readArguments(given) {
	const quick = given.includes('--quick');
	const at = given.indexOf('--versions');
	const versions = at < 0 ? VERSIONS : given[at + 1].split(',');
	const rest = at < 0 ? given : [...given.slice(0, at), ...given.slice(at + 2)];
	return { quick, versions, words: rest.filter((argument) => !argument.startsWith('--')) };
}
