import { copyFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import type { Fixture, Json } from './fixture.js';
import type { Report } from './report.js';

/** Files a tokenizer is made from, by name; a text instead of a copy where it is given. */
export type TokenizerSource = Record<string, string | undefined>;

export function isTokenizer({ expected }: Fixture): boolean {
	return Array.isArray(expected.strings) && Array.isArray(expected.ids);
}

/** The algorithm a folder's files are of. */
export function algorithmOf({ folder }: Fixture): string | undefined {
	const json = readJson(folder, 'tokenizer.json');
	const model = json?.model as Json | undefined;
	if (typeof model?.type === 'string') return model.type;
	if (existsSync(join(folder, 'vocab.json'))) return 'BPE';
	return existsSync(join(folder, 'vocab.txt')) ? 'WordPiece' : undefined;
}

export function readJson(folder: string, name: string): Json | undefined {
	const path = join(folder, name);
	return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Json) : undefined;
}

/** Loads a tokenizer from some files of a folder alone. */
export async function loadFrom(
	folder: string,
	source: TokenizerSource,
	load: (folder: string) => Promise<Tokenizer>,
): Promise<Tokenizer> {
	const temporary = mkdtempSync(join(tmpdir(), 'a-llmrec-parity-'));
	try {
		for (const [name, text] of Object.entries(source))
			if (text !== undefined) writeFileSync(join(temporary, name), text);
			else if (existsSync(join(folder, name))) copyFileSync(join(folder, name), join(temporary, name));
		return await load(temporary);
	} finally {
		rmSync(temporary, { recursive: true, force: true });
	}
}

/** `ids`, `ids_nospecial`, `ids_trunc<n>` and `decoded`, where the folder has them. */
export function compareIds(fixture: Fixture, report: Report, tokenizer: Tokenizer, source: string): void {
	const { expected } = fixture;
	const strings = expected.strings as string[];
	const encode = (options?: { addSpecialTokens?: boolean; maxTokens?: number }) =>
		strings.map((text) => tokenizer.encodeWithSpecials(text, options));
	const rows = (name: string) => expected[name] as number[][];
	const options = { source };
	report.ids('ids', encode(), rows('ids'), options);
	if (expected.ids_nospecial)
		report.ids('ids_nospecial', encode({ addSpecialTokens: false }), rows('ids_nospecial'), options);
	for (const name of Object.keys(expected)) {
		const length = /^ids_trunc(\d+)$/.exec(name)?.[1];
		if (length !== undefined) report.ids(name, encode({ maxTokens: Number(length) }), rows(name), options);
	}
	if (expected.decoded)
		report.equal(
			'decoded',
			rows('ids').map((ids) => tokenizer.decode(ids)),
			expected.decoded,
			options,
		);
}

/** `added` (token → id) and `vocab` (how many ids there are). */
export function compareVocabulary(
	fixture: Fixture,
	report: Report,
	tokenizer: Tokenizer,
	source: string,
): void {
	const { added, vocab } = fixture.expected as { added?: Record<string, number>; vocab?: number };
	if (added)
		report.equal(
			'added',
			Object.fromEntries(Object.keys(added).map((token) => [token, tokenizer.idOf(token)])),
			added,
			{ source },
		);
	if (vocab !== undefined) report.equal('vocab', tokenizer.vocabSize, vocab, { source });
}
