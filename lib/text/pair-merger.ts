/** One merge: symbols `left` and `right` become the symbol `merged` (indices into `symbols`). */
export interface Merge {
	left: number;
	right: number;
	merged: number;
}

/** What {@link learnMerges} learns. */
export interface LearnedMerges {
	/** Alphabet first, then what the merges made, in order of learning. */
	symbols: string[];
	merges: Merge[];
}

/** Options of {@link learnMerges}. */
export interface LearnMergesOptions {
	/** Words as lists of indices into `alphabet`, with their counts. */
	words: Iterable<readonly [symbols: readonly number[], count: number]>;
	/** The symbols to start from. */
	alphabet: readonly string[];
	/** Most symbols in the end, alphabet included. */
	maxSymbols: number;
	/** Stop when the most frequent pair is rarer. */
	minFrequency: number;
	/** How two symbols are written as one. */
	join: (left: string, right: string) => string;
}

/**
 * Byte-pair learning: the most frequent pair of neighbours becomes a symbol, again and again. Of equally frequent
 * pairs the one of the smaller indices goes first, so the same words give the same merges on every machine.
 */
export function learnMerges({
	words,
	alphabet,
	maxSymbols,
	minFrequency,
	join,
}: LearnMergesOptions): LearnedMerges {
	const symbols = [...alphabet];
	const indices = new Map(symbols.map((symbol, index) => [symbol, index]));
	const lists: number[][] = [];
	const counts: number[] = [];
	/** left · 2^21 + right → how often, and in which words (it may have left some of them) */
	const pairs = new Map<number, { count: number; words: Set<number> }>();
	const change = (left: number, right: number, by: number, word: number) => {
		const key = left * 2 ** 21 + right;
		let pair = pairs.get(key);
		if (!pair) {
			pair = { count: 0, words: new Set() };
			pairs.set(key, pair);
		}
		pair.count += by;
		if (by > 0) pair.words.add(word);
		else if (pair.count === 0) pairs.delete(key);
	};
	for (const [list, count] of words) {
		const word = lists.push([...list]) - 1;
		counts.push(count);
		for (let i = 1; i < list.length; i++) change(list[i - 1]!, list[i]!, count, word);
	}
	const merges: Merge[] = [];
	while (symbols.length < maxSymbols) {
		let best = -1;
		let most = Math.max(minFrequency, 1) - 1;
		for (const [key, { count }] of pairs)
			if (count > most || (count === most && best >= 0 && key < best)) {
				best = key;
				most = count;
			}
		if (best < 0) break;
		const left = Math.floor(best / 2 ** 21);
		const right = best - left * 2 ** 21;
		const written = join(symbols[left]!, symbols[right]!);
		const merged = indices.get(written) ?? symbols.push(written) - 1;
		indices.set(written, merged);
		merges.push({ left, right, merged });
		for (const word of [...pairs.get(best)!.words].sort((a, b) => a - b)) {
			const list = lists[word]!;
			const count = counts[word]!;
			for (let i = 0; i + 1 < list.length; i++) {
				if (list[i] !== left || list[i + 1] !== right) continue;
				change(left, right, -count, word);
				if (i > 0) {
					change(list[i - 1]!, left, -count, word);
					change(list[i - 1]!, merged, count, word);
				}
				if (i + 2 < list.length) {
					change(right, list[i + 2]!, -count, word);
					change(merged, list[i + 2]!, count, word);
				}
				list.splice(i, 2, merged);
			}
		}
		pairs.delete(best);
	}
	return { symbols, merges };
}
