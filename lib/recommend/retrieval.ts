import type { CollaborativeModel } from '../cf/collaborative-model.js';
import { blocks, inTurns, type Steps } from '../event-loop.js';
import { takeRowsSteps } from '../native/session.js';

/** What a {@link Retriever} searches. */
export interface RetrieverOptions {
	/** Whose scores they are found by. */
	cf: CollaborativeModel;
	/** Item vectors (size, d) by dense id; row 0 is padding. */
	table: Float32Array;
	/** Dense ids of the items found by their texts, ascending; the others are found by the recommender. */
	cold: Int32Array;
}

/** Finds candidates in the whole catalogue: the best warm items for a user and the best cold ones. */
export class Retriever {
	readonly #warm: ItemIndex;
	readonly #cold: ItemIndex;
	/** Under way. */
	#searches = 0;
	#disposed = false;

	private constructor(warm: ItemIndex, cold: ItemIndex) {
		this.#warm = warm;
		this.#cold = cold;
	}

	static async create({ cf, table, cold }: RetrieverOptions): Promise<Retriever> {
		const warm = await inTurns(others(cold, table.length / cf.size));
		const warmIndex = await ItemIndex.create(cf, table, warm);
		try {
			return new Retriever(warmIndex, await ItemIndex.create(cf, table, cold));
		} catch (error) {
			warmIndex.dispose();
			throw error;
		}
	}

	/**
	 * Candidates for each user, never from the history: warm items, best first, then cold ones, best first; of equal
	 * scores the lower dense id first. Cold items get their share, and what warm items leave free.
	 *
	 * @param users x^u (users, d)
	 */
	async retrieve(
		users: Float32Array,
		histories: readonly Int32Array[],
		count: number,
		coldShare: number,
		signal?: AbortSignal,
	): Promise<Int32Array[]> {
		this.#searches++;
		let found: [Int32Array[], Int32Array[]];
		try {
			found = await Promise.all([
				this.#warm.search(users, histories, count, signal),
				this.#cold.search(users, histories, count, signal),
			]);
		} finally {
			this.#searches--;
			if (this.#disposed) this.dispose();
		}
		const [warm, cold] = found;
		return histories.map((_, u) => {
			const [known, fresh] = [warm[u]!, cold[u]!];
			const share = Math.max(Math.round(count * coldShare), count - known.length);
			const room = Math.min(fresh.length, share);
			const kept = Math.min(known.length, count - room);
			const items = new Int32Array(kept + room);
			items.set(known.subarray(0, kept));
			items.set(fresh.subarray(0, room), kept);
			return items;
		});
	}

	/** Searches that are under way come to their end. */
	dispose(): void {
		this.#disposed = true;
		if (this.#searches > 0) return;
		this.#warm.dispose();
		this.#cold.dispose();
	}
}

/** The dense ids below `size` that are not in `items`, ascending. */
function* others(items: Int32Array, size: number): Steps<Int32Array> {
	const isThere = new Uint8Array(size);
	for (const item of items) isThere[item] = 1;
	const rest = new Int32Array(size);
	let count = 0;
	yield* blocks(size, 1 << 16, (from, to) => {
		for (let item = Math.max(1, from); item < to; item++) if (isThere[item] === 0) rest[count++] = item;
	});
	return rest.slice(0, count);
}

/** Some items of a table of vectors, searched natively. */
class ItemIndex {
	readonly #model: CollaborativeModel | undefined;
	/** Dense id of each row, from row 1. */
	readonly #items: Int32Array;
	/** Row of each dense id; 0 for those that are elsewhere. */
	readonly #rows: Int32Array;

	private constructor(model: CollaborativeModel | undefined, items: Int32Array, rows: Int32Array) {
		this.#model = model;
		this.#items = items;
		this.#rows = rows;
	}

	/** @param items dense ids, ascending */
	static async create(cf: CollaborativeModel, table: Float32Array, items: Int32Array): Promise<ItemIndex> {
		const { size } = cf;
		const rows = new Int32Array(table.length / size);
		for (let i = 0; i < items.length; i++) rows[items[i]!] = i + 1;
		if (items.length === 0) return new ItemIndex(undefined, items, rows);
		const vectors = new Float32Array((items.length + 1) * size);
		vectors.set(await inTurns(takeRowsSteps(table, size, items)), size);
		return new ItemIndex(await cf.withItems(vectors), items, rows);
	}

	/** Dense ids of each user's best items, best first: `count` of them, or all that are not in the history. */
	async search(
		users: Float32Array,
		histories: readonly Int32Array[],
		count: number,
		signal: AbortSignal | undefined,
	): Promise<Int32Array[]> {
		if (!this.#model) return histories.map(() => new Int32Array(0));
		const k = Math.min(count, this.#items.length);
		const exclude = await inTurns(this.#rowsOf(histories), signal);
		const { items } = await this.#model.retrieve(users, exclude, k, signal);
		return histories.map((_, u) => {
			const found = new Int32Array(k);
			let n = 0;
			for (let i = u * k; i < (u + 1) * k && items[i]! > 0; i++) found[n++] = this.#items[items[i]! - 1]!;
			return found.subarray(0, n);
		});
	}

	*#rowsOf(histories: readonly Int32Array[]): Steps<Int32Array[]> {
		const rows: Int32Array[] = [];
		yield* blocks(histories.length, 64, (from, to) => {
			for (let u = from; u < to; u++)
				// An item added after the index was made has no row.
				rows.push(histories[u]!.map((item) => this.#rows[item] ?? 0).filter((row) => row > 0));
		});
		return rows;
	}

	dispose(): void {
		this.#model?.dispose();
	}
}
