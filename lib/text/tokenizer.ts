import { ALLMRecError, invalidArgument } from '../errors.js';
import { nextTurn, turnIsOver } from '../event-loop.js';
import type { LongCallOptions } from '../progress.js';
import type { AddedToken } from './tokenizer-files.js';
import { AddedTokenSplitter } from './tokenizer-files.js';

/** What turns plain text into ids; one per algorithm. It knows nothing of special tokens. */
export interface TokenizerModel {
	/** The algorithm's name, e.g. `byte-level-bpe` or `word-piece`. */
	readonly kind: string;
	/** One more than the largest id of the model's own vocabulary. */
	readonly size: number;
	/**
	 * A text in parts that can be normalised and encoded one after the other, so that of a long text no more is read than
	 * its first ids need. Default: whole.
	 */
	parts?(text: string): Iterable<string>;
	/** What happens to text before it is cut into words (lower case, accents); identity where nothing does. */
	normalize(text: string): string;
	/**
	 * Appends the ids of already normalised text, and may stop once `ids` holds `limit` of them.
	 * Never appends the id of a token listed as special, save the unknown token of WordPiece and Unigram.
	 */
	encode(text: string, ids: number[], limit: number): void;
	/** Tokens (strings) back to text. */
	decode(tokens: readonly string[]): string;
	tokenOf(id: number): string | undefined;
	idOf(token: string): number | undefined;
}

/** Ids of the tokens with a role; absent where the tokenizer has none. */
export interface SpecialIds {
	readonly bosId?: number | undefined;
	readonly eosId?: number | undefined;
	readonly padId?: number | undefined;
	readonly unkId?: number | undefined;
	readonly clsId?: number | undefined;
	readonly sepId?: number | undefined;
	readonly maskId?: number | undefined;
}

/** What a {@link Tokenizer} is made of. */
export interface TokenizerParts {
	model: TokenizerModel;
	/** Tokens matched in text before the model sees it. */
	added?: readonly AddedToken[];
	special?: SpecialIds;
	/** Ids before and after every sequence, e.g. `[CLS]` and `[SEP]`. */
	prefixIds?: readonly number[];
	suffixIds?: readonly number[];
}

/** Token ids of many texts: text i owns `ids[offsets[i] … offsets[i + 1])`. */
export interface TokenStore {
	/** (texts + 1) */
	readonly offsets: Int32Array;
	/** (offsets[texts]) */
	readonly ids: Int32Array;
}

/** Texts by their place: a list, or what makes each when it is needed. */
export interface Texts {
	readonly length: number;
	at(index: number): string | undefined;
}

/** Options of {@link Tokenizer.encodeMany}. */
export interface EncodeManyOptions extends LongCallOptions {
	/** Put the tokenizer's prefix and suffix (`[CLS]` … `[SEP]`) around each text. Default false. */
	sequence?: boolean | undefined;
	/** Most tokens of a text, prefix and suffix included. Default: no limit. */
	maxTokens?: number | undefined;
	/** Name of the stage in progress reports. Default `tokenize`. */
	stage?: string | undefined;
}

const REPORT_MILLISECONDS = 100;

/**
 * A Hugging Face tokenizer. Ids are those of the `tokenizers` library (checked against 0.23), with one
 * thing more: {@link encodeText} for data, which cannot yield a special token whatever the text holds.
 *
 * Load one with `loadLanguageTokenizer` (OPT's byte-level BPE) or `loadSentenceTokenizer` (WordPiece).
 */
export class Tokenizer {
	readonly kind: string;
	/** One more than the largest id. A checkpoint's embedding table may be larger (OPT: 50265 against 50272). */
	readonly vocabSize: number;
	readonly bosId: number | undefined;
	readonly eosId: number | undefined;
	readonly padId: number | undefined;
	readonly unkId: number | undefined;
	readonly clsId: number | undefined;
	readonly sepId: number | undefined;
	readonly maskId: number | undefined;
	/** Ids put before a sequence, e.g. `[CLS]`, or OPT's `</s>`. */
	readonly prefixIds: Int32Array;
	/** Ids put after a sequence, e.g. `[SEP]`. */
	readonly suffixIds: Int32Array;
	readonly #model: TokenizerModel;
	readonly #splitter: AddedTokenSplitter;
	readonly #addedById = new Map<number, AddedToken>();
	readonly #addedByContent = new Map<string, AddedToken>();

