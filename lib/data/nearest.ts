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
	const text = wanted.toLowerCase();
	for (const candidate of known) {
		if (Math.abs(candidate.length - wanted.length) > limit) continue;
		const other = candidate.toLowerCase();
		if (!isWithin(text, 0, other, 0, limit)) continue;
		best = candidate;
		if (text === other) break;
		while (limit > 1 && isWithin(text, 0, other, 0, limit - 1)) limit--;
		limit--;
	}
	return best;
}

/**
 * Whether the rest of `a` becomes the rest of `b` by at most `limit` edits (Levenshtein). With so few edits trying them
 * where the texts first differ is quicker than a table: most pairs of ids are told apart after a few characters.
 */
function isWithin(a: string, atA: number, b: string, atB: number, limit: number): boolean {
	let i = atA;
	let j = atB;
	while (i < a.length && a.charCodeAt(i) === b.charCodeAt(j)) {
		i++;
		j++;
	}
	const [left, right] = [a.length - i, b.length - j];
	if (left === 0 || right === 0) return left + right <= limit;
	if (limit === 0 || Math.abs(left - right) > limit) return false;
	return (
		isWithin(a, i + 1, b, j + 1, limit - 1) ||
		isWithin(a, i + 1, b, j, limit - 1) ||
		isWithin(a, i, b, j + 1, limit - 1)
	);
}
