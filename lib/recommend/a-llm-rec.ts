import type { Alignment, ItemLatents } from '../alignment/alignment.js';
import type { CollaborativeModel } from '../cf/collaborative-model.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { atOnce, blocks, inTurns, nextTurn, type Steps, turnIsOver } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import type { PromptTemplate } from '../llm/prompt-template.js';
import { genreTemplate } from '../llm/prompt-template.js';
import type { Ragged } from '../native/addon.js';
import { type Session, takeRows, takeRowsSteps } from '../native/session.js';
import { type LongCallOptions, orAborted } from '../progress.js';
import type { Projection } from '../projection/projection.js';
import { itemText } from '../text/item-text.js';
import type { SentenceEncoder } from '../text/sentence-encoder.js';
import type { Catalogue, NewItem } from './catalogue.js';
import { type ExplainOptions, type Explanation, explainItem, meanRow, Vocabulary } from './explain.js';
import type { FusionGate } from './fusion.js';
import { append } from './growing-table.js';
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

/** Users whose mean stands for one that is not known. */
const ANY_USERS = 256;

/** A trained A-LLMRec: recommends with a frozen language model. Trained by `train`, loaded by `loadRun`. */
export class ALLMRec {
	readonly parts: Readonly<ALLMRecParts>;
	#itemTable: Promise<Float32Array> | undefined;
	#retriever: Promise<Retriever> | undefined;
	readonly #scorers = new Map<LlmVariant, Promise<CandidateScorer>>();
	#vocabulary: Promise<Vocabulary> | undefined;
	readonly #genrePrompts = new Map<LlmVariant, Promise<PromptBuilder>>();
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
	 * Ranked lists, one for each user; shorter than `topK` where there are fewer candidates, and empty for a user whose
	 * history holds the whole catalogue.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM, ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_PROMPT_TOO_LONG
	 */
	async recommend(
		users: readonly UserRequest[],
		options: RecommendOptions = {},
	): Promise<Recommendation[][]> {
		this.#assertLive();
		expectKnown('recommend', options);
		const { signal, onProgress, ...lists } = options;
		const wanted = listOptions(lists);
		const dense = await inTurns(this.#denseUsers(users), signal);
		const results = await this.recommendEach(dense, wanted, { signal, onProgress });
		return results.map((list) => {
			if (list instanceof ALLMRecError) throw list;
			return list;
		});
	}

	*#denseUsers(users: readonly UserRequest[]): Steps<DenseUser[]> {
		const index = (id: string) => this.catalogue.index(id);
		const dense: DenseUser[] = [];
		for (const [u, { history, candidates }] of users.entries()) {
			if (history.length === 0)
				throw new ALLMRecError(
					'ERR_ALLMREC_EMPTY_HISTORY',
					`User ${u} has an empty history. Give at least one item id, or recommend popular items instead.`,
				);
			if (candidates?.length === 0) invalidArgument('candidates', 'at least one item id', candidates);
			dense.push({
				history: yield* denseIds(history, index),
				candidates: candidates && (yield* distinctIds(candidates, index)),
			});
		}
		return dense;
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
		const lists: (Recommendation[] | ALLMRecError)[] = [];
		for (const [u, items] of candidates.entries()) {
			const own = llm ? llm[u]! : new Float32Array(items.length);
			if (own instanceof ALLMRecError) {
				lists.push(own);
				continue;
			}
			const cf = await this.#pairScores(vectors.subarray(u * d, (u + 1) * d), table, items, signal);
			const fused = llm ? await inTurns(this.fusedSteps(cf, own, items, items.length), signal) : cf;
			const scores = { cf, llm: own, fused };
			lists.push(await inTurns(rankedList(this.catalogue, items, scores, { by, topK }), signal));
		}
		return lists;
	}

