import type { Alignment, ItemLatents } from '../alignment/alignment.js';
import type { CollaborativeModel } from '../cf/sasrec.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import type { PromptTemplate } from '../llm/prompt-template.js';
import { genreTemplate } from '../llm/prompt-template.js';
import { type Session, takeRows } from '../native/session.js';
import { type LongCallOptions, orAborted } from '../progress.js';
import type { Projection } from '../projection/projection.js';
import { itemText } from '../text/item-text.js';
import type { SentenceEncoder } from '../text/sentence-encoder.js';
import type { Catalogue, NewItem } from './catalogue.js';
import type { FusionGate } from './fusion.js';
import {
	type ListOptions,
	listOptions,
	PROMPT_CANDIDATES,
	type Recommendation,
	rankedList,
} from './lists.js';
import { createPrompts, type JointSource, jointTable } from './model-parts.js';
import { Retriever } from './retrieval.js';
import type { BatchUser, ScoreAllOptions, ScoredUser } from './score-all/score-users.js';
import { scoreUsers } from './score-all/score-users.js';
import { CandidateScorer, type CandidateScores, type PackedRequest, type ScoreRequest } from './scorer.js';

/** A user to recommend to. */
export interface UserRequest {
	/** Item ids of the source, oldest first. */
	history: readonly string[];
	/** Rank these items only. Default: retrieved from the whole catalogue. */
	candidates?: readonly string[] | undefined;
}

export interface RecommendOptions extends ListOptions, LongCallOptions {}

/** A user as dense ids; of its candidates each is there once. */
export interface DenseUser {
	/** Oldest first; at least one. */
	history: Int32Array;
	/** At least one. Undefined: retrieved from the whole catalogue. */
	candidates?: Int32Array | undefined;
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

/** A trained A-LLMRec: recommends with a frozen language model. Trained by `train`, loaded by `loadRun`. */
export class ALLMRec {
	readonly parts: Readonly<ALLMRecParts>;
	#itemTable: Promise<Float32Array> | undefined;
	#retriever: Promise<Retriever> | undefined;
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
		const { signal, onProgress, ...lists } = options;
		const wanted = listOptions(lists);
		const dense = users.map(({ history, candidates }, u): DenseUser => {
			if (history.length === 0)
				throw new ALLMRecError(
					'ERR_ALLMREC_EMPTY_HISTORY',
					`User ${u} has an empty history. Give at least one item id, or recommend popular items instead.`,
				);
			if (candidates?.length === 0) invalidArgument('candidates', 'at least one item id', candidates);
			return {
				history: Int32Array.from(history, (id) => this.catalogue.index(id)),
				candidates: candidates && Int32Array.from(new Set(candidates.map((id) => this.catalogue.index(id)))),
			};
		});
		const results = await this.recommendEach(dense, wanted, { signal, onProgress });
		return results.map((list) => {
			if (list instanceof ALLMRecError) throw list;
			return list;
		});
	}

	/**
	 * Users recommended to one after the other with bounded memory, many at a time: see {@link scoreUsers}.
	 *
	 * @param users a file's path, or any iterable of users
	 */
	scoreAll(
		users: string | Iterable<BatchUser> | AsyncIterable<BatchUser>,
		options: ScoreAllOptions = {},
	): AsyncGenerator<ScoredUser> {
		return scoreUsers(this, users, options);
	}

	/**
	 * A list for each user, or why there is none: a prompt that does not fit.
	 *
	 * @internal
	 */
	async recommendEach(
		users: readonly DenseUser[],
		{ topK, retrieve, coldShare, by }: ReturnType<typeof listOptions>,
		{ signal, onProgress, tokensPerBatch }: LongCallOptions & { tokensPerBatch?: number | undefined } = {},
	): Promise<(Recommendation[] | ALLMRecError)[]> {
		this.#assertLive();
		const histories = users.map(({ history }) => history);
		const vectors = await this.userVectors(histories, signal);
		const candidates = await this.#candidates(users, vectors, Math.max(retrieve, topK), coldShare, signal);
		const table = await this.#cfTable();
		const d = this.parts.cf.size;
		const llm =
			by === 'cf'
				? undefined
				: await this.#scoreEach(vectors, histories, candidates, { signal, onProgress, tokensPerBatch });
		return candidates.map((items, u) => {
			const own = llm ? llm[u]! : new Float32Array(items.length);
			if (own instanceof ALLMRecError) return own;
			const cf = dotProducts(vectors.subarray(u * d, (u + 1) * d), table, items);
			const fused = llm ? this.#fuse(cf, own, items, items.length) : cf;
			return rankedList(this.catalogue, items, { cf, llm: own, fused }, { by, topK });
		});
	}

