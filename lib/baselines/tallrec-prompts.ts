import { ALLMRecError } from '../errors.js';
import type { CausalLM } from '../llm/causal-lm.js';
import type { PromptBuilder } from '../llm/prompt.js';
import { type PackedSequence, packBatch, packCandidates } from '../llm/prompt-packing.js';
import {
	fillWords,
	type PromptDomain,
	type PromptTemplate,
	type PromptWords,
	recommendationTemplate,
} from '../llm/prompt-template.js';
import type { LlmBatch, TokenTargets } from '../native/addon.js';
import { toLlmBatch } from '../projection/projection.js';
import type { Catalogue } from '../recommend/catalogue.js';
import { createPrompts } from '../recommend/model-parts.js';

/** What the target's title is followed by, and the two answers behind that. */
const QUESTION_END = '?\n### Response:\n';
const ANSWERS = { yes: 'Yes', no: 'No' } as const;

/** TALLRec's instruction and input up to the target's title, which stands where an answer does. */
export function tallrecTemplate(words: PromptDomain | PromptWords = 'item'): PromptTemplate {
	return {
		name: 'tallrec',
		words: recommendationTemplate(words).words,
		parts: [
			{ type: 'bos' },
			{
				type: 'text',
				text: '### Instruction:\nGiven the {noun}s that the user has {past}, identify whether the user will like the target {noun} by answering "Yes" or "No".\n### Input:\nUser preference:',
			},
			{ type: 'history', separator: ', ' },
			{ type: 'text', text: '\nWhether the user will like the target {noun}' },
		],
	};
}

/** A user's candidates behind one prompt; each ends where *Yes* or *No* is to come. */
export interface Question {
	history: ArrayLike<number>;
	candidates: ArrayLike<number>;
}

/** Writes TALLRec's prompts and reads the answer's place in them. */
export class TallrecPrompts {
	readonly template: PromptTemplate;
	/** The first tokens in which the answers differ. */
	readonly yes: number;
	readonly no: number;
	readonly #prompts: PromptBuilder;
	/** Behind the title, with what both answers begin with. */
	readonly #end: Int32Array;

	private constructor(prompts: PromptBuilder) {
		const { tokenizer } = prompts.titles;
		const { words } = prompts.template;
		const [yes, no] = [ANSWERS.yes, ANSWERS.no].map((answer) => tokenizer.encodeText(answer)) as [
			Int32Array,
			Int32Array,
		];
		let shared = 0;
		while (shared < yes.length && yes[shared] === no[shared]) shared++;
		if (shared >= Math.min(yes.length, no.length))
			throw new ALLMRecError(
				'ERR_ALLMREC_CHECKPOINT',
				'The tokenizer does not tell the answers "Yes" and "No" apart.',
			);
		this.template = prompts.template;
		this.yes = yes[shared]!;
		this.no = no[shared]!;
		this.#prompts = prompts;
		this.#end = Int32Array.of(
			...tokenizer.encodeText(fillWords(QUESTION_END, words)),
			...yes.subarray(0, shared),
		);
	}

	static async create(
		llm: CausalLM,
		catalogue: Catalogue,
		words: PromptDomain | PromptWords,
		historyLength: number,
		signal?: AbortSignal | undefined,
	): Promise<TallrecPrompts> {
		const options = { historyLength, withoutUser: true, withoutItemSlots: true };
		return new TallrecPrompts(
			await createPrompts(llm, catalogue, tallrecTemplate(words), options, { signal }),
		);
	}

	/** @throws ERR_ALLMREC_PROMPT_TOO_LONG, ERR_ALLMREC_EMPTY_HISTORY, ERR_ALLMREC_UNKNOWN_ITEM */
	pack({ history, candidates }: Question): PackedSequence {
		const questions = Array.from(candidates, (item) => {
			const title = this.#prompts.titles.title(item, 'answer');
			// The answer's token is predicted and not read; it takes no position.
			const question = new Int32Array(title.length + this.#end.length + 1);
			question.set(title);
			question.set(this.#end, title.length);
			question[question.length - 1] = this.yes;
			return question;
		});
		const reserve = questions.reduce((most, { length }) => Math.max(most, length - 1), 0);
		return packCandidates(this.#prompts.build({ history, reserve }), questions);
	}

	/** One question a sequence, with the tokens that are to come. */
	training(sequences: readonly PackedSequence[], liked: readonly boolean[]): AnswerBatch {
		const { batch, rows } = this.#answerRows(sequences);
		const tokens = Int32Array.from(liked, (yes) => (yes ? this.yes : this.no));
		return { batch, targets: { rows, tokens } };
	}

	/** Both answers of every question. */
	scoring(sequences: readonly PackedSequence[]): AnswerPairs {
		const { batch, rows: wanted } = this.#answerRows(sequences);
		// Candidates of one title have one row.
		const rows = Int32Array.from(new Set(wanted)).sort();
		const index = new Map(Array.from(rows, (row, i) => [row, i]));
		const pairRows = new Int32Array(2 * wanted.length);
		const pairTargets = new Int32Array(2 * wanted.length);
		for (const [i, row] of wanted.entries()) {
			pairRows.fill(index.get(row)!, 2 * i, 2 * i + 2);
			pairTargets[2 * i] = this.yes;
			pairTargets[2 * i + 1] = this.no;
		}
		return { batch, rows, pairRows, pairTargets };
	}

	/** Of each question, the packed token that the answer comes behind. */
	#answerRows(sequences: readonly PackedSequence[]): { batch: LlmBatch; rows: Int32Array } {
		const packed = packBatch(sequences);
		const rows = new Int32Array(packed.candidateOffsets.at(-1)!);
		for (const [i, candidate] of packed.rowCandidate.entries()) rows[candidate] = packed.rows[i]!;
		return { batch: toLlmBatch(packed), rows };
	}
}

export interface AnswerBatch {
	batch: LlmBatch;
	targets: TokenTargets;
}

/** log p(Yes) and log p(No) in turn. */
export interface AnswerPairs {
	batch: LlmBatch;
	rows: Int32Array;
	pairRows: Int32Array;
	pairTargets: Int32Array;
}
