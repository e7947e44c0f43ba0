import type { Split } from '../data/split.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { inTurns } from '../event-loop.js';
import { expectKnown } from '../known-options.js';
import type { LongCallOptions } from '../progress.js';
import type { ALLMRec } from '../recommend/a-llm-rec.js';
import { bootstrapMean, type Estimate } from './statistics.js';

export interface EvaluateGenresOptions extends LongCallOptions {
	/** Genres of each item by dense id, entry 0 being padding. Default: those of the data set's catalogue. */
	genres?: readonly (readonly string[])[] | undefined;
	/** Users evaluated at most, evenly drawn. Default all that have a future item with genres. */
	users?: number | undefined;
	/** Answers are one of the data set's genres instead of free text. Default false. */
	constrained?: boolean | undefined;
	/** Tokens of a free answer. Default 32. */
	maxNewTokens?: number | undefined;
	/** As in transformers; of free answers. Default 1.5. */
	repetitionPenalty?: number | undefined;
	/** Of the intervals. Default 0. */
	seed?: number | undefined;
	/** Of the intervals. Default 2,000. */
	resamples?: number | undefined;
}

/** Mean over users of the share of the generated genres that their future items have; 95 % bootstrap interval. */
export interface GenreScore extends Estimate {
	users: number;
}

/** By model; fits `genres` of an {@link ExperimentResult}. */
export type GenreEvaluation = Record<'A-LLMRec' | 'LLM-Only', GenreScore>;

/** Users whose answers are generated at once. */
const AT_ONCE = 32;

/**
 * Favourite genres: asked for the genres a user would enjoy, behind the training history, each model's answer is
 * compared with the genres of the items the user took later (validation and test item). A user's score is the share of
 * the generated genres that those items have, 0 where none was generated. LLM-Only has the same prompt without vectors.
 *
 * @throws ERR_ALLMREC_UNSUPPORTED if the data set has no genres, ERR_ALLMREC_EMPTY_DATASET if no user can be tested
 */
export async function evaluateGenres(
	model: ALLMRec,
	split: Split,
	options: EvaluateGenresOptions = {},
): Promise<GenreEvaluation> {
	expectKnown('evaluateGenres', options);
	const {
		genres = split.dataset.items.map((item) => item.genres),
		users: limit,
		constrained = false,
		maxNewTokens = 32,
		repetitionPenalty = 1.5,
		seed = 0,
		resamples,
		signal,
		onProgress,
	} = options;
	if (genres.length !== split.dataset.items.length)
		invalidArgument('genres', `a list of ${split.dataset.items.length} lists`, genres.length);
	if (limit !== undefined && (!Number.isInteger(limit) || limit < 1))
		invalidArgument('users', 'a whole number from 1', limit);
	const finder = new GenreFinder(genres.flat());
	if (finder.names.length === 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_UNSUPPORTED',
			`The data set ${split.dataset.name} has no genres; prepare it with item files that have a column of genres or categories, or give \`genres\`.`,
		);
	const all = usersToAsk(split, genres);
	if (all.length === 0)
		throw new ALLMRecError(
			'ERR_ALLMREC_EMPTY_DATASET',
			'No user has a history and a later item with genres, so there is nothing to evaluate.',
		);
	const count = Math.min(all.length, limit ?? all.length);
	const users = Array.from({ length: count }, (_, i) => all[Math.floor((i * all.length) / count)]!);
	const { llm } = model.parts;
	const trie = constrained ? await llm.trie(finder.names.map((name) => ` ${name}`)) : undefined;
	const result: Partial<GenreEvaluation> = {};
	for (const [v, variant] of (['aligned', 'llmOnly'] as const).entries()) {
		const scores = new Float64Array(count);
		for (let first = 0; first < count; first += AT_ONCE) {
			const group = users.slice(first, first + AT_ONCE);
			const histories = group.map(({ history }) => history);
			const reserve = trie?.depth ?? maxNewTokens;
			const prompts = await model.genrePrompts(histories, variant, reserve, signal);
			const answers = await llm.generate(
				prompts,
				trie ? { trie, maxNewTokens: reserve, signal } : { maxNewTokens, repetitionPenalty, signal },
			);
			for (const [i, { text }] of answers.entries())
				scores[first + i] = shareFound(finder.find(text), group[i]!.later);
			const done = v * count + first + group.length;
			onProgress?.({ stage: 'genres', done, total: 2 * count, unit: 'answers' });
		}
		const estimate = await inTurns(bootstrapMean(scores, { seed, resamples }), signal);
		result[variant === 'aligned' ? 'A-LLMRec' : 'LLM-Only'] = { ...estimate, users: count };
	}
	return result as GenreEvaluation;
}

interface AskedUser {
	history: Int32Array;
	/** Genres of the items behind the history, lower case. */
	later: ReadonlySet<string>;
}

function usersToAsk(split: Split, genres: readonly (readonly string[])[]): AskedUser[] {
	const asked: AskedUser[] = [];
	for (const user of split.users('test')) {
		const before = split.validation[user]! > 0 ? 'validation' : 'test';
		const history = split.history(user, before);
		const targets = [split.validation[user]!, split.test[user]!].filter((item) => item > 0);
		const later = new Set(targets.flatMap((item) => genres[item]!.map(folded)));
		if (history.length > 0 && later.size > 0) asked.push({ history, later });
	}
	return asked;
}

function shareFound(found: readonly string[], later: ReadonlySet<string>): number {
	if (found.length === 0) return 0;
	return found.filter((name) => later.has(folded(name))).length / found.length;
}

function folded(name: string): string {
	return name.trim().toLowerCase();
}

/**
 * Finds known names in text: whole words, whatever their case; of names within each other the longest counts
 * (`Science Fiction`, not `Fiction`).
 */
export class GenreFinder {
	/** Each once, in the order they first come. */
	readonly names: readonly string[];
	readonly #byFolded: ReadonlyMap<string, string>;
	readonly #pattern: RegExp;

	constructor(genres: readonly string[]) {
		const byFolded = new Map<string, string>();
		for (const genre of genres) {
			const key = folded(genre);
			if (key !== '' && !byFolded.has(key)) byFolded.set(key, genre.trim());
		}
		this.#byFolded = byFolded;
		this.names = [...byFolded.values()];
		// Longest first, since the first alternative that matches is taken.
		const words = [...byFolded.keys()]
			.sort((a, b) => b.length - a.length)
			.map((key) => key.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
		this.#pattern = new RegExp(`(?<![\\p{L}\\p{N}])(?:${words.join('|')})(?![\\p{L}\\p{N}])`, 'giu');
	}

	/** The names in a text, each once, in its order. */
	find(text: string): string[] {
		const found = Array.from(text.matchAll(this.#pattern), ([name]) => this.#byFolded.get(folded(name)));
		return [...new Set(found.filter((name) => name !== undefined))];
	}
}