	/** x^u (users, d). Items added by text are no part of the recommender and are left out of the histories. */
	async userVectors(histories: readonly ArrayLike<number>[], signal?: AbortSignal): Promise<Float32Array> {
		this.#assertLive();
		const { cf } = this.parts;
		return cf.userVectors(
			histories.map((history) => Array.from(history).filter((item) => item <= cf.numItems)),
			signal,
		);
	}

	/** CF scores of candidates (users × perUser) for user vectors (users, d); an item without training by its text. */
	async cfScores(users: Float32Array, candidates: Int32Array, perUser: number): Promise<Float32Array> {
		this.#assertLive();
		const [vectors, rows] = [users.slice(), candidates.slice()]; // the caller's may change from here on
		const table = await this.#cfTable();
		const d = this.parts.cf.size;
		const scores = new Float32Array(rows.length);
		for (let u = 0; u * perUser < rows.length; u++) {
			const items = rows.subarray(u * perUser, (u + 1) * perUser);
			scores.set(dotProducts(vectors.subarray(u * d, (u + 1) * d), table, items), u * perUser);
		}
		return scores;
	}

	/**
	 * Log-likelihoods of candidates (users × perUser), dense item ids, shown in prompts of at most 20.
	 *
	 * @param vectors (users, d)
	 */
	async llmScores(
		vectors: Float32Array,
		histories: readonly ArrayLike<number>[],
		candidates: Int32Array,
		variant: LlmVariant = 'aligned',
		options: LongCallOptions = {},
	): Promise<Float32Array> {
		const perUser = candidates.length / Math.max(1, histories.length);
		const rows = histories.map((_, u) => candidates.subarray(u * perUser, (u + 1) * perUser));
		const scores = await this.candidateScores(vectors, histories, rows, variant, options);
		return scores[this.parts.normalisation];
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
		if (vectors.length !== histories.length * this.parts.cf.size)
			invalidArgument('vectors', `${histories.length} rows of ${this.parts.cf.size}`, vectors);
		// The caller's may change from here on.
		const own = vectors.slice();
		const users = histories.map((history, u) => ({
			history: Int32Array.from(history),
			candidates: candidates[u]!.slice(),
		}));
		const scorer = await orAborted(this.#scorer(variant), options.signal);
		const tokens = await this.#userTokens(own, variant);
		const requests = users.flatMap(({ history, candidates }, u) =>
			this.#requests(history, candidates, u, tokens),
		);
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
		this.#dropRetriever();
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
		const builder = await orAborted(this.#genrePrompts, signal);
		const prompt = builder.build({ history: items, reserve: maxNewTokens });
		const user = await projection.users(await this.userVectors([items], signal));
		const table = (await orAborted(this.#scorer('aligned'), signal)).itemTokens;
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
		this.#dropRetriever();
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

	/** O_u (users, tokenSize); undefined where prompts have no user slot. */
	async #userTokens(vectors: Float32Array, variant: LlmVariant): Promise<Float32Array | undefined> {
		if (variant === 'llmOnly' || this.parts.withoutUser) return undefined;
		return this.parts.projection.users(vectors);
	}

	/** A user's candidates in groups that fit one prompt's list each. */
	#requests(
		history: ArrayLike<number>,
		candidates: Int32Array,
		user: number,
		tokens: Float32Array | undefined,
	): ScoreRequest[] {
		const width = this.parts.llm.tokenSize;
		const groups = Math.max(1, Math.ceil(candidates.length / PROMPT_CANDIDATES));
		return Array.from({ length: groups }, (_, g) => ({
			history,
			user: tokens?.subarray(user * width, (user + 1) * width),
			candidates: candidates.subarray(g * PROMPT_CANDIDATES, (g + 1) * PROMPT_CANDIDATES),
		}));
	}

	/** Log-likelihoods of each user's candidates, or why there are none. */
	async #scoreEach(
		vectors: Float32Array,
		histories: readonly Int32Array[],
		candidates: readonly Int32Array[],
		{ signal, onProgress, tokensPerBatch }: LongCallOptions & { tokensPerBatch?: number | undefined },
	): Promise<(Float32Array | ALLMRecError)[]> {
		const scorer = await orAborted(this.#scorer('aligned'), signal);
		const tokens = await this.#userTokens(vectors, 'aligned');
		const packed: PackedRequest[] = [];
		const problems = histories.map((history, u) => {
			try {
				// All of a user's groups or none.
				const groups = this.#requests(history, candidates[u]!, u, tokens).map((each) => scorer.pack(each));
				packed.push(...groups);
				return undefined;
			} catch (error) {
				if (error instanceof ALLMRecError && error.code === 'ERR_ALLMREC_PROMPT_TOO_LONG') return error;
				throw error;
			}
		});
		let done = 0;
		const onBatch = (requests: number) => {
			done += requests;
			onProgress?.({ stage: 'score', done, total: packed.length, unit: 'prompts' });
		};
		const scores = await scorer.scorePacked(packed, { signal, onBatch, tokensPerBatch });
		const values = scores[this.parts.normalisation];
		let at = 0;
		return problems.map((problem, u) => {
			if (problem) return problem;
			const own = values.subarray(at, at + candidates[u]!.length);
			at += own.length;
			return own;
		});
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

	/** Each user's own candidates, or retrieved ones. */
	async #candidates(
		users: readonly DenseUser[],
		vectors: Float32Array,
		count: number,
		coldShare: number,
		signal: AbortSignal | undefined,
	): Promise<Int32Array[]> {
		const d = this.parts.cf.size;
		const without = users.flatMap(({ candidates }, u) => (candidates ? [] : [u]));
		if (without.length === 0) return users.map(({ candidates }) => candidates!);
		const histories = without.map((u) => users[u]!.history);
		const own = without.length === users.length ? vectors : takeRows(vectors, d, without);
		for (;;) {
			this.#retriever ??= this.#createRetriever();
			const current = this.#retriever;
			const retriever = await orAborted(current, signal);
			this.#assertLive();
			// An item was added in the meantime, and this one has been disposed of.
			if (current !== this.#retriever) continue;
			const found = await retriever.retrieve(own, histories, count, coldShare, signal);
			let next = 0;
			return users.map(({ candidates }) => candidates ?? found[next++]!);
		}
	}

	async #createRetriever(): Promise<Retriever> {
		const { session, cf } = this.parts;
		const table = await this.#cfTable();
		const size = table.length / cf.size;
		const cold = this.#coldItems().filter((item) => item < size);
		return Retriever.create({ session, table, size: cf.size, cold });
	}

	/** The catalogue has changed, or goes. */
	#dropRetriever(): void {
		this.#retriever?.then(
			(retriever) => retriever.dispose(),
			() => {},
		);
		this.#retriever = undefined;
	}
}

/** <x, row> for rows of a table. */
function dotProducts(x: Float32Array, table: Float32Array, rows: Int32Array): Float32Array {
	const products = new Float32Array(rows.length);
	for (let i = 0; i < rows.length; i++) {
		const row = rows[i]! * x.length;
		let dot = 0;
		for (let c = 0; c < x.length; c++) dot += x[c]! * table[row + c]!;
		products[i] = dot;
	}
	return products;
}

function append(table: Float32Array, row: Float32Array): Float32Array {
	const longer = new Float32Array(table.length + row.length);
	longer.set(table);
	longer.set(row, table.length);
	return longer;
}
