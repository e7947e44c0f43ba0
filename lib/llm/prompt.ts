import { ALLMRecError, invalidArgument } from '../errors.js';
import type { PromptTemplate } from './prompt-template.js';
import { EMPTY_LIST, fillWords } from './prompt-template.js';
import type { TitleStore } from './title-store.js';

/** What a soft row of a prompt is: the user's vector O_u, or an item's O_i. */
export type PromptSlot =
	| { readonly kind: 'user' }
	| { readonly kind: 'history'; readonly item: number }
	| { readonly kind: 'candidate'; readonly item: number };

/** A prompt ready for the language model. */
export interface Prompt {
	/** (length) A token's id where ≥ 0; `−(k + 1)` where soft row k of {@link slots} stands. */
	readonly ids: Int32Array;
	/** The soft rows in order of their positions. */
	readonly slots: readonly PromptSlot[];
	/** Items of the history that are in it, oldest first. */
	readonly history: readonly number[];
	/** Items of the candidate list, in its order. */
	readonly candidates: readonly number[];
	/** What was cut to fit the language model's positions. */
	readonly cut: {
		/** History items dropped, the oldest ones. */
		readonly history: number;
		/** Tokens (quotes included) every longer title was cut to; undefined when none was. */
		readonly titleTokens: number | undefined;
	};
}

/** Options of a {@link PromptBuilder}. */
export interface PromptBuilderOptions {
	/** Positions of the language model. Default 2048 (OPT). */
	maxPositions?: number | undefined;
	/** The last so many items of the history are told. Default 10. */
	historyLength?: number | undefined;
	/** Tell users without history so, instead of ERR_ALLMREC_EMPTY_HISTORY. Default false. */
	allowEmptyHistory?: boolean | undefined;
	/** Ablation: no user vector and no sentence about it. Default false. */
	withoutUser?: boolean | undefined;
	/** Ablation: no vectors behind titles. With `withoutUser` this is LLM-Only. Default false. */
	withoutItemSlots?: boolean | undefined;
	/** Ablation: items as vectors alone, without their titles. Default false. */
	withoutTitles?: boolean | undefined;
}

/** One prompt to build. Items are indices into the {@link TitleStore}. */
export interface PromptRequest {
	/** Oldest first. */
	history: ArrayLike<number>;
	/** In the order they are to stand in; needed where the template has a candidate list. */
	candidates?: ArrayLike<number> | undefined;
	/**
	 * Positions kept free behind the prompt. Default: the longest answer among the candidates, or 64 without
	 * candidates (for generated text).
	 */
	reserve?: number | undefined;
}

type Segment =
	| { kind: 'text'; ids: Int32Array }
	| { kind: 'user' }
	| { kind: 'history' | 'candidates'; separatorIds: Int32Array; emptyIds: Int32Array };

type ListKind = 'history' | 'candidates';

const DEFAULT_RESERVE = 64;

/**
 * Builds prompts from a template.
 *
 * Tokenisation is piecewise, and the pieces are: text between slots and lists (neighbouring text parts joined), and
 * each title with the quote, space or comma before it and the quote after it. Pieces are tokenised by `encodeText`
 * and their ids concatenated. With the presets this equals tokenising the whole text with slots as added tokens,
 * because slots end a piece there too, and a space before a quote begins a word. Slots are positions: nothing is
 * ever searched for in text.
 */
export class PromptBuilder {
	readonly titles: TitleStore;
	readonly template: PromptTemplate;
	readonly maxPositions: number;
	readonly historyLength: number;
	readonly #allowEmptyHistory: boolean;
	readonly #withItemSlots: boolean;
	readonly #withTitles: boolean;
	readonly #segments: readonly Segment[];

