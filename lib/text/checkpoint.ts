import { access, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ALLMRecError } from '../errors.js';

/** Reads a folder's `config.json`. @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_CHECKPOINT */
export async function readModelConfig(folder: string): Promise<Record<string, unknown>> {
	const path = join(folder, 'config.json');
	let text: string;
	try {
		text = await readFile(path, 'utf8');
	} catch (cause) {
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`${path} cannot be read. A checkpoint is a Hugging Face folder with config.json, weights and tokenizer files.`,
			{ cause },
		);
	}
	try {
		const config: unknown = JSON.parse(text);
		if (typeof config === 'object' && config !== null && !Array.isArray(config))
			return config as Record<string, unknown>;
	} catch {}
	throw new ALLMRecError(
		'ERR_ALLMREC_CHECKPOINT',
		`${path} is not a JSON object; download the checkpoint again.`,
	);
}

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
		const shards = shardNames(await readFile(join(folder, index), 'utf8'), join(folder, index));
		for (const shard of shards)
			await access(join(folder, shard)).catch((cause: unknown) => {
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

/** The files that an index of shards names. */
function shardNames(text: string, path: string): string[] {
	try {
		const names: unknown[] = Object.values((JSON.parse(text) as { weight_map: object }).weight_map);
		if (names.length > 0 && names.every((name) => typeof name === 'string'))
			return [...new Set(names)].sort();
	} catch {}
	throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} names no shards; download the checkpoint again.`);
}

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
		if (Number.isInteger(value) && (value as number) >= 0) return value as number;
		return this.#fail(name, 'a whole number', value);
	}

	number(name: string, fallback: number): number {
		const value = this.#config[name] ?? fallback;
		return typeof value === 'number' && Number.isFinite(value) ? value : this.#fail(name, 'a number', value);
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
			`${join(this.#folder, 'config.json')}: expected \`${name}\` to be ${expected}, got ${JSON.stringify(got) ?? 'nothing'}.`,
		);
	}
}
