// Checks a packed tarball: what runs and what builds is in it, once and up to date, and nothing else. Prints its size.
// Usage: node scripts/tarball-check.mjs [--all-platforms] FILE.tgz
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const tarball = process.argv.slice(2).find((argument) => !argument.startsWith('--'));
const platforms = process.argv.includes('--all-platforms')
	? ['linux-x64', 'linux-arm64', 'linux-x64-musl', 'darwin-x64', 'darwin-arm64']
	: [`${process.platform}-${process.arch}`];
const sources = Object.values(JSON.parse(readFileSync(join(root, 'native/sources.json'), 'utf8'))).flatMap(
	(group) => (Array.isArray(group) ? group : []),
);
const needed = [
	'package.json',
	'README.md',
	'LICENSE',
	'CHANGELOG.md',
	'dist/lib/index.js',
	'dist/lib/index.d.ts',
	'dist/lib/cli/main.js',
	'assets/tiny-encoder/model.safetensors',
	'assets/tiny-opt/model.safetensors',
	'binding.gyp',
	'CMakeLists.txt',
	'native/sources.json',
	'scripts/build-addon.mjs',
	...sources.filter((file) => /^native\/(cpp|cuda)\//.test(file)),
	...platforms.map((platform) => `prebuilds/${platform}/allmrec.node`),
];
/** Folders that may be in it, and which of their files. */
const allowed = [
	/^dist\/lib\/.+\.(js|d\.ts)$/,
	/^assets\/tiny-(encoder|opt)\/[\w.]+$/,
	/^native\/cpp\/.+\.(cpp|h)$/,
	/^native\/cuda\/.+\.(cu|h|cmake|json|map)$/,
	/^prebuilds\/(linux|darwin)-(x64|arm64)(-musl)?\/allmrec\.node$/,
];

if (!tarball) {
	console.error('Usage: node scripts/tarball-check.mjs [--all-platforms] FILE.tgz');
	process.exit(2);
}
const listed = spawnSync('tar', ['-tvzf', tarball], { encoding: 'utf8', maxBuffer: 2 ** 26 });
if (listed.status !== 0) {
	console.error(`${tarball} cannot be read: ${listed.stderr}`);
	process.exit(1);
}
const files = new Map(
	listed.stdout
		.trim()
		.split('\n')
		.map((line) => line.trim().split(/\s+/))
		.map((fields) => [
			fields.at(-1).replace(/^package\//, ''),
			Number(fields[process.platform === 'darwin' ? 4 : 2]),
		]),
);

const faults = [];
for (const file of needed) if (!files.has(file)) faults.push(`${file} is missing`);
for (const file of files.keys()) {
	if (!needed.includes(file) && !allowed.some((pattern) => pattern.test(file)))
		faults.push(`${file} is not needed`);
	// What an earlier build left in dist.
	const source = file.replace(/^dist\/(.*)\.(js|d\.ts)$/, '$1.ts');
	if (source !== file && !existsSync(join(root, source))) faults.push(`${file} has no source`);
}
for (const fault of faults) console.error(fault);
const mebibytes = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const unpacked = [...files.values()].reduce((sum, bytes) => sum + bytes, 0);
console.log(
	`${files.size} files, ${mebibytes(statSync(tarball).size)} packed, ${mebibytes(unpacked)} unpacked, ${faults.length} faults`,
);
process.exitCode = faults.length === 0 ? 0 : 1;
