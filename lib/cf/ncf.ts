import { z } from 'zod';
import type { BackboneDefinition } from './backbone.js';
import { storedSize } from './backbone.js';
import { userTableOptions, userTableStored } from './user-table.js';

const schema = z.strictObject({
	...userTableOptions,
	/** Width of the embeddings that the towers begin with. */
	embeddingSize: z.int().min(1).default(64),
	/** Width of a tower's hidden layer. */
	towerUnits: z.int().min(1).default(128),
	/** Items drawn for each interaction that were not chosen. */
	negatives: z.int().min(1).max(1024).default(4),
});

const stored = z.strictObject({
	kind: z.literal('ncf'),
	...userTableStored,
	embeddingSize: storedSize,
	towerUnits: storedSize,
});

export type NCFOptions = z.input<typeof schema>;

/** Two towers, a user's and an item's (the NCF of A-LLMRec's table, after He et al., 2017). */
export const ncf: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'ncf',
	title: 'NCF',
	schema,
	config: ({ hiddenUnits, embeddingSize, towerUnits }, { numItems, numUsers }) => ({
		kind: 'ncf',
		numItems,
		numUsers,
		hiddenUnits,
		embeddingSize,
		towerUnits,
	}),
	stored,
	weights: (config) => {
		const { numItems, numUsers, hiddenUnits, embeddingSize, towerUnits } = stored.parse(config);
		return (numItems + numUsers) * (hiddenUnits + embeddingSize) + 2 * towerUnits * embeddingSize;
	},
	training: ({ negatives }) => ({ negatives }),
	unit: 'interactions',
};
