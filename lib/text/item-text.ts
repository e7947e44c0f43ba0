import { invalidArgument } from '../errors.js';
import type { LongCallOptions } from '../progress.js';
import type { Tokenizer, TokenStore } from './tokenizer.js';

/** What the sentence encoder reads about an item. */
export interface ItemDescription {
	title?: string | null | undefined;
	description?: string | null | undefined;
}

/** Options of {@link itemText}. */
export interface ItemTextOptions {
	/** The authors' form, `"<title>, <description>"` in quotes, with their words for what is missing. Default false. */
	referenceCompat?: boolean | undefined;
}

/** Options of {@link encodeItemTexts}. */
export interface EncodeItemTextsOptions extends ItemTextOptions, LongCallOptions {
	/** Most tokens of a text, `[CLS]` and `[SEP]` included; its end is cut. Default 128. */
	maxTokens?: number | undefined;
	/** Positions the encoder has, an upper bound of `maxTokens`. Default 512 (DistilBERT, BERT). */
	maxPositions?: number | undefined;
}

/**
 * The text of an item for the sentence encoder: `Title: <title>, Description: <description>`. Without a description
 * only its title, without a title only its description.
 */
export function itemText(
	{ title, description }: ItemDescription,
	{ referenceCompat = false }: ItemTextOptions = {},
): string {
	if (referenceCompat) return `"${title || 'No Title'}, ${description || 'No Description'}"`;
	const parts: string[] = [];
	if (title || !description) parts.push(`Title: ${title ?? ''}`);
	if (description) parts.push(`Description: ${description}`);
	return parts.join(', ');
}

/**
 * Token ids of the items' texts, between `[CLS]` and `[SEP]`. The texts are data: a special token's name in one
 * stays plain characters.
 *
 * @param items in order of item index
 * @throws ERR_ALLMREC_INVALID_ARGUMENT when `maxTokens` is beyond the encoder's positions
 */
export async function encodeItemTexts(
	tokenizer: Tokenizer,
	items: readonly ItemDescription[],
	{ maxTokens = 128, maxPositions = 512, referenceCompat, signal, onProgress }: EncodeItemTextsOptions = {},
): Promise<TokenStore> {
	const least = tokenizer.prefixIds.length + tokenizer.suffixIds.length + 1;
	if (!Number.isInteger(maxTokens) || maxTokens < least || maxTokens > maxPositions)
		invalidArgument(
			'maxTokens',
			`a whole number from ${least} to ${maxPositions}, the encoder's positions`,
			maxTokens,
		);
	const texts = items.map((item) => itemText(item, { referenceCompat }));
	return tokenizer.encodeMany(texts, {
		sequence: true,
		maxTokens,
		stage: 'tokenize items',
		signal,
		onProgress,
	});
}
