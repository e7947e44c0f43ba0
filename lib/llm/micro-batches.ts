import { invalidArgument } from '../errors.js';

/**
 * Cuts packed sequences into micro-batches of at most `tokensPerBatch` tokens; a longer sequence is a batch of its
 * own. The longest come first and neighbours are of like length, so the sequences of a batch end together and the
 * last batches, which leave workers idle, are the smallest. Equal lengths keep their order.
 *
 * @param lengths tokens of each sequence
 * @returns indices of the sequences of each batch
 */
export function planMicroBatches(lengths: ArrayLike<number>, tokensPerBatch: number): Int32Array[] {
	if (!(Number.isInteger(tokensPerBatch) && tokensPerBatch > 0))
		invalidArgument('tokensPerBatch', 'a whole number from 1', tokensPerBatch);
	const order = Int32Array.from({ length: lengths.length }, (_, i) => i).sort(
		(a, b) => lengths[b]! - lengths[a]! || a - b,
	);
	const batches: Int32Array[] = [];
	let begin = 0;
	let tokens = 0;
	for (let i = 0; i < order.length; i++) {
		const length = lengths[order[i]!]!;
		if (i > begin && tokens + length > tokensPerBatch) {
			batches.push(order.subarray(begin, i));
			begin = i;
			tokens = 0;
		}
		tokens += length;
	}
	if (begin < order.length) batches.push(order.subarray(begin));
	return batches;
}
