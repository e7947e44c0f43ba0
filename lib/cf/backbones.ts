import type { Dataset } from '../data/dataset.js';
import { invalidArgument } from '../errors.js';
import { expectKnown } from '../known-options.js';
import {
	Backbone,
	type BackboneDefinition,
	type BackboneLoadOptions,
	type BackboneTrainOptions,
	loadDefined,
	trainDefined,
} from './backbone.js';
import * as defined from './defined-backbones.js';
import { SASRec } from './sasrec.js';

/** Kinds of backbones that are trained here. */
export type BackboneKind = keyof typeof defined;

/** Options of each kind. */
export type BackboneOptions = {
	[Kind in BackboneKind]: Partial<(typeof defined)[Kind] extends BackboneDefinition<infer O> ? O : never>;
};

export const BACKBONES = Object.keys(defined) as BackboneKind[];

/** @internal */
export const backbones = { ...defined } as unknown as Record<BackboneKind, BackboneDefinition>;

/** Whether it learns a vector for each user, beside what it makes of a history. @internal */
export function hasUserTable(kind: string): boolean {
	return Object.hasOwn(backbones, kind) && backbones[kind as BackboneKind].unit === 'interactions';
}

/**
 * Trains a backbone of stage 0 on the training part of a split, validating by NDCG@10 over the whole catalogue; the best
 * weights are kept.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT for unusable options, ERR_ALLMREC_EMPTY_DATASET without anything to learn,
 * ERR_ALLMREC_NUMERIC if the loss is not finite.
 */
export async function trainBackbone<Kind extends BackboneKind>(
	kind: Kind,
	dataset: Dataset,
	options: BackboneOptions[Kind] = {},
	settings: BackboneTrainOptions = {},
): Promise<Backbone> {
	if (kind === 'sasrec') return SASRec.train(dataset, options, settings);
	if (!Object.hasOwn(backbones, kind)) invalidArgument('kind', `one of ${BACKBONES.join(', ')}`, kind);
	return trainDefined(
		backbones[kind],
		(session, native, config, training) =>
			new Backbone(session, native, config, {
				...(training && { training }),
				scoring: backbones[kind].scoring ?? 'product',
			}),
		dataset,
		options as never,
		settings,
	);
}

/**
 * Loads a backbone saved by {@link Backbone.save}, or a checkpoint of SASRec that {@link SASRec.load} reads.
 *
 * @throws ERR_ALLMREC_CHECKPOINT
 */
export async function loadBackbone(path: string, options: BackboneLoadOptions = {}): Promise<Backbone> {
	expectKnown('loadBackbone', options);
	return (await loadDefined(Object.values(backbones), path, options)) ?? SASRec.load(path, options);
}
