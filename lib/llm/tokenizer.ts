import { join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import { atOnce, inTurns, type Steps } from '../event-loop.js';
import type { TokenizerModel } from '../text/tokenizer.js';
import { Tokenizer, WordCache } from '../text/tokenizer.js';
import {
	type AddedToken,
	corrupt,
	isObject,
	type JsonObject,
	openTokenizerFolder,
	type RoleTokens,
	readAddedTokens,
	readVocabulary,
	readWrapping,
	roleIds,
	roleTokens,
	shown,
	type TokenizerFolder,
	tokensById,
} from '../text/tokenizer-files.js';

/** GPT-2's pre-tokenisation; `\s` is spelt out because JavaScript's differs (it holds U+FEFF, lacks U+0085). */
export const GPT2_PATTERN =
	/'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** GPT-2's alphabet: a printable character for each byte (256). */
export const BYTE_CHARACTERS: readonly string[] = (() => {
	let next = 256;
	return Array.from({ length: 256 }, (_, byte) => {
		const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
		return String.fromCharCode(printable ? byte : next++);
	});
})();
const BYTE_OF = new Map(BYTE_CHARACTERS.map((character, byte) => [character, byte]));

/** Characters of a word that are read beyond those its wanted ids can cover. */
const LOOK_AHEAD = 1024;
/** Above so many symbols a heap finds the next merge, so that a word of n symbols costs n log n. */
const SCAN_SYMBOLS = 48;

const utf8 = new TextEncoder();

/** The bytes of text a token of a byte-level vocabulary stands for: a part of a character may be all of them. */
export function byteLevelBytes(token: string): Uint8Array {
	const bytes: number[] = [];
	for (const character of token) {
		const byte = BYTE_OF.get(character);
		// An added token with characters outside the alphabet stands for itself.
		if (byte === undefined) return utf8.encode(token);
		bytes.push(byte);
	}
	return Uint8Array.from(bytes);
}

/** Options of {@link ByteLevelBpe}. */
export interface ByteLevelBpeOptions {
	/** For messages. Default `merges.txt`. */
	path?: string | undefined;
	/** Default false. */
	addPrefixSpace?: boolean | undefined;
	forbidden?: ReadonlySet<number> | undefined;
	/** Merges are learned by {@link ByteLevelBpe.make}. */
	inSteps?: boolean | undefined;
}

/** Byte-level byte-pair encoding, as GPT-2 and OPT use it. */
export class ByteLevelBpe implements TokenizerModel {
	readonly kind = 'byte-level-bpe';
	readonly size: number;
	readonly #vocabulary: ReadonlyMap<string, number>;
	readonly #tokens: readonly (string | undefined)[];
	readonly #addPrefixSpace: boolean;
	readonly #byteIds: Int32Array;
	/** left · size + right → rank */
	readonly #ranks = new Map<number, number>();
	readonly #merged: Int32Array;
	/** Longest token, in characters. */
	readonly #longest: number;
	readonly #words = new WordCache();

	/**
	 * @param merges pairs in order of rank
	 * @param forbidden ids no text may become (special tokens); merges that end in one are ignored, and a byte that is
	 * one is dropped
	 * @throws ERR_ALLMREC_CHECKPOINT when a merge names a token the vocabulary lacks
	 */
	constructor(
		vocabulary: ReadonlyMap<string, number>,
		merges: readonly (readonly [string, string])[],
		options: ByteLevelBpeOptions = {},
	) {
		const { addPrefixSpace = false, forbidden = new Set() } = options;
		this.#vocabulary = vocabulary;
		this.#tokens = tokensById(vocabulary);
		this.size = this.#tokens.length;
		this.#addPrefixSpace = addPrefixSpace;
		// A byte outside the alphabet is dropped, as `tokenizers` does without an unknown token.
		this.#byteIds = Int32Array.from(BYTE_CHARACTERS, (character) => {
			const id = vocabulary.get(character) ?? -1;
			return forbidden.has(id) ? -1 : id;
		});
		this.#longest = this.#tokens.reduce((most, token) => Math.max(most, token?.length ?? 0), 1);
		this.#merged = new Int32Array(merges.length);
		if (!options.inSteps) atOnce(this.#learn(merges, options));
	}

	/** The constructor's work in steps. */
	static *make(
		vocabulary: ReadonlyMap<string, number>,
		merges: readonly (readonly [string, string])[],
		options: ByteLevelBpeOptions,
	): Steps<ByteLevelBpe> {
		const model = new ByteLevelBpe(vocabulary, merges, { ...options, inSteps: true });
		yield;
		yield* model.#learn(merges, options);
		return model;
	}

	*#learn(
		merges: readonly (readonly [string, string])[],
		{ path = 'merges.txt', forbidden = new Set() }: ByteLevelBpeOptions,
	): Steps<void> {
		const vocabulary = this.#vocabulary;
		for (const [rank, [left, right]] of merges.entries()) {
			if (rank % 512 === 511) yield;
			const [a, b, ab] = [vocabulary.get(left), vocabulary.get(right), vocabulary.get(left + right)];
			if (a === undefined || b === undefined || ab === undefined) {
				const missing = a === undefined ? left : b === undefined ? right : left + right;
				throw corrupt(
					path,
					`merge ${rank} (${left} ${right}) needs ${missing}, which is not in the vocabulary`,
				);
			}
			if (forbidden.has(ab)) continue;
			this.#ranks.set(a * this.size + b, rank);
			this.#merged[rank] = ab;
		}
	}

	normalize(text: string): string {
		return text;
	}

	encode(text: string, ids: number[], limit: number): void {
		const source = this.#addPrefixSpace && !text.startsWith(' ') ? ` ${text}` : text;
		GPT2_PATTERN.lastIndex = 0;
		for (let match = GPT2_PATTERN.exec(source); match !== null; match = GPT2_PATTERN.exec(source)) {
			const known = this.#words.get(match[0]) ?? this.#encodeNewWord(match[0], limit - ids.length);
			for (let i = 0; i < known.length; i++) ids.push(known[i]!);
			if (ids.length >= limit) break;
		}
	}

	decode(tokens: readonly string[]): string {
		const bytes = Buffer.concat(tokens.map(byteLevelBytes));
		return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
	}

	tokenOf(id: number): string | undefined {
		return this.#tokens[id];
	}

	idOf(token: string): number | undefined {
		return this.#vocabulary.get(token);
	}

	/** @param limit only so many ids are wanted */
	#encodeNewWord(word: string, limit: number): readonly number[] {
		// What the wanted ids can cover, and so far beyond that no chain of merges reaches back.
		const enough = limit * this.#longest + LOOK_AHEAD;
		if (word.length > enough) return this.#encodeWord(word.slice(0, enough));
		const ids = this.#encodeWord(word);
		this.#words.set(word, ids);
		return ids;
	}

	#encodeWord(word: string): number[] {
		const symbols: number[] = [];
		for (const byte of utf8.encode(word)) {
			const id = this.#byteIds[byte]!;
			if (id >= 0) symbols.push(id);
		}
		return symbols.length > SCAN_SYMBOLS ? this.#mergeByHeap(symbols) : this.#mergeByScan(symbols);
	}

	#rank(left: number, right: number): number {
		return this.#ranks.get(left * this.size + right) ?? -1;
	}

	/** The lowest rank first, the leftmost of equals, one merge at a time. */
	#mergeByScan(symbols: number[]): number[] {
		const ranks = symbols.map((id, i) => (i + 1 < symbols.length ? this.#rank(id, symbols[i + 1]!) : -1));
		for (;;) {
			let at = -1;
			for (let i = 0; i + 1 < symbols.length; i++)
				if (ranks[i]! >= 0 && (at < 0 || ranks[i]! < ranks[at]!)) at = i;
			if (at < 0) return symbols;
			symbols[at] = this.#merged[ranks[at]!]!;
			symbols.splice(at + 1, 1);
			ranks.splice(at + 1, 1);
			ranks[at] = at + 1 < symbols.length ? this.#rank(symbols[at]!, symbols[at + 1]!) : -1;
			if (at > 0) ranks[at - 1] = this.#rank(symbols[at - 1]!, symbols[at]!);
		}
	}

	/** The same result from a heap of `rank · 2^31 + position` over a linked list. */
	#mergeByHeap(symbols: number[]): number[] {
		const count = symbols.length;
		const ids = Int32Array.from(symbols);
		const next = Int32Array.from(symbols, (_, i) => (i + 1 < count ? i + 1 : -1));
		const previous = Int32Array.from(symbols, (_, i) => i - 1);
		const heap = new NumberHeap();
		const offer = (at: number) => {
			if (at < 0 || next[at]! < 0) return;
			const rank = this.#rank(ids[at]!, ids[next[at]!]!);
			if (rank >= 0) heap.push(rank * 2 ** 31 + at);
		};
		for (let i = 0; i < count; i++) offer(i);
		while (heap.size > 0) {
			const entry = heap.pop();
			const rank = Math.floor(entry / 2 ** 31);
			const at = entry - rank * 2 ** 31;
			// Stale when the symbol was merged away (−1) or has another neighbour by now.
			if (ids[at]! < 0 || next[at]! < 0 || this.#rank(ids[at]!, ids[next[at]!]!) !== rank) continue;
			const gone = next[at]!;
			ids[at] = this.#merged[rank]!;
			ids[gone] = -1;
			next[at] = next[gone]!;
			if (next[at]! >= 0) previous[next[at]!] = at;
			offer(at);
			offer(previous[at]!);
		}
		return Array.from(ids.filter((id) => id >= 0));
	}
}