	constructor({ model, added = [], special = {}, prefixIds = [], suffixIds = [] }: TokenizerParts) {
		this.#model = model;
		this.kind = model.kind;
		for (const token of added) {
			this.#addedById.set(token.id, token);
			this.#addedByContent.set(token.content, token);
		}
		this.#splitter = new AddedTokenSplitter(added, (text) => model.normalize(text));
		this.vocabSize = added.reduce((size, { id }) => Math.max(size, id + 1), model.size);
		this.bosId = special.bosId;
		this.eosId = special.eosId;
		this.padId = special.padId;
		this.unkId = special.unkId;
		this.clsId = special.clsId;
		this.sepId = special.sepId;
		this.maskId = special.maskId;
		this.prefixIds = Int32Array.from(prefixIds);
		this.suffixIds = Int32Array.from(suffixIds);
	}

	/**
	 * Ids of text that is data, such as an item's title: no prefix, no suffix, and added tokens are not
	 * looked for, so `</s>`, `[CLS]` or `[CandidateEmb]` in it are the characters they look like. Lone
	 * surrogates count as U+FFFD. (WordPiece gives `[UNK]` for a word it cannot spell, as always.)
	 *
	 * @param limit keep only the first ids; default all
	 */
	encodeText(text: string, limit = Number.POSITIVE_INFINITY): Int32Array {
		return Int32Array.from(this.#plain(text, limit));
	}

	/**
	 * {@link encodeText} between the tokenizer's prefix and suffix: what an encoder reads.
	 *
	 * @param maxTokens most ids, prefix and suffix included; the text's end is cut. Default: no limit.
	 */
	encodeSequence(text: string, maxTokens = Number.POSITIVE_INFINITY): Int32Array {
		const room = this.#room(maxTokens);
		return this.#wrap(this.#plain(text, room));
	}

	/**
	 * Ids as Hugging Face gives them: added tokens found in the text become their ids. For trusted text only.
	 *
	 * @param options.addSpecialTokens put prefix and suffix around it. Default true.
	 * @param options.maxTokens most ids in all. Default: no limit.
	 */
	encodeWithSpecials(
		text: string,
		{
			addSpecialTokens = true,
			maxTokens = Number.POSITIVE_INFINITY,
		}: { addSpecialTokens?: boolean; maxTokens?: number } = {},
	): Int32Array {
		const room = addSpecialTokens ? this.#room(maxTokens) : maxTokens;
		const ids: number[] = [];
		for (const section of this.#splitter.split(text))
			if (typeof section === 'string') this.#model.encode(section, ids, room);
			else ids.push(section.id);
		if (ids.length > room) ids.length = room;
		return addSpecialTokens ? this.#wrap(ids) : Int32Array.from(ids);
	}

	/**
	 * Ids of many texts. The event loop gets its turn every few milliseconds.
	 *
	 * @throws the signal's reason when aborted
	 */
	async encodeMany(
		texts: Texts,
		{
			sequence = false,
			maxTokens = Number.POSITIVE_INFINITY,
			stage = 'tokenize',
			signal,
			onProgress,
		}: EncodeManyOptions = {},
	): Promise<TokenStore> {
		signal?.throwIfAborted();
		const room = sequence ? this.#room(maxTokens) : maxTokens;
		const offsets = new Int32Array(texts.length + 1);
		const store = new GrowingIds(texts.length * 8);
		const ids: number[] = [];
		const begun = performance.now();
		let reported = begun;
		for (let i = 0; i < texts.length; i++) {
			if (turnIsOver()) {
				const now = performance.now();
				if (onProgress && now - reported > REPORT_MILLISECONDS) {
					reported = now;
					const rate = (1000 * i) / (now - begun);
					const secondsLeft = (texts.length - i) / rate;
					onProgress({ stage, done: i, total: texts.length, unit: 'texts', rate, secondsLeft });
				}
				await nextTurn(signal);
			}
			ids.length = 0;
			this.#encodeInto(texts.at(i)!, ids, room);
			if (sequence) store.push(this.prefixIds);
			store.push(ids);
			if (sequence) store.push(this.suffixIds);
			offsets[i + 1] = store.length;
		}
		onProgress?.({ stage, done: texts.length, total: texts.length, unit: 'texts' });
		return { offsets, ids: store.finish() };
	}

	/**
	 * Text of ids.
	 *
	 * @param options.skipSpecialTokens leave special tokens out. Default true.
	 */
	decode(ids: ArrayLike<number>, { skipSpecialTokens = true }: { skipSpecialTokens?: boolean } = {}): string {
		const tokens: string[] = [];
		for (let i = 0; i < ids.length; i++) {
			const added = this.#addedById.get(ids[i]!);
			if (added?.special && skipSpecialTokens) continue;
			const token = added?.content ?? this.#model.tokenOf(ids[i]!);
			if (token !== undefined) tokens.push(token);
		}
		return this.#model.decode(tokens);
	}

	/** The id of a token as the vocabulary writes it (`Ġthe`, `##ing`, `[CLS]`). */
	idOf(token: string): number | undefined {
		return this.#addedByContent.get(token)?.id ?? this.#model.idOf(token);
	}

	/** The token of an id, as the vocabulary writes it. */
	tokenOf(id: number): string | undefined {
		return this.#addedById.get(id)?.content ?? this.#model.tokenOf(id);
	}

	/** Whether the id is one that {@link decode} leaves out. */
	isSpecial(id: number): boolean {
		return this.#addedById.get(id)?.special ?? false;
	}

	#plain(text: string, limit: number): number[] {
		const ids: number[] = [];
		this.#encodeInto(text, ids, limit);
		return ids;
	}

	#encodeInto(text: string, ids: number[], limit: number): void {
		for (const part of this.#model.parts?.(text) ?? [text]) {
			if (ids.length >= limit) break;
			if (part !== '') this.#model.encode(this.#model.normalize(part), ids, limit);
		}
		if (ids.length > limit) ids.length = limit;
	}

