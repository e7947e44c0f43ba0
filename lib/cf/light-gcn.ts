import { z } from 'zod';
import type { BackboneDefinition } from './backbone.js';
import { userTableOptions, userTableStored } from './user-table.js';

const schema = z.strictObject({
	...userTableOptions,
	/** Propagations over the graph of users and items. */
	numLayers: z.int().min(0).max(16).default(3),
	/** λ of the penalty on the embeddings that a step begins with. */
	regularisation: z.number().min(0).default(1e-4),
});

const stored = z.strictObject({
	kind: z.literal('lightgcn'),
	...userTableStored,
	numLayers: z.int().min(0).max(16),
});

export type LightGCNOptions = z.input<typeof schema>;

/** LightGCN (He et al., 2020). */
export const lightgcn: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'lightgcn',
	title: 'LightGCN',
	schema,
	config: ({ hiddenUnits, numLayers }, { numItems, numUsers }) => ({
		kind: 'lightgcn',
		numItems,
		numUsers,
		hiddenUnits,
		numLayers,
	}),
	stored,
	weights: (config) => {
		const { numItems, numUsers, hiddenUnits } = stored.parse(config);
		return 2 * (numItems + numUsers) * hiddenUnits;
	},
	training: ({ regularisation }) => ({ regularisation }),
	unit: 'interactions',
};
