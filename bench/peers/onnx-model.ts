/** A small writer of ONNX models with random weights: protobuf by hand, by the field numbers of onnx.proto. */
import { SeededRandom } from '../../lib/data/random.js';

/** TensorProto.DataType */
const types = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7 } as const;
type Type = keyof typeof types;

/** A dimension with a name is free. */
type Shape = readonly (number | string)[];

/** A graph under construction; every method that adds a node returns the names of its outputs. */
export class OnnxGraph {
	readonly #nodes: Uint8Array[] = [];
	readonly #initializers: Uint8Array[] = [];
	readonly #inputs: Uint8Array[] = [];
	readonly #outputs: Uint8Array[] = [];
	readonly #int8: boolean;
	/** Quantised activations by their name, so that products with the same input share them. */
	readonly #quantized = new Map<string, string[]>();
	#names = 0;

	/** int8: products with weights quantise their input as it comes, as `quantize_dynamic` of onnxruntime does. */
	constructor(int8: boolean) {
		this.#int8 = int8;
	}

	input(name: string, type: Type, shape: Shape): string {
		this.#inputs.push(message(11, valueInfo(name, type, shape)));
		return name;
	}

	output(name: string, type: Type, shape: Shape): void {
		this.#outputs.push(message(12, valueInfo(name, type, shape)));
	}

	/** Adds a node with so many outputs, or with named ones ('' = not wanted). */
	node(
		type: string,
		inputs: readonly string[],
		{
			outputs = 1,
			attributes = {},
			domain = '',
		}: {
			outputs?: number | readonly string[];
			attributes?: Readonly<Record<string, number | readonly number[]>>;
			domain?: string;
		} = {},
	): string[] {
		const names =
			typeof outputs === 'number' ? Array.from({ length: outputs }, () => this.#name()) : [...outputs];
		this.#nodes.push(
			message(1, [
				...inputs.map((name) => string(1, name)),
				...names.map((name) => string(2, name)),
				string(3, this.#name()),
				string(4, type),
				...Object.entries(attributes).map(([name, value]) => message(5, attribute(name, value))),
				string(7, domain),
			]),
		);
		return names;
	}

	/** One of onnxruntime's own operators. */
	fused(
		type: string,
		inputs: readonly string[],
		attributes: Readonly<Record<string, number>> = {},
		outputs: number | readonly string[] = 1,
	): string[] {
		return this.node(type, inputs, { outputs, attributes, domain: 'com.microsoft' });
	}

	constant(type: Type, shape: readonly number[], values: ArrayBufferView): string {
		const name = this.#name();
		this.#initializers.push(
			message(5, [
				...shape.map((size) => varint(1, size)),
				varint(2, types[type]),
				string(8, name),
				bytes(9, new Uint8Array(values.buffer, values.byteOffset, values.byteLength)),
			]),
		);
		return name;
	}

	/** A parameter of small random numbers; ones where it scales a norm. */
	parameter(shape: readonly number[], fill?: number): string {
		const size = shape.reduce((a, b) => a * b, 1);
		const values = new Float32Array(size);
		if (fill === undefined) repeat(values, floats);
		else values.fill(fill);
		return this.constant('float32', shape, values);
	}

