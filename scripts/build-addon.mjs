// Builds the native addon with node-gyp: in a clone with `npm install`, in an installed package without an addon for its
// platform by `npm explore a-llmrec -- npm run build:addon`. Does nothing when one that loads is there and no source is
// newer. Downloads nothing where Node's headers are on the machine.
// Usage: node scripts/build-addon.mjs [--force]
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, statSync, utimesSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, totalmem } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const built = join(root, 'build', 'Release', 'allmrec.node');
const LEAST_NODE = 20;
const HOW_TO_INSTALL = `The native addon needs a C++17 compiler, make and Python 3:
  Debian, Ubuntu:  sudo apt-get install g++ make python3
  Fedora:          sudo dnf install gcc-c++ make python3
  macOS:           xcode-select --install`;

function main() {
	if (Number(process.versions.node.split('.')[0]) < LEAST_NODE)
		stop(`a-llmrec needs Node.js ${LEAST_NODE} or newer; this is ${process.versions.node}.`);
	if (!process.argv.includes('--force')) {
		const addon = existing();
		if (addon) return console.log(`a-llmrec: the native addon is up to date (${addon}).`);
	}
	const missing = missingTools();
	if (missing.length > 0)
		stop(`${missing.map((m) => `a-llmrec: ${m} was not found.`).join('\n')}\n\n${HOW_TO_INSTALL}`);
	build();
}

/** One built here that is newer than every source and loads. */
function existing() {
	if (existsSync(built) && statSync(built).mtimeMs >= newestSource() && loads(built)) return built;
	return undefined;
}

/** In a process of its own: an addon of another platform or Node may end it. */
function loads(path) {
	return (
		spawnSync(process.execPath, ['-e', `require(${JSON.stringify(path)})`], { stdio: 'ignore' }).status === 0
	);
}

function newestSource() {
	const times = ['binding.gyp', 'package.json', 'native/sources.json'].map(
		(f) => statSync(join(root, f)).mtimeMs,
	);
	for (const entry of readdirSync(join(root, 'native', 'cpp'), { recursive: true, withFileTypes: true }))
		if (entry.isFile()) times.push(statSync(join(entry.parentPath ?? entry.path, entry.name)).mtimeMs);
	return Math.max(...times);
}

function missingTools() {
	const missing = [];
	const compiler = process.env.CXX?.trim().split(/\s+/)[0];
	if (compiler ? !found(compiler) : !['c++', 'g++', 'clang++'].some(found))
		missing.push(
			compiler ? `the C++ compiler \`${compiler}\` (CXX)` : 'a C++17 compiler (c++, g++ or clang++)',
		);
	if (!found(process.env.MAKE ?? 'make')) missing.push('`make`');
	if (
		![process.env.PYTHON, process.env.npm_config_python, 'python3'].some((python) => python && found(python))
	)
		missing.push('`python3`');
	return missing;
}

function found(program) {
	if (program.includes('/')) return existsSync(program);
	return (process.env.PATH ?? '')
		.split(delimiter)
		.some((folder) => folder && existsSync(join(folder, program)));
}

function build() {
	const nodeGyp = findNodeGyp();
	const nodedir = headersFolder();
	// Two compilers need a gigabyte each at the worst file.
	const jobs = Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 2 ** 30)));
	// Not `rebuild`: what has not changed is kept.
	const args = [nodeGyp, 'configure', 'build', '--jobs', String(jobs), '--loglevel', 'warn'];
	if (nodedir) args.push(`--nodedir=${nodedir}`);
	const env = { ...process.env };
	// make's own compiler variable wins over what the PATH offers.
	if (!env.CXX && !found('c++') && !found('g++'))
		Object.assign(env, { CXX: 'clang++', CC: env.CC ?? 'clang' });
	const started = Date.now();
	console.log(`a-llmrec: building the native addon (${jobs} jobs; a few minutes) …`);
	const { status, error } = spawnSync(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
	if (error || status !== 0)
		stop(
			'a-llmrec: building the native addon failed; the first error is above.\n' +
				(nodedir
					? ''
					: "Node's headers were not on this machine; offline, set npm_config_nodedir to their prefix.\n") +
				`${HOW_TO_INSTALL}\nThen: (cd ${root} && npm run build:addon)`,
		);
	if (!loads(built))
		stop(`a-llmrec: ${built} was built but does not load: node -e "require('${built}')" says why.`);
	// make leaves it alone where nothing in it changed; it is up to date with what was there when the build began.
	utimesSync(built, started / 1000, started / 1000);
	console.log(`a-llmrec: built ${built} in ${Math.round((Date.now() - started) / 1000)} s.`);
}

function findNodeGyp() {
	const require = createRequire(import.meta.url);
	// The one of the project, of npm (which passes its own), or beside npm.
	for (const candidate of ['node-gyp/bin/node-gyp.js', 'npm/node_modules/node-gyp/bin/node-gyp.js'])
		try {
			return require.resolve(candidate);
		} catch {}
	const besideNpm =
		process.env.npm_execpath &&
		join(dirname(process.env.npm_execpath), '..', 'node_modules', 'node-gyp', 'bin', 'node-gyp.js');
	const prefix = dirname(dirname(process.execPath));
	for (const path of [
		process.env.npm_config_node_gyp,
		besideNpm,
		join(prefix, 'lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js'),
	])
		if (path && existsSync(path)) return path;
	return stop('a-llmrec: node-gyp was not found; run npm install in the package, or install npm.');
}

/** Where Node's headers already are, so that node-gyp need not fetch them. */
function headersFolder() {
	const prefix = dirname(dirname(process.execPath));
	for (const folder of [process.env.npm_config_nodedir, prefix])
		if (folder && existsSync(join(folder, 'include', 'node', 'node.h'))) return folder;
	return process.env.npm_config_nodedir;
}

function stop(message) {
	console.error(message);
	process.exit(1);
}

main();
