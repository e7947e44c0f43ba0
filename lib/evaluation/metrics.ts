import { ALLMRecError, invalidArgument } from '../errors.js';
import { blocks, type Steps } from '../event-loop.js';
import { Random } from './random.js';

/** The `k` of Hit@k, NDCG@k and Recall@k, SPEC section 4. */
export const cutoffs = [1, 5, 10, 20] as const;

/** Name of one metric of one user. With a single target per user, `recall@k` equals `hit@k`. */
export type MetricName = `hit@${number}` | `ndcg@${number}` | `recall@${number}` | 'mrr';

/**
 * Where each user's target stands among what it was ranked with. Two counts instead of a rank: they say what a
 * rank cannot, how many others share the target's score. A full-catalogue kernel can fill them without keeping
 * a single score.
 */
export interface TargetRanks {
	/** (users), how many scored strictly higher than the target. */
	greater: Int32Array;
	/** (users), how many others scored exactly the same; the target itself is not counted. */
	ties: Int32Array;
}

/** Hit@k, NDCG@k and Recall@k for every cutoff, then MRR. */
export function metricNames(ks: readonly number[] = cutoffs): MetricName[] {
	return [
		...ks.map((k): MetricName => `hit@${k}`),
		...ks.map((k): MetricName => `ndcg@${k}`),
		...ks.map((k): MetricName => `recall@${k}`),
		'mrr',
	];
}

/**
 * Counts, per user, the candidates above and beside the target. Infinite scores are compared as such.
 *
 * @param scores (users × candidates), higher is better
 * @param targets (users), position of the target in its row, 0 … candidates − 1
 * @throws `ERR_ALLMREC_NUMERIC` where a score is NaN
 */
export function* rankTargets(scores: Float32Array, targets: Int32Array): Steps<TargetRanks> {
	const users = targets.length;
	const candidates = rowWidth('scores', scores.length, users);
	const greater = new Int32Array(users);
	const ties = new Int32Array(users);
	const rank = (user: number) => {
		const start = user * candidates;
		const target = targets[user]!;
		if (target < 0 || target >= candidates)
			invalidArgument(`targets[${user}]`, `a position from 0 to ${candidates - 1}`, target);
		const own = scores[start + target]!;
		let above = 0;
		let beside = -1; // the target meets itself once
		for (let at = start; at < start + candidates; at++) {
			const score = scores[at]!;
			if (score > own) above++;
			else if (score === own) beside++;
			else if (!(score < own))
				throw new ALLMRecError(
					'ERR_ALLMREC_NUMERIC',
					`Expected every score to be a number, got NaN for user row ${user}, ` +
						`candidate ${Number.isNaN(own) ? target : at - start}.`,
				);
		}
		greater[user] = above;
		ties[user] = beside;
	};
	yield* forEachRow(users, candidates, rank);
	return { greater, ties };
}

/**
 * One metric for every user, in [0, 1].
 *
 * Ties: the value is the *expectation over a uniformly random order of the tied candidates*, computed exactly, not
 * drawn. So a constant scorer gets chance (Hit@1 = 1/20 among 20), not 1 (ties counted for the target), not 0
 * (against it), and the position of the target in its row does not matter.
 *
 * With g above and t beside, the rank is uniform on g+1 … g+t+1, and
 * Hit@k = |{r ≤ k}| / (t+1), NDCG@k = Σ_{r ≤ k} 1/log2(r+1) / (t+1), MRR = Σ 1/r / (t+1).
 */
export function metricValues(ranks: TargetRanks, metric: MetricName): Float64Array {
	const { greater, ties } = ranks;
	const users = greater.length;
	if (ties.length !== users) invalidArgument('ranks.ties', `as long as \`greater\` (${users})`, ties.length);
	let last = 0;
	for (let user = 0; user < users; user++) {
		if (greater[user]! < 0) invalidArgument(`ranks.greater[${user}]`, 'a count', greater[user]);
		if (ties[user]! < 0) invalidArgument(`ranks.ties[${user}]`, 'a count', ties[user]);
		last = Math.max(last, greater[user]! + ties[user]! + 1);
	}
	const worth = rankWorth(metric, last); // (last + 1)
	const cumulative = worth.slice();
	for (let rank = 1; rank <= last; rank++) cumulative[rank]! += cumulative[rank - 1]!;
	const values = new Float64Array(users);
	for (let user = 0; user < users; user++) {
		const above = greater[user]!;
		const group = ties[user]! + 1;
		values[user] =
			group === 1 ? worth[above + 1]! : (cumulative[above + group]! - cumulative[above]!) / group;
	}
	return values;
}

/** Entry r: what rank r is worth; entry 0 is 0. */
function rankWorth(metric: MetricName, last: number): Float64Array {
	const [kind, cutoff] = metric.split('@') as [string, string | undefined];
	const k = cutoff === undefined ? last : Number(cutoff);
	const known =
		metric === 'mrr' ||
		(['hit', 'ndcg', 'recall'].includes(kind) && Number.isInteger(Number(cutoff)) && k > 0);
	if (!known) invalidArgument('metric', '`hit@k`, `ndcg@k`, `recall@k` with a positive k, or `mrr`', metric);
	const worth = new Float64Array(last + 1);
	for (let rank = 1; rank <= Math.min(k, last); rank++)
		worth[rank] = kind === 'mrr' ? 1 / rank : kind === 'ndcg' ? 1 / Math.log2(rank + 1) : 1;
	return worth;
}