	/** x · W (rows, columns), in 8 bits where the graph is quantised. */
	product(x: string, rows: number, columns: number): string {
		if (!this.#int8) return this.node('MatMul', [x, this.parameter([rows, columns])])[0]!;
		let quantized = this.#quantized.get(x);
		if (!quantized) {
			quantized = this.node('DynamicQuantizeLinear', [x], { outputs: 3 });
			this.#quantized.set(x, quantized);
		}
		const [values, scale, zero] = quantized as [string, string, string];
		const weight = new Int8Array(rows * columns);
		repeat(weight, levels);
		const weights = this.constant('int8', [rows, columns], weight);
		const none = this.constant('int8', [], new Int8Array(1));
		const weightScale = this.constant('float32', [], new Float32Array([3e-4]));
		const [sums] = this.node('MatMulInteger', [values, weights, zero, none]);
		const [wide] = this.node('Cast', [sums!], { attributes: { to: types.float32 } });
		const [scales] = this.node('Mul', [scale, weightScale]);
		return this.node('Mul', [wide!, scales!])[0]!;
	}

	/** A linear layer. */
	linear(x: string, rows: number, columns: number): string {
		return this.node('Add', [this.product(x, rows, columns), this.parameter([columns], 0)])[0]!;
	}

	/** The norm of x + residual + bias, and the sum itself. */
	skipNorm(x: string, residual: string, width: number, eps: number): [string, string] {
		const sum = this.#name();
		const [normed] = this.fused(
			'SkipLayerNormalization',
			[x, residual, this.parameter([width], 1), this.parameter([width], 0), this.parameter([width], 0)],
			{ epsilon: eps },
			[this.#name(), '', '', sum],
		);
		return [normed!, sum];
	}

	/** The model's file. */
	model(): Uint8Array {
		const opset = (domain: string, version: number) => message(8, [string(1, domain), varint(2, version)]);
		return concat([
			varint(1, 8),
			message(7, [
				...this.#nodes,
				string(2, 'benchmark'),
				...this.#initializers,
				...this.#inputs,
				...this.#outputs,
			]),
			opset('', 17),
			opset('com.microsoft', 1),
		]);
	}

	#name(): string {
		return `t${this.#names++}`;
	}
}

const random = new SeededRandom(4);
const floats = Float32Array.from({ length: 100_003 }, () => 0.06 * (random.uniform() - 0.5));
const levels = Int8Array.from({ length: 100_003 }, () => random.int(255) - 127);

/** Fills an array with a block of numbers, again and again. */
function repeat<T extends Float32Array | Int8Array>(values: T, block: T): void {
	for (let at = 0; at < values.length; at += block.length)
		values.set(block.subarray(0, Math.min(block.length, values.length - at)), at);
}

function valueInfo(name: string, type: Type, shape: Shape): Uint8Array[] {
	const dimensions = shape.map((size) =>
		message(1, [typeof size === 'number' ? varint(1, size) : string(2, size)]),
	);
	return [string(1, name), message(2, [message(1, [varint(1, types[type]), message(2, dimensions)])])];
}

/** Whole numbers are INT and INTS, but for `epsilon`, the one FLOAT. */
function attribute(name: string, value: number | readonly number[]): Uint8Array[] {
	if (typeof value !== 'number')
		return [string(1, name), ...value.map((item) => varint(8, item)), varint(20, 7)];
	if (name !== 'epsilon') return [string(1, name), varint(3, value), varint(20, 2)];
	const float = new Uint8Array(5);
	float[0] = (2 << 3) | 5;
	new DataView(float.buffer).setFloat32(1, value, true);
	return [string(1, name), float, varint(20, 1)];
}

function varint(field: number, value: number): Uint8Array {
	return Uint8Array.from([...base128(field << 3), ...base128(value)]);
}

function string(field: number, text: string): Uint8Array {
	return bytes(field, new TextEncoder().encode(text));
}

function message(field: number, parts: readonly Uint8Array[]): Uint8Array {
	return bytes(field, concat(parts));
}

function bytes(field: number, content: Uint8Array): Uint8Array {
	return concat([Uint8Array.from([...base128((field << 3) | 2), ...base128(content.length)]), content]);
}

/** Whole numbers, negative ones as the 64 bits of their two's complement. */
function base128(value: number): number[] {
	let rest = BigInt.asUintN(64, BigInt(value));
	const digits: number[] = [];
	do {
		digits.push(Number(rest & 127n) | (rest > 127n ? 128 : 0));
		rest >>= 7n;
	} while (rest > 0n);
	return digits;
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
	const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
	let at = 0;
	for (const part of parts) {
		all.set(part, at);
		at += part.length;
	}
	return all;
}
