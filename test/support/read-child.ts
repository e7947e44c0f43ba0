import { rm } from 'node:fs/promises';
import { Dataset, type LogFormat } from '../../lib/data/dataset.js';
import { ALLMRecError } from '../../lib/errors.js';
import { openOptCheckpoint } from '../../lib/llm/opt-checkpoint.js';
import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import { readRunFile } from '../../lib/recommend/run-config.js';
import { openUsers } from '../../lib/recommend/score-all/user-files.js';
import { loadSentenceTokenizer } from '../../lib/text/word-piece.js';

// Reads one file in a process of its own and tells what became of it, and the most memory it took.

const [reader = '', path = ''] = process.argv.slice(2);

const prepare = (format: LogFormat) => async () => {
	const out = `${path}.out`;
	try {
		await Dataset.prepare({ format, interactions: [path], kCore: 1, threads: 1, memoryLimit: '200MB', out });
	} finally {
		await rm(out, { recursive: true, force: true });
	}
};

const readers: Record<string, () => Promise<unknown>> = {
	nothing: async () => {},
	users: async () => {
		for await (const _ of (await openUsers(path)).rows());
	},
	amazon: prepare('amazon'),
	csv: prepare('csv'),
	recbole: prepare('recbole'),
	language: () => loadLanguageTokenizer(path),
	sentence: () => loadSentenceTokenizer(path),
	opt: () => openOptCheckpoint(path),
	dataset: () => Dataset.open(path),
	run: () => readRunFile(path),
};

const begun = performance.now();
let outcome = 'read';
try {
	await readers[reader]!();
} catch (error) {
	outcome = error instanceof ALLMRecError ? error.code : `${error}`;
}
console.log(
	JSON.stringify({
		outcome,
		seconds: (performance.now() - begun) / 1000,
		peak: process.resourceUsage().maxRSS * 1024,
	}),
);
