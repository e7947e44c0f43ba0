import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const program = fileURLToPath(new URL('../../lib/cli/main.js', import.meta.url));

export interface CommandResult {
	/** Exit code; null when a signal ended it. */
	code: number | null;
	out: string;
	err: string;
}

/**
 * Runs `a-llmrec` in a process of its own. `onStart` gets the process, e.g. to interrupt it; `env` is put to the
 * environment, `files` take the two streams instead of the result.
 */
export function command(
	args: readonly string[],
	onStart: (child: ChildProcess) => void = () => {},
	env: NodeJS.ProcessEnv = {},
	files: { out?: string; err?: string } = {},
): Promise<CommandResult> {
	const [stdout, stderr] = [files.out, files.err].map((path) =>
		path ? openSync(path, 'w') : ('pipe' as const),
	);

	const child = spawn(process.execPath, [program, ...args], {
		stdio: ['ignore', stdout!, stderr!],
		env: { ...process.env, ...env },
	});
	let [out, err] = ['', ''];
	for (const file of [stdout, stderr]) if (typeof file === 'number') closeSync(file);
	for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8'); // characters may span chunks
	child.stdout?.on('data', (data) => {
		out += data;
	});
	child.stderr?.on('data', (data) => {
		err += data;
	});
	onStart(child);
	return new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err })));
}
