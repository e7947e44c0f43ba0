import { planMicroBatches } from '../llm/micro-batches.js';
import type { NativeBackbone, NativeRecFormer, RecFormerConfig } from '../native/addon.js';
import { guard, type Keep, run, type Session } from '../native/session.js';
import type { SentenceEncoder } from '../text/sentence-encoder.js';
import { batchOf, type ItemSentences, type PackedHistory } from './recformer-text.js';

const POSITIONS = 'embeddings.position_embeddings.weight';
const ITEMS = 'item_embedding.weight';
/** Standard deviation of embeddings that no checkpoint has. */
const DEVIATION = 0.02;
/** Texts that are packed before those of like lengths are encoded together. */
export const TEXTS_PER_WINDOW = 256;
/** Packed tokens of one pass without gradients, about. */
const TOKENS_PER_PASS = 4096;

/**
 * A model with an encoder's weights; of positions beyond the encoder's its own are repeated, as Longformer begins with
 * RoBERTa's.
 */
export async function recFormerOf(
	keep: Keep,
	session: Session,
	encoder: SentenceEncoder,
	config: RecFormerConfig,
	seed: number,
	signal: AbortSignal | undefined,
): Promise<NativeRecFormer> {
	const native = keep(guard(() => new session.addon.RecFormer(session.engine, config)));
	await run((cancel) => native.initialise(seed, DEVIATION, cancel), signal);
	for (const { name } of encoder.native.parameters()) {
		const values = await run(() => encoder.native.getParameter(name), signal);
		await run(
			() =>
				native.setParameter(
					name,
					name === POSITIONS ? repeated(values, config.maxPositions * config.hiddenSize) : values,
				),
			signal,
		);
	}
	return native;
}

function repeated(values: Float32Array, length: number): Float32Array {
	const longer = new Float32Array(length);
	for (let at = 0; at < length; at += values.length)
		longer.set(values.subarray(0, Math.min(values.length, length - at)), at);
	return longer;
}

/** Unit vectors (texts, C) of the states of [CLS]. @throws the signal's reason */
export async function unitVectors(
	native: NativeRecFormer,
	packed: readonly PackedHistory[],
	size: number,
	signal: AbortSignal | undefined,
): Promise<Float32Array> {
	const vectors = new Float32Array(packed.length * size);
	const lengths = packed.map(({ ids }) => ids.length);
	for (const indices of planMicroBatches(lengths, TOKENS_PER_PASS)) {
		const batch = batchOf(Array.from(indices, (i) => packed[i]!));
		const part = await run((cancel) => native.vectors(batch, cancel), signal);
		for (const [row, i] of indices.entries()) {
			const vector = part.subarray(row * size, (row + 1) * size);
			const length = Math.max(Math.hypot(...vector), 1e-12);
			for (let c = 0; c < size; c++) vectors[i * size + c] = vector[c]! / length;
		}
	}
	return vectors;
}

/** Unit vectors of all items of a catalogue, row 0 unused, where products with them are computed. */
export class ItemTable {
	readonly native: NativeBackbone;
	readonly #size: number;
	readonly #numItems: number;

	constructor(session: Session, numItems: number, size: number) {
		this.#size = size;
		this.#numItems = numItems;
		const config = { kind: 'table', numItems, hiddenUnits: size };
		this.native = guard(() => new session.addon.Backbone(session.engine, config));
	}

	/** Every item's sentence alone, encoded. @throws the signal's reason */
	async encode(
		model: NativeRecFormer,
		sentences: ItemSentences,
		signal: AbortSignal | undefined,
	): Promise<void> {
		const table = new Float32Array((this.#numItems + 1) * this.#size);
		for (let first = 1; first <= this.#numItems; first += TEXTS_PER_WINDOW) {
			const count = Math.min(TEXTS_PER_WINDOW, this.#numItems + 1 - first);
			const packed = Array.from({ length: count }, (_, i) => sentences.pack([first + i]));
			table.set(await unitVectors(model, packed, this.#size, signal), first * this.#size);
		}
		await run(() => this.native.setParameter(ITEMS, table));
	}

	/** (numItems, C) */
	async vectors(): Promise<Float32Array> {
		return (await run(() => this.native.getParameter(ITEMS))).subarray(this.#size);
	}

	dispose(): void {
		this.native.dispose();
	}
}