	/** x^u (users, d). Items added by text are no part of the recommender and are left out of the histories. */
	async userVectors(histories: readonly ArrayLike<number>[], signal?: AbortSignal): Promise<Float32Array> {
		this.#assertLive();
		const { cf } = this.parts;
		return cf.userVectors(await inTurns(upTo(histories, cf.numItems), signal), signal);
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
			const own = await this.#pairScores(vectors.subarray(u * d, (u + 1) * d), table, items);
			scores.set(own, u * perUser);
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
		const requests: ScoreRequest[] = [];
		for (const [u, { history, candidates }] of users.entries()) {
			if (turnIsOver()) await nextTurn(options.signal);
			for (const request of this.#requests(history, candidates, u, tokens)) requests.push(request);
		}
		return scorer.score(requests, options);
	}

	/** Popularity-gated fusion of both scores; the language model's alone while no gate is fitted. */
	fusedScores(cf: Float32Array, llm: Float32Array, candidates: Int32Array, perUser: number): Float32Array {
		return atOnce(this.fusedSteps(cf, llm, candidates, perUser));
	}

	/** {@link fusedScores} in steps. @internal */
	*fusedSteps(
		cf: Float32Array,
		llm: Float32Array,
		candidates: Int32Array,
		perUser: number,
	): Steps<Float32Array> {
		const { fusion } = this.parts;
		if (!fusion) return llm;
		const counts = this.catalogue.trainingCounts;
		const popularity = new Float64Array(candidates.length);
		yield* blocks(candidates.length, CELLS, (from, to) => {
			for (let at = from; at < to; at++) popularity[at] = counts[candidates[at]!]!;
		});
		return yield* fusion.fuseSteps(cf, llm, popularity, perUser);
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
		const table = await inTurns(append(await this.#cfTable(), decoded));
		const e = await inTurns(append(latents.e, new Float32Array(latents.size)));
		const longerQ = await inTurns(append(latents.q, q));
		const tokens: Float32Array[] = [];
		for (const { itemTokens } of this.#tokenScorers) tokens.push(await inTurns(append(itemTokens, token)));
		// Nothing is changed before everything is computed, so a failure leaves the catalogue as it was.
		const { title } = this.catalogue.item(this.catalogue.add(item));
		Object.assign(latents, { e, q: longerQ });
		this.#itemTable = Promise.resolve(table);
		this.#dropRetriever();
		for (const [i, scorer] of this.#tokenScorers.entries()) scorer.itemTokens = tokens[i]!;
		for (const prompts of this.#prompts) prompts.titles.append(title);
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
		const { llm } = this.parts;
		const items = Int32Array.from(history, (id) => this.catalogue.index(id));
		const [prompt] = await this.genrePrompts([items], 'aligned', maxNewTokens, signal);
		const { ids: told, soft } = prompt!;
		const [ids] = await llm.generateIds([told], soft, { maxNewTokens, repetitionPenalty, signal });
		return llm.tokenizer.decode(ids!).trim();
	}

	/**
	 * Prompts that ask for the genres users would enjoy.
	 *
	 * @param histories dense item ids, oldest first
	 * @param reserve positions kept free for the answer
	 * @internal
	 */
	async genrePrompts(
		histories: readonly Int32Array[],
		variant: 'aligned' | 'llmOnly',
		reserve: number,
		signal?: AbortSignal,
	): Promise<{ ids: Int32Array; soft: Float32Array }[]> {
		this.#assertLive();
		const builder = await orAborted(this.#genreBuilder(variant), signal);
		const plain = variant === 'llmOnly';
		const users = plain
			? undefined
			: await this.#userTokens(await this.userVectors(histories, signal), variant);
		const table = plain ? undefined : (await orAborted(this.#scorer('aligned'), signal)).itemTokens;
		const width = this.parts.llm.tokenSize;
		const row = (rows: Float32Array, at: number) => rows.subarray(at * width, (at + 1) * width);
		return histories.map((history, u) => {
			const { ids, slots } = builder.build({ history, reserve });
			const soft = new Float32Array(slots.length * width);
			for (const [k, slot] of slots.entries())
				soft.set(slot.kind === 'user' ? row(users!, u) : row(table!, slot.item), k * width);
			return { ids, soft };
		});
	}

	#genreBuilder(variant: 'aligned' | 'llmOnly'): Promise<PromptBuilder> {
		let builder = this.#genrePrompts.get(variant);
		if (!builder) {
			const { template, historyLength, withoutUser } = this.parts;
			const plain = variant === 'llmOnly';
			builder = this.#prepare(genreTemplate(template.words), {
				historyLength,
				withoutUser: plain || withoutUser,
				withoutItemSlots: plain,
			});
			this.#genrePrompts.set(variant, builder);
		}
		return builder;
	}

	/**
	 * Why an item has its score: what the user vector and each item of the history did for it, and the tokens nearest to
	 * what the language model is given of them.
	 *
	 * @throws ERR_ALLMREC_UNKNOWN_ITEM, ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_PROMPT_TOO_LONG
	 */
	async explain(user: UserRequest, options: ExplainOptions = {}): Promise<Explanation> {
		this.#assertLive();
		expectKnown('explain', options);
		const { item, nearest = 8, signal } = options;
		if (!Number.isInteger(nearest) || nearest < 0)
			invalidArgument('nearest', 'a whole number from 0', nearest);
		const [dense] = await inTurns(this.#denseUsers([user]), signal);
		const chosen = item === undefined ? undefined : this.catalogue.index(item);
		const [vectors] = [await this.userVectors([dense!.history], signal)];
		const retrieved =
			dense!.candidates ?? (await this.#candidates([dense!], vectors, PROMPT_CANDIDATES, 0, signal))[0]!;
		const offered = retrieved.subarray(0, PROMPT_CANDIDATES);
		if (offered.length === 0)
			invalidArgument('history', 'fewer items than the whole catalogue', user.history.length);
		// An item that is not among them takes the last one's place.
		if (chosen !== undefined && !offered.includes(chosen)) offered[offered.length - 1] = chosen;
		const scorer = await orAborted(this.#scorer('aligned'), signal);
		const tokens = await this.#userTokens(vectors, 'aligned');
		const scores = (await scorer.score(this.#requests(dense!.history, offered, 0, tokens), { signal }))[
			this.parts.normalisation
		];
		const best = chosen ?? offered[scores.indexOf(Math.max(...scores))]!;
		this.#vocabulary ??= Vocabulary.of(this.parts.llm);
		return explainItem({
			catalogue: this.catalogue,
			vocabulary: await orAborted(this.#vocabulary, signal),
			nearest,
			inputs: {
				llm: this.parts.llm,
				prompts: scorer.prompts,
				history: dense!.history,
				candidates: offered,
				item: best,
				user: tokens && { token: tokens, baseline: await this.#anyUser(signal) },
				items: {
					tokens: scorer.itemTokens,
					baseline: await inTurns(meanRow(scorer.itemTokens, this.parts.llm.tokenSize, 1), signal),
				},
				normalisation: this.parts.normalisation,
			},
			signal,
		});
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

	/** The mean O_u of users that chose one item each: what stands for not knowing a user. */
	async #anyUser(signal: AbortSignal | undefined): Promise<Float32Array> {
		const { cf, projection } = this.parts;
		const count = Math.min(ANY_USERS, cf.numItems);
		const histories = Array.from({ length: count }, (_, i) => [1 + Math.floor((i * cf.numItems) / count)]);
		const tokens = await projection.users(await this.userVectors(histories, signal));
		return inTurns(meanRow(tokens, projection.config.tokenSize), signal);
	}

	/** A user's candidates in groups that fit one prompt's list each. */
	#requests(
		history: ArrayLike<number>,
		candidates: Int32Array,
		user: number,
		tokens: Float32Array | undefined,
	): ScoreRequest[] {
		const width = this.parts.llm.tokenSize;
		const groups = Math.ceil(candidates.length / PROMPT_CANDIDATES); // none where nothing is left to recommend
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
		const problems: (ALLMRecError | undefined)[] = [];
		for (const [u, history] of histories.entries()) {
			const before = packed.length;
			let problem: ALLMRecError | undefined;
			try {
				for (const each of this.#requests(history, candidates[u]!, u, tokens)) {
					if (turnIsOver()) await nextTurn(signal);
					packed.push(scorer.pack(each));
				}
			} catch (error) {
				if (!(error instanceof ALLMRecError && error.code === 'ERR_ALLMREC_PROMPT_TOO_LONG')) throw error;
				packed.length = before; // all of a user's groups or none
				problem = error;
			}
			problems.push(problem);
		}
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
			withoutItemSlots: plain || joint === 'none',
		});
		this.#prompts.push(prompts);
		if (plain) return new CandidateScorer(llm, prompts);
		const source = variant === 'text' ? 'text' : joint;
		const rows = cf.numItems + 1;
		const counts = this.catalogue.trainingCounts.slice(0, rows);
		const trained = { ...latents, e: latents.e.subarray(0, rows * latents.size) };
		// Added items are known by their texts, whatever the source and the threshold.
		const added = latents.q.subarray(rows * latents.size);
		const known = await inTurns(jointTable(trained, counts, source, coldThreshold));
		const table = added.length > 0 ? await inTurns(append(known, added)) : known;
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
		await inTurns(
			blocks(Math.min(own.length, table.length), COPIED, (from, to) =>
				table.set(own.subarray(from, Math.min(to, table.length)), from),
			),
		);
		const cold = await inTurns(this.#coldItems());
		if (cold.length > 0) {
			const decoded = await alignment.decodeItems(
				await inTurns(takeRowsSteps(latents.q, latents.size, cold)),
			);
			await inTurns(
				blocks(cold.length, CELLS, (from, to) => {
					for (let i = from; i < to; i++)
						table.set(decoded.subarray(i * cf.size, (i + 1) * cf.size), cold[i]! * cf.size);
				}),
			);
		}
		return table;
	}

	/** Those with few training interactions, and all that were added. */
	*#coldItems(): Steps<Int32Array> {
		const { cf, coldThreshold } = this.parts;
		const counts = this.catalogue.trainingCounts;
		const cold = new Int32Array(counts.length);
		let count = 0;
		yield* blocks(counts.length, CELLS, (from, to) => {
			for (let item = Math.max(1, from); item < to; item++)
				if (counts[item]! < coldThreshold || item > cf.numItems) cold[count++] = item;
		});
		return cold.slice(0, count);
	}

	/** The recommender's scores of rows of a table of item vectors for one user x (d). */
	async #pairScores(
		x: Float32Array,
		table: Float32Array,
		rows: Int32Array,
		signal?: AbortSignal,
	): Promise<Float32Array> {
		const { cf } = this.parts;
		if (rows.length === 0) return new Float32Array(0);
		const items = await inTurns(takeRowsSteps(table, cf.size, rows), signal);
		return cf.scoreVectors(x, items, rows.length);
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
		const { cf } = this.parts;
		const table = await this.#cfTable();
		const size = table.length / cf.size;
		const cold = (await inTurns(this.#coldItems())).filter((item) => item < size);
		return Retriever.create({ cf, table, cold });
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

/** Ids or cells of one step. */
const CELLS = 1 << 12;
/** Numbers copied in one step. */
const COPIED = 1 << 18;

function* denseIds(ids: readonly string[], index: (id: string) => number): Steps<Int32Array> {
	const dense = new Int32Array(ids.length);
	yield* blocks(ids.length, CELLS, (from, to) => {
		for (let i = from; i < to; i++) dense[i] = index(ids[i]!);
	});
	return dense;
}

/** Each once, in the order in which they first come. */
function* distinctIds(ids: readonly string[], index: (id: string) => number): Steps<Int32Array> {
	const dense = yield* denseIds(ids, index);
	const seen = new Set<number>();
	let count = 0;
	yield* blocks(dense.length, CELLS, (from, to) => {
		for (let i = from; i < to; i++) {
			if (seen.has(dense[i]!)) continue;
			seen.add(dense[i]!);
			dense[count++] = dense[i]!;
		}
	});
	return dense.slice(0, count);
}

/** Histories without the items above `last`. */
function* upTo(histories: readonly ArrayLike<number>[], last: number): Steps<Ragged> {
	const offsets = new Int32Array(histories.length + 1);
	let length = 0;
	yield* blocks(histories.length, CELLS, (from, to) => {
		for (let u = from; u < to; u++) length += histories[u]!.length;
	});
	const values = new Int32Array(length);
	let count = 0;
	for (const [u, history] of histories.entries()) {
		for (let i = 0; i < history.length; i++) if (history[i]! <= last) values[count++] = history[i]!;
		offsets[u + 1] = count;
		if (u % 64 === 0) yield;
	}
	return { offsets, values: values.slice(0, count) };
}
