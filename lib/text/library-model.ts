import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import type { TokenizerModel } from './tokenizer.js';
import type { JsonObject } from './tokenizer-files.js';
import { corrupt } from './tokenizer-files.js';

/** Characters beyond those that the wanted ids can cover. */
const LOOK_AHEAD = 1024;

/**
 * Any other `tokenizer.json` (Unigram of the multilingual encoders, say), through `@huggingface/tokenizers`.
 * BPE and WordPiece have models of our own because that library (0.2.0) differs from the reference in white
 * space, accents, CJK beyond the first plane and final sigma, and matches added tokens in data.
 */
export class LibraryModel implements TokenizerModel {
	readonly kind: string;
	readonly size: number;
	readonly #tokenizer: LibraryTokenizer;
	readonly #forbidden: ReadonlySet<number>;
	/** Longest token, in characters. */
	readonly #longest: number;

	/** @param forbidden ids data may not become; they are dropped */
	constructor(json: JsonObject, config: JsonObject, path: string, forbidden: ReadonlySet<number>) {
		try {
			const { vocab, ...model } = json.model as JsonObject;
			const plain = vocab instanceof Map ? Object.fromEntries(vocab) : vocab;
			this.#tokenizer = new LibraryTokenizer(
				{ ...json, model: { ...model, vocab: plain }, added_tokens: [] },
				config,
			);
		} catch (cause) {
			throw corrupt(path, cause instanceof Error ? cause.message : String(cause), cause);
		}
		this.kind = String((json.model as JsonObject).type).toLowerCase();
		let size = 0;
		let longest = 1;
		for (const [token, id] of this.#tokenizer.get_vocab()) {
			size = Math.max(size, id + 1);
			longest = Math.max(longest, token.length);
		}
		this.size = size;
		this.#longest = longest;
		this.#forbidden = forbidden;
	}

	/** The library normalises by itself while encoding. */
	normalize(text: string): string {
		return text;
	}

	/** Of a text far longer than its wanted ids can cover, the beginning is read: the library takes 20 µs a character. */
	encode(text: string, ids: number[], limit: number): void {
		if (ids.length >= limit) return;
		const beginning = text.slice(0, (limit - ids.length) * this.#longest + LOOK_AHEAD);
		for (const id of this.#tokenizer.encode(beginning, { add_special_tokens: false }).ids)
			if (!this.#forbidden.has(id)) ids.push(id);
	}

	decode(tokens: readonly string[]): string {
		const ids = tokens.map((token) => this.#tokenizer.token_to_id(token)).filter((id) => id !== undefined);
		return ids.length === 0 ? '' : this.#tokenizer.decode(ids, { clean_up_tokenization_spaces: false });
	}

	tokenOf(id: number): string | undefined {
		return this.#tokenizer.id_to_token(id);
	}

	idOf(token: string): number | undefined {
		return this.#tokenizer.token_to_id(token);
	}
}
