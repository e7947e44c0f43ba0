import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

/** Whether the long versions run (`npm run test:reliability -- --long`); the short ones are part of `npm test`. */
export const LONG = process.env.ALLMREC_LONG === '1';

/** `short` in `npm test`, `long` in the long run. */
export function times(short: number, long: number): number {
	return LONG ? long : short;
}

/** What a point of docs/reliability.md is about. */
export type Subject =
	| 'Node'
	| 'Files'
	| 'Text'
	| 'Crash safety'
	| 'Numbers'
	| 'Memory'
	| 'Sanitizers'
	| 'Install'
	| 'Errors';

/**
 * Records that a promise was held, for the table of docs/reliability.md. Called at the end of the test that holds it.
 *
 * @param promise one sentence in the words of a user, the same in every run
 * @param figures what was tried and what it came to, e.g. `{ kills: 20, 'runs that differ': 0 }`
 */
export function held(subject: Subject, promise: string, figures: Record<string, number | string>): void {
	const folder = process.env.ALLMREC_FIGURES;
	if (!folder) return;
	const file = fileURLToPath(test.meta.file).replace(/^.*\/dist\/(.*)\.js$/, '$1.ts');
	const name = createHash('sha256').update(`${subject}${promise}`).digest('hex').slice(0, 16);
	mkdirSync(folder, { recursive: true });
	writeFileSync(join(folder, `${name}.json`), JSON.stringify({ subject, promise, test: file, figures }));
}
