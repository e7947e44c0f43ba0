import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { generateWorld, inventLexicon, type WorldItem } from '../../lib/data/demo-world.js';
import {
	fillWords,
	genreTemplate,
	PROMPT_WORDS,
	recommendationTemplate,
} from '../../lib/llm/prompt-template.js';
import { itemText } from '../../lib/text/item-text.js';

/** Seeds of the invented catalogues the embedded models learn from; the demo's words and tastes are in none of them. */
const FIRST_LEXICON = 1000;

/** Items of the n-th invented catalogue: its own words, its own themes. */
export function inventedItems(n: number, numItems = 240): WorldItem[] {
	const lexicon = inventLexicon(FIRST_LEXICON + n);
	return generateWorld({ seed: n, lexicon, numItems, numUsers: 60 }).items;
}

/** What the vocabularies are learned from: this project's own pages, invented catalogues, and the prompts' wording. */
export async function corpus(root: string, catalogues: number): Promise<string[]> {
	const texts: string[] = [];
	for (const folder of ['.', 'docs', 'lib/data', 'lib/llm', 'lib/recommend', 'lib/evaluation'])
		for (const name of (await readdir(join(root, folder))).sort())
			if (/\.(md|ts)$/.test(name))
				texts.push(...prose(await readFile(join(root, folder, name), 'utf8'), name));
	for (let n = 0; n < catalogues; n++)
		for (const item of inventedItems(n)) texts.push(itemText(item), ` "${item.title}"`, `,"${item.title}"`);
	// The wording of prompts is known: each of its words is to be one token.
	for (const words of Object.values(PROMPT_WORDS))
		for (const template of [recommendationTemplate(words), genreTemplate(words)])
			for (const part of template.parts)
				if (part.type === 'text') for (let i = 0; i < 3000; i++) texts.push(fillWords(part.text, words));
	for (let year = 1900; year < 2030; year++) texts.push(` ${year}`, `(${year})`, ` (${year})"`);
	// Titles end in all kinds of marks, which merge with the closing quote.
	for (const mark of [')', '!', '.', '?', '...', "'", ']', ':', '-', '+'])
		for (let i = 0; i < 200; i++) texts.push(`${mark}"`);
	return texts;
}

/** A page's lines; of a source file, its comments. */
function prose(text: string, name: string): string[] {
	const lines = text.split('\n').map((line) => line.trim());
	if (name.endsWith('.md')) return lines.filter((line) => line !== '');
	return lines.filter((line) => /^(\/?\*|\/\/)/.test(line)).map((line) => line.replace(/^[/* ]+/, ''));
}
