import { z } from 'zod';
import { storedSize, trainingOptions } from './backbone.js';

/** Options of backbones that learn a vector for each user from pairs of a user and an item. */
export const userTableOptions = {
	...trainingOptions,
	/** Interactions of a step. */
	batchSize: z.int().min(1).default(2048),
	beta2: trainingOptions.beta2.default(0.999),
	/** d, the width of item and user vectors. */
	hiddenUnits: z.int().min(1).default(50),
};

/** What a file says of such a backbone. */
export const userTableStored = { numItems: storedSize, numUsers: storedSize, hiddenUnits: storedSize };
