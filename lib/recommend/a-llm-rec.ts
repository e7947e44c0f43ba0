import type { Alignment, ItemLatents } from '../alignment/alignment.js';
import type { CollaborativeModel } from '../cf/sasrec.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import type { PromptTemplate } from '../llm/prompt-template.js';
import { genreTemplate } from '../llm/prompt-template.js';
import type { Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import type { Projection } from '../projection/projection.js';
import { itemText } from '../text/item-text.js';
import type { SentenceEncoder } from '../text/sentence-encoder.js';
import type { Catalogue, NewItem } from './catalogue.js';
import type { FusionGate } from './fusion.js';
import { createPrompts, type JointSource, jointTable } from './model-parts.js';
import { CandidateScorer, type CandidateScores } from './scorer.js';

/** A user to recommend to. */
export interface UserRequest {
	/** Item ids of the source, oldest first. */
	history: readonly string[];
	/** Rank these items only. Default: retrieved from the whole catalogue. */
	candidates?: readonly string[] | undefined;
}

export interface RecommendOptions extends LongCallOptions {
	/** Length of each list. Default 10. */
	topK?: number | undefined;
	/** Candidates retrieved for a user that brings none. Default 20. */
	retrieve?: number | undefined;
	/** Share of the retrieved candidates kept for cold items, found by their texts. Default 0.1. */
	coldShare?: number | undefined;
	/** What the list is ordered by. Default `fused`. */
	by?: 'fused' | 'llm' | 'cf' | undefined;
}

/** One place of a list. */
export interface Recommendation {
	id: string;
	title: string;
	/** From 1. */
	rank: number;
	/** What the list is ordered by. */
	score: number;
	/** <x^u, E_i>, or <x^u, ê(q_i)> for an item without interactions. */
	cf: number;
	/** Log-likelihood of the title, per token or summed as the model was fitted. */
	llm: number;
	/** Popularity-gated fusion of the two, standardised. */
	fused: number;
}

/** Scores of given candidates for given users, (users × candidates). */
export interface ModelScores {
	cf: Float32Array;
	llm: Float32Array;
	fused: Float32Array;
}

/** What an {@link ALLMRec} is made of. */
export interface ALLMRecParts {
	catalogue: Catalogue;
	cf: CollaborativeModel;
	encoder: SentenceEncoder;
	alignment: Alignment;
	latents: ItemLatents;
	projection: Projection;
	llm: CausalLM;
	template: PromptTemplate;
	historyLength: number;
	coldThreshold: number;
	joint: JointSource;
	/** Prompt ablations the projector was trained with. */
	withoutUser: boolean;
	/** Undefined until fitted. */
	fusion?: FusionGate | undefined;
	normalisation: 'mean' | 'sum';
	session: Session;
}

/** Which of the run's ways to use the language model a score comes from. */
export type LlmVariant =
	/** A-LLMRec: joint embeddings by the one rule. */
	| 'aligned'
	/** A-LLMRec (SBERT): q_i for all items. */
	| 'text'
	/** The prompt without any vectors. */
	| 'llmOnly';

const RERANK_WIDTH = 20;

/** A trained A-LLMRec: recommends with a frozen language model. Trained by `train`, loaded by `loadRun`. */
export class ALLMRec {
	readonly parts: Readonly<ALLMRecParts>;
	#itemTable: Promise<Float32Array> | undefined;
	readonly #scorers = new Map<LlmVariant, Promise<CandidateScorer>>();
	#genrePrompts: Promise<PromptBuilder> | undefined;
	/** What was made of the whole catalogue and grows with it. */
	readonly #prompts: PromptBuilder[] = [];
	readonly #tokenScorers: CandidateScorer[] = [];
	#last: Promise<unknown> = Promise.resolve();
	#disposed = false;

	/** Takes ownership of the models. */
	constructor(parts: ALLMRecParts) {
		this.parts = parts;
	}

	get catalogue(): Catalogue {
		return this.parts.catalogue;
	}

	/**
	 * Ranked lists, one for each user.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM, ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_PROMPT_TOO_LONG
	 */
	async recommend(
		users: readonly UserRequest[],
		options: RecommendOptions = {},
	): Promise<Recommendation[][]> {
		this.#assertLive();
		const { topK = 10, retrieve = RERANK_WIDTH, coldShare = 0.1, by = 'fused', signal, onProgress } = options;
		if (!Number.isInteger(topK) || topK < 1) invalidArgument('topK', 'a whole number from 1', topK);
		if (!Number.isInteger(retrieve) || retrieve < 1)
			invalidArgument('retrieve', 'a whole number from 1', retrieve);
		if (!(coldShare >= 0 && coldShare <= 1)) invalidArgument('coldShare', 'from 0 to 1', coldShare);
		if (by !== 'fused' && by !== 'llm' && by !== 'cf') invalidArgument('by', '`fused`, `llm` or `cf`', by);
		const histories = users.map(({ history }, u) => {
			if (history.length === 0)
				throw new ALLMRecError(
					'ERR_ALLMREC_EMPTY_HISTORY',
					`User ${u} has an empty history. Give at least one item id, or recommend popular items instead.`,
				);
			return Int32Array.from(history, (id) => this.catalogue.index(id));
		});
		const vectors = await this.userVectors(histories, signal);
		const retrieved = users.some(({ candidates }) => !candidates)
			? await this.#retrieve(vectors, histories, Math.max(retrieve, topK), coldShare, signal)
			: [];
		const candidates = users.map(({ candidates }, u) => {
			if (!candidates) return retrieved[u]!;
			if (candidates.length === 0) invalidArgument('candidates', 'at least one item id', candidates);
			return Int32Array.from(new Set(candidates.map((id) => this.catalogue.index(id))));
		});
		const lists: Recommendation[][] = [];
		const d = this.parts.cf.size;
		const llm =
			by === 'cf'
				? undefined
				: await this.#score(vectors, histories, candidates, 'aligned', { signal, onProgress });
		let at = 0;
		for (const [u, items] of candidates.entries()) {
			const cf = await this.cfScores(vectors.subarray(u * d, (u + 1) * d), items, items.length);
			const own = llm ? llm.subarray(at, at + items.length) : new Float32Array(items.length);
			at += items.length;
			const fused = llm ? this.#fuse(cf, own, items, items.length) : cf;
			const order = { cf, llm: own, fused }[by];
			const places = Array.from(items.keys()).sort((a, b) => order[b]! - order[a]! || items[a]! - items[b]!);
			lists.push(
				places.slice(0, topK).map((i, place) => {
					const { id, title } = this.catalogue.item(items[i]!);
					return { id, title, rank: place + 1, score: order[i]!, cf: cf[i]!, llm: own[i]!, fused: fused[i]! };
				}),
			);
		}
		return lists;
	}

	/** x^u (users, d). Items added by text are no part of the recommender and are left out of the histories. */
	userVectors(histories: readonly ArrayLike<number>[], signal?: AbortSignal): Promise<Float32Array> {
		const { cf } = this.parts;
		return cf.userVectors(
			histories.map((history) => Array.from(history).filter((item) => item <= cf.numItems)),
			signal,
		);
	}

	/** CF scores of candidates (users × perUser) for user vectors (users, d); an item without training by its text. */
	async cfScores(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array> {
		const table = await this.#cfTable();
		const d = this.parts.cf.size;
		const scores = new Float32Array(candidates.length);
		for (let i = 0; i < candidates.length; i++) {
			const user = Math.floor(i / perUser) * d;
			const item = candidates[i]! * d;
			let dot = 0;
			for (let c = 0; c < d; c++) dot += users[user + c]! * table[item + c]!;
			scores[i] = dot;
		}
		return scores;
	}

	/**
	 * Log-likelihoods of candidates (users × perUser), dense item ids, shown in prompts of at most 20.
	 *
	 * @param vectors (users, d)
	 */
	llmScores(
		vectors: Float32Array,
		histories: readonly ArrayLike<number>[],
		candidates: Int32Array,
		variant: LlmVariant = 'aligned',
		options: LongCallOptions = {},
	): Promise<Float32Array> {
		const perUser = candidates.length / Math.max(1, histories.length);
		const rows = histories.map((_, u) => candidates.subarray(u * perUser, (u + 1) * perUser));
		return this.#score(vectors, histories, rows, variant, options);
	}

	/** Both kinds of log-likelihood, for choosing between them. */
	async candidateScores(
		vectors: Float32Array,
		histories: readonly ArrayLike<number>[],
		candidates: readonly Int32Array[],
		variant: LlmVariant,
		options: LongCallOptions = {},
	): Promise<CandidateScores> {
		this.#assertLive();
		const scorer = await this.#scorer(variant);
		const d = this.parts.cf.size;
		const tokens =
			variant === 'llmOnly' || this.parts.withoutUser
				? undefined
				: await this.parts.projection.users(vectors);
		const width = this.parts.llm.tokenSize;
		const requests = histories.flatMap((history, u) => {
			const items = candidates[u]!;
			const user = tokens?.subarray(u * width, (u + 1) * width);
			const groups = Math.max(1, Math.ceil(items.length / RERANK_WIDTH));
			return Array.from({ length: groups }, (_, g) => ({
				history,
				user,
				candidates: items.subarray(g * RERANK_WIDTH, (g + 1) * RERANK_WIDTH),
			}));
		});
		if (vectors.length !== histories.length * d)
			invalidArgument('vectors', `${histories.length} rows of ${d}`, vectors);
		return scorer.score(requests, options);
	}

	/** Popularity-gated fusion of both scores; the language model's alone while no gate is fitted. */
	fusedScores(cf: Float32Array, llm: Float32Array, candidates: Int32Array, perUser: number): Float32Array {
		return this.#fuse(cf, llm, candidates, perUser);
	}

	/**
	 * Adds an item by its text alone, without training; it can be recommended at once.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT if its id is taken
	 */
	async addItem(item: NewItem): Promise<void> {
		this.#assertLive();
		return this.#inTurn(() => this.#add(item));
	}

	async #add(item: NewItem): Promise<void> {
		const { encoder, alignment, latents, projection } = this.parts;
		const text = itemText(item, { referenceCompat: alignment.config.referenceCompat });
		if (this.catalogue.has(item.id)) invalidArgument('id', 'one that is not in the catalogue yet', item.id);
		const q = await alignment.encodeTexts(await encoder.encode([text]));
		const decoded = await alignment.decodeItems(q);
		const token = await projection.items(q);
		const table = await this.#cfTable();
		// Nothing is changed before everything is computed, so a failure leaves the catalogue as it was.
		this.catalogue.add(item);
		latents.e = append(latents.e, new Float32Array(latents.size));
		latents.q = append(latents.q, q);
		this.#itemTable = Promise.resolve(append(table, decoded));
		for (const scorer of this.#tokenScorers) scorer.itemTokens = append(scorer.itemTokens, token);
		for (const prompts of this.#prompts) prompts.titles.append(item.title || item.id);
	}

	/**
	 * Text about a user, generated from the same vectors. The task `favourite-genre` asks for the genres the user would
	 * enjoy.
	 */
	async generate(
		{ history }: Pick<UserRequest, 'history'>,
		{
			task = 'favourite-genre',
			maxNewTokens = 32,
			repetitionPenalty = 1.5,
			signal,
		}: {
			task?: 'favourite-genre';
			maxNewTokens?: number;
			repetitionPenalty?: number;
			signal?: AbortSignal;
		} = {},
	): Promise<string> {
		this.#assertLive();
		if (task !== 'favourite-genre') invalidArgument('task', '`favourite-genre`', task);
		if (history.length === 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_EMPTY_HISTORY',
				'The user has an empty history; give at least one item id.',
			);
		const { llm, template, historyLength, withoutUser, projection } = this.parts;
		this.#genrePrompts ??= this.#prepare(genreTemplate(template.words), { historyLength, withoutUser });
		const items = Int32Array.from(history, (id) => this.catalogue.index(id));
		const builder = await this.#genrePrompts;
		const prompt = builder.build({ history: items, reserve: maxNewTokens });
		const user = await projection.users(await this.userVectors([items], signal));
		const table = (await this.#scorer('aligned')).itemTokens;
		const width = llm.tokenSize;
		const soft = new Float32Array(prompt.slots.length * width);
		for (const [k, slot] of prompt.slots.entries())
			soft.set(
				slot.kind === 'user' ? user : table.subarray(slot.item * width, (slot.item + 1) * width),
				k * width,
			);
		const [ids] = await llm.generateIds([prompt.ids], soft, { maxNewTokens, repetitionPenalty, signal });
		return llm.tokenizer.decode(ids!).trim();
	}

	/** Idempotent; frees all models. */
	dispose(): void {
		if (this.#disposed) return;
		this.#disposed = true;
		const { cf, encoder, alignment, projection, llm, session } = this.parts;
		for (const model of [cf, encoder, alignment, projection, llm]) model.dispose();
		session.release();
	}

	async [Symbol.asyncDispose](): Promise<void> {
		this.dispose();
	}

	#assertLive(): void {
		if (this.#disposed)
			throw new ALLMRecError('ERR_ALLMREC_DISPOSED', 'This recommender has been disposed of.');
	}

	async #score(
		vectors: Float32Array,
		histories: readonly ArrayLike<number>[],
		candidates: readonly Int32Array[],
		variant: LlmVariant,
		options: LongCallOptions,
	): Promise<Float32Array> {
		const scores = await this.candidateScores(vectors, histories, candidates, variant, options);
		return scores[this.parts.normalisation];
	}

	#fuse(cf: Float32Array, llm: Float32Array, candidates: Int32Array, perUser: number): Float32Array {
		const { fusion } = this.parts;
		if (!fusion) return llm;
		const counts = this.catalogue.trainingCounts;
		return fusion.fuse(
			cf,
			llm,
			Float64Array.from(candidates, (item) => counts[item]!),
			perUser,
		);
	}

	/** One after the other: what is made of the whole catalogue, and what is added to it. */
	#inTurn<T>(work: () => Promise<T>): Promise<T> {
		const result = this.#last.then(work);
		this.#last = result.catch(() => {});
		return result;
	}

	#prepare(template: PromptTemplate, options: Parameters<typeof createPrompts>[3]): Promise<PromptBuilder> {
		return this.#inTurn(async () => {
			const prompts = await createPrompts(this.parts.llm, this.catalogue, template, options);
			this.#prompts.push(prompts);
			return prompts;
		});
	}

	#scorer(variant: LlmVariant): Promise<CandidateScorer> {
		let scorer = this.#scorers.get(variant);
		if (!scorer) {
			scorer = this.#inTurn(() => this.#createScorer(variant));
			this.#scorers.set(variant, scorer);
		}
		return scorer;
	}

	async #createScorer(variant: LlmVariant): Promise<CandidateScorer> {
		const { cf, llm, template, historyLength, withoutUser, latents, projection, joint, coldThreshold } =
			this.parts;
		const plain = variant === 'llmOnly';
		const prompts = await createPrompts(llm, this.catalogue, template, {
			historyLength,
			withoutUser: plain || withoutUser,
			withoutItemSlots: plain,
		});
		this.#prompts.push(prompts);
		if (plain) return new CandidateScorer(llm, prompts);
		const source = variant === 'text' ? 'text' : joint;
		const rows = cf.numItems + 1;
		const counts = this.catalogue.trainingCounts.slice(0, rows);
		const trained = { ...latents, e: latents.e.subarray(0, rows * latents.size) };
		// Added items are known by their texts, whatever the source and the threshold.
		const added = latents.q.subarray(rows * latents.size);
		const table = append(jointTable(trained, counts, source, coldThreshold), added);
		const scorer = new CandidateScorer(llm, prompts, { itemTokens: await projection.items(table) });
		this.#tokenScorers.push(scorer);
		return scorer;
	}

	/** Item vectors in the recommender's space (size, d): E_i, and ê(q_i) for items without training interactions. */
	#cfTable(): Promise<Float32Array> {
		this.#itemTable ??= this.#createCfTable();
		return this.#itemTable;
	}

	async #createCfTable(): Promise<Float32Array> {
		const { cf, alignment, latents } = this.parts;
		const own = await cf.itemTable();
		const table = new Float32Array(this.catalogue.size * cf.size);
		table.set(own.subarray(0, table.length));
		const cold = this.#coldItems();
		if (cold.length > 0) {
			const rows = new Float32Array(cold.length * latents.size);
			for (const [i, item] of cold.entries())
				rows.set(latents.q.subarray(item * latents.size, (item + 1) * latents.size), i * latents.size);
			const decoded = await alignment.decodeItems(rows);
			for (const [i, item] of cold.entries())
				table.set(decoded.subarray(i * cf.size, (i + 1) * cf.size), item * cf.size);
		}
		return table;
	}

	/** Those with few training interactions, and all that were added. */
	#coldItems(): Int32Array {
		const { cf, coldThreshold } = this.parts;
		const counts = this.catalogue.trainingCounts;
		return Int32Array.from(
			counts.flatMap((n, item) => (item > 0 && (n < coldThreshold || item > cf.numItems) ? [item] : [])),
		);
	}

	/** Best warm items by the recommender and best cold ones by their texts, never from the history. */
	async #retrieve(
		vectors: Float32Array,
		histories: readonly Int32Array[],
		count: number,
		coldShare: number,
		signal: AbortSignal | undefined,
	): Promise<Int32Array[]> {
		const { cf } = this.parts;
		const cold = this.#coldItems();
		const known = histories.map((history) => [...history.filter((item) => item <= cf.numItems)]);
		const exclude = known.map((history) => [...history, ...cold.filter((item) => item <= cf.numItems)]);
		const { items } = await cf.retrieve(vectors, exclude, count, signal);
		const d = cf.size;
		const result: Int32Array[] = [];
		for (const [u, history] of histories.entries()) {
			const warm = items.subarray(u * count, (u + 1) * count).filter((item) => item > 0);
			const seen = new Set(history);
			const fresh = cold.filter((item) => !seen.has(item));
			const scores = await this.cfScores(vectors.subarray(u * d, (u + 1) * d), fresh, fresh.length);
			const best = Array.from(fresh.keys()).sort((a, b) => scores[b]! - scores[a]! || fresh[a]! - fresh[b]!);
			const room = Math.min(fresh.length, Math.max(Math.round(count * coldShare), count - warm.length));
			result.push(
				Int32Array.from([...warm.subarray(0, count - room), ...best.slice(0, room).map((i) => fresh[i]!)]),
			);
		}
		return result;
	}
}

function append(table: Float32Array, row: Float32Array): Float32Array {
	const longer = new Float32Array(table.length + row.length);
	longer.set(table);
	longer.set(row, table.length);
	return longer;
}
