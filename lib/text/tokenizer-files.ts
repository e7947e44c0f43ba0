import { stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import type { Steps } from '../event-loop.js';
import { type FileRules, tryReadText, tryReadValue, unusable, VOCABULARY_BYTES } from '../files/read.js';

/** A token matched in text as a whole, before the model sees it (Hugging Face's `AddedToken`). */
export interface AddedToken {
	id: number;
	content: string;
	/** Left out by `decode`, and never produced from data. */
	special: boolean;
	/** Match only where no word character stands beside it. */
	singleWord: boolean;
	/** Take in the white space before / after. */
	lstrip: boolean;
	rstrip: boolean;
	/** Look for it in normalised text instead of raw text. */
	normalized: boolean;
}

export type JsonObject = { [key: string]: unknown };

/** What a folder's tokenizer files say, read and checked as far as JSON goes. */
export interface TokenizerFolder {
	readonly folder: string;
	/** `tokenizer.json` */
	readonly json: JsonObject | undefined;
	/** `tokenizer_config.json`, laid over `special_tokens_map.json`. */
	readonly config: JsonObject;
	/** `added_tokens.json`: content → id. */
	readonly added: JsonObject;
	/** Text of a further file, or undefined where there is none. */
	read(name: string): Promise<string | undefined>;
	/** A further file that is a JSON object: large ones are maps. */
	readObject(name: string): Promise<JsonObject | ReadonlyMap<string, unknown> | undefined>;
}

const ROLES = ['bos', 'eos', 'pad', 'unk', 'cls', 'sep', 'mask'] as const;
export type Role = (typeof ROLES)[number];
/** Tokens (strings) by role. */
export type RoleTokens = Partial<Record<Role, string>>;

/**
 * @throws ERR_ALLMREC_FILE_NOT_FOUND without the folder; ERR_ALLMREC_CHECKPOINT for broken JSON
 */
export async function openTokenizerFolder(folder: string): Promise<TokenizerFolder> {
	const info = await stat(folder).catch((cause: unknown) => {
		throw new ALLMRecError('ERR_ALLMREC_FILE_NOT_FOUND', `The tokenizer folder ${folder} does not exist.`, {
			cause,
		});
	});
	if (!info.isDirectory())
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`Expected ${folder} to be the folder that holds ${basename(folder)} and its sisters, it is a file.`,
		);
	const readObject = async (name: string) => {
		const path = join(folder, name);
		const value = await tryReadValue(path, RULES, { maps: true });
		if (value === undefined || value instanceof Map) return value as ReadonlyMap<string, unknown> | undefined;
		if (!isObject(value)) throw corrupt(path, 'its top level is not an object');
		return value;
	};
	const [json, config, special, added] = await Promise.all(
		['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'].map(
			async (name) => {
				const object = await readObject(name);
				return object instanceof Map
					? (Object.fromEntries(object) as JsonObject)
					: (object as JsonObject | undefined);
			},
		),
	);
	return {
		folder,
		json,
		config: { ...special, ...config },
		added: added ?? {},
		read: (name) => tryReadText(join(folder, name), RULES),
		readObject,
	};
}

/** Of a tokenizer's files. */
const RULES: FileRules = {
	code: 'ERR_ALLMREC_CHECKPOINT',
	missing: 'ERR_ALLMREC_CHECKPOINT',
	limit: VOCABULARY_BYTES,
	remedy: 'download the checkpoint again',
};

/** ERR_ALLMREC_CHECKPOINT: *`path` cannot be used: …*. */
export function corrupt(path: string, reason: string, cause?: unknown): ALLMRecError {
	return unusable(path, reason, RULES, cause);
}

