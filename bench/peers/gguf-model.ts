/** A small writer of GGUF files: a llama-shaped model with random weights, for llama.cpp. */
import { closeSync, openSync, writeSync } from 'node:fs';
import { SeededRandom } from '../../lib/data/random.js';

/** ggml's numbers of the types, and the bytes of so many numbers of a row. */
const types = {
	F32: { id: 0, numbers: 1, bytes: 4 },
	F16: { id: 1, numbers: 1, bytes: 2 },
	Q4_0: { id: 2, numbers: 32, bytes: 18 },
	Q8_0: { id: 8, numbers: 32, bytes: 34 },
} as const;
export type GgufType = 'F16' | 'Q8_0' | 'Q4_0';

export interface LlamaShape {
	vocabSize: number;
	hiddenSize: number;
	numLayers: number;
	numHeads: number;
	/** Of each of the three matrices; a multiple of 32. */
	feedForwardSize: number;
	contextSize: number;
}

/** What comes first in a value of the header. */
const kinds = { uint32: 4, int32: 5, float32: 6, string: 8, array: 9 } as const;
const alignment = 32;

interface TensorPlan {
	name: string;
	/** The length of a row first. */
	shape: readonly number[];
	type: keyof typeof types;
}

/** Matrices have the type, norms are float32, and the head is the token embedding. */
export function writeLlama(path: string, shape: LlamaShape, type: GgufType): void {
	const tensors = planOf(shape, type);
	const values = metadata(shape);
	const header = new Writer();
	header.bytes(Buffer.from('GGUF')).uint32(3).uint64(tensors.length).uint64(values.length);
	for (const write of values) write(header);
	let offset = 0;
	for (const tensor of tensors) {
		header.string(tensor.name).uint32(tensor.shape.length);
		for (const size of tensor.shape) header.uint64(size);
		header.uint32(types[tensor.type].id).uint64(offset);
		offset += padded(bytesOf(tensor));
	}
	const file = openSync(path, 'w');
	try {
		const start = header.finish();
		writeSync(file, start);
		writeSync(file, Buffer.alloc(padded(start.length) - start.length));
		const block = randomBlock(type);
		for (const tensor of tensors) {
			const data = Buffer.alloc(padded(bytesOf(tensor)));
			if (tensor.type === 'F32') new Float32Array(data.buffer, data.byteOffset, data.length >> 2).fill(1);
			else data.fill(block);
			writeSync(file, data);
		}
	} finally {
		closeSync(file);
	}
}

function planOf(shape: LlamaShape, type: GgufType): TensorPlan[] {
	const { vocabSize, hiddenSize: width, numLayers, feedForwardSize } = shape;
	const layers = Array.from({ length: numLayers }, (_, layer): TensorPlan[] => {
		const matrix = (name: string, rowLength: number, rows: number): TensorPlan => ({
			name: `blk.${layer}.${name}.weight`,
			shape: [rowLength, rows],
			type,
		});
		const norm = (name: string): TensorPlan => ({
			name: `blk.${layer}.${name}.weight`,
			shape: [width],
			type: 'F32',
		});
		return [
			norm('attn_norm'),
			...['attn_q', 'attn_k', 'attn_v', 'attn_output'].map((name) => matrix(name, width, width)),
			norm('ffn_norm'),
			matrix('ffn_gate', width, feedForwardSize),
			matrix('ffn_up', width, feedForwardSize),
			matrix('ffn_down', feedForwardSize, width),
		];
	});
	return [
		{ name: 'token_embd.weight', shape: [width, vocabSize], type },
		...layers.flat(),
		{ name: 'output_norm.weight', shape: [width], type: 'F32' },
	];
}

