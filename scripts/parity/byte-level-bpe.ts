import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import type { Fixture, Json } from './fixture.js';
import type { Report } from './report.js';
import {
	algorithmOf,
	compareIds,
	compareVocabulary,
	isTokenizer,
	loadFrom,
	readJson,
	type TokenizerSource,
} from './tokenizers.js';

export function isByteLevelBpe(fixture: Fixture): boolean {
	return isTokenizer(fixture) && algorithmOf(fixture) === 'BPE';
}

/**
 * OPT's tokenizer, from `tokenizer.json` and from `vocab.json` with `merges.txt`: with the tokens `added` to it, and
 * (`ids_plain`) before they were.
 */
export async function checkByteLevelBpe(fixture: Fixture, report: Report): Promise<void> {
	const { folder, expected } = fixture;
	const vocabulary = readJson(folder, 'vocab.json') ?? vocabularyOf(readJson(folder, 'tokenizer.json'));
	const further = Object.fromEntries(
		Object.entries((expected.added ?? {}) as Record<string, number>).filter(
			([token]) => !(token in vocabulary),
		),
	);
	const json = readJson(folder, 'tokenizer.json');
	const config = readJson(folder, 'tokenizer_config.json');
	const withFiles: Record<string, TokenizerSource> = {};
	const before: Record<string, TokenizerSource> = {};
	if (json) {
		withFiles['tokenizer.json'] = { 'tokenizer.json': undefined };
		before['tokenizer.json'] = {
			'tokenizer.json': JSON.stringify({
				...json,
				added_tokens: ((json.added_tokens ?? []) as Json[]).filter(
					({ content }) => !(String(content) in further),
				),
			}),
		};
	}
	if (readJson(folder, 'vocab.json')) {
		const { added_tokens_decoder: _, ...roles } = config ?? {};
		const files: TokenizerSource = { 'vocab.json': undefined, 'merges.txt': undefined };
		withFiles['vocab.json, merges.txt'] = {
			...files,
			'tokenizer_config.json': JSON.stringify({
				...roles,
				added_tokens_decoder: Object.fromEntries(
					Object.entries(further).map(([content, id]) => [id, { content, special: true }]),
				),
			}),
		};
		before['vocab.json, merges.txt'] = { ...files, 'tokenizer_config.json': JSON.stringify(roles) };
	}
	withFiles['the folder'] = Object.fromEntries(
		['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'].map(
			(name) => [name, undefined],
		),
	);
	if (!json) delete withFiles['the folder'];
	for (const [name, source] of Object.entries(withFiles)) {
		const tokenizer = await loadFrom(folder, source, loadLanguageTokenizer);
		compareIds(fixture, report, tokenizer, name);
		compareVocabulary(fixture, report, tokenizer, name);
	}
	const strings = expected.strings as string[];
	if (!expected.ids_plain) return;
	const plain = expected.ids_plain as number[][];
	for (const [name, source] of Object.entries(before)) {
		const tokenizer = await loadFrom(folder, source, loadLanguageTokenizer);
		const ours = strings.map((text) => tokenizer.encodeWithSpecials(text));
		report.ids('ids_plain', ours, plain, { source: name, note: 'before the tokens were added' });
	}
}

function vocabularyOf(json: Json | undefined): Json {
	return ((json?.model as Json | undefined)?.vocab ?? {}) as Json;
}
