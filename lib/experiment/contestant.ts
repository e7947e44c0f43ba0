import type { BaselineRequest } from '../baselines/request.js';
import type { LongCallOptions } from '../progress.js';
import type { Cell } from './cell.js';
import type { ExperimentResult, ModelFamily } from './results.js';

/** A model that is compared: floors, recommenders, baselines, A-LLMRec in each of its ways. */
export interface Contestant {
	label: string;
	family: ModelFamily;
	/** (users × width), higher is better. */
	score(request: BaselineRequest, calls: LongCallOptions): Promise<Float32Array>;
}

/** What a result says beside the ranks. */
export type Details = Pick<
	ExperimentResult,
	'curves' | 'calibration' | 'latents' | 'maps' | 'examples' | 'genres' | 'timings'
>;

/** Models that are made together, best scored in this order, and what is said of them afterwards. */
export interface Contestants {
	models: Contestant[];
	/** Seconds of the training that was done to get them. */
	timings: Record<string, number>;
	/** @param scores of each of the models, by label */
	details?: (cell: Cell, scores: ReadonlyMap<string, Float32Array>) => Promise<Details>;
	dispose(): void;
}