function metadata(shape: LlamaShape): ((header: Writer) => void)[] {
	const text = (key: string, value: string) => (header: Writer) =>
		header.string(key).uint32(kinds.string).string(value);
	const whole = (key: string, value: number) => (header: Writer) =>
		header.string(key).uint32(kinds.uint32).uint32(value);
	const list =
		<T>(key: string, kind: keyof typeof kinds, items: readonly T[], write: (w: Writer, item: T) => void) =>
		(header: Writer) => {
			header.string(key).uint32(kinds.array).uint32(kinds[kind]).uint64(items.length);
			for (const item of items) write(header, item);
		};
	const vocabulary = Array.from({ length: shape.vocabSize }, (_, id) => tokenOf(id));
	return [
		text('general.architecture', 'llama'),
		text('general.name', 'benchmark'),
		whole('llama.vocab_size', shape.vocabSize),
		whole('llama.context_length', shape.contextSize),
		whole('llama.embedding_length', shape.hiddenSize),
		whole('llama.block_count', shape.numLayers),
		whole('llama.feed_forward_length', shape.feedForwardSize),
		whole('llama.rope.dimension_count', shape.hiddenSize / shape.numHeads),
		whole('llama.attention.head_count', shape.numHeads),
		whole('llama.attention.head_count_kv', shape.numHeads),
		(header) => header.string('llama.attention.layer_norm_rms_epsilon').uint32(kinds.float32).float32(1e-5),
		text('tokenizer.ggml.model', 'llama'),
		list('tokenizer.ggml.tokens', 'string', vocabulary, (w, token) => w.string(token.text)),
		list('tokenizer.ggml.scores', 'float32', vocabulary, (w, token) => w.float32(token.score)),
		list('tokenizer.ggml.token_type', 'int32', vocabulary, (w, token) => w.uint32(token.type)),
		whole('tokenizer.ggml.bos_token_id', 1),
		whole('tokenizer.ggml.eos_token_id', 2),
	];
}

/** Unknown, the two ends, every byte, and names without a meaning: what a SentencePiece vocabulary must have. */
function tokenOf(id: number): { text: string; score: number; type: number } {
	const [normal, unknown, control, byte] = [1, 2, 3, 6];
	if (id === 0) return { text: '<unk>', score: 0, type: unknown };
	if (id < 3) return { text: id === 1 ? '<s>' : '</s>', score: 0, type: control };
	if (id < 259)
		return {
			text: `<0x${(id - 3).toString(16).toUpperCase().padStart(2, '0')}>`,
			score: 0,
			type: byte,
		};
	return { text: `word${id}`, score: -id, type: normal };
}

/** Whole blocks of small random numbers, to be repeated; their number is odd, so that rows differ. */
function randomBlock(type: GgufType): Buffer {
	const random = new SeededRandom(4);
	const { bytes } = types[type];
	const block = Buffer.from(Uint8Array.from({ length: 10_007 * bytes }, () => random.int(256)));
	for (let at = 0; at < block.length; at += bytes) {
		// Halves: of F16 sign and mantissa are random and the exponent is −6; the others' scale is 2⁻¹⁰ or 2⁻⁷.
		if (type === 'F16') block.writeUInt16LE((block.readUInt16LE(at) & 0x83ff) | (9 << 10), at);
		else block.writeUInt16LE((type === 'Q8_0' ? 5 : 8) << 10, at);
	}
	return block;
}

function bytesOf({ shape, type }: TensorPlan): number {
	const { numbers, bytes } = types[type];
	return (shape.reduce((a, b) => a * b, 1) / numbers) * bytes;
}

function padded(bytes: number): number {
	return Math.ceil(bytes / alignment) * alignment;
}

/** Little-endian values one after another. */
class Writer {
	readonly #parts: Buffer[] = [];

	bytes(value: Buffer): this {
		this.#parts.push(value);
		return this;
	}
	uint32(value: number): this {
		const part = Buffer.alloc(4);
		part.writeUInt32LE(value);
		return this.bytes(part);
	}
	uint64(value: number): this {
		const part = Buffer.alloc(8);
		part.writeBigUInt64LE(BigInt(value));
		return this.bytes(part);
	}
	float32(value: number): this {
		const part = Buffer.alloc(4);
		part.writeFloatLE(value);
		return this.bytes(part);
	}
	string(value: string): this {
		const text = Buffer.from(value);
		return this.uint64(text.length).bytes(text);
	}
	finish(): Buffer {
		return Buffer.concat(this.#parts);
	}
}
