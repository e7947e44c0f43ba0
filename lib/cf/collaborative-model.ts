import type { TargetRanks } from '../evaluation/metrics.js';
import type { Ragged } from '../native/addon.js';

/** What a backbone of stage 0 offers the stages after it. */
export interface CollaborativeModel {
	/** d */
	readonly size: number;
	readonly numItems: number;
	/** E (numItems + 1, d); row 0 is padding. */
	itemTable(): Promise<Float32Array>;
	/**
	 * x^u (users, d) of histories of dense item ids, oldest first; an empty history of a user that is not known gives
	 * zeros.
	 *
	 * @param users dense ids of the data set the model was trained on, −1 where not known; for backbones that keep a
	 * vector for each user. Default: all known by their histories alone.
	 */
	userVectors(
		histories: ArrayLike<ArrayLike<number>> | Ragged,
		signal?: AbortSignal,
		users?: Int32Array,
	): Promise<Float32Array>;
	/** Scores of candidates (users × perUser): <x^u, E_i>, unless the backbone says otherwise. */
	scoreCandidates(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array>;
	/** Scores of item vectors (users · perUser, d), of the table's space, that need not be in the table. */
	scoreVectors(users: Float32Array, items: Float32Array, perUser: number): Promise<Float32Array>;
	/**
	 * A model that scores as this one does, of other items: for searching them. Its users are this one's vectors.
	 *
	 * @param items (count + 1, d), row 0 is padding
	 */
	withItems(items: Float32Array): Promise<CollaborativeModel>;
	/** Best items of the whole catalogue, those of `exclude` left out; −1 where there are fewer than k. */
	retrieve(
		users: Float32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		k: number,
		signal?: AbortSignal,
	): Promise<{ items: Int32Array; scores: Float32Array }>;
	/** Where each target ranks among the catalogue without the user's `exclude` items. */
	rankTargets(
		users: Float32Array,
		targets: Int32Array,
		exclude: ArrayLike<ArrayLike<number>>,
		signal?: AbortSignal,
	): Promise<TargetRanks>;
	save(path: string): Promise<void>;
	dispose(): void;
}
