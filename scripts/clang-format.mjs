// Checks or writes the format of the C++ and CUDA sources.
// Usage: node scripts/clang-format.mjs --check|--write
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const mode = process.argv[2];
if (mode !== '--check' && mode !== '--write') {
	console.error('Usage: node scripts/clang-format.mjs --check|--write');
	process.exit(2);
}
const files = readdirSync(join(root, 'native'), { recursive: true })
	.filter((file) => /\.(h|cpp|cu|cuh)$/.test(file))
	.map((file) => join(root, 'native', file))
	.sort();
const options = mode === '--write' ? ['-i'] : ['--dry-run', '-Werror'];
const { status, error } = spawnSync(
	join(root, 'node_modules', '.bin', 'clang-format'),
	[...options, ...files],
	{
		stdio: 'inherit',
	},
);
if (error) console.error(`clang-format: ${error.message}`);
process.exitCode = error ? 1 : status;
