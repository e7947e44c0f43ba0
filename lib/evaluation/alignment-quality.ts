import { ALLMRecError, invalidArgument } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import { rowWidth } from './metrics.js';

/** How well two tables of latents of the same items fit together. */
export interface AlignmentQuality {
	items: number;
	/** Mean cosine between e_i and q_i, −1 … 1; a row of zeros has cosine 0. */
	cosine: number;
	/** Share of the items whose q_i is the nearest of all q to e_i by cosine; ties count by expectation. */
	'itemToText@1': number;
	/** … is among the nearest ten. */
	'itemToText@10': number;
	/** The same from q_i to all e. */
	'textToItem@1': number;
	'textToItem@10': number;
}

export interface AlignmentQualityOptions {
	/** (items × width), e_i. */
	item: Float32Array;
	/** (items × width), q_i. */
	text: Float32Array;
	/** Number of items. */
	items: number;
	/** Rows whose own latent is looked for, among all rows; default all. */
	rows?: Int32Array | undefined;
	signal?: AbortSignal | undefined;
}

/**
 * Cosine and retrieval between item and text latents. Costs rows × items × width; the event loop gets its turns.
 *
 * @throws ERR_ALLMREC_NUMERIC where a latent is not finite
 */
export async function alignmentQuality(options: AlignmentQualityOptions): Promise<AlignmentQuality> {
	const { item, text, items, rows = Int32Array.from({ length: items }, (_, row) => row), signal } = options;
	const width = rowWidth('item', item.length, items);
	if (text.length !== item.length)
		invalidArgument('text', `as long as \`item\` (${item.length})`, text.length);
	if (rows.length === 0) invalidArgument('rows', 'at least one row', rows);
	for (const row of rows)
		if (row < 0 || row >= items) invalidArgument('rows', `rows from 0 to ${items - 1}`, row);
	const [e, q] = [await inTurns(unitRows(item, width), signal), await inTurns(unitRows(text, width), signal)];
	const forth = await inTurns(recall(e, q, width, rows), signal);
	const back = await inTurns(recall(q, e, width, rows), signal);
	return {
		items: rows.length,
		cosine: forth.cosine,
		'itemToText@1': forth.at1,
		'itemToText@10': forth.at10,
		'textToItem@1': back.at1,
		'textToItem@10': back.at10,
	};
}

function* unitRows(rows: Float32Array, width: number): Steps<Float32Array> {
	const unit = new Float32Array(rows.length);
	for (let start = 0; start < rows.length; start += width) {
		let square = 0;
		for (let c = start; c < start + width; c++) square += rows[c]! ** 2;
		if (!Number.isFinite(square))
			throw new ALLMRecError(
				'ERR_ALLMREC_NUMERIC',
				`Expected finite latents, got others in row ${start / width}.`,
			);
		const scale = square > 0 ? 1 / Math.sqrt(square) : 0;
		for (let c = start; c < start + width; c++) unit[c] = rows[c]! * scale;
		if ((start / width) % 256 === 0) yield;
	}
	return unit;
}

function* recall(
	from: Float32Array,
	to: Float32Array,
	width: number,
	rows: Int32Array,
): Steps<{ cosine: number; at1: number; at10: number }> {
	const product = (a: number, b: number) => {
		let sum = 0;
		for (let c = 0; c < width; c++) sum += from[a * width + c]! * to[b * width + c]!;
		return sum;
	};
	const items = to.length / width;
	const block = Math.max(1, Math.floor((1 << 18) / width));
	let [cosine, at1, at10] = [0, 0, 0];
	for (const row of rows) {
		const own = product(row, row);
		let [nearer, ties] = [0, 0];
		for (let start = 0; start < items; start += block) {
			for (let other = start; other < Math.min(items, start + block); other++) {
				if (other === row) continue;
				const value = product(row, other);
				if (value > own) nearer++;
				else if (value === own) ties++;
			}
			yield;
		}
		cosine += own;
		at1 += Math.min(1, Math.max(0, (1 - nearer) / (ties + 1)));
		at10 += Math.min(1, Math.max(0, (10 - nearer) / (ties + 1)));
	}
	return { cosine: cosine / rows.length, at1: at1 / rows.length, at10: at10 / rows.length };
}
