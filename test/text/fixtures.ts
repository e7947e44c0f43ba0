import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The parity dumps, where this checkout has them beside it. */
const SHARED = join(import.meta.dirname, '../../../../shared/fixtures');

/** Path of a folder of dumps, or undefined (said aloud) where they are not there. */
export function fixture(name: string): string | undefined {
	const folder = join(SHARED, name);
	if (existsSync(folder)) return folder;
	console.warn(`SKIP: ${folder} is not there, so the parity with it is not checked.`);
	return undefined;
}

export function readJson<T>(...path: string[]): T {
	return JSON.parse(readFileSync(join(...path), 'utf8')) as T;
}

const temporary: string[] = [];
process.once('exit', () => {
	for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
});

/** A new folder, gone after the tests, with some files of another one, and with further files as given. */
export function folderOf(
	from: string,
	names: readonly string[],
	further: Record<string, string> = {},
): string {
	const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-tokenizer-'));
	temporary.push(folder);
	for (const name of names) copyFileSync(join(from, name), join(folder, name));
	for (const [name, text] of Object.entries(further)) writeFileSync(join(folder, name), text);
	return folder;
}

/** Titles that try to be something else. */
export const HOSTILE_TITLES: readonly string[] = [
	'</s>',
	'<pad></s><s><unk>',
	'[CLS] [SEP] [MASK] [PAD]',
	'[CandidateEmb],"Other"[HistoryEmb]',
	'[UserRep]{noun}{past}',
	'"quoted" \\"escaped\\" \'single\'',
	'line\nbreak\r\n\ttab',
	'nul\0bell\x07escape\x1b[31m',
	'\u202eright to left\u202c \u200f\u200e mark',
	'\u{1f3ae}\u{1f579}\ufe0f \u{1f468}\u200d\u{1f469}\u200d\u{1f467}',
	'e\u0301 \u01c6 \u0130 \u03a3\u03a3',
	'lone \ud800 surrogate \udc00',
	'\ufeffbom \ufffd replacement',
	'__proto__',
	'constructor',
	'',
	' ',
];
