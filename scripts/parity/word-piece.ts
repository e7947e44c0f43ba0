import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';
import type { Fixture } from './fixture.js';
import type { Report } from './report.js';
import {
	algorithmOf,
	compareIds,
	compareVocabulary,
	isTokenizer,
	loadFrom,
	type TokenizerSource,
} from './tokenizers.js';

export function isSentenceTokenizer(fixture: Fixture): boolean {
	const algorithm = algorithmOf(fixture);
	return isTokenizer(fixture) && algorithm !== undefined && algorithm !== 'BPE';
}

/** A sentence encoder's tokenizer, from `tokenizer.json` and from `vocab.txt`. */
export async function checkSentenceTokenizer(fixture: Fixture, report: Report): Promise<void> {
	const { folder } = fixture;
	for (const name of ['tokenizer.json', 'vocab.txt']) {
		if (!existsSync(join(folder, name))) continue;
		const source: TokenizerSource = {
			[name]: undefined,
			'tokenizer_config.json': undefined,
			'special_tokens_map.json': undefined,
			'added_tokens.json': undefined,
		};
		const tokenizer = await loadFrom(folder, source, loadSentenceTokenizer);
		compareIds(fixture, report, tokenizer, name);
		compareVocabulary(fixture, report, tokenizer, name);
	}
}
