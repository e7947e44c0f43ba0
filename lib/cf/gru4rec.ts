import { z } from 'zod';
import { type BackboneDefinition, sequenceLossOptions, storedSize, trainingOptions } from './backbone.js';

const schema = z.strictObject({
	...trainingOptions,
	...sequenceLossOptions,
	/** Latest items of a history that are used. */
	maxLength: z.int().min(1).default(50),
	/** d, the width of item and user vectors. */
	hiddenUnits: z.int().min(1).default(50),
	/** Width of the GRU's state. */
	gruUnits: z.int().min(1).default(100),
	numLayers: z.int().min(1).default(1),
	/** Of the item embeddings. */
	dropoutRate: z.number().min(0).lt(1).default(0.3),
});

const stored = z.strictObject({
	kind: z.literal('gru4rec'),
	numItems: storedSize,
	maxLength: storedSize,
	hiddenUnits: storedSize,
	gruUnits: storedSize,
	numLayers: storedSize,
	dropoutRate: z.number().min(0).lt(1),
});

export type GRU4RecOptions = z.input<typeof schema>;

/** GRU4Rec (Hidasi et al., 2016), trained on whole histories. */
export const gru4rec: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'gru4rec',
	title: 'GRU4Rec',
	schema,
	config: ({ maxLength, hiddenUnits, gruUnits, numLayers, dropoutRate }, { numItems }) => ({
		kind: 'gru4rec',
		numItems,
		maxLength,
		hiddenUnits,
		gruUnits,
		numLayers,
		dropoutRate,
	}),
	stored,
	weights: (config) => {
		const { numItems, hiddenUnits, gruUnits, numLayers } = stored.parse(config);
		return numItems * hiddenUnits + 3 * gruUnits * gruUnits * numLayers;
	},
	training: ({ loss, negatives, calibration }) => ({ loss, negatives, calibration }),
};
