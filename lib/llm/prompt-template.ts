import { ALLMRecError, invalidArgument } from '../errors.js';

/** The words a template's text is filled with: *has {past}*, *one next {noun}*, *to {verb} next*. */
export interface PromptWords {
	/** E.g. `watched`, `played`, `bought`. */
	past: string;
	/** E.g. `movie`, `game`, `item`. */
	noun: string;
	/** E.g. `watch`, `play`, `buy`. */
	verb: string;
}

/** Text; `{past}`, `{noun}` and `{verb}` in it are replaced by the template's words. */
export interface TextPart {
	type: 'text';
	text: string;
	/** `user`: left out when the prompt has no user slot. */
	onlyWith?: 'user' | undefined;
}

/** The user's vector O_u. */
export interface UserPart {
	type: 'user';
}

/** The tokenizer's BOS token. */
export interface BosPart {
	type: 'bos';
}

/**
 * A list of items, each its title and a slot for its vector O_i: `before open title close [slot]` for the first,
 * `separator open title close [slot]` for the others. `before` belongs to the first title so that a space and a
 * quote are one token, as in running text.
 */
export interface ListPart {
	type: 'history' | 'candidates';
	/** Default a space. */
	before?: string | undefined;
	/** Default a comma. */
	separator?: string | undefined;
	/** Default `"`. */
	open?: string | undefined;
	/** Default `"`. */
	close?: string | undefined;
	/** What stands there when the list is empty. Default ` nothing yet`. */
	empty?: string | undefined;
}

export type PromptPart = TextPart | UserPart | BosPart | ListPart;

/** A prompt as data: plain JSON, no code. */
export interface PromptTemplate {
	name: string;
	words: PromptWords;
	parts: PromptPart[];
	/** How an answer is written: `before open title close`, then EOS. Default: a space and double quotes. */
	answer?: { before?: string; open?: string; close?: string } | undefined;
}

/** The words of the three domains of the paper. */
export const PROMPT_WORDS: Readonly<Record<'movie' | 'game' | 'item', PromptWords>> = {
	movie: { past: 'watched', noun: 'movie', verb: 'watch' },
	game: { past: 'played', noun: 'game', verb: 'play' },
	item: { past: 'bought', noun: 'item', verb: 'buy' },
};

export type PromptDomain = keyof typeof PROMPT_WORDS;

/**
 * The recommendation prompt. The user's slot is the first position, before BOS.
 *
 * @param words a preset's name or words of one's own
 */
export function recommendationTemplate(words: PromptDomain | PromptWords = 'item'): PromptTemplate {
	return {
		name: 'recommendation',
		words: wordsOf(words),
		parts: [
			{ type: 'user' },
			{ type: 'bos' },
			{ type: 'text', text: ' is a user representation.', onlyWith: 'user' },
			{ type: 'text', text: ' This user has {past}' },
			{ type: 'history' },
			{
				type: 'text',
				text: ' in the previous. Recommend one next {noun} for this user to {verb} next from the following {noun} title set,',
			},
			{ type: 'candidates' },
			{ type: 'text', text: '. The recommendation is' },
		],
	};
}

/**
 * The authors' wording to the letter (`referenceCompat`): no space after *representation.*, and the space before
 * the answer at the prompt's end.
 */
export function referenceTemplate(words: PromptDomain | PromptWords = 'item'): PromptTemplate {
	const template = recommendationTemplate(words);
	const texts = new Map([
		[' This user has {past}', 'This user has {past}'],
		['. The recommendation is', '. The recommendation is '],
	]);
	const parts = template.parts.map((part) =>
		part.type === 'text' ? { ...part, text: texts.get(part.text) ?? part.text } : part,
	);
	return { ...template, name: 'reference', parts, answer: { before: '' } };
}

/** The genre task ("favourite genre prediction"): the same slots, no candidates, answered by generation. */
export function genreTemplate(words: PromptDomain | PromptWords = 'item'): PromptTemplate {
	return {
		name: 'favourite-genre',
		words: wordsOf(words),
		parts: [
			{ type: 'user' },
			{ type: 'bos' },
			{ type: 'text', text: ' is a user representation.', onlyWith: 'user' },
			{ type: 'text', text: ' This user has {past}' },
			{ type: 'history' },
			{
				type: 'text',
				text: ' in the previous. Name the {noun} genres that this user would enjoy. The genres this user would enjoy are',
			},
		],
	};
}

/** A list with its defaults filled in. */
export type ResolvedList = Required<Omit<ListPart, 'type' | 'empty'>>;

/** The strings around an item of a list. */
export function resolveList({
	before = ' ',
	separator = ',',
	open = '"',
	close = '"',
}: ListPart): ResolvedList {
	return { before, separator, open, close };
}

/** What stands for an empty list. */
export const EMPTY_LIST = ' nothing yet';

