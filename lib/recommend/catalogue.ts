import type { CatalogueItem, Dataset } from '../data/dataset.js';
import { nearest, shownId } from '../data/nearest.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { atOnce, blocks, type Steps } from '../event-loop.js';

/** An item to add by its text. */
export interface NewItem {
	/** Not in the catalogue yet. */
	id: string;
	/** The id stands for one without a visible character. */
	title: string;
	/** Default empty. */
	description?: string | undefined;
	genres?: readonly string[] | undefined;
}

/** Nothing but white space, controls and what is never shown. */
function isBlank(title: string): boolean {
	const first = title.charCodeAt(0);
	// Nearly all titles begin so.
	if (first > 0x20 && first < 0x7f) return false;
	return !/[^\p{White_Space}\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}]/u.test(title);
}

/**
 * The items a recommender knows: those of its data set, by dense id from 1, and those added since. An item without a
 * title is named by its id, in prompts, answers and lists.
 */
export class Catalogue {
	readonly #items: CatalogueItem[];
	readonly #indices: Map<string, number>;
	readonly #counts: number[];

	/**
	 * @param trainingCounts (items.length), training interactions by dense id; entry 0 is padding
	 * @param indices dense ids by id, where they are known
	 */
	constructor(
		items: readonly CatalogueItem[],
		trainingCounts: ArrayLike<number>,
		indices: Map<string, number> = atOnce(indexItems(items)),
	) {
		this.#items = [...items];
		for (let i = 1; i < this.#items.length; i++) {
			const item = this.#items[i]!;
			if (isBlank(item.title)) this.#items[i] = { ...item, title: item.id };
		}
		this.#counts = Array.from(trainingCounts);
		this.#indices = indices;
	}

	/** The constructor's work in steps. @internal */
	static *make(items: readonly CatalogueItem[], trainingCounts: ArrayLike<number>): Steps<Catalogue> {
		return new Catalogue(items, trainingCounts, yield* indexItems(items));
	}

	static of(dataset: Dataset, trainingCounts: ArrayLike<number>): Catalogue {
		return new Catalogue(dataset.items, trainingCounts);
	}

	/** Entries, the padding item included. */
	get size(): number {
		return this.#items.length;
	}

	get items(): readonly CatalogueItem[] {
		return this.#items;
	}

	/** Training interactions by dense id; 0 for added items. */
	get trainingCounts(): readonly number[] {
		return this.#counts;
	}

	/** @throws ERR_ALLMREC_UNKNOWN_ITEM with the nearest known id */
	index(id: string): number {
		const index = this.#indices.get(id);
		if (index !== undefined) return index;
		const near = nearest(id, this.#indices.keys());
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_ITEM',
			`Item ${shownId(id)} is not in the catalogue.${near ? ` Did you mean ${shownId(near)}?` : ''} New items are added with addItem().`,
		);
	}

	has(id: string): boolean {
		return this.#indices.has(id);
	}

	item(index: number): CatalogueItem {
		return this.#items[index]!;
	}

	/** @returns the dense id of the new item */
	add({ id, title, description = '', genres = [] }: NewItem): number {
		if (typeof id !== 'string' || id === '') invalidArgument('id', 'a non-empty string', id);
		if (this.#indices.has(id)) invalidArgument('id', 'one that is not in the catalogue yet', id);
		if (typeof title !== 'string') invalidArgument('title', 'a string', title);
		if (typeof description !== 'string') invalidArgument('description', 'a string', description);
		if (!Array.isArray(genres)) invalidArgument('genres', 'a list of strings', genres);
		const index = this.#items.push({ id, title: isBlank(title) ? id : title, description, genres }) - 1;
		this.#counts.push(0);
		this.#indices.set(id, index);
		return index;
	}
}

function* indexItems(items: readonly CatalogueItem[]): Steps<Map<string, number>> {
	const indices = new Map<string, number>();
	yield* blocks(items.length, 1024, (from, to) => {
		for (let i = Math.max(1, from); i < to; i++) indices.set(items[i]!.id, i);
	});
	return indices;
}
