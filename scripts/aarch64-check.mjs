// Builds the native core for aarch64 with a cross compiler and runs the CPU's op tests in an emulator:
//   node scripts/aarch64-check.mjs [op]      only the cases of ops whose name contains `op`
// Debian: apt-get install g++-aarch64-linux-gnu qemu-user. Fails, naming what is missing, without them.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const build = 'build-aarch64';
const compiler = 'aarch64-linux-gnu-g++';
const emulator = 'qemu-aarch64';
const sysroot = '/usr/aarch64-linux-gnu';

const missing = [compiler, emulator, 'cmake'].filter((tool) => spawnSync(tool, ['--version']).status !== 0);
if (!existsSync(sysroot)) missing.push(sysroot);
if (missing.length > 0) {
	console.error(
		`NOT CHECKED on aarch64: ${missing.join(', ')} missing. On Debian: apt-get install cmake g++-aarch64-linux-gnu qemu-user`,
	);
	process.exit(1);
}

function run(command, args) {
	const { status } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
	if (status !== 0) process.exit(status ?? 1);
}

run('cmake', [
	'-S',
	'.',
	'-B',
	build,
	'-DCMAKE_BUILD_TYPE=Release',
	'-DCMAKE_SYSTEM_NAME=Linux',
	'-DCMAKE_SYSTEM_PROCESSOR=aarch64',
	`-DCMAKE_CXX_COMPILER=${compiler}`,
]);
run('cmake', ['--build', build, '--target', 'op_test', '--parallel', '2']);
run(emulator, ['-L', sysroot, `${build}/op_test`, '--once', ...process.argv.slice(2)]);
