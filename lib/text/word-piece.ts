import { join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import { LibraryModel } from './library-model.js';
import type { TokenizerModel } from './tokenizer.js';
import { Tokenizer, WordCache } from './tokenizer.js';
import type { JsonObject, RoleTokens, TokenizerFolder } from './tokenizer-files.js';
import {
	corrupt,
	isObject,
	openTokenizerFolder,
	readAddedTokens,
	readVocabulary,
	readWrapping,
	roleIds,
	roleTokens,
	shown,
	tokensById,
} from './tokenizer-files.js';

/** What BERT does to text before it is cut into words. */
export interface BertNormalization {
	/** Drop control characters, white space becomes a space. Default true. */
	cleanText?: boolean | undefined;
	/** Spaces around each CJK ideograph. Default true. */
	spaceIdeographs?: boolean | undefined;
	/** Default true. */
	lowerCase?: boolean | undefined;
	/** Default: as `lowerCase`. */
	stripAccents?: boolean | undefined;
}

/** Least characters of a part of a text. */
const PART_LENGTH = 4096;

/**
 * BERT's normalisation, as `BertNormalizer` of `tokenizers` does it: in this order, lower case one character
 * at a time (no final sigma), with its character classes, which are those of an older Unicode.
 */
export function normalizeBert(
	text: string,
	{
		cleanText = true,
		spaceIdeographs = true,
		lowerCase = true,
		stripAccents = lowerCase,
	}: BertNormalization = {},
): string {
	if (ASCII.test(text)) {
		const clean = cleanText ? text.replace(ASCII_CONTROL, '').replace(/[\t\n\r]/g, ' ') : text;
		return lowerCase ? clean.toLowerCase() : clean;
	}
	let out = text;
	if (cleanText) out = out.replace(CONTROL, '').replace(/\p{White_Space}/gu, ' ');
	if (spaceIdeographs) out = out.replace(IDEOGRAPH, ' $& ');
	if (stripAccents) out = decompose(out).replace(ACCENT, '');
	return lowerCase ? out.replaceAll('Σ', 'σ').toLowerCase() : out;
}

/**
 * Canonical decomposition. It sorts each run of combining marks, in time quadratic in the run's length, so runs that no
 * language has are sorted in parts.
 */
function decompose(text: string): string {
	if (!LONG_MARKS.test(text)) return text.normalize('NFD');
	return (text.match(MARKED) ?? []).map((part) => part.normalize('NFD')).join('');
}

/** The words of normalised text: punctuation marks one by one, and what stands between white space and them. */
export function bertWords(normalized: string): string[] {
	return normalized.match(WORD) ?? [];
}

/** WordPiece over BERT's words: the longest piece first, `##` before those inside a word. */
export class WordPiece implements TokenizerModel {
	readonly kind = 'word-piece';
	readonly size: number;
	readonly #vocabulary: ReadonlyMap<string, number>;
	readonly #tokens: readonly (string | undefined)[];
	readonly #initial = new Map<string, number>();
	readonly #inner = new Map<string, number>();
	readonly #longest: number;
	readonly #unknownId: number;
	readonly #prefix: string;
	readonly #maxWordCharacters: number;
	readonly #normalization: BertNormalization;
	readonly #words = new WordCache();

	/**
	 * @param options.unknown token of a word that cannot be spelt. Default `[UNK]`.
	 * @param options.maxWordCharacters longer words are unknown (code points). Default 100.
	 * @param options.forbidden ids no text may become (special tokens), the unknown token apart
	 */
	constructor(
		vocabulary: ReadonlyMap<string, number>,
		{
			path = 'vocab.txt',
			unknown = '[UNK]',
			prefix = '##',
			maxWordCharacters = 100,
			normalization = {},
			forbidden = new Set(),
		}: {
			path?: string;
			unknown?: string;
			prefix?: string;
			maxWordCharacters?: number;
			normalization?: BertNormalization;
			forbidden?: ReadonlySet<number>;
		} = {},
	) {
		const unknownId = vocabulary.get(unknown);
		if (unknownId === undefined) throw corrupt(path, `its vocabulary lacks the unknown token ${unknown}`);
		this.#vocabulary = vocabulary;
		this.#tokens = tokensById(vocabulary);
		this.size = this.#tokens.length;
		this.#unknownId = unknownId;
		this.#prefix = prefix;
		this.#maxWordCharacters = maxWordCharacters;
		this.#normalization = normalization;
		let longest = 0;
		for (const [token, id] of vocabulary) {
			if (forbidden.has(id)) continue;
			this.#initial.set(token, id);
			if (token.startsWith(prefix)) this.#inner.set(token.slice(prefix.length), id);
			longest = Math.max(longest, token.length);
		}
		this.#longest = longest;
	}

	/** Words end at spaces before and after normalisation, which looks at nothing on the other side of one. */
	*parts(text: string): Generator<string> {
		for (let begin = 0; begin < text.length; ) {
			const space = text.indexOf(' ', begin + PART_LENGTH);
			const end = space < 0 ? text.length : space;
			yield text.slice(begin, end);
			begin = end;
		}
	}

	normalize(text: string): string {
		return normalizeBert(text, this.#normalization);
	}

	encode(text: string, ids: number[], limit: number): void {
		WORD.lastIndex = 0;
		for (let match = WORD.exec(text); match !== null; match = WORD.exec(text)) {
			const word = match[0];
			let known = this.#words.get(word);
			if (known === undefined) {
				known = this.#encodeWord(word);
				this.#words.set(word, known);
			}
			for (let i = 0; i < known.length; i++) ids.push(known[i]!);
			if (ids.length >= limit) break;
		}
	}

	/** Joins the pieces, with the spaces before punctuation and contractions taken out as BERT's decoder does. */
	decode(tokens: readonly string[]): string {
		let text = '';
		for (const [i, token] of tokens.entries()) {
			if (i === 0) text += cleanUp(token);
			else text += cleanUp(token.startsWith(this.#prefix) ? token.slice(this.#prefix.length) : ` ${token}`);
		}
		return text;
	}

	tokenOf(id: number): string | undefined {
		return this.#tokens[id];
	}

	idOf(token: string): number | undefined {
		return this.#vocabulary.get(token);
	}

	#encodeWord(word: string): readonly number[] {
		const unknown = [this.#unknownId];
		if (word.length > this.#maxWordCharacters && [...word].length > this.#maxWordCharacters) return unknown;
		const ids: number[] = [];
		for (let start = 0; start < word.length; ) {
			const pieces = start === 0 ? this.#initial : this.#inner;
			let end = Math.min(word.length, start + this.#longest);
			let id: number | undefined;
			while (end > start) {
				id = pieces.get(word.slice(start, end));
				if (id !== undefined) break;
				end--;
			}
			if (id === undefined) return unknown;
			ids.push(id);
			start = end;
		}
		return ids;
	}
}

function cleanUp(token: string): string {
	return token
		.replaceAll(' .', '.')
		.replaceAll(' ?', '?')
		.replaceAll(' !', '!')
		.replaceAll(' ,', ',')
		.replaceAll(" ' ", "'")
		.replaceAll(" n't", "n't")
		.replaceAll(" 'm", "'m")
		.replaceAll(' do not', " don't")
		.replaceAll(" 's", "'s")
		.replaceAll(" 've", "'ve")
		.replaceAll(" 're", "'re");
}

/**
 * The sentence encoder's tokenizer from a Hugging Face folder: `tokenizer.json`, or `vocab.txt` (WordPiece);
 * with `tokenizer_config.json` and its sisters where there.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND without the files, ERR_ALLMREC_CHECKPOINT for broken ones
 */
export async function loadSentenceTokenizer(folder: string): Promise<Tokenizer> {
	const source = await openTokenizerFolder(folder);
	return source.json ? inTurns(fromTokenizerJson(source, source.json)) : fromVocabulary(source);
}

async function fromVocabulary(source: TokenizerFolder): Promise<Tokenizer> {
	const text = await source.read('vocab.txt');
	if (text === undefined)
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The folder ${source.folder} holds no sentence encoder's tokenizer: expected tokenizer.json or vocab.txt, found neither.`,
		);
	const path = join(source.folder, 'vocab.txt');
	const lines = text.replace(/\r?\n$/, '').split(/\r?\n/);
	const vocabulary = new Map(lines.map((line, id) => [line.trimEnd(), id]));
	const roles = roleTokens(source, defaultRoles(vocabulary));
	const { config } = source;
	const normalization: BertNormalization = {
		lowerCase: config.do_lower_case !== false,
		spaceIdeographs: config.tokenize_chinese_chars !== false,
		stripAccents: typeof config.strip_accents === 'boolean' ? config.strip_accents : undefined,
	};
	const added = readAddedTokens(source, roles, vocabulary);
	const special = roleIds(roles, vocabulary, added);
	if (special.clsId === undefined || special.sepId === undefined)
		throw corrupt(path, `its vocabulary lacks ${roles.cls ?? '[CLS]'} or ${roles.sep ?? '[SEP]'}`);
	const model = new WordPiece(vocabulary, {
		path,
		unknown: roles.unk ?? '[UNK]',
		normalization,
		forbidden: new Set(added.filter((token) => token.special).map(({ id }) => id)),
	});
	return new Tokenizer({ model, added, special, prefixIds: [special.clsId], suffixIds: [special.sepId] });
}

function defaultRoles(vocabulary: ReadonlyMap<string, number>): RoleTokens {
	const roles: RoleTokens = {};
	const bert = { cls: '[CLS]', sep: '[SEP]', pad: '[PAD]', unk: '[UNK]', mask: '[MASK]' } as const;
	// MPNet's vocabulary has RoBERTa's tokens with BERT's words.
	const roberta = { cls: '<s>', sep: '</s>', pad: '<pad>', unk: '[UNK]', mask: '<mask>' } as const;
	for (const [role, token] of Object.entries(vocabulary.has('[CLS]') ? bert : roberta))
		if (vocabulary.has(token)) roles[role as keyof typeof bert] = token;
	return roles;
}

function* fromTokenizerJson(source: TokenizerFolder, json: JsonObject): Steps<Tokenizer> {
	const path = join(source.folder, 'tokenizer.json');
	if (!isObject(json.model)) throw corrupt(path, 'it has no model');
	const { model } = json;
	const { prefixIds, suffixIds } = readWrapping(json.post_processor, path);
	const normalization = bertNormalization(json);
	const isWordPiece = model.type === 'WordPiece' && normalization !== undefined;
	const vocabulary = isWordPiece ? yield* readVocabulary(model.vocab, path) : new Map<string, number>();
	const listed: unknown[] = Array.isArray(json.added_tokens) ? json.added_tokens : [];
	const contents = new Map(
		listed
			.filter(isObject)
			.map(({ id, content }) => [Number(id), typeof content === 'string' ? content : '']),
	);
	const unknown = typeof model.unk_token === 'string' ? model.unk_token : '[UNK]';
	const wrapped: RoleTokens = {};
	const [cls, sep] = [contents.get(prefixIds[0] ?? -1), contents.get(suffixIds.at(-1) ?? -1)];
	if (cls !== undefined) wrapped.cls = cls;
	if (sep !== undefined) wrapped.sep = sep;
	if (isWordPiece) wrapped.unk = unknown;
	const pad = ['[PAD]', '<pad>'].find((token) => [...contents.values()].includes(token));
	if (pad !== undefined) wrapped.pad = pad;
	const roles = roleTokens(source, { ...defaultRoles(vocabulary), ...wrapped });
	const added = readAddedTokens(source, roles, vocabulary);
	const forbidden = new Set(added.filter((token) => token.special).map(({ id }) => id));
	const longest = model.max_input_chars_per_word ?? 100;
	if (typeof longest !== 'number' || !(longest >= 1))
		throw corrupt(path, `its max_input_chars_per_word is ${shown(longest)}`);
	return new Tokenizer({
		model: isWordPiece
			? new WordPiece(vocabulary, {
					path,
					unknown,
					prefix:
						typeof model.continuing_subword_prefix === 'string' ? model.continuing_subword_prefix : '##',
					maxWordCharacters: longest,
					normalization,
					forbidden,
				})
			: new LibraryModel(json, source.config, path, forbidden),
		added,
		special: roleIds(roles, vocabulary, added),
		prefixIds,
		suffixIds,
	});
}

/** BERT's normalisation and words as a `tokenizer.json` states them, or undefined where it states others. */
function bertNormalization(json: JsonObject): BertNormalization | undefined {
	const { normalizer, pre_tokenizer: words } = json;
	if (!isObject(normalizer) || normalizer.type !== 'BertNormalizer') return undefined;
	if (!isObject(words) || words.type !== 'BertPreTokenizer') return undefined;
	return {
		cleanText: normalizer.clean_text !== false,
		spaceIdeographs: normalizer.handle_chinese_chars !== false,
		lowerCase: normalizer.lowercase !== false,
		stripAccents: typeof normalizer.strip_accents === 'boolean' ? normalizer.strip_accents : undefined,
	};
}

// Character classes of `tokenizers` 0.23, found by asking it about every code point. It keeps to tables of about
// Unicode 8, so what later versions added is taken out of JavaScript's classes.

const ASCII = /^\p{ASCII}*$/u;
const ASCII_CONTROL = /(?![\t\n\r])\p{Cc}/gu;

const CONTROL =
	/(?![\t\n\r\u{890}\u{891}\u{8e2}\u{110cd}\u{13430}-\u{1343f}])[\p{Cc}\p{Cf}\p{Co}\p{Cs}\u{fffd}]/gu;

/** The third range of the extensions begins at 2B920 (sic) there. */
const IDEOGRAPH =
	/[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]/gu;

const LATER_MARKS =
	'\u{7fd}\u{897}-\u{89f}\u{8ca}-\u{8e1}\u{9fe}\u{afa}-\u{aff}\u{b55}\u{c04}\u{c3c}\u{d00}\u{d3b}-\u{d3c}\u{d81}\u{eba}\u{ece}\u{180f}\u{1885}-\u{1886}\u{1abf}-\u{1add}\u{1ae0}-\u{1aeb}\u{1df6}-\u{1dfb}\u{a82c}\u{a8c5}\u{a8ff}\u{a9bd}\u{10d24}-\u{10d27}\u{10d69}-\u{10d6d}\u{10eab}-\u{10eac}\u{10efa}-\u{10eff}\u{10f46}-\u{10f50}\u{10f82}-\u{10f85}\u{11070}\u{11073}-\u{11074}\u{110c2}\u{111c9}\u{111cf}\u{1123e}\u{11241}\u{1133b}\u{113bb}-\u{113c0}\u{113ce}\u{113d0}\u{113d2}\u{113e1}-\u{113e2}\u{11438}-\u{1143f}\u{11442}-\u{11444}\u{11446}\u{1145e}\u{1182f}-\u{11837}\u{11839}-\u{1183a}\u{1193b}-\u{1193c}\u{1193e}\u{11943}\u{119d4}-\u{119d7}\u{119da}-\u{119db}\u{119e0}\u{11a01}-\u{11a0a}\u{11a33}-\u{11a38}\u{11a3b}-\u{11a3e}\u{11a47}\u{11a51}-\u{11a56}\u{11a59}-\u{11a5b}\u{11a8a}-\u{11a96}\u{11a98}-\u{11a99}\u{11b60}\u{11b62}-\u{11b64}\u{11b66}\u{11c30}-\u{11c36}\u{11c38}-\u{11c3d}\u{11c3f}\u{11c92}-\u{11ca7}\u{11caa}-\u{11cb0}\u{11cb2}-\u{11cb3}\u{11cb5}-\u{11cb6}\u{11d31}-\u{11d36}\u{11d3a}\u{11d3c}-\u{11d3d}\u{11d3f}-\u{11d45}\u{11d47}\u{11d90}-\u{11d91}\u{11d95}\u{11d97}\u{11ef3}-\u{11ef4}\u{11f00}-\u{11f01}\u{11f36}-\u{11f3a}\u{11f40}\u{11f42}\u{11f5a}\u{13440}\u{13447}-\u{13455}\u{1611e}-\u{16129}\u{1612d}-\u{1612f}\u{16f4f}\u{16fe4}\u{1cf00}-\u{1cf2d}\u{1cf30}-\u{1cf46}\u{1e000}-\u{1e006}\u{1e008}-\u{1e018}\u{1e01b}-\u{1e021}\u{1e023}-\u{1e024}\u{1e026}-\u{1e02a}\u{1e08f}\u{1e130}-\u{1e136}\u{1e2ae}\u{1e2ec}-\u{1e2ef}\u{1e4ec}-\u{1e4ef}\u{1e5ee}-\u{1e5ef}\u{1e6e3}\u{1e6e6}\u{1e6ee}-\u{1e6ef}\u{1e6f5}\u{1e944}-\u{1e94a}';
const ACCENT = new RegExp(`[[\\p{Mn}\u{1734}\u{1171e}]--[${LATER_MARKS}]]`, 'gv');

/** Unicode's Stream-Safe Text Format allows 30 marks in a row. */
const LONG_MARKS = /\p{M}{129}/u;
const MARKED = /\P{M}+\p{M}{0,128}|\p{M}{1,128}/gu;

const LATER_PUNCTUATION =
	'\u{61d}\u{9fd}\u{a76}\u{c77}\u{c84}\u{1b4e}-\u{1b4f}\u{1b7d}-\u{1b7f}\u{2e43}-\u{2e4f}\u{2e52}-\u{2e5d}\u{10d6e}\u{10ead}\u{10ed0}\u{10f55}-\u{10f59}\u{10f86}-\u{10f89}\u{113d4}-\u{113d5}\u{113d7}-\u{113d8}\u{1144b}-\u{1144f}\u{1145a}-\u{1145b}\u{1145d}\u{11660}-\u{1166c}\u{116b9}\u{1183b}\u{11944}-\u{11946}\u{119e2}\u{11a3f}-\u{11a46}\u{11a9a}-\u{11a9c}\u{11a9e}-\u{11aa2}\u{11b00}-\u{11b09}\u{11be1}\u{11c41}-\u{11c45}\u{11c70}-\u{11c71}\u{11ef7}-\u{11ef8}\u{11f43}-\u{11f4f}\u{11fff}\u{12ff1}-\u{12ff2}\u{16d6d}-\u{16d6f}\u{16e97}-\u{16e9a}\u{16fe2}\u{1e5ff}\u{1e95e}-\u{1e95f}';
const PUNCTUATION = `[[\\p{P}$+<=>^\`\\|~\u{166d}\u{111c9}]--[${LATER_PUNCTUATION}]]`;
/** One punctuation mark, or a run of what is neither white space nor punctuation. */
const WORD = new RegExp(`${PUNCTUATION}|[^\\p{White_Space}${PUNCTUATION}]+`, 'gv');
