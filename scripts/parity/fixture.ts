import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { NativeAddon, NativeTensorFile, NativeTensorInfo } from '../../lib/native/addon.js';

export type Json = Record<string, unknown>;

export interface Tensor {
	shape: number[];
	data: Float32Array;
}

/** A file of weights, or the shards of one. */
export interface WeightSource {
	/** As the table prints it. */
	name: string;
	paths: string[];
}

const WEIGHTS = /\.(safetensors|bin|pt|pth)$/;
const SHARD = /-\d{5}-of-\d{5}\.(safetensors|bin)$/;

/** A folder of weights and of what they must compute. */
export class Fixture {
	readonly name: string;
	/** `config.json`, or empty. */
	readonly config: Json;
	/** `expected.json`, or empty. */
	readonly expected: Json;
	/** Every weight file, `model.safetensors` first. */
	readonly sources: readonly WeightSource[];
	/** Tensors of `expected.safetensors` by name. */
	readonly expectedTensors: ReadonlyMap<string, NativeTensorInfo>;
	/** Tensors read as inputs, which nothing is compared with. */
	readonly inputs = new Set<string>();
	readonly #file: NativeTensorFile | undefined;

	constructor(
		readonly addon: NativeAddon,
		readonly folder: string,
	) {
		this.name = basename(folder);
		const names = readdirSync(folder);
		this.config = names.includes('config.json') ? readJson(join(folder, 'config.json')) : {};
		this.expected = names.includes('expected.json') ? readJson(join(folder, 'expected.json')) : {};
		this.#file = names.includes('expected.safetensors')
			? addon.openTensorFile(join(folder, 'expected.safetensors'))
			: undefined;
		this.expectedTensors = new Map(this.#file?.tensors().map((info) => [info.name, info]));
		const order = (name: string) => (name.startsWith('model.safetensors') ? 0 : 1);
		this.sources = names
			.filter(
				(name) =>
					(WEIGHTS.test(name) && !SHARD.test(name) && name !== 'expected.safetensors') ||
					name.endsWith('.index.json'),
			)
			.sort((a, b) => order(a) - order(b) || (a < b ? -1 : 1))
			.map((name) => ({ name, paths: pathsOf(folder, name) }));
	}

	/** Names, shapes and dtypes of a source's tensors. */
	tensorsOf(source: WeightSource): Map<string, NativeTensorInfo> {
		return new Map(
			source.paths.flatMap((path) =>
				this.#with(path, (file) => file.tensors().map((info) => [info.name, info] as const)),
			),
		);
	}

	/** The tensors of a source as float32. */
	readWeights(source: WeightSource): Map<string, Tensor> {
		return new Map(
			source.paths.flatMap((path) =>
				this.#with(path, (file) =>
					file.tensors().map(({ name, shape }) => [name, { shape, data: file.readFloat32(name) }] as const),
				),
			),
		);
	}

	metadataOf(source: WeightSource): Record<string, string> {
		return this.#with(source.paths[0]!, (file) => file.metadata());
	}

	has(name: string): boolean {
		return this.expectedTensors.has(name);
	}

	/** A tensor to compare with. */
	tensor(name: string): Tensor {
		const info = this.#require(name);
		return { shape: info.shape, data: this.#file!.readFloat32(name) };
	}

	/** A tensor that is an input. */
	input(name: string): Tensor {
		this.inputs.add(name);
		return this.tensor(name);
	}

	/** Rows of an integer tensor (R, S) that is an input. */
	inputRows(name: string): number[][] {
		const { shape } = this.#require(name);
		this.inputs.add(name);
		const values = Array.from(this.#file!.readInt64(name), Number);
		const width = shape.at(-1) ?? 1;
		return Array.from({ length: width === 0 ? 0 : values.length / width }, (_, r) =>
			values.slice(r * width, (r + 1) * width),
		);
	}

	/** The number of `expected.json`'s note that a pattern's first group finds. */
	noted(pattern: RegExp): number | undefined {
		const note = this.expected.note;
		const found = typeof note === 'string' ? pattern.exec(note)?.[1] : undefined;
		return found === undefined ? undefined : Number(found);
	}

	close(): void {
		this.#file?.close();
	}

	#require(name: string): NativeTensorInfo {
		const info = this.expectedTensors.get(name);
		if (!info) throw new Error(`${join(this.folder, 'expected.safetensors')} lacks the tensor ${name}.`);
		return info;
	}

	#with<T>(path: string, read: (file: NativeTensorFile) => T): T {
		const file = this.addon.openTensorFile(path);
		try {
			return read(file);
		} finally {
			file.close();
		}
	}
}

function pathsOf(folder: string, name: string): string[] {
	if (!name.endsWith('.index.json')) return [join(folder, name)];
	const index = readJson(join(folder, name)) as { weight_map?: Record<string, string> };
	return [...new Set(Object.values(index.weight_map ?? {}))].sort().map((shard) => join(folder, shard));
}

function readJson(path: string): Json {
	return JSON.parse(readFileSync(path, 'utf8')) as Json;
}