/** The strings around an answer. */
export function resolveAnswer({ answer = {} }: PromptTemplate): {
	before: string;
	open: string;
	close: string;
} {
	return { before: answer.before ?? ' ', open: answer.open ?? '"', close: answer.close ?? '"' };
}

/** Text with the template's words in it. Titles never pass through here. */
export function fillWords(text: string, words: PromptWords): string {
	return text.replace(/\{(past|noun|verb)\}/g, (_, word: keyof PromptWords) => words[word]);
}

/** A template from JSON text. */
export function parsePromptTemplate(json: string): PromptTemplate {
	let value: unknown;
	try {
		value = JSON.parse(json);
	} catch (cause) {
		throw new ALLMRecError('ERR_ALLMREC_FILE_FORMAT', 'The prompt template is not valid JSON.', { cause });
	}
	return validatePromptTemplate(value);
}

const ALLOWED: Readonly<Record<PromptPart['type'], readonly string[]>> = {
	text: ['text', 'onlyWith'],
	user: [],
	bos: [],
	history: ['before', 'separator', 'open', 'close', 'empty'],
	candidates: ['before', 'separator', 'open', 'close', 'empty'],
};

/**
 * Checks a template and returns it.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT naming the field that is wrong
 */
export function validatePromptTemplate(value: unknown): PromptTemplate {
	const template = object('template', value);
	knownKeys('template', template, ['name', 'words', 'parts', 'answer']);
	string('template.name', template.name);
	const words = object('template.words', template.words);
	knownKeys('template.words', words, ['past', 'noun', 'verb']);
	for (const word of ['past', 'noun', 'verb'])
		if (string(`template.words.${word}`, words[word]).trim() === '')
			invalidArgument(`template.words.${word}`, 'a word', words[word]);
	if (template.answer !== undefined) {
		const answer = object('template.answer', template.answer);
		knownKeys('template.answer', answer, ['before', 'open', 'close']);
		for (const [key, text] of Object.entries(answer)) string(`template.answer.${key}`, text);
	}
	if (!Array.isArray(template.parts) || template.parts.length === 0)
		invalidArgument('template.parts', 'a list of parts', template.parts);
	const seen = new Set<string>();
	for (const [i, entry] of template.parts.entries()) {
		const at = `template.parts[${i}]`;
		const part = object(at, entry);
		const type = string(`${at}.type`, part.type);
		const allowed = Object.hasOwn(ALLOWED, type) ? ALLOWED[type as PromptPart['type']] : undefined;
		if (!allowed) invalidArgument(`${at}.type`, `one of ${Object.keys(ALLOWED).join(', ')}`, type);
		knownKeys(at, part, ['type', ...allowed]);
		for (const key of allowed)
			if (part[key] !== undefined || key === 'text') string(`${at}.${key}`, part[key]);
		if (type === 'text') checkText(at, part);
		else if (seen.has(type)) invalidArgument(at, `the only part of type ${type}`, 'a second one');
		seen.add(type);
	}
	if (!seen.has('history') && !seen.has('user') && !seen.has('candidates'))
		invalidArgument(
			'template.parts',
			'parts with a user, history or candidates part among them',
			'text alone',
		);
	if (!seen.has('text') && !seen.has('bos'))
		invalidArgument('template.parts', 'parts with some text or BOS among them', 'slots and titles alone');
	return value as PromptTemplate;
}

function checkText(at: string, part: Record<string, unknown>): void {
	if (part.onlyWith !== undefined && part.onlyWith !== 'user')
		invalidArgument(`${at}.onlyWith`, '`user`', part.onlyWith);
	const unknown = /\{(?!past\}|noun\}|verb\})\w+\}/.exec(part.text as string);
	if (unknown) invalidArgument(`${at}.text`, 'text with the words {past}, {noun} and {verb}', unknown[0]);
}

function object(name: string, value: unknown): Record<string, unknown> {
	if (typeof value !== 'object' || value === null || Array.isArray(value))
		invalidArgument(name, 'an object', value);
	return value as Record<string, unknown>;
}

function string(name: string, value: unknown): string {
	if (typeof value !== 'string') invalidArgument(name, 'a string', value);
	return value;
}

function knownKeys(name: string, value: Record<string, unknown>, keys: readonly string[]): void {
	const unknown = Object.keys(value).find((key) => !keys.includes(key));
	if (unknown !== undefined) invalidArgument(name, `an object of ${keys.join(', ')}`, unknown);
}

function wordsOf(words: PromptDomain | PromptWords): PromptWords {
	if (typeof words !== 'string') return { ...words };
	if (!Object.hasOwn(PROMPT_WORDS, words))
		invalidArgument(
			'words',
			`${Object.keys(PROMPT_WORDS).join(', ')} or an object of past, noun and verb`,
			words,
		);
	return { ...PROMPT_WORDS[words] };
}
