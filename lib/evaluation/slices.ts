import { invalidArgument } from '../errors.js';

/** A named part of the evaluated users. */
export interface Slice {
	/** `overall`, `warm`, `cold`, `neverSeen`, `coldUsers`, or the user's own. */
	name: string;
	/** (users), 1 where the user belongs to the slice. */
	mask: Uint8Array;
	/** What the slice holds, for a reader of the report. */
	description: string;
}

/** Items told apart by how much the training set says about them. */
export interface ItemPopularity {
	/** (numItems + 1), 1 for items of the top share. */
	warm: Uint8Array;
	/** (numItems + 1), 1 for items of the bottom share and for every item without training interactions. */
	cold: Uint8Array;
	/** Fewest training interactions of a warm item; Infinity where there is none. */
	warmMinimum: number;
	/** Most training interactions of a cold item; −1 where there is none. */
	coldMaximum: number;
}

/** Slice of the users for which `belongs` holds. */
export function sliceWhere(
	name: string,
	users: number,
	belongs: (user: number) => boolean,
	description = name,
): Slice {
	const mask = new Uint8Array(users);
	for (let user = 0; user < users; user++) mask[user] = belongs(user) ? 1 : 0;
	return { name, mask, description };
}

/**
 * Warm items are the top `share` by training interactions, cold items the bottom `share` (SPEC section 4: 35 %).
 *
 * Items with equal counts stay together: an item's id must not decide on its slice. The boundary is put between two counts,
 * where the part cut off comes closest to `share` of all items (the smaller part where two are equally close). With
 * `share` ≤ ½ no item is ever both.
 *
 * @param trainingCounts (numItems + 1), entry 0 is the padding
 */
export function itemPopularity(trainingCounts: Int32Array, share = 0.35): ItemPopularity {
	if (!(share > 0 && share <= 0.5)) invalidArgument('share', 'above 0 and at most 0.5', share);
	const sorted = trainingCounts.slice(1).sort();
	if (sorted.length > 0 && sorted[0]! < 0) invalidArgument('trainingCounts', 'counts', sorted[0]);
	const wanted = share * sorted.length;
	let coldItems = 0;
	let warmItems = 0;
	for (let end = 1; end <= sorted.length; end++) {
		// `end` items lie below the boundary and `sorted.length − end` above it.
		if (end < sorted.length && sorted[end] === sorted[end - 1]) continue;
		if (Math.abs(end - wanted) < Math.abs(coldItems - wanted)) coldItems = end;
		const above = sorted.length - end;
		if (Math.abs(above - wanted) <= Math.abs(warmItems - wanted)) warmItems = above;
	}
	if (coldItems === 0 && sorted[0] === 0) coldItems = 1; // the never-seen are cold, however many
	const coldMaximum = coldItems > 0 ? sorted[coldItems - 1]! : -1;
	const warmMinimum = warmItems > 0 ? sorted[sorted.length - warmItems]! : Number.POSITIVE_INFINITY;
	const warm = new Uint8Array(trainingCounts.length);
	const cold = new Uint8Array(trainingCounts.length);
	for (let item = 1; item < trainingCounts.length; item++) {
		warm[item] = trainingCounts[item]! >= warmMinimum ? 1 : 0;
		cold[item] = trainingCounts[item]! <= coldMaximum ? 1 : 0;
	}
	return { warm, cold, warmMinimum, coldMaximum };
}

/**
 * The standard slices: `overall`, then by the *target item* `warm`, `cold` and `neverSeen` (no training interaction;
 * these users are in `cold` too).
 *
 * @param trainingCounts (numItems + 1), training interactions of every item, entry 0 is the padding
 * @param targetItems (users), item id of every user's target, 1 … numItems
 * @param share of the items that is warm, and that is cold; default 0.35
 */
export function itemSlices(trainingCounts: Int32Array, targetItems: Int32Array, share = 0.35): Slice[] {
	const { warm, cold, warmMinimum, coldMaximum } = itemPopularity(trainingCounts, share);
	const users = targetItems.length;
	targetItems.forEach((item, user) => {
		if (item < 1 || item >= trainingCounts.length)
			invalidArgument(`targetItems[${user}]`, `an item id from 1 to ${trainingCounts.length - 1}`, item);
	});
	const percent = `${Math.round(share * 100)} %`;
	const where = (name: string, holds: (item: number) => boolean, description: string) =>
		sliceWhere(name, users, (user) => holds(targetItems[user]!), description);
	return [
		where('overall', () => true, 'every evaluated user'),
		where(
			'warm',
			(item) => warm[item] === 1,
			Number.isFinite(warmMinimum)
				? `target among the top ${percent} of items (at least ${warmMinimum} training interactions)`
				: 'no item has more training interactions than the others',
		),
		where(
			'cold',
			(item) => cold[item] === 1,
			coldMaximum >= 0
				? `target among the bottom ${percent} of items (at most ${coldMaximum} training interactions)`
				: 'no item has fewer training interactions than the others',
		),
		where('neverSeen', (item) => trainingCounts[item] === 0, 'target without training interactions'),
	];
}

/**
 * Users with exactly `interactions` interactions (SPEC section 4: 3), as slice `coldUsers`.
 *
 * @param interactionCounts (users), all interactions of every evaluated user, target included
 */
export function coldUserSlice(interactionCounts: Int32Array, interactions = 3): Slice {
	return sliceWhere(
		'coldUsers',
		interactionCounts.length,
		(user) => interactionCounts[user] === interactions,
		`users with exactly ${interactions} interactions`,
	);
}
