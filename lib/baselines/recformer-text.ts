import { createHash } from 'node:crypto';
import type { CatalogueItem } from '../data/dataset.js';
import { ALLMRecError } from '../errors.js';
import { nextTurn, turnIsOver } from '../event-loop.js';
import type { RecFormerBatch } from '../native/addon.js';
import { ragged } from '../native/session.js';
import type { Tokenizer } from '../text/tokenizer.js';

const CLS = 0;
const NAME = 1;
const VALUE = 2;

/** Names and values of what is known about an item, in the order they are read. */
export function itemAttributes({
	title,
	description,
	genres,
}: Pick<CatalogueItem, 'title' | 'description' | 'genres'>): [name: string, value: string][] {
	const category = genres.join(', ');
	const attributes: [string, string][] = [
		['title', title],
		['category', category],
		// A description that is missing has been filled with the genres.
		['description', description === category ? '' : description],
	];
	const told = attributes.filter(([, value]) => value !== '');
	return told.length > 0 ? told : [['title', '']];
}

/** How much of a history is read. */
export interface RecFormerLimits {
	/** Tokens of a history, [CLS] included. */
	maxTokens: number;
	/** Tokens of an attribute, its name included. */
	maxItemTokens: number;
	/** The last so many items of a history. */
	maxItems: number;
}

/** A history in tokens; see `RecFormerBatch`. */
export interface PackedHistory {
	ids: Int32Array;
	types: Int32Array;
	items: Int32Array;
}

/** Every item of a catalogue as a sentence of attributes, and histories made of them. */
export class ItemSentences {
	/** Of all sentences, as hexadecimal SHA-256. */
	readonly fingerprint: string;
	readonly #cls: number;
	readonly #limits: RecFormerLimits;
	readonly #sentences: readonly { ids: number[]; types: number[] }[];

	private constructor(
		cls: number,
		limits: RecFormerLimits,
		sentences: readonly { ids: number[]; types: number[] }[],
		fingerprint: string,
	) {
		this.#cls = cls;
		this.#limits = limits;
		this.#sentences = sentences;
		this.fingerprint = fingerprint;
	}

	/** @param items by dense id; entry 0 is the padding item @throws ERR_ALLMREC_CHECKPOINT without a token [CLS] */
	static async create(
		tokenizer: Tokenizer,
		items: readonly CatalogueItem[],
		limits: RecFormerLimits,
		signal?: AbortSignal | undefined,
	): Promise<ItemSentences> {
		const cls = tokenizer.clsId ?? tokenizer.prefixIds[0];
		if (cls === undefined)
			throw new ALLMRecError(
				'ERR_ALLMREC_CHECKPOINT',
				'The tokenizer of the encoder has no token [CLS]; RecFormer begins with a BERT or DistilBERT.',
			);
		const hash = createHash('sha256');
		const sentences: { ids: number[]; types: number[] }[] = [];
		for (const item of items) {
			const sentence = { ids: [] as number[], types: [] as number[] };
			for (const [name, value] of itemAttributes(item)) {
				const key = tokenizer.encodeText(name, limits.maxItemTokens);
				const told = tokenizer.encodeText(value, limits.maxItemTokens - key.length);
				sentence.ids.push(...key, ...told);
				sentence.types.push(...key.map(() => NAME), ...told.map(() => VALUE));
			}
			hash.update(Int32Array.of(sentence.ids.length, ...sentence.ids));
			sentences.push(sentence);
			if (turnIsOver()) await nextTurn(signal);
		}
		return new ItemSentences(cls, limits, sentences, hash.digest('hex'));
	}

	/**
	 * [CLS] and the sentences of a history, the last item's first; what is too long loses its end, the oldest items.
	 *
	 * @param history dense item ids, oldest first
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM
	 */
	pack(history: ArrayLike<number>): PackedHistory {
		const { maxItems, maxTokens } = this.#limits;
		const ids = [this.#cls];
		const types = [CLS];
		const items = [0];
		const count = Math.min(history.length, maxItems);
		for (let place = 1; place <= count && ids.length < maxTokens; place++) {
			const item = history[history.length - place]!;
			const sentence = item === 0 ? undefined : this.#sentences[item];
			if (!sentence)
				throw new ALLMRecError(
					'ERR_ALLMREC_UNKNOWN_ITEM',
					`There is no item ${item}; dense ids are 1 to ${this.#sentences.length - 1}.`,
				);
			const room = maxTokens - ids.length;
			for (const id of sentence.ids.slice(0, room)) {
				ids.push(id);
				items.push(place);
			}
			types.push(...sentence.types.slice(0, room));
		}
		return { ids: Int32Array.from(ids), types: Int32Array.from(types), items: Int32Array.from(items) };
	}
}

/** One behind the other. */
export function batchOf(packed: readonly PackedHistory[]): RecFormerBatch {
	return {
		texts: ragged(packed.map(({ ids }) => ids)),
		types: ragged(packed.map(({ types }) => types)).values,
		items: ragged(packed.map(({ items }) => items)).values,
	};
}
