import type { CollaborativeModel } from '../cf/collaborative-model.js';
import type { Dataset } from '../data/dataset.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import type { LongCallOptions } from '../progress.js';
import { Projection, type ProjectionOptions, type ProjectionTrainOptions } from '../projection/projection.js';
import { CandidateScorer } from '../recommend/scorer.js';
import { type BaselineRequest, checkRequest } from './request.js';

export type MlpLlmTrainOptions = Omit<ProjectionTrainOptions, 'joint' | 'alignment'>;

/**
 * MLP-LLM: A-LLMRec without its first stage. The item projection takes the recommender's own embeddings E_i into the
 * language model's token space; prompts, training and scoring are stage 2's.
 */
export class MlpLlm {
	readonly projection: Projection;
	readonly #cf: CollaborativeModel;
	readonly #scorer: CandidateScorer;

	private constructor(projection: Projection, cf: CollaborativeModel, scorer: CandidateScorer) {
		this.projection = projection;
		this.#cf = cf;
		this.#scorer = scorer;
	}

	/** @throws as {@link Projection.train} */
	static async train(
		dataset: Dataset,
		cf: CollaborativeModel,
		llm: CausalLM,
		options: ProjectionOptions,
		calls: MlpLlmTrainOptions,
	): Promise<MlpLlm> {
		const joint = await cf.itemTable();
		const projection = await Projection.train(dataset, cf, llm, options, { ...calls, joint });
		return MlpLlm.#of(projection, joint, cf, llm, calls.prompts);
	}

	/** The model around a projection that was saved with `mlpLlm.projection.save`; it belongs to the model from then on. */
	static async of(
		projection: Projection,
		cf: CollaborativeModel,
		llm: CausalLM,
		prompts: PromptBuilder,
	): Promise<MlpLlm> {
		return MlpLlm.#of(projection, await cf.itemTable(), cf, llm, prompts);
	}

	static async #of(
		projection: Projection,
		items: Float32Array,
		cf: CollaborativeModel,
		llm: CausalLM,
		prompts: PromptBuilder,
	): Promise<MlpLlm> {
		try {
			const itemTokens = await projection.items(items);
			return new MlpLlm(projection, cf, new CandidateScorer(llm, prompts, { itemTokens }));
		} catch (error) {
			projection.dispose();
			throw error;
		}
	}

	/** (users × width) mean log-likelihoods of the candidates' titles. @throws as {@link CandidateScorer.score} */
	async score(request: BaselineRequest, calls: LongCallOptions = {}): Promise<Float32Array> {
		checkRequest(request);
		const { histories, candidates, width } = request;
		const vectors = await this.projection.users(await this.#cf.userVectors(histories, calls.signal));
		const size = this.projection.config.tokenSize;
		const requests = histories.map((history, row) => ({
			history,
			candidates: candidates.subarray(row * width, (row + 1) * width),
			user: vectors.subarray(row * size, (row + 1) * size),
		}));
		return (await this.#scorer.score(requests, calls)).mean;
	}

	/** Idempotent. The recommender and the language model stay. */
	dispose(): void {
		this.projection.dispose();
	}
}