/** A binary heap of numbers, the least on top. */
class NumberHeap {
	readonly #items: number[] = [];

	get size(): number {
		return this.#items.length;
	}

	push(item: number): void {
		const items = this.#items;
		let at = items.length;
		items.push(item);
		while (at > 0) {
			const parent = (at - 1) >> 1;
			if (items[parent]! <= item) break;
			items[at] = items[parent]!;
			at = parent;
		}
		items[at] = item;
	}

	pop(): number {
		const items = this.#items;
		const top = items[0]!;
		const last = items.pop()!;
		let at = 0;
		for (;;) {
			let child = 2 * at + 1;
			if (child >= items.length) break;
			if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
			if (items[child]! >= last) break;
			items[at] = items[child]!;
			at = child;
		}
		if (items.length > 0) items[at] = last;
		return top;
	}
}

/**
 * The language model's tokenizer from a Hugging Face folder: `tokenizer.json`, or `vocab.json` and `merges.txt`;
 * with `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where there. A bare
 * `vocab.json` + `merges.txt` in OPT's layout gets OPT's roles: BOS = EOS = `</s>`, padding `<pad>`.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND without the files, ERR_ALLMREC_CHECKPOINT for broken ones or without BOS and
 * EOS, ERR_ALLMREC_UNSUPPORTED for another algorithm
 */
