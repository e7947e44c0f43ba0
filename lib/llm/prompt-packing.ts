import { invalidArgument } from '../errors.js';
import type { Prompt, PromptSlot } from './prompt.js';

/**
 * A prompt and its candidates' answers as ONE sequence `[prompt | s | c1 | … | cN]` of T rows, where s is what all
 * answers begin with, computed once. A candidate's row sees the prompt, s and its own candidate up to itself, and its
 * positions go on from the end of s, so every candidate is scored as if it stood alone behind the prompt. Of an answer
 * a_1 … a_m the sequence holds a_1 … a_{m−1}: a_1 is predicted by the prompt's last row, a_m (EOS) by the row of a_{m−1}.
 */
export interface PackedSequence {
	/** (T) ids as in {@link Prompt.ids} */
	readonly ids: Int32Array;
	/** (T) position of each row, from 0 */
	readonly positions: Int32Array;
	/** (T) rows [0, prefix) of the sequence are visible: 0 in the prompt and s, their length in the candidates */
	readonly prefix: Int32Array;
	/** (T) rows [ownBegin, this row] are visible: 0 in the prompt and s, the candidate's first row in the candidates */
	readonly ownBegin: Int32Array;
	/** Rows of the prompt. */
	readonly prefixLength: number;
	readonly slots: readonly PromptSlot[];
	/** How many answers there are. */
	readonly candidates: number;
	/** (R) the rows whose next-token distribution is needed; the prompt's last row once for each candidate */
	readonly rows: Int32Array;
	/** (R) the token whose log-probability is wanted there */
	readonly rowTargets: Int32Array;
	/** (R) the candidate it counts for; ascending */
	readonly rowCandidate: Int32Array;
}

/** Several {@link PackedSequence}s one after the other: what the language model computes at once. */
export interface PackedBatch {
	/** (T) ids; `−(k + 1)` refers to row k of the batch's {@link slots} */
	readonly ids: Int32Array;
	readonly positions: Int32Array;
	/** (T) counted from the first row of the row's own sequence, as `ownBegin` is */
	readonly prefix: Int32Array;
	readonly ownBegin: Int32Array;
	/** (B + 1) first row of each sequence */
	readonly offsets: Int32Array;
	/** (B) rows of each prompt */
	readonly prefixLengths: Int32Array;
	/** All soft rows, sequence by sequence. */
	readonly slots: readonly PromptSlot[];
	/** (B + 1) first soft row of each sequence */
	readonly slotOffsets: Int32Array;
	/** (B + 1) first candidate of each sequence */
	readonly candidateOffsets: Int32Array;
	/** (R) rows of the batch */
	readonly rows: Int32Array;
	readonly rowTargets: Int32Array;
	/** (R) candidates counted through the batch */
	readonly rowCandidate: Int32Array;
	/** (U) the distinct `rows`, ascending: where logits are computed */
	readonly logitRows: Int32Array;
	/** (R) index of each of `rows` in `logitRows` */
	readonly pairRows: Int32Array;
}

/**
 * Packs a prompt and the answers to score behind it.
 *
 * @param answers token ids of each answer, its EOS included, at least one token each
 */
export function packCandidates(
	{ ids: promptIds, slots }: Pick<Prompt, 'ids' | 'slots'>,
	answers: readonly Int32Array[],
): PackedSequence {
	const prefixLength = promptIds.length;
	if (prefixLength === 0) invalidArgument('prompt', 'at least one position', 'none');
	const shared = sharedBeginning(answers);
	const common = prefixLength + shared;
	let tokens = common;
	let targets = 0;
	for (let i = 0; i < answers.length; i++) {
		const { length } = answers[i]!;
		if (length === 0) invalidArgument(`answers[${i}]`, 'at least one token', 'none');
		tokens += length - 1 - shared;
		targets += length;
	}
	const ids = new Int32Array(tokens);
	const positions = new Int32Array(tokens);
	const prefix = new Int32Array(tokens).fill(common, common);
	const ownBegin = new Int32Array(tokens);
	const rows = new Int32Array(targets);
	const rowTargets = new Int32Array(targets);
	const rowCandidate = new Int32Array(targets);
	ids.set(promptIds);
	if (shared > 0) ids.set(answers[0]!.subarray(0, shared), prefixLength);
	for (let i = 0; i < common; i++) positions[i] = i;
	let at = common;
	let row = 0;
	for (let candidate = 0; candidate < answers.length; candidate++) {
		const answer = answers[candidate]!;
		const begin = at;
		const last = answer.length - 1;
		for (let i = 0; i <= last; i++) {
			rows[row] = i <= shared ? prefixLength - 1 + i : at - 1;
			rowTargets[row] = answer[i]!;
			rowCandidate[row++] = candidate;
			if (i < shared || i === last) continue;
			ids[at] = answer[i]!;
			positions[at] = prefixLength + i;
			ownBegin[at++] = begin;
		}
	}
	return {
		ids,
		positions,
		prefix,
		ownBegin,
		prefixLength,
		slots,
		candidates: answers.length,
		rows,
		rowTargets,
		rowCandidate,
	};
}

