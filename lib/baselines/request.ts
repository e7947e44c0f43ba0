import { ALLMRecError, invalidArgument } from '../errors.js';

/** Lists of candidates to score, as many for every user. */
export interface BaselineRequest {
	/** Dense numbers of the users. */
	users: ArrayLike<number>;
	/** Of each user: dense item ids, oldest first. */
	histories: readonly ArrayLike<number>[];
	/** (users × width) dense item ids. */
	candidates: Int32Array;
	/** Candidates of each user. */
	width: number;
}

/**
 * Expects the parts of a request to be of one size, and candidates that there are, where their number is known.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT, ERR_ALLMREC_UNKNOWN_ITEM
 */
export function checkRequest(
	{ users, histories, candidates, width }: BaselineRequest,
	numItems = Number.POSITIVE_INFINITY,
): void {
	if (!Number.isInteger(width) || width < 1) invalidArgument('width', 'a whole number from 1', width);
	if (histories.length !== users.length)
		invalidArgument('histories', `one for each of ${users.length} users`, histories.length);
	if (candidates.length !== users.length * width)
		invalidArgument('candidates', `users × width (${users.length * width})`, candidates.length);
	const unknown = candidates.find((item) => item < 1 || item > numItems);
	if (unknown !== undefined)
		throw new ALLMRecError(
			'ERR_ALLMREC_UNKNOWN_ITEM',
			`Candidate ${unknown} is no item of the data set, whose items are 1 to ${numItems}.`,
		);
}