export async function loadLanguageTokenizer(folder: string): Promise<Tokenizer> {
	const source = await openTokenizerFolder(folder);
	const tokenizer = await (source.json
		? inTurns(fromTokenizerJson(source, source.json))
		: fromVocabulary(source));
	if (tokenizer.bosId === undefined || tokenizer.eosId === undefined)
		throw corrupt(folder, 'its tokenizer files name no bos_token and eos_token, which prompts need');
	return tokenizer;
}

function* fromTokenizerJson(source: TokenizerFolder, json: JsonObject): Steps<Tokenizer> {
	const path = join(source.folder, 'tokenizer.json');
	const model = isObject(json.model) ? json.model : {};
	const addPrefixSpace = requireByteLevel(json, model, path);
	const vocabulary = yield* readVocabulary(model.vocab, path);
	const wrapping = readWrapping(json.post_processor, path);
	return yield* assemble(source, vocabulary, yield* readMerges(model.merges, path), {
		path,
		addPrefixSpace,
		prefixIds: () => wrapping.prefixIds,
		suffixIds: wrapping.suffixIds,
	});
}

async function fromVocabulary(source: TokenizerFolder): Promise<Tokenizer> {
	const [listed, mergesText] = await Promise.all([
		source.readObject('vocab.json'),
		source.read('merges.txt'),
	]);
	if (listed === undefined || mergesText === undefined) {
		const found =
			listed === undefined ? (mergesText === undefined ? 'none of them' : 'merges.txt') : 'vocab.json';
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The folder ${source.folder} holds no language model's tokenizer: expected tokenizer.json, or vocab.json together with merges.txt; found ${found}.`,
		);
	}
	const vocabulary = await inTurns(readVocabulary(listed, join(source.folder, 'vocab.json')));
	const lines = mergesText.split(/\r?\n/).filter((line) => line !== '' && !line.startsWith('#version'));
	const addBos = source.config.add_bos_token;
	const path = join(source.folder, 'merges.txt');
	const merges = await inTurns(readMerges(lines, path));
	return inTurns(
		assemble(source, vocabulary, merges, {
			path,
			addPrefixSpace: source.config.add_prefix_space === true,
			prefixIds: (bosId) =>
				bosId !== undefined && (addBos ?? isOptLayout(vocabulary)) === true ? [bosId] : [],
			suffixIds: [],
		}),
	);
}

function isOptLayout(vocabulary: ReadonlyMap<string, number>): boolean {
	return vocabulary.get('<pad>') === 1 && vocabulary.get('</s>') === 2;
}

const OPT_SPECIALS = ['<s>', '<pad>', '</s>', '<unk>', '<mask>'];