/** How many tokens all of several answers begin with, the last token of each aside. */
function sharedBeginning(answers: readonly Int32Array[]): number {
	const first = answers[0];
	if (answers.length < 2 || !first) return 0;
	let shared = first.length - 1;
	for (let i = 1; i < answers.length && shared > 0; i++) {
		const answer = answers[i]!;
		shared = Math.min(shared, answer.length - 1);
		let same = 0;
		while (same < shared && answer[same] === first[same]) same++;
		shared = same;
	}
	return Math.max(0, shared);
}

/** Packs a prompt and its answer for stage 2: the sequence of one candidate, whose targets are the loss's. */
export function packTraining(prompt: Pick<Prompt, 'ids' | 'slots'>, answer: Int32Array): PackedSequence {
	return packCandidates(prompt, [answer]);
}

/** Puts sequences one after the other. */
export function packBatch(sequences: readonly PackedSequence[]): PackedBatch {
	const offsets = sums(sequences, ({ ids }) => ids.length);
	const slotOffsets = sums(sequences, ({ slots }) => slots.length);
	const candidateOffsets = sums(sequences, ({ candidates }) => candidates);
	const rowOffsets = sums(sequences, ({ rows }) => rows.length);
	const tokens = offsets.at(-1)!;
	const targets = rowOffsets.at(-1)!;
	const batch = {
		ids: new Int32Array(tokens),
		positions: new Int32Array(tokens),
		prefix: new Int32Array(tokens),
		ownBegin: new Int32Array(tokens),
		rows: new Int32Array(targets),
		rowTargets: new Int32Array(targets),
		rowCandidate: new Int32Array(targets),
	};
	// Every row from a prompt's last on predicts a token of an answer, so a sequence's distinct rows are one run.
	const runs = sums(sequences, (sequence) => (sequence.candidates > 0 ? firstRowToTheEnd(sequence) : 0));
	const logitRows = new Int32Array(runs.at(-1)!);
	const pairRows = new Int32Array(targets);
	for (let s = 0; s < sequences.length; s++) {
		const sequence = sequences[s]!;
		const at = offsets[s]!;
		const soft = slotOffsets[s]!;
		for (let i = 0; i < sequence.ids.length; i++) {
			const id = sequence.ids[i]!;
			batch.ids[at + i] = id < 0 ? id - soft : id;
		}
		batch.positions.set(sequence.positions, at);
		batch.prefix.set(sequence.prefix, at);
		batch.ownBegin.set(sequence.ownBegin, at);
		const row = rowOffsets[s]!;
		const candidate = candidateOffsets[s]!;
		const first = sequence.prefixLength - 1;
		const run = runs[s]!;
		for (let i = run; i < runs[s + 1]!; i++) logitRows[i] = at + first + i - run;
		for (let i = 0; i < sequence.rows.length; i++) {
			batch.rows[row + i] = at + sequence.rows[i]!;
			batch.rowCandidate[row + i] = candidate + sequence.rowCandidate[i]!;
			pairRows[row + i] = run + sequence.rows[i]! - first;
		}
		batch.rowTargets.set(sequence.rowTargets, row);
	}
	return {
		...batch,
		logitRows,
		pairRows,
		offsets,
		prefixLengths: Int32Array.from(sequences, ({ prefixLength }) => prefixLength),
		slots: sequences.flatMap(({ slots }) => slots),
		slotOffsets,
		candidateOffsets,
	};
}

function firstRowToTheEnd({ ids, prefixLength }: PackedSequence): number {
	return ids.length - prefixLength + 1;
}

function sums(sequences: readonly PackedSequence[], count: (sequence: PackedSequence) => number): Int32Array {
	const totals = new Int32Array(sequences.length + 1);
	for (const [s, sequence] of sequences.entries()) totals[s + 1] = totals[s]! + count(sequence);
	return totals;
}