	constructor(
		titles: TitleStore,
		{
			maxPositions = 2048,
			historyLength = 10,
			allowEmptyHistory = false,
			withoutUser = false,
			withoutItemSlots = false,
			withoutTitles = false,
		}: PromptBuilderOptions = {},
	) {
		if (!Number.isInteger(maxPositions) || maxPositions < 1)
			invalidArgument('maxPositions', 'a whole number from 1', maxPositions);
		if (!Number.isInteger(historyLength) || historyLength < 1)
			invalidArgument('historyLength', 'a whole number from 1', historyLength);
		if (withoutItemSlots && withoutTitles)
			invalidArgument(
				'withoutTitles',
				'false where `withoutItemSlots` is true, or items leave no trace',
				true,
			);
		this.titles = titles;
		this.template = titles.template;
		this.maxPositions = maxPositions;
		this.historyLength = historyLength;
		this.#allowEmptyHistory = allowEmptyHistory;
		this.#withItemSlots = !withoutItemSlots;
		this.#withTitles = !withoutTitles;
		this.#segments = compile(titles, withoutUser);
	}

	/**
	 * Builds one prompt. What does not fit is cut: the oldest history first, down to one item; then long titles, all
	 * to the same shrinking maximum; then the last history item.
	 *
	 * @throws ERR_ALLMREC_PROMPT_TOO_LONG when the candidates do not fit even with two tokens a title,
	 * ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_UNKNOWN_ITEM
	 */
	build({ history, candidates = [], reserve }: PromptRequest): Prompt {
		const listed = Array.from(candidates);
		let kept = Array.from(history).slice(-this.historyLength);
		if (this.#has('candidates') && listed.length === 0)
			invalidArgument(
				'candidates',
				`at least one item, which the template ${this.template.name} lists`,
				'none',
			);
		if (kept.length === 0 && this.#has('history') && !this.#allowEmptyHistory)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_HISTORY',
				'The user has no history to tell; `allowEmptyHistory: true` builds a prompt that says so.',
			);
		for (const item of [...kept, ...listed]) this.titles.requireItem(item);
		const room = this.maxPositions - this.#reserved(listed, reserve);
		const told = kept.length;
		const { maxTokens, minTokens } = this.titles;
		const length = (limit: number) => this.#length(kept, listed, limit);
		if (kept.length > 1 && length(maxTokens) > room) kept = this.#latest(kept, listed, room);
		let limit = maxTokens;
		if (length(limit) > room) {
			if (length(minTokens) > room && this.#has('history')) kept = [];
			if (length(minTokens) > room) throw this.#tooLong(listed.length, length(minTokens), room);
			// The largest limit that fits: length grows with it.
			let above = maxTokens + 1;
			limit = minTokens;
			while (above - limit > 1) {
				const middle = (limit + above) >> 1;
				if (length(middle) > room) above = middle;
				else limit = middle;
			}
		}
		return {
			...this.#assemble(kept, listed, limit),
			history: kept,
			candidates: listed,
			cut: { history: told - kept.length, titleTokens: limit < maxTokens ? limit : undefined },
		};
	}

	/** The answer of an item: ` "title"` and EOS, the target of training and what is scored. */
	answer(item: number): Int32Array {
		return this.titles.answer(item);
	}

	#has(kind: ListKind): boolean {
		return this.#segments.some((segment) => segment.kind === kind);
	}

	#reserved(candidates: readonly number[], reserve: number | undefined): number {
		if (reserve !== undefined) {
			if (!Number.isInteger(reserve) || reserve < 0)
				invalidArgument('reserve', 'a whole number from 0', reserve);
			return reserve;
		}
		if (candidates.length === 0) return DEFAULT_RESERVE;
		return candidates.reduce((most, item) => Math.max(most, this.titles.title(item, 'answer').length + 1), 0);
	}

	/** The last items of a history that fit with whole titles; at least one. Length grows with their number. */
	#latest(history: readonly number[], candidates: readonly number[], room: number): number[] {
		let fitting = 1;
		let above = history.length;
		while (above - fitting > 1) {
			const middle = (fitting + above) >> 1;
			if (this.#length(history.slice(-middle), candidates, this.titles.maxTokens) > room) above = middle;
			else fitting = middle;
		}
		return history.slice(-fitting);
	}

