import type { BaselineRequest } from '../baselines/request.js';
import type { Dataset } from '../data/dataset.js';
import { SeededRandom } from '../data/random.js';
import { sampleSteps, unseenItems } from '../data/sampling.js';
import type { Split } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { spread } from '../evaluation/protocol.js';
import { coldUserSlice, itemSlices, type Slice } from '../evaluation/slices.js';
import { inTurns } from '../event-loop.js';
import { splitOf } from '../recommend/run.js';
import type { RunConfig } from '../recommend/run-config.js';

/** What a cell asks: which users, which candidates, and what is told of the users. */
export interface CellOptions {
	split: RunConfig['split'];
	excludeColdUsers: boolean;
	trainUsers?: number | undefined;
	/** Of the few training users. */
	seed: number;
	candidatesSeed: number;
	negatives: number;
	/** Users evaluated at most. */
	users?: number | undefined;
	/** Evaluate those with exactly three interactions alone. */
	coldUsersOnly: boolean;
}

/** The users and candidates that all models of a cell see. */
export interface Cell extends BaselineRequest {
	split: Split;
	users: Int32Array;
	histories: Int32Array[];
	/** (users), where in its row each target stands. */
	targets: Int32Array;
	/** (users), dense ids. */
	targetItems: Int32Array;
	slices: Slice[];
}

/** @throws ERR_ALLMREC_EMPTY_DATASET where no user can be tested */
export async function makeCell(dataset: Dataset, options: CellOptions, signal?: AbortSignal): Promise<Cell> {
	const { candidatesSeed, negatives, coldUsersOnly } = options;
	const split = await splitOf(dataset, options, signal);
	const unseen = await inTurns(unseenItems(dataset), signal);
	const size = (user: number) => dataset.sequence(user).length;
	const able = split
		.users('test')
		.filter((user) => unseen[user]! >= negatives && (!coldUsersOnly || size(user) === 3));
	if (able.length === 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_EMPTY_DATASET',
			`No user of ${dataset.name}${coldUsersOnly ? ' with exactly three interactions' : ''} has a test item and ${negatives} items never interacted with, so there is nothing to evaluate; leave the scenario out, or give fewer \`negatives\`.`,
		);
	const users = spread(able.length, options.users).map((row) => able[row]!);
	const drawn = await inTurns(
		sampleSteps(split, { seed: candidatesSeed, negatives, phase: 'test', users }),
		signal,
	);
	const targetItems = users.map((user) => split.test[user]!);
	return {
		split,
		users,
		histories: Array.from(users, (user) => split.history(user, 'test')),
		candidates: drawn.candidates,
		width: negatives + 1,
		targets: drawn.targets,
		targetItems,
		slices: [...itemSlices(split.itemCounts, targetItems), coldUserSlice(users.map(size))],
	};
}

/** The same cell with every history in another order. */
export function shuffled(cell: Cell, seed: number): Cell {
	const histories = cell.histories.map((history, row) => {
		const copy = history.slice();
		new SeededRandom(seed, SHUFFLE_STREAM, cell.users[row]!).shuffle(copy);
		return copy;
	});
	return { ...cell, histories };
}

const SHUFFLE_STREAM = 71;
