import type { CoreRound } from './core-filter.js';

/** What `prepare` read, dropped and kept. */
export interface PreparationSummary {
	/** Lines of the interaction files, headers and empty lines aside. */
	rawLines: number;
	/** Lines without user, item or time, or that could not be parsed; they are left out. */
	malformedLines: number;
	/** Interactions left by the rating threshold. */
	afterRating: number;
	/** Interactions left once repeated (user, item) pairs are dropped. */
	afterDuplicates: number;
	/** What each round of the k-core filter left. */
	coreRounds: CoreRound[];
	users: number;
	items: number;
	interactions: number;
	/** interactions / (users × items). */
	density: number;
	/** Interactions per user. */
	meanLength: number;
	medianLength: number;
	/** Kept items without a title in the item files; they are named by their id. */
	itemsWithoutTitle: number;
	/** Kept items without a description of their own. */
	itemsWithoutDescription: number;
	/** Lines of the item files that could not be parsed. */
	malformedItemLines: number;
}

/** The summary as rows of a table: label, figure. */
export function summaryRows(summary: PreparationSummary): [string, string][] {
	const whole = (n: number) => n.toLocaleString('en-US');
	const rows: [string, string][] = [
		['raw lines', whole(summary.rawLines)],
		['malformed lines', whole(summary.malformedLines)],
		['after rating threshold', whole(summary.afterRating)],
		['after duplicates', whole(summary.afterDuplicates)],
	];
	for (const [i, round] of summary.coreRounds.entries())
		rows.push([`after k-core round ${i + 1}`, whole(round.interactions)]);
	rows.push(
		['users', whole(summary.users)],
		['items', whole(summary.items)],
		['interactions', whole(summary.interactions)],
		['density', `${(summary.density * 100).toPrecision(3)} %`],
		['mean length', summary.meanLength.toFixed(2)],
		['median length', String(summary.medianLength)],
		['items without title', whole(summary.itemsWithoutTitle)],
		['items without description', whole(summary.itemsWithoutDescription)],
	);
	if (summary.malformedItemLines > 0) rows.push(['malformed item lines', whole(summary.malformedItemLines)]);
	return rows;
}