/**
 * The `k` best candidates of every user, best first. Ties are broken by a seeded draw: by position they would
 * favour the target wherever candidates are stored target first.
 *
 * @param scores (users × candidates)
 * @param candidates (users × candidates), item ids
 * @param width candidates per user
 * @returns (users × min(k, width)), item ids
 */
export function* topItems(
	scores: Float32Array,
	candidates: Int32Array,
	width: number,
	k: number,
	seed = 0,
): Steps<Int32Array> {
	if (!(Number.isInteger(width) && width > 0)) invalidArgument('width', 'a positive integer', width);
	if (!(Number.isInteger(k) && k > 0)) invalidArgument('k', 'a positive integer', k);
	const users = rowCount('candidates', candidates.length, width);
	if (scores.length !== candidates.length)
		invalidArgument('scores', `as long as \`candidates\` (${candidates.length})`, scores.length);
	const random = new Random(seed);
	const kept = Math.min(k, width);
	const lists = new Int32Array(users * kept);
	const lot = new Float64Array(width);
	const order = Array.from({ length: width }, (_, position) => position);
	const list = (user: number) => {
		const start = user * width;
		for (let position = 0; position < width; position++) lot[position] = random.uniform();
		order.sort((a, b) => {
			const left = scores[start + a]!;
			const right = scores[start + b]!;
			return left === right ? lot[a]! - lot[b]! : right > left ? 1 : -1;
		});
		for (let place = 0; place < kept; place++)
			lists[user * kept + place] = candidates[start + order[place]!]!;
	};
	yield* forEachRow(users, 16 * width, list);
	return lists;
}

/**
 * Share of the catalogue that stands in at least one user's first `k`, in [0, 1].
 *
 * @param lists (users × length), recommended item ids 1 … numItems, best first; 0 fills lists that are shorter
 * @param length places per user
 */
export function* coverage(lists: Int32Array, length: number, k: number, numItems: number): Steps<number> {
	const shown = new Uint8Array(numItems + 1);
	let distinct = 0;
	yield* forEachPlace(lists, length, k, numItems, (item) => {
		if (shown[item] === 0) distinct++;
		shown[item] = 1;
	});
	return numItems === 0 ? 0 : distinct / numItems;
}

/**
 * Mean training interactions of what is recommended: per user over the first `k`, then over the users who were
 * recommended something.
 *
 * @param lists (users × length), as in {@link coverage}
 * @param trainingCounts (numItems + 1), entry 0 is the padding
 */
export function* averagePopularity(
	lists: Int32Array,
	length: number,
	k: number,
	trainingCounts: Int32Array,
): Steps<number> {
	const sums = new Float64Array(rowCount('lists', lists.length, length));
	const places = new Int32Array(sums.length);
	yield* forEachPlace(lists, length, k, trainingCounts.length - 1, (item, user) => {
		sums[user]! += trainingCounts[item]!;
		places[user]!++;
	});
	let total = 0;
	let users = 0;
	for (let user = 0; user < sums.length; user++) {
		if (places[user] === 0) continue;
		total += sums[user]! / places[user]!;
		users++;
	}
	return users === 0 ? 0 : total / users;
}

function* forEachPlace(
	lists: Int32Array,
	length: number,
	k: number,
	numItems: number,
	visit: (item: number, user: number) => void,
): Steps<void> {
	const users = rowCount('lists', lists.length, length);
	if (!(Number.isInteger(k) && k > 0)) invalidArgument('k', 'a positive integer', k);
	const row = (user: number) => {
		for (let place = 0; place < Math.min(k, length); place++) {
			const item = lists[user * length + place]!;
			if (item < 0 || item > numItems)
				invalidArgument(`lists[${user * length + place}]`, `an item id from 0 to ${numItems}`, item);
			if (item > 0) visit(item, user);
		}
	};
	yield* forEachRow(users, Math.min(k, length), row);
}

/** Cells of one step. */
const CELLS = 1 << 16;

/** Calls `work` for the rows 0 … rows − 1; @param cost cells of a row, or what it costs in them */
function* forEachRow(rows: number, cost: number, work: (row: number) => void): Steps<void> {
	yield* blocks(rows, Math.max(1, Math.floor(CELLS / Math.max(1, cost))), (from, to) => {
		for (let row = from; row < to; row++) work(row);
	});
}

/** Columns of a flat matrix of `length` entries and `rows` rows. */
export function rowWidth(name: string, length: number, rows: number): number {
	if (rows === 0 ? length > 0 : length === 0 || length % rows !== 0)
		invalidArgument(name, `a matrix of ${rows} rows of equal, positive width`, length);
	return rows === 0 ? 0 : length / rows;
}

function rowCount(name: string, length: number, width: number): number {
	if (!(Number.isInteger(width) && width > 0) || length % width !== 0)
		invalidArgument(name, `a matrix with rows of ${width}`, length);
	return length / width;
}