	#room(maxTokens: number): number {
		const around = this.prefixIds.length + this.suffixIds.length;
		if (!(maxTokens >= around))
			invalidArgument('maxTokens', `at least ${around}, this tokenizer's special tokens`, maxTokens);
		return maxTokens - around;
	}

	#wrap(ids: readonly number[]): Int32Array {
		const wrapped = new Int32Array(this.prefixIds.length + ids.length + this.suffixIds.length);
		wrapped.set(this.prefixIds);
		wrapped.set(ids, this.prefixIds.length);
		wrapped.set(this.suffixIds, this.prefixIds.length + ids.length);
		return wrapped;
	}
}

/** Ids of text i of a store, without copying. */
export function tokensAt(store: TokenStore, i: number): Int32Array {
	return store.ids.subarray(store.offsets[i]!, store.offsets[i + 1]!);
}

/** Words longer than this are not remembered. */
const CACHED_WORD_LENGTH = 32;
const CACHED_WORDS = 1 << 17;

/** Ids of the words met so far. */
export class WordCache {
	readonly #ids = new Map<string, readonly number[]>();

	get(word: string): readonly number[] | undefined {
		return this.#ids.get(word);
	}

	set(word: string, ids: readonly number[]): void {
		if (word.length > CACHED_WORD_LENGTH) return;
		if (this.#ids.size >= CACHED_WORDS) this.#ids.clear();
		// A copy: what was cut out of a text keeps all of it in memory.
		this.#ids.set(Buffer.from(word, 'utf16le').toString('utf16le'), ids);
	}
}

class GrowingIds {
	length = 0;
	#ids: Int32Array;

	constructor(capacity: number) {
		this.#ids = new Int32Array(Math.max(capacity, 64));
	}

	push(ids: ArrayLike<number>): void {
		const needed = this.length + ids.length;
		if (needed > 0x7fffffff)
			throw new ALLMRecError(
				'ERR_ALLMREC_UNSUPPORTED',
				'The texts hold more than 2^31 tokens, the most one token store can index; encode them in parts.',
			);
		if (needed > this.#ids.length) {
			const grown = new Int32Array(Math.min(Math.max(2 * this.#ids.length, needed), 0x7fffffff));
			grown.set(this.#ids.subarray(0, this.length));
			this.#ids = grown;
		}
		this.#ids.set(ids, this.length);
		this.length = needed;
	}

	finish(): Int32Array {
		return this.#ids.slice(0, this.length);
	}
}
