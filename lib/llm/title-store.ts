import { ALLMRecError, invalidArgument } from '../errors.js';
import { blocks, inTurns, type Steps } from '../event-loop.js';
import type { LongCallOptions } from '../progress.js';
import type { Tokenizer, TokenStore } from '../text/tokenizer.js';
import { tokensAt } from '../text/tokenizer.js';
import type { ListPart, PromptTemplate } from './prompt-template.js';
import { resolveAnswer, resolveList, validatePromptTemplate } from './prompt-template.js';

/** The places a title stands in: first or later in a list, or as the answer. */
export type TitlePlace = 'history-first' | 'history-next' | 'candidates-first' | 'candidates-next' | 'answer';

/** Options of {@link TitleStore.create}. */
export interface TitleStoreOptions extends LongCallOptions {
	/** Most tokens of a title with its quotes; a longer title loses its end, not its quote. Default 128. */
	maxTokens?: number | undefined;
}

/** A title with what stands around it in one place, tokenised as one piece. */
class Style {
	readonly before: string;
	readonly close: string;
	readonly closeIds: Int32Array;
	/** Tokens around an empty title, an estimate of what a cut must leave room for. */
	readonly overhead: number;
	store: TokenStore = { offsets: new Int32Array(1), ids: new Int32Array(0) };
	readonly appended: Int32Array[] = [];

	constructor(tokenizer: Tokenizer, before: string, close: string) {
		this.before = before;
		this.close = close;
		this.closeIds = tokenizer.encodeText(close);
		this.overhead = tokenizer.encodeText(before).length + this.closeIds.length;
	}

	text(title: string): string {
		return this.before + title + this.close;
	}

	tokens(item: number): Int32Array {
		const stored = this.store.offsets.length - 1;
		return item < stored ? tokensAt(this.store, item) : this.appended[item - stored]!;
	}

	/** The first tokens with the closing quote put behind them. */
	cut(tokens: Int32Array, limit: number): Int32Array {
		if (tokens.length <= limit) return tokens;
		const cut = tokens.slice(0, limit);
		cut.set(this.closeIds, limit - this.closeIds.length);
		return cut;
	}
}

/**
 * Token ids of a catalogue's titles, made once for a template: as they stand in its lists and as answers. Titles
 * are data, tokenised by `encodeText`. A cut falls between tokens, so it may split a character of several bytes.
 */
export class TitleStore {
	readonly tokenizer: Tokenizer;
	readonly template: PromptTemplate;
	/** Most tokens of a title with its quotes. */
	readonly maxTokens: number;
	/** The least a title can be cut to: two tokens and its quotes. */
	readonly minTokens: number;
	readonly #places: ReadonlyMap<TitlePlace, Style>;
	readonly #styles: readonly Style[];
	readonly #eosId: number;
	#size = 0;

	private constructor(tokenizer: Tokenizer, template: PromptTemplate, maxTokens: number) {
		this.tokenizer = tokenizer;
		this.template = validatePromptTemplate(template);
		if (tokenizer.eosId === undefined) invalidArgument('tokenizer', 'one with an EOS token', 'one without');
		this.#eosId = tokenizer.eosId;
		const styles = new Map<string, Style>();
		const style = (before: string, close: string) => {
			const key = JSON.stringify([before, close]);
			const known = styles.get(key) ?? new Style(tokenizer, before, close);
			styles.set(key, known);
			return known;
		};
		const places = new Map<TitlePlace, Style>();
		for (const part of template.parts) {
			if (part.type !== 'history' && part.type !== 'candidates') continue;
			const list = resolveList(part as ListPart);
			places.set(`${part.type}-first`, style(list.before + list.open, list.close));
			places.set(`${part.type}-next`, style(list.separator + list.open, list.close));
		}
		const answer = resolveAnswer(template);
		places.set('answer', style(answer.before + answer.open, answer.close));
		this.#places = places;
		this.#styles = [...styles.values()];
		this.minTokens = 2 + Math.max(...this.#styles.map(({ overhead }) => overhead));
		if (!Number.isInteger(maxTokens) || maxTokens < this.minTokens)
			invalidArgument('maxTokens', `a whole number from ${this.minTokens}`, maxTokens);
		this.maxTokens = maxTokens;
	}

	/**
	 * Tokenises the titles of a catalogue.
	 *
	 * @param titles by item index; index 0 is the padding item, its title is never used
	 */
	static async create(
		tokenizer: Tokenizer,
		titles: readonly string[],
		template: PromptTemplate,
		{ maxTokens = 128, signal, onProgress }: TitleStoreOptions = {},
	): Promise<TitleStore> {
		const store = new TitleStore(tokenizer, template, maxTokens);
		const wrong = titles.findIndex((title) => typeof title !== 'string');
		if (wrong >= 0) invalidArgument(`titles[${wrong}]`, 'a string', titles[wrong]);
		for (const style of store.#styles) {
			const texts = { length: titles.length, at: (item: number) => style.text(titles[item]!) };
			const encoded = await tokenizer.encodeMany(texts, {
				maxTokens: maxTokens + 1,
				stage: 'tokenize titles',
				signal,
				onProgress,
			});
			style.store = await inTurns(compact(encoded, style, maxTokens), signal);
		}
		store.#size = titles.length;
		return store;
	}

	/** Items, the padding item included. */
	get size(): number {
		return this.#size;
	}

	/** Adds a title (a new item's) and returns its index. */
	append(title: string): number {
		if (typeof title !== 'string') invalidArgument('title', 'a string', title);
		for (const style of this.#styles)
			style.appended.push(
				style.cut(this.tokenizer.encodeText(style.text(title), this.maxTokens + 1), this.maxTokens),
			);
		return this.#size++;
	}

	/**
	 * Tokens of an item's title with its quotes in one place of the template, cut to `limit` tokens.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM for an index outside the catalogue
	 */
	title(item: number, place: TitlePlace, limit = this.maxTokens): Int32Array {
		const style = this.#places.get(place);
		if (!style) invalidArgument('place', `a place of the template ${this.template.name}`, place);
		this.requireItem(item);
		return style.cut(style.tokens(item), limit);
	}

	/** The item's answer: its title as an answer, then EOS. The same for training and for scoring. */
	answer(item: number): Int32Array {
		const title = this.title(item, 'answer');
		const answer = new Int32Array(title.length + 1);
		answer.set(title);
		answer[title.length] = this.#eosId;
		return answer;
	}

	/** @throws ERR_ALLMREC_UNKNOWN_ITEM for what is not an index of the catalogue */
	requireItem(item: number): void {
		if (Number.isInteger(item) && item > 0 && item < this.#size) return;
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_ITEM',
			`Expected an item's index from 1 to ${this.#size - 1}, got ${String(item)}.`,
		);
	}
}

/** Puts the closing quote behind titles that came one token too long, and takes that token out. */
function* compact({ offsets, ids }: TokenStore, style: Style, maxTokens: number): Steps<TokenStore> {
	let end = 0;
	const ends = new Int32Array(offsets.length);
	yield* blocks(offsets.length - 1, 1 << 12, (from, to) => {
		for (let i = from; i < to; i++) {
			const tokens = style.cut(ids.subarray(offsets[i], offsets[i + 1]), maxTokens);
			ids.set(tokens, end);
			end += tokens.length;
			ends[i + 1] = end;
		}
	});
	return { offsets: ends, ids: ids.slice(0, end) };
}
