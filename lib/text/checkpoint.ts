import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ALLMRecError } from '../errors.js';
import {
	assertReadable,
	type FileRules,
	readJson,
	tryReadJson,
	unusable,
	VOCABULARY_BYTES,
} from '../files/read.js';
import { shown } from './tokenizer-files.js';

/** Of the files of a checkpoint. */
export const CHECKPOINT_RULES: FileRules = {
	code: 'ERR_ALLMREC_CHECKPOINT',
	remedy: 'download the checkpoint again',
};

/** Reads a folder's `config.json`. @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_CHECKPOINT */
export async function readModelConfig(folder: string): Promise<Record<string, unknown>> {
	const path = join(folder, 'config.json');
	const config = await tryReadJson(path, jsonObject, CHECKPOINT_RULES);
	if (config) return config;
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_NOT_FOUND',
		`${path} cannot be read. A checkpoint is a Hugging Face folder with config.json, weights and tokenizer files.`,
	);
}

/** Not a record of zod's, which would build the object anew. */
const jsonObject = z.custom<Record<string, unknown>>(
	(value) => typeof value === 'object' && value !== null && !Array.isArray(value),
	'expected a JSON object',
);

/**
 * The weight files of a folder: `model.safetensors`, its shards by their index, `pytorch_model.bin`, or its shards; in
 * this order.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND when there is none, or a shard is missing; ERR_ALLMREC_CHECKPOINT for a damaged
 * index.
 */
export async function weightFiles(folder: string): Promise<string[]> {
	const names = new Set(await readdir(folder).catch(() => [] as string[]));
	for (const name of ['model.safetensors', 'pytorch_model.bin']) {
		if (names.has(name)) return [join(folder, name)];
		const index = `${name}.index.json`;
		if (!names.has(index)) continue;
		const shards = await shardNames(join(folder, index));
		for (const shard of shards)
			await assertReadable(join(folder, shard)).catch((cause: unknown) => {
				throw new ALLMRecError(
					'ERR_ALLMREC_FILE_NOT_FOUND',
					`${folder} lacks the shard ${shard} that ${index} names.`,
					{ cause },
				);
			});
		return shards.map((shard) => join(folder, shard));
	}
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_NOT_FOUND',
		`${folder} holds no weights: expected model.safetensors or pytorch_model.bin (or their shards with an index).`,
	);
}

/** Of a file beside the index: an index does not lead out of its folder. */
const shardName = z
	.string()
	.regex(/^(?!\.{1,2}$)[^/\\\0]+\.(safetensors|bin)$/, 'expected the name of a weight file');
const shardIndex = z.looseObject({ weight_map: z.record(z.string(), shardName) });

/** The files that an index of shards names. @throws ERR_ALLMREC_CHECKPOINT */
export async function shardNames(path: string): Promise<string[]> {
	const { weight_map: map } = await readJson(path, shardIndex, {
		...CHECKPOINT_RULES,
		limit: VOCABULARY_BYTES,
	});
	const names = [...new Set(Object.values(map))].sort();
	if (names.length > 0) return names;
	throw unusable(path, 'it names no shards', CHECKPOINT_RULES);
}

/** Rows of an embedding that no token has: tables are padded to a size that suits the hardware. */
const MAX_PADDING = 1024;

/**
 * Expects tokenizer and model to be of one checkpoint: a row for each token, and hardly more.
 *
 * @throws ERR_ALLMREC_CHECKPOINT
 */
export function expectVocabulary(folder: string, tokens: number, rows: number): void {
	if (tokens <= rows && rows - tokens < MAX_PADDING) return;
	const reason =
		tokens > rows ? 'they are not of one checkpoint' : 'its files are cut off, or not of one checkpoint';
	throw new ALLMRecError(
		'ERR_ALLMREC_CHECKPOINT',
		`${folder}: the tokenizer has ${tokens} tokens, the model ${tokens > rows ? 'only ' : ''}${rows}; ${reason}.`,
	);
}

/** What the core counts with. */
const MAX_INTEGER = 2 ** 31 - 1;

/** Typed look-ups in a `config.json`, with the file's folder in their errors. */
export class ConfigReader {
	readonly #config: Record<string, unknown>;
	readonly #folder: string;

	constructor(config: Record<string, unknown>, folder: string) {
		this.#config = config;
		this.#folder = folder;
	}

	integer(name: string, fallback?: number): number {
		const value = this.#config[name] ?? fallback;
		if (Number.isInteger(value) && (value as number) >= 0 && (value as number) <= MAX_INTEGER)
			return value as number;
		return this.#fail(name, 'a whole number', value);
	}

	/** Of what is at least 0 and below 1: a dropout, an epsilon. */
	fraction(name: string, fallback: number): number {
		const value = this.#config[name] ?? fallback;
		if (typeof value === 'number' && value >= 0 && value < 1) return value;
		return this.#fail(name, 'a number from 0 and below 1', value);
	}

	boolean(name: string, fallback: boolean): boolean {
		const value = this.#config[name] ?? fallback;
		return typeof value === 'boolean' ? value : this.#fail(name, 'true or false', value);
	}

	text(name: string, fallback = ''): string {
		const value = this.#config[name] ?? fallback;
		return typeof value === 'string' ? value : this.#fail(name, 'a text', value);
	}

	#fail(name: string, expected: string, got: unknown): never {
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${join(this.#folder, 'config.json')}: expected \`${name}\` to be ${expected}, got ${shown(got)}.`,
		);
	}
}
