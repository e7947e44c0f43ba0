/** An id as messages show it: between back ticks, its end cut off where it is no id that anyone would read. */
export function shownId(id: string): string {
	return `\`${id.length <= 200 ? id : `${id.slice(0, 200)}…`}\``;
}

/**
 * The text of `known` nearest to `wanted` by edit distance, if it is near enough to be a slip: at most two
 * edits, and fewer than half of the characters.
 */
export function nearest(wanted: string, known: Iterable<string>): string | undefined {
	let limit = Math.min(2, Math.ceil(wanted.length / 2) - 1);
	let best: string | undefined;
	for (const candidate of known) {
		if (Math.abs(candidate.length - wanted.length) > limit) continue;
		const distance = editDistance(wanted.toLowerCase(), candidate.toLowerCase(), limit);
		if (distance > limit) continue;
		best = candidate;
		if (distance === 0) break;
		limit = distance - 1;
	}
	return best;
}

/** Levenshtein distance; anything above `limit` comes back as `limit + 1`. */
function editDistance(a: string, b: string, limit: number): number {
	let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
	for (let i = 1; i <= a.length; i++) {
		const row = [i];
		for (let j = 1; j <= b.length; j++) {
			const replaced = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
			row.push(Math.min(replaced, previous[j]! + 1, row[j - 1]! + 1));
		}
		if (Math.min(...row) > limit) return limit + 1;
		previous = row;
	}
	return previous[b.length]!;
}
