import { invalidArgument } from '../errors.js';
import type { Steps } from '../event-loop.js';
import { sorted } from '../sorting.js';
import type { Catalogue } from './catalogue.js';

/** How lists are made. */
export interface ListOptions {
	/** Length of each list. Default 10. */
	topK?: number | undefined;
	/** Candidates retrieved for a user that brings none. Default 20. */
	retrieve?: number | undefined;
	/** Share of the retrieved candidates kept for cold items, found by their texts. Default 0.1. */
	coldShare?: number | undefined;
	/** What the list is ordered by. Default `fused`. */
	by?: 'fused' | 'llm' | 'cf' | undefined;
}

/** One place of a list. */
export interface Recommendation {
	id: string;
	title: string;
	/** From 1. */
	rank: number;
	/** What the list is ordered by. */
	score: number;
	/** <x^u, E_i>, or <x^u, ê(q_i)> for an item without interactions. */
	cf: number;
	/** Log-likelihood of the title, per token or summed as the model was fitted. */
	llm: number;
	/** Popularity-gated fusion of the two, standardised. */
	fused: number;
}

/** Candidates shown in one prompt; more are scored in groups, each with a prompt of its own. */
export const PROMPT_CANDIDATES = 20;

/** Options with their defaults. @throws ERR_ALLMREC_INVALID_ARGUMENT */
export function listOptions({
	topK = 10,
	retrieve = PROMPT_CANDIDATES,
	coldShare = 0.1,
	by = 'fused',
}: ListOptions) {
	if (!Number.isInteger(topK) || topK < 1) invalidArgument('topK', 'a whole number from 1', topK);
	if (!Number.isInteger(retrieve) || retrieve < 1)
		invalidArgument('retrieve', 'a whole number from 1', retrieve);
	if (!(coldShare >= 0 && coldShare <= 1)) invalidArgument('coldShare', 'from 0 to 1', coldShare);
	if (by !== 'fused' && by !== 'llm' && by !== 'cf') invalidArgument('by', '`fused`, `llm` or `cf`', by);
	return { topK, retrieve, coldShare, by };
}

/** The best places of a user's candidates, best first; of equal scores the lower dense id, the catalogue's order. */
export function* rankedList(
	catalogue: Catalogue,
	items: Int32Array,
	scores: { cf: Float32Array; llm: Float32Array; fused: Float32Array },
	{ by, topK }: { by: 'fused' | 'llm' | 'cf'; topK: number },
): Steps<Recommendation[]> {
	const { cf, llm, fused } = scores;
	const order = scores[by];
	const places = yield* sorted(
		Int32Array.from(items.keys()),
		(a, b) => order[b]! - order[a]! || items[a]! - items[b]!,
	);
	return Array.from(places.subarray(0, topK), (i, place) => {
		const { id, title } = catalogue.item(items[i]!);
		return { id, title, rank: place + 1, score: order[i]!, cf: cf[i]!, llm: llm[i]!, fused: fused[i]! };
	});
}
