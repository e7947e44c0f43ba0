import { z } from 'zod';
import { type BackboneDefinition, sequenceLossOptions, storedSize, trainingOptions } from './backbone.js';

const schema = z.strictObject({
	...trainingOptions,
	...sequenceLossOptions,
	/** Latest items of a history that are used. */
	maxLength: z.int().min(1).default(50),
	/** d, the width of item and user vectors and of the convolutions. */
	hiddenUnits: z.int().min(1).default(50),
	/** Residual blocks, dilated by 1 and 4 in turn. */
	numBlocks: z.int().min(0).default(4),
	/** Items that a convolution looks at. */
	kernelSize: z.int().min(1).default(3),
});

const stored = z.strictObject({
	kind: z.literal('nextitnet'),
	numItems: storedSize,
	maxLength: storedSize,
	hiddenUnits: storedSize,
	numBlocks: storedSize.min(0),
	kernelSize: storedSize,
});

export type NextItNetOptions = z.input<typeof schema>;

/** NextItNet (Yuan et al., 2019): dilated causal convolutions over the history. */
export const nextitnet: BackboneDefinition<z.output<typeof schema>> = {
	kind: 'nextitnet',
	title: 'NextItNet',
	schema,
	config: ({ maxLength, hiddenUnits, numBlocks, kernelSize }, { numItems }) => ({
		kind: 'nextitnet',
		numItems,
		maxLength,
		hiddenUnits,
		numBlocks,
		kernelSize,
	}),
	stored,
	weights: (config) => {
		const { numItems, hiddenUnits, numBlocks, kernelSize } = stored.parse(config);
		return numItems * hiddenUnits + 2 * numBlocks * kernelSize * hiddenUnits * hiddenUnits;
	},
	training: ({ loss, negatives, calibration }) => ({ loss, negatives, calibration }),
};