	/** Positions of a prompt whose titles are cut to `limit` tokens. */
	#length(history: readonly number[], candidates: readonly number[], limit: number): number {
		let length = 0;
		for (const segment of this.#segments)
			if (segment.kind === 'user') length++;
			else if (segment.kind === 'text') length += segment.ids.length;
			else {
				const items = segment.kind === 'history' ? history : candidates;
				if (items.length === 0) length += segment.emptyIds.length;
				for (const [i, item] of items.entries()) {
					const first = i === 0 ? 'first' : 'next';
					if (this.#withItemSlots) length++;
					if (this.#withTitles)
						length += Math.min(limit, this.titles.title(item, `${segment.kind}-${first}`).length);
					else if (i > 0) length += segment.separatorIds.length;
				}
			}
		return length;
	}

	#assemble(
		history: readonly number[],
		candidates: readonly number[],
		limit: number,
	): Pick<Prompt, 'ids' | 'slots'> {
		const ids = new Int32Array(this.#length(history, candidates, limit));
		const slots: PromptSlot[] = [];
		let at = 0;
		const text = (tokens: Int32Array) => {
			ids.set(tokens, at);
			at += tokens.length;
		};
		const slot = (what: PromptSlot) => {
			ids[at++] = -slots.push(what);
		};
		for (const segment of this.#segments)
			if (segment.kind === 'user') slot({ kind: 'user' });
			else if (segment.kind === 'text') text(segment.ids);
			else {
				const items = segment.kind === 'history' ? history : candidates;
				const kind = segment.kind === 'history' ? 'history' : 'candidate';
				if (items.length === 0) text(segment.emptyIds);
				for (const [i, item] of items.entries()) {
					const first = i === 0 ? 'first' : 'next';
					if (this.#withTitles) text(this.titles.title(item, `${segment.kind}-${first}`, limit));
					else if (i > 0) text(segment.separatorIds);
					if (this.#withItemSlots) slot({ kind, item });
				}
			}
		return { ids, slots };
	}

	#tooLong(candidates: number, length: number, room: number): ALLMRecError {
		const { minTokens } = this.titles;
		const perItem = minTokens + (this.#withItemSlots ? 1 : 0);
		const excess = length - room;
		const fitting = Math.max(0, candidates - Math.ceil(excess / perItem));
		const remedy =
			this.#has('candidates') && fitting > 0
				? `Give at most about ${fitting} candidates, or use a language model with at least ${this.maxPositions + excess} positions.`
				: `Use a language model with at least ${this.maxPositions + excess} positions, or a shorter template.`;
		return new ALLMRecError(
			'ERR_ALLMREC_PROMPT_TOO_LONG',
			`The prompt needs ${length} positions with ${candidates} candidates, no history, and every title cut to ${minTokens} tokens; the language model has ${this.maxPositions}, of which ${this.maxPositions - room} are kept for the answer. ${remedy}`,
		);
	}
}

/** Tokenises a template's text. */
function compile({ tokenizer, template }: TitleStore, withoutUser: boolean): Segment[] {
	const segments: Segment[] = [];
	let pending = '';
	const flush = () => {
		if (pending !== '') segments.push({ kind: 'text', ids: tokenizer.encodeText(pending) });
		pending = '';
	};
	for (const part of template.parts) {
		if (part.type === 'text') {
			if (!(withoutUser && part.onlyWith === 'user')) pending += fillWords(part.text, template.words);
			continue;
		}
		flush();
		if (part.type === 'bos') {
			if (tokenizer.bosId === undefined) invalidArgument('tokenizer', 'one with a BOS token', 'one without');
			segments.push({ kind: 'text', ids: Int32Array.of(tokenizer.bosId) });
		} else if (part.type === 'user') {
			if (!withoutUser) segments.push({ kind: 'user' });
		} else
			segments.push({
				kind: part.type,
				separatorIds: tokenizer.encodeText(part.separator ?? ','),
				emptyIds: tokenizer.encodeText(part.empty ?? EMPTY_LIST),
			});
	}
	flush();
	return segments;
}
