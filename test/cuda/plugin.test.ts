// What is said of a CUDA library that cannot be used. Each case has a process of its own: a library stays loaded.
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';

const run = promisify(execFile);
const { version } = JSON.parse(readFileSync('package.json', 'utf8')) as { version: string };
const index = join(process.cwd(), 'dist/lib/index.js');

async function cudaReason(library: string): Promise<string> {
	const { stdout } = await run(
		process.execPath,
		[
			'--input-type=module',
			'--eval',
			`import { listDevices } from ${JSON.stringify(index)}; console.log(JSON.stringify(listDevices()));`,
		],
		{ env: { ...process.env, ALLMREC_CUDA_LIBRARY: library } },
	);
	const devices = JSON.parse(stdout) as { device: string; available: boolean; reason: string }[];
	const cuda = devices.find(({ device }) => device === 'cuda');
	return cuda && !cuda.available ? cuda.reason : '';
}

test('a library of an older op table is refused, and both versions are named', async (t) => {
	const reason = await cudaReason(join(process.cwd(), 'build-emulator/libold_backend.so'));
	t.regex(reason, /^wrong_version: /);
	t.true(reason.includes('0.0.9') && reason.includes('op table 1'), reason);
	t.true(reason.includes(version) && reason.includes('op table 3'), reason);
});

test('a path that is no library, and one that is not there', async (t) => {
	t.regex(await cudaReason(join(process.cwd(), 'package.json')), /^cannot_open: /);
	t.regex(
		await cudaReason('/nowhere/allmrec_cuda.so'),
		/^(cannot_open|no_library): .*\/nowhere\/allmrec_cuda\.so/,
	);
});

test('the command asks for a device that is not there', async (t) => {
	const { stdout } = await run(process.execPath, ['dist/lib/cli/main.js', 'inspect'], {
		env: { ...process.env, ALLMREC_CUDA_LIBRARY: '/nowhere/allmrec_cuda.so' },
	});
	t.regex(stdout, /cuda\s+.*(cannot_open|no_library)/);
	t.regex(stdout, /cpu\s+/);
});
