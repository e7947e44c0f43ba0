import { readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import { parseJson } from '../json.js';

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
		const bytes = await readOptional(join(folder, name));
		return bytes && parseObject(bytes, join(folder, name));
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
		read: async (name) => (await readOptional(join(folder, name)))?.toString('utf8'),
		readObject,
	};
}

async function readOptional(path: string): Promise<Buffer | undefined> {
	try {
		return await readFile(path);
	} catch (cause) {
		const code = (cause as NodeJS.ErrnoException).code;
		if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
		throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} cannot be read.`, { cause });
	}
}

/** Parses a JSON object or says which file is not one. */
async function parseObject(bytes: Buffer, path: string): Promise<JsonObject | ReadonlyMap<string, unknown>> {
	const hasMark = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
	let value: unknown;
	try {
		value = await inTurns(parseJson(hasMark ? bytes.subarray(3) : bytes, { maps: true }));
	} catch (cause) {
		throw corrupt(path, `it is not valid JSON (${bytes.length} bytes; a broken download?)`, cause);
	}
	if (value instanceof Map) return value as ReadonlyMap<string, unknown>;
	if (!isObject(value)) throw corrupt(path, 'its top level is not an object');
	return value;
}

/** ERR_ALLMREC_CHECKPOINT: *`path` cannot be used: …*. */
export function corrupt(path: string, reason: string, cause?: unknown): ALLMRecError {
	return new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} cannot be used: ${reason}.`, { cause });
}

export function isObject(value: unknown): value is JsonObject {
	return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A vocabulary object (token → id) with every id checked. */
export function* readVocabulary(value: unknown, path: string): Steps<Map<string, number>> {
	if (!isObject(value)) throw corrupt(path, 'its vocabulary is not an object of token → id');
	const vocabulary = new Map<string, number>();
	const entries: Iterable<[string, unknown]> = value instanceof Map ? value : Object.entries(value);
	for (const [token, id] of entries) {
		if (!isTokenId(id))
			throw corrupt(path, `token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}`);
		vocabulary.set(token, id);
		if (vocabulary.size % 1024 === 0) yield;
	}
	if (vocabulary.size === 0) throw corrupt(path, 'its vocabulary is empty');
	return vocabulary;
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
			throw corrupt(join(source.folder, path), `the added token ${JSON.stringify(value)} has the id ${id}`);
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
	if (Array.isArray(source.json?.added_tokens))
		for (const token of source.json.added_tokens) add(token, (token as JsonObject)?.id, 'tokenizer.json');
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
			for (const piece of processor.single as JsonObject[]) {
				if (isObject(piece.Sequence)) into = wrapping.suffixIds;
				if (!isObject(piece.SpecialToken)) continue;
				const token = processor.special_tokens[String(piece.SpecialToken.id)];
				if (!isObject(token) || !Array.isArray(token.ids) || !token.ids.every(isTokenId))
					throw corrupt(path, `its post_processor names ${piece.SpecialToken.id} without ids`);
				into.push(...(token.ids as number[]));
			}
			return wrapping;
		}
		case 'Sequence':
			if (Array.isArray(processor.processors)) {
				const all = processor.processors.map((one) => readWrapping(one, path));
				return all.find(({ prefixIds, suffixIds }) => prefixIds.length + suffixIds.length > 0) ?? all[0]!;
			}
	}
	throw corrupt(path, `its post_processor of type ${JSON.stringify(processor.type)} is not understood`);
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
