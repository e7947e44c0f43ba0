import { z } from 'zod';
import type { BackboneDefinition } from './backbone.js';
import { storedSize } from './backbone.js';
import { userTableOptions, userTableStored } from './user-table.js';

const even = (schema: z.ZodNumber) => schema.multipleOf(2);

const schema = z.strictObject({
	...userTableOptions,
	/** d: one half for matrix factorisation, one for the perceptron. */
	hiddenUnits: even(z.int().min(2)).default(64),
	/** Width of the perceptron's first layer. */
	towerUnits: z.int().min(1).default(64),
	/** Items drawn for each interaction that were not chosen. */
	negatives: z.int().min(1).max(1024).default(4),
});

const stored = z.strictObject({
	kind: z.literal('neumf'),
	...userTableStored,
	hiddenUnits: even(storedSize),
	towerUnits: storedSize,
});

export type NeuMFOptions = z.input<typeof schema>;

/** NeuMF (He et al., 2017): matrix factorisation and a perceptron; its scores are no products of vectors. */
export const neumf: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'neumf',
	title: 'NeuMF',
	schema,
	config: ({ hiddenUnits, towerUnits }, { numItems, numUsers }) => ({
		kind: 'neumf',
		numItems,
		numUsers,
		hiddenUnits,
		towerUnits,
	}),
	stored,
	weights: (config) => {
		const { numItems, numUsers, hiddenUnits, towerUnits } = stored.parse(config);
		return (numItems + numUsers + towerUnits) * hiddenUnits;
	},
	training: ({ negatives }) => ({ negatives }),
	unit: 'interactions',
	scoring: 'own',
};
