// Puts the addon of this platform where the package carries it: prebuilds/<platform>-<arch>[-musl]/allmrec.node, linked so
// that it needs nothing but the C library, stripped, and tried in a process of its own. Part of `npm pack`.
// The addons of other platforms, which a release brings together there, are left as they are.
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const built = join(root, 'build', 'Release', 'allmrec.node');
const linux = process.platform === 'linux';
process.report.excludeNetwork = true;
const musl = linux && !process.report.getReport().header.glibcVersionRuntime;
const target = join(
	root,
	'prebuilds',
	`${process.platform}-${process.arch}${musl ? '-musl' : ''}`,
	'allmrec.node',
);

call(process.execPath, [join(root, 'scripts', 'build-addon.mjs')]);
// The C++ library goes into the addon, and none of its names out of it: Node may have another one.
if (linux)
	call('make', [
		'--silent',
		'-C',
		join(root, 'build'),
		'BUILDTYPE=Release',
		`LDFLAGS=-static-libstdc++ -static-libgcc -Wl,--gc-sections -Wl,--version-script=${join(root, 'native', 'exports.map')}`,
	]);
mkdirSync(dirname(target), { recursive: true });
copyFileSync(built, target);
call('strip', linux ? ['--strip-unneeded', target] : ['-x', target]);
const { version } = JSON.parse(
	execFileSync(process.execPath, ['-p', `JSON.stringify(require(${JSON.stringify(target)}))`], {
		encoding: 'utf8',
	}),
);
console.log(
	`a-llmrec ${version}: ${target}, ${(statSync(target).size / 2 ** 20).toFixed(1)} MiB${linux && !musl ? `, needs glibc ${neededGlibc(target)}` : ''}`,
);

/** The newest version of the C library's names that a file asks for; they stand in it as text. */
function neededGlibc(path) {
	const versions = [...readFileSync(path, 'latin1').matchAll(/\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)/g)];
	return versions
		.map(([, major, minor]) => [Number(major), Number(minor)])
		.sort((a, b) => a[0] - b[0] || a[1] - b[1])
		.at(-1)
		?.join('.');
}

function call(program, args) {
	const { status, error } = spawnSync(program, args, { cwd: root, stdio: ['ignore', 2, 2] });
	if (error || status !== 0) {
		console.error(`a-llmrec: ${program} failed${error ? `: ${error.message}` : ''}.`);
		process.exit(1);
	}
}