function* assemble(
	source: TokenizerFolder,
	vocabulary: ReadonlyMap<string, number>,
	merges: [string, string][],
	options: {
		path: string;
		addPrefixSpace: boolean;
		prefixIds: (bosId: number | undefined) => number[];
		suffixIds: number[];
	},
): Steps<Tokenizer> {
	const roles = roleTokens(source, defaultRoles(vocabulary));
	const added = readAddedTokens(source, roles, vocabulary);
	const special = roleIds(roles, vocabulary, added);
	const forbidden = new Set(added.filter((token) => token.special).map(({ id }) => id));
	// A bare vocabulary lists OPT's other special tokens as words.
	if (isOptLayout(vocabulary)) for (const token of OPT_SPECIALS) forbidden.add(vocabulary.get(token) ?? -1);
	const { path, addPrefixSpace, suffixIds } = options;
	expectMerged(vocabulary, merges, added, path);
	const model = yield* ByteLevelBpe.make(vocabulary, merges, { path, addPrefixSpace, forbidden });
	return new Tokenizer({ model, added, special, prefixIds: options.prefixIds(special.bosId), suffixIds });
}

/**
 * Byte-pair encoding makes a token a merge, so a vocabulary with tokens that none makes has lost merges, and text
 * would silently come apart into smaller pieces.
 *
 * @throws ERR_ALLMREC_CHECKPOINT
 */
function expectMerged(
	vocabulary: ReadonlyMap<string, number>,
	merges: readonly (readonly [string, string])[],
	added: readonly AddedToken[],
	path: string,
): void {
	const made = new Set(merges.map(([left, right]) => left + right));
	for (const { content } of added) made.add(content);
	let missing = 0;
	for (const token of vocabulary.keys())
		if (!made.has(token) && !BYTE_OF.has(token) && byteLevelBytes(token).length > 1) missing++;
	if (missing > UNMERGED_TOKENS + vocabulary.size / 100)
		throw corrupt(
			path,
			`its merges do not make ${missing} of the ${vocabulary.size} tokens; they are cut off`,
		);
}

/** Placeholders that vocabularies hold beside what they learned, beyond one in a hundred. */
const UNMERGED_TOKENS = 16;

function defaultRoles(vocabulary: ReadonlyMap<string, number>): RoleTokens {
	if (isOptLayout(vocabulary)) return { bos: '</s>', eos: '</s>', unk: '</s>', pad: '<pad>' };
	const end = '<|endoftext|>';
	return vocabulary.has(end) ? { bos: end, eos: end, unk: end } : {};
}

/** Merges as lines `a b` or as pairs. */
function* readMerges(value: unknown, path: string): Steps<[string, string][]> {
	if (!Array.isArray(value)) throw corrupt(path, 'its merges are not a list');
	const merges: [string, string][] = [];
	for (const [i, merge] of (value as unknown[]).entries()) {
		if (i % 1024 === 1023) yield;
		const pair = typeof merge === 'string' ? merge.split(' ') : merge;
		if (
			Array.isArray(pair) &&
			pair.length === 2 &&
			pair.every((part) => typeof part === 'string' && part !== '')
		) {
			merges.push(pair as [string, string]);
			continue;
		}
		throw corrupt(path, `merge ${i} is ${shown(merge)}, not two tokens`);
	}
	return merges;
}

/** Checks that the file asks for nothing {@link ByteLevelBpe} does not do; returns `add_prefix_space`. */
function requireByteLevel(json: JsonObject, model: JsonObject, path: string): boolean {
	const unsupported = (what: string): never => {
		throw new ALLMRecError(
			'ERR_ALLMREC_UNSUPPORTED',
			`${path} asks for ${what}; language models are read with GPT-2's byte-level BPE, as the OPT family has it.`,
		);
	};
	if (model.type !== 'BPE') unsupported(`a ${JSON.stringify(model.type)} model`);
	if (json.normalizer) unsupported('a normalizer');
	for (const key of [
		'byte_fallback',
		'ignore_merges',
		'continuing_subword_prefix',
		'end_of_word_suffix',
		'dropout',
	])
		if (model[key]) unsupported(`BPE with ${key}`);
	const listed = isObject(json.pre_tokenizer) ? json.pre_tokenizer : {};
	const steps: unknown[] = Array.isArray(listed.pretokenizers) ? listed.pretokenizers : [listed];
	const [step] = steps;
	if (steps.length !== 1 || !isObject(step) || step.type !== 'ByteLevel' || step.use_regex === false)
		return unsupported(`the pre-tokenizer ${shown(listed)}`);
	return step.add_prefix_space === true;
}
