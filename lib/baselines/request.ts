import { invalidArgument } from '../errors.js';

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

/** Expects the parts of a request to be of one size. @throws ERR_ALLMREC_INVALID_ARGUMENT */
export function checkRequest({ users, histories, candidates, width }: BaselineRequest): void {
	if (!Number.isInteger(width) || width < 1) invalidArgument('width', 'a whole number from 1', width);
	if (histories.length !== users.length)
		invalidArgument('histories', `one for each of ${users.length} users`, histories.length);
	if (candidates.length !== users.length * width)
		invalidArgument('candidates', `users × width (${users.length * width})`, candidates.length);
}
