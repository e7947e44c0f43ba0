import { ALLMRecError, invalidArgument } from '../errors.js';
import { inTurns } from '../event-loop.js';
import type { NativeTokenTrie } from '../native/addon.js';
import { raggedSteps, run } from '../native/session.js';

/**
 * The answers a generation is confined to, such as all titles of a catalogue: a tree of their tokens, at whose nodes
 * only the logits of the children are computed. Make one with `CausalLM.trie`; it can serve any number of calls.
 */
export class TokenTrie {
	/** Answers, in the order they were given; a result's `entry` is a place among them. */
	readonly size: number;
	/** Tokens of the longest answer, the end token included. */
	readonly depth: number;
	/** The token every answer ends with. */
	readonly eosId: number;
	/** @internal */
	readonly native: NativeTokenTrie;

	private constructor(native: NativeTokenTrie, eosId: number) {
		const { entries, depth } = native.size();
		this.native = native;
		this.size = entries;
		this.depth = depth;
		this.eosId = eosId;
	}

	/** @internal */
	static async build(
		native: NativeTokenTrie,
		answers: readonly ArrayLike<number>[],
		eosId: number | undefined,
	): Promise<TokenTrie> {
		if (answers.length === 0) invalidArgument('answers', 'a list of at least one answer', answers);
		if (eosId === undefined || eosId < 0)
			throw new ALLMRecError(
				'ERR_ALLMREC_INVALID_ARGUMENT',
				'Answers of a trie end with an end token; the tokenizer has none.',
			);
		const rows = await inTurns(raggedSteps(answers));
		await run(() => native.build(rows, eosId));
		return new TokenTrie(native, eosId);
	}
}
