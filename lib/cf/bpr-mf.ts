import { z } from 'zod';
import type { BackboneDefinition } from './backbone.js';
import { userTableOptions, userTableStored } from './user-table.js';

const schema = z.strictObject({
	...userTableOptions,
	/** λ of a penalty λ‖E‖ on the item table. */
	l2Embedding: z.number().min(0).default(0),
});

const stored = z.strictObject({ kind: z.literal('bprmf'), ...userTableStored });

export type BPRMFOptions = z.input<typeof schema>;

/** Matrix factorisation by Bayesian personalised ranking (Rendle et al., 2009). */
export const bprmf: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'bprmf',
	title: 'BPR-MF',
	schema,
	config: ({ hiddenUnits }, { numItems, numUsers }) => ({ kind: 'bprmf', numItems, numUsers, hiddenUnits }),
	stored,
	weights: (config) => {
		const { numItems, numUsers, hiddenUnits } = stored.parse(config);
		return (numItems + numUsers) * hiddenUnits;
	},
	training: ({ l2Embedding }) => ({ l2Embedding }),
	unit: 'interactions',
};
