import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { ALLMRecError, type ErrorCode } from '../../lib/errors.js';

const base = mkdtempSync(join(tmpdir(), 'a-llmrec-data-'));
process.on('exit', () => rmSync(base, { recursive: true, force: true }));
let made = 0;

/** A path in the temporary folder of this test process that nothing else uses. */
export function freshPath(name = 'set'): string {
	return join(base, String(made++), name);
}

/** Writes a file into a fresh folder and gives its path. */
export async function fixture(name: string, contents: string | Buffer): Promise<string> {
	const path = freshPath(name);
	await mkdir(dirname(path), { recursive: true });
	await writeFile(path, contents);
	return path;
}

/** The shared real data beside the project's root; undefined, loudly, when it is not there. */
export function realData(t: ExecutionContext, ...path: string[]): string | undefined {
	const root = fileURLToPath(new URL('../../../', import.meta.url));
	const found = join(root, '..', 'shared', 'data', ...path);
	if (existsSync(found)) return found;
	t.log(`SKIP: ${path.join('/')} is not there; put the shared data beside the project's root`);
	t.pass();
	return undefined;
}

/** Expects a rejection with a code and a message that matches. */
export async function rejects(
	t: ExecutionContext,
	work: () => Promise<unknown>,
	code: ErrorCode,
	message?: RegExp,
): Promise<ALLMRecError> {
	const error = (await t.throwsAsync(work, { any: true })) as ALLMRecError;
	t.true(error instanceof ALLMRecError, String(error));
	t.is(error.code, code, error.message);
	if (message) t.regex(error.message, message);
	return error;
}
