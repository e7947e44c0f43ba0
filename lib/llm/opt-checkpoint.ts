import { ALLMRecError } from '../errors.js';
import { type LlmDtype, loadAddon, type OptConfig } from '../native/addon.js';
import { guard } from '../native/session.js';
import { expectVocabulary, readModelConfig, weightFiles } from '../text/checkpoint.js';
import { optConfig, storedDtype } from './opt-config.js';

/** What a folder holds, known from its configuration and the headers of its weight files. */
export interface OptCheckpoint {
	/** With the dtype to load in. */
	config: OptConfig & { dtype: LlmDtype };
	files: string[];
	/** `config.json` as it is. */
	json: Record<string, unknown>;
	/** Set where the folder was written by `quantizeCheckpoint`. */
	stored: LlmDtype | undefined;
}

export interface OpenOptCheckpointOptions {
	/** To load in. Default: as stored by `quantizeCheckpoint`, else `otherwise`. */
	dtype?: LlmDtype | undefined;
	/** Where neither `dtype` nor the folder names one. Default `float32`. */
	otherwise?: LlmDtype | undefined;
	/** Whether the weights may be missing: what is known then follows from `config.json`. Default false. */
	withoutWeights?: boolean | undefined;
	/** Tokens the tokenizer knows: the vocabulary must have them, and hardly more. */
	tokens?: number | undefined;
}

/**
 * Reads a folder's configuration and looks into its weights for the size of the vocabulary: a checkpoint may hold more
 * rows than `vocab_size` says (padding, never read), or fewer, as long as every token of the tokenizer has one.
 *
 * @throws ERR_ALLMREC_CHECKPOINT for another kind of model, a vocabulary too small, or int8 and int4 weights asked for
 * in another dtype; ERR_ALLMREC_FILE_NOT_FOUND
 */
export async function openOptCheckpoint(
	folder: string,
	{ dtype, otherwise = 'float32', tokens, withoutWeights = false }: OpenOptCheckpointOptions = {},
): Promise<OptCheckpoint> {
	const json = await readModelConfig(folder);
	const config = optConfig(json, folder);
	const stored = storedDtype(json, folder);
	if ((stored === 'int8' || stored === 'int4') && dtype && dtype !== stored)
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${folder} is stored in ${stored} and cannot be loaded in ${dtype}; give the checkpoint it was made of.`,
		);
	const files = await weightFiles(folder).catch((error: unknown) => {
		if (withoutWeights && (error as ALLMRecError).code === 'ERR_ALLMREC_FILE_NOT_FOUND') return [];
		throw error;
	});
	const rows = embeddingRows(files);
	const vocabSize = Math.min(config.vocabSize, rows ?? config.vocabSize);
	if (tokens !== undefined) expectVocabulary(folder, tokens, vocabSize);
	return { config: { ...config, vocabSize, dtype: dtype ?? stored ?? otherwise }, files, json, stored };
}

/** Rows of the token embedding; undefined where no file has it, which loading names with what else is missing. */
function embeddingRows(files: readonly string[]): number | undefined {
	for (const path of files) {
		const file = guard(() => loadAddon().openTensorFile(path));
		try {
			const found = file.tensors().find(({ name }) => /(^|\.)embed_tokens\.weight$/.test(name));
			if (found) return found.shape[0];
		} finally {
			file.close();
		}
	}
	return undefined;
}
