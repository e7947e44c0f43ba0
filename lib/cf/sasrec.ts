import { z } from 'zod';
import type { Dataset } from '../data/dataset.js';
import { ALLMRecError } from '../errors.js';
import { parseJson } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { NativeBackbone, NativeTensorFile, SasRecConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { guard, loaded, Session } from '../native/session.js';
import type { LoopResult } from '../training/loop.js';
import {
	Backbone,
	type BackboneDefinition,
	type BackboneLoadOptions,
	type BackboneTrainOptions,
	sequenceLossOptions,
	storedSize,
	trainDefined,
	trainingOptions,
} from './backbone.js';

/** Hyperparameters of {@link SASRec}, with the reference's defaults. */
export const sasRecSchema = z.strictObject({
	...trainingOptions,
	...sequenceLossOptions,
	/** Latest items of a history that are used. */
	maxLength: z.int().min(1).default(50),
	/** d, the width of item and user vectors. */
	hiddenUnits: z.int().min(1).default(50),
	numBlocks: z.int().min(0).default(2),
	numHeads: z.int().min(1).default(1),
	dropoutRate: z.number().min(0).lt(1).default(0.5),
	/** The reference's `l2_emb`. */
	l2Embedding: z.number().min(0).default(0),
});

export type SASRecOptions = z.input<typeof sasRecSchema>;

export type SASRecTrainOptions = BackboneTrainOptions;

export interface SASRecLoadOptions extends BackboneLoadOptions {
	/**
	 * The layout of pmixer's later versions, where the file does not say. Default: they are read as post-norm, which is
	 * their own default.
	 */
	normFirst?: boolean | undefined;
	/** Default: what the file says, else 1. */
	numHeads?: number | undefined;
}

/** What {@link SASRec.save} writes. */
const stored = z.strictObject({
	numItems: storedSize,
	maxLength: storedSize,
	hiddenUnits: storedSize,
	numBlocks: storedSize.min(0),
	numHeads: storedSize,
	dropoutRate: z.number().min(0).lt(1),
	variant: z.enum(['reference', 'preNorm', 'postNorm']),
});

/** SASRec (Kang and McAuley, 2018), as its reference trains it. */
export const sasrec: BackboneDefinition<z.output<typeof sasRecSchema>> = {
	kind: 'sasrec',
	title: 'SASRec',
	schema: sasRecSchema,
	config: ({ maxLength, hiddenUnits, numBlocks, numHeads, dropoutRate }, { numItems }) => ({
		kind: 'sasrec',
		numItems,
		maxLength,
		hiddenUnits,
		numBlocks,
		numHeads,
		dropoutRate,
		variant: 'reference',
	}),
	stored: stored.extend({ kind: z.literal('sasrec') }),
	weights: (config) => weightsOf(stored.loose().parse(config)),
	training: ({ loss, negatives, calibration, l2Embedding }) => ({
		loss,
		negatives,
		calibration,
		l2Embedding,
	}),
};

function weightsOf({ numItems, maxLength, hiddenUnits, numBlocks }: SasRecConfig): number {
	return hiddenUnits * (numItems + maxLength + 6 * numBlocks * hiddenUnits);
}

/** {@link sasrec} with the reference's tensor names. Train one with {@link SASRec.train}, or load a checkpoint. */
export class SASRec extends Backbone {
	/** @internal */
	constructor(session: Session, native: NativeBackbone, config: SasRecConfig, training?: LoopResult) {
		const { numItems, maxLength, hiddenUnits, numBlocks, numHeads, dropoutRate, variant } = config;
		const own = { numItems, maxLength, hiddenUnits, numBlocks, numHeads, dropoutRate, variant };
		super(
			session,
			native,
			{ kind: 'sasrec', ...own },
			{ ...(training && { training }), metadata: { [METADATA]: JSON.stringify(own) } },
		);
	}

	/**
	 * Trains on the training part of a split, validating by NDCG@10 over the whole catalogue; the best weights are kept.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT for unusable options, ERR_ALLMREC_EMPTY_DATASET without anything to learn,
	 * ERR_ALLMREC_NUMERIC if the loss is not finite.
	 */
	static train(
		dataset: Dataset,
		options: SASRecOptions = {},
		settings: SASRecTrainOptions = {},
	): Promise<SASRec> {
		return trainDefined(
			sasrec,
			(session, native, config, training) =>
				new SASRec(session, native, config as unknown as SasRecConfig, training),
			dataset,
			options,
			settings,
		);
	}

	/**
	 * Loads a model saved by {@link SASRec.save}, the authors' `.pth`, or a state dict of pmixer/SASRec.pytorch.
	 *
	 * @throws ERR_ALLMREC_CHECKPOINT if it is no SASRec.
	 */
	static async load(path: string, options: SASRecLoadOptions = {}): Promise<SASRec> {
		expectKnown('loadSASRec', options);
		const { normFirst, numHeads, session: given, signal, ...device } = options;
		const session = given?.share() ?? Session.open(device);
		try {
			const file = guard(() => session.addon.openTensorFile(path));
			let config: SasRecConfig;
			try {
				config = readConfig(file, path, { normFirst, numHeads });
			} finally {
				file.close();
			}
			const described = makeDescribed(
				path,
				{ weights: weightsOf(config), files: [path], rules: { code: 'ERR_ALLMREC_CHECKPOINT' } },
				() => new session.addon.Backbone(session.engine, { kind: 'sasrec', ...config }),
			);
			return new SASRec(session, await loaded(await described, [path], signal), config);
		} catch (error) {
			session.release();
			throw error;
		}
	}
}

const METADATA = 'a-llmrec.sasrec';

function readConfig(
	file: NativeTensorFile,
	path: string,
	{ normFirst, numHeads }: { normFirst: boolean | undefined; numHeads: number | undefined },
): SasRecConfig {
	const metadata = file.metadata();
	const own = metadata[METADATA];
	if (own) return parseJson(own, stored, path, { code: 'ERR_ALLMREC_CHECKPOINT' });
	const shapes = new Map(file.tensors().map(({ name, shape }) => [name, shape]));
	const items = shapes.get('item_emb.weight');
	const positions = shapes.get('pos_emb.weight');
	if (!items || !positions || items.length !== 2)
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${path} is no SASRec: it lacks \`item_emb.weight\` or \`pos_emb.weight\`.`,
		);
	const number = (name: string) => {
		const text = metadata[name] ?? metadata[`args.${name}`];
		return text === undefined || !Number.isFinite(Number(text)) ? undefined : Number(text);
	};
	let numBlocks = 0;
	while (shapes.has(`attention_layernorms.${numBlocks}.weight`)) numBlocks++;
	// The reference has a position for each place in the window; pmixer's later versions one more, for padding.
	const trainedLength = number('maxlen');
	const rows = positions[0]!;
	const says = metadata.norm_first ?? metadata['args.norm_first'];
	const reference =
		normFirst === undefined && (trainedLength === undefined ? rows % 2 === 0 : trainedLength === rows);
	return {
		numItems: items[0]! - 1,
		maxLength: reference ? rows : rows - 1,
		hiddenUnits: items[1]!,
		numBlocks,
		numHeads: numHeads ?? number('num_heads') ?? 1,
		dropoutRate: number('dropout_rate') ?? 0,
		variant: reference ? 'reference' : (normFirst ?? says === 'true') ? 'preNorm' : 'postNorm',
	};
}