export function isObject(value: unknown): value is JsonObject {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Ids that a vocabulary may leave out, for tables are made for all of them. */
const MAX_HOLES = 1 << 16;

/** A vocabulary object (token → id) with every id checked. */
export function* readVocabulary(value: unknown, path: string): Steps<Map<string, number>> {
	if (!isObject(value)) throw corrupt(path, 'its vocabulary is not an object of token → id');
	const entries: [string, unknown][] = value instanceof Map ? [...value] : Object.entries(value);
	if (entries.length === 0) throw corrupt(path, 'its vocabulary is empty');
	const vocabulary = new Map<string, number>();
	const taken = new Uint8Array(entries.length + MAX_HOLES);
	for (const [token, id] of entries) {
		if (!isTokenId(id) || id >= taken.length || taken[id] === 1) {
			const reason = isTokenId(id) && taken[id] === 1 ? ', which another has too' : '';
			throw corrupt(path, `token ${shown(token)} has the id ${shown(id)}${reason}`);
		}
		taken[id] = 1;
		vocabulary.set(token, id);
		if (vocabulary.size % 1024 === 0) yield;
	}
	return vocabulary;
}

/** A value as messages show it. */
export function shown(value: unknown): string {
	const text = JSON.stringify(value) ?? 'nothing';
	return text.length <= 100 ? text : `${text.slice(0, 100)}…`;
}

function isTokenId(id: unknown): id is number {
	return typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 1 << 24;
}

/** Tokens by id; ids nobody has are holes. */
export function tokensById(vocabulary: ReadonlyMap<string, number>): (string | undefined)[] {
	let size = 0;
	for (const id of vocabulary.values()) size = Math.max(size, id + 1);
	const tokens = new Array<string | undefined>(size).fill(undefined);
	for (const [token, id] of vocabulary) tokens[id] = token;
	return tokens;
}

/** The role tokens the config files name, over `defaults`. */
export function roleTokens({ config }: TokenizerFolder, defaults: RoleTokens = {}): RoleTokens {
	const roles: RoleTokens = { ...defaults };
	for (const role of ROLES) {
		const named = config[`${role}_token`];
		const content = isObject(named) ? named.content : named;
		if (typeof content === 'string') roles[role] = content;
	}
	return roles;
}

/**
 * The added tokens of a folder: those of `tokenizer.json`, `tokenizer_config.json` (`added_tokens_decoder`)
 * and `added_tokens.json`, then the role tokens, which are special. Of two that share a content the first counts.
 */
export function readAddedTokens(
	source: TokenizerFolder,
	roles: RoleTokens,
	vocabulary: ReadonlyMap<string, number>,
): AddedToken[] {
	const tokens = new Map<string, AddedToken>();
	const roleContents = new Set(Object.values(roles));
	const add = (value: unknown, id: unknown, path: string) => {
		const from: JsonObject = isObject(value) ? value : { content: value };
		const content = from.content;
		if (typeof content !== 'string' || content === '' || !isTokenId(id))
			throw corrupt(join(source.folder, path), `the added token ${shown(value)} has the id ${shown(id)}`);
		if (tokens.has(content)) return;
		const special = from.special === true || roleContents.has(content);
		tokens.set(content, {
			id,
			content,
			special,
			singleWord: from.single_word === true,
			lstrip: from.lstrip === true,
			rstrip: from.rstrip === true,
			normalized: from.normalized === true || (from.normalized === undefined && !special),
		});
	};
	const listed = source.json?.added_tokens ?? [];
	if (!Array.isArray(listed))
		throw corrupt(join(source.folder, 'tokenizer.json'), 'its added_tokens are not a list');
	for (const token of listed) add(token, (token as JsonObject | null)?.id, 'tokenizer.json');
	const decoder = source.config.added_tokens_decoder;
	if (isObject(decoder))
		for (const [id, token] of Object.entries(decoder)) add(token, Number(id), 'tokenizer_config.json');
	for (const [content, id] of Object.entries(source.added)) add(content, id, 'added_tokens.json');
	for (const content of roleContents) {
		const id = vocabulary.get(content);
		if (id !== undefined) add({ content, special: true }, id, 'tokenizer_config.json');
	}
	return [...tokens.values()];
}

/** Ids of the role tokens that exist. */
export function roleIds(
	roles: RoleTokens,
	vocabulary: ReadonlyMap<string, number>,
	added: readonly AddedToken[],
): Partial<Record<`${Role}Id`, number>> {
	const ids: Partial<Record<`${Role}Id`, number>> = {};
	for (const role of ROLES) {
		const content = roles[role];
		if (content === undefined) continue;
		const id = added.find((token) => token.content === content)?.id ?? vocabulary.get(content);
		if (id !== undefined) ids[`${role}Id`] = id;
	}
	return ids;
}

/** Ids before and after one sequence, from `tokenizer.json`'s post-processor. */
export function readWrapping(
	processor: unknown,
	path: string,
): { prefixIds: number[]; suffixIds: number[]; cls?: string; sep?: string } {
	if (!isObject(processor)) return { prefixIds: [], suffixIds: [] };
	switch (processor.type) {
		case 'ByteLevel':
			return { prefixIds: [], suffixIds: [] };
		case 'BertProcessing':
		case 'RobertaProcessing': {
			const [cls, sep] = [processor.cls, processor.sep] as [unknown, unknown];
			if (Array.isArray(cls) && Array.isArray(sep) && isTokenId(cls[1]) && isTokenId(sep[1]))
				return { prefixIds: [cls[1]], suffixIds: [sep[1]], cls: String(cls[0]), sep: String(sep[0]) };
			break;
		}
		case 'TemplateProcessing': {
			if (!Array.isArray(processor.single) || !isObject(processor.special_tokens)) break;
			const wrapping = { prefixIds: [] as number[], suffixIds: [] as number[] };
			let into = wrapping.prefixIds;
			for (const piece of processor.single as unknown[]) {
				if (!isObject(piece)) throw corrupt(path, `its post_processor has the piece ${shown(piece)}`);
				if (isObject(piece.Sequence)) into = wrapping.suffixIds;
				if (!isObject(piece.SpecialToken)) continue;
				const { id } = piece.SpecialToken;
				const token =
					typeof id === 'string' && Object.hasOwn(processor.special_tokens, id)
						? processor.special_tokens[id]
						: undefined;
				if (!isObject(token) || !Array.isArray(token.ids) || !token.ids.every(isTokenId))
					throw corrupt(path, `its post_processor names ${shown(id)} without ids`);
				into.push(...(token.ids as number[]));
			}
			return wrapping;
		}
		case 'Sequence':
			if (Array.isArray(processor.processors)) {
				const all = processor.processors.map((one) => readWrapping(one, path));
				const wraps = all.find(({ prefixIds, suffixIds }) => prefixIds.length + suffixIds.length > 0);
				return wraps ?? { prefixIds: [], suffixIds: [] };
			}
	}
	throw corrupt(path, `its post_processor of type ${shown(processor.type)} is not understood`);
}

/** Cuts text at added tokens, longest first; what lies between is normalised text. */
export class AddedTokenSplitter {
	readonly #raw: Matcher | undefined;
	readonly #normalized: Matcher | undefined;
	readonly #normalize: (text: string) => string;

	constructor(tokens: readonly AddedToken[], normalize: (text: string) => string) {
		const raw = tokens.filter(({ normalized }) => !normalized);
		const late = tokens.filter(({ normalized }) => normalized);
		this.#normalize = normalize;
		this.#raw = matcher(raw.map((token) => [token.content, token]));
		this.#normalized = matcher(late.map((token) => [normalize(token.content), token]));
	}

	split(text: string): (string | AddedToken)[] {
		return cut(text, this.#raw).flatMap((section) =>
			typeof section === 'string' ? cut(this.#normalize(section), this.#normalized) : [section],
		);
	}
}

interface Matcher {
	pattern: RegExp;
	tokens: Map<string, AddedToken>;
}

function matcher(entries: [string, AddedToken][]): Matcher | undefined {
	const tokens = new Map(entries.filter(([content]) => content !== ''));
	if (tokens.size === 0) return undefined;
	const contents = [...tokens.keys()].sort((a, b) => b.length - a.length);
	const pattern = new RegExp(
		contents.map((text) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')).join('|'),
		'gu',
	);
	return { pattern, tokens };
}

const WORD = '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]';
const WORD_BEFORE = new RegExp(`${WORD}$`, 'u');
const WORD_AFTER = new RegExp(`^${WORD}`, 'u');

function cut(text: string, found: Matcher | undefined): (string | AddedToken)[] {
	if (!found || text === '') return text === '' ? [] : [text];
	const sections: (string | AddedToken)[] = [];
	let end = 0;
	for (const match of text.matchAll(found.pattern)) {
		const token = found.tokens.get(match[0])!;
		let start = match.index;
		let stop = start + match[0].length;
		if (start < end) continue;
		if (token.singleWord && (WORD_BEFORE.test(text.slice(0, start)) || WORD_AFTER.test(text.slice(stop))))
			continue;
		if (token.lstrip) while (start > end && /\p{White_Space}/u.test(text[start - 1]!)) start--;
		if (token.rstrip) while (stop < text.length && /\p{White_Space}/u.test(text[stop]!)) stop++;
		if (start > end) sections.push(text.slice(end, start));
		sections.push(token);
		end = stop;
	}
	if (end < text.length) sections.push(text.slice(end));
	return sections;
}
