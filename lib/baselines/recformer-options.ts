import { z } from 'zod';

const limits = {
	/** Tokens of a history, [CLS] included; the oldest are cut. Default 1024. */
	maxTokens: z
		.int()
		.min(2)
		.max(1 << 20)
		.default(1024),
	/** Tokens of an item's attribute, its name included. Default 32. */
	maxItemTokens: z.int().min(2).default(32),
	/** The last so many items of a history are read. Default 50. */
	maxItems: z
		.int()
		.min(1)
		.max(1 << 20)
		.default(50),
};
/** Of the cosines, in the loss and in scores. */
const temperature = z.number().positive();
const window = z
	.int()
	.min(2)
	.max(1 << 20)
	.multipleOf(2);

/** RecFormer's options; where the paper leaves a choice open, see docs/baselines.md. */
export const recFormerSchema = z.strictObject({
	...limits,
	/** Tokens that each token sees around itself, half of them before it. Default 64. */
	window: window.default(64),
	/** Default 0.05. */
	temperature: temperature.default(0.05),
	/** Default 5e-5. */
	learningRate: z.number().positive().default(5e-5),
	/** Users of a step. Default 16. */
	batchSize: z.int().min(1).default(16),
	/** Gradients are scaled down to this norm; 0 = never. Default 1. */
	clipNorm: z.number().min(0).default(1),
	/** Dropout while it learns. Default: the encoder's. */
	dropoutRate: z.number().min(0).lt(1).optional(),
	/** Epochs in which histories and items learn together, against the other items of a step. Default 3. */
	pretrainEpochs: z.int().min(0).default(3),
	/** Most epochs of each of the two stages behind. Default 20. */
	epochs: z.int().min(0).default(20),
	/** Epochs between validations. */
	validateEvery: z.int().min(0).default(1),
	/** Users that validate, at most. */
	validationUsers: z.int().min(1).default(500),
	/** Validations without a better NDCG@10 after which a stage stops. Default 5. */
	patience: z.int().min(1).default(5),
	seed: z.int().min(0).default(0),
});

export type RecFormerOptions = z.input<typeof recFormerSchema>;
export type ParsedRecFormerOptions = z.output<typeof recFormerSchema>;

const size = z
	.int()
	.min(1)
	.max(1 << 24);
/** `recformer.json`. */
export const configSchema = z.strictObject({
	version: z.literal(1),
	maxTokens: limits.maxTokens,
	maxItemTokens: limits.maxItemTokens,
	maxItems: limits.maxItems,
	temperature,
	/** SHA-256 of the items' sentences. */
	items: z.string(),
	model: z.strictObject({
		kind: z.enum(['distilbert', 'bert']),
		vocabSize: size,
		hiddenSize: size,
		numLayers: z.int().min(0).max(1024),
		numHeads: size,
		intermediateSize: size,
		maxPositions: size,
		typeVocabSize: z
			.int()
			.min(0)
			.max(1 << 24),
		layerNormEps: z.number().min(0).max(1),
		activation: z.enum(['gelu', 'gelu_tanh', 'relu']),
		dropoutRate: z.number().min(0).max(1),
		window,
		maxItems: limits.maxItems,
	}),
});
export type RecFormerFile = z.output<typeof configSchema>;
