import { blocks, type Steps } from '../event-loop.js';

/** Numbers copied in one step. */
const BLOCK = 1 << 18;
/** Numbers in use in the buffers made here. */
const used = new WeakMap<ArrayBufferLike, number>();

/**
 * The table with a row behind it. Room is made for a quarter more, so that of many rows appended one after the other few
 * cost a copy; the table given stays as it is.
 */
export function* append(table: Float32Array, row: Float32Array): Steps<Float32Array> {
	const length = table.length + row.length;
	const { buffer } = table;
	// Only the longest table of a buffer has free room behind it.
	if (used.get(buffer) === table.length && buffer.byteLength >= length * Float32Array.BYTES_PER_ELEMENT) {
		const longer = new Float32Array(buffer, 0, length);
		longer.set(row, table.length);
		used.set(buffer, length);
		return longer;
	}
	const room = new Float32Array(length + Math.ceil(length / 4));
	yield* blocks(table.length, BLOCK, (from, to) => {
		room.set(table.subarray(from, to), from);
	});
	room.set(row, table.length);
	used.set(room.buffer, length);
	return room.subarray(0, length);
}
