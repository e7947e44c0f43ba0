import { Dataset } from '../../lib/data/dataset.js';

/** A data set of these histories; times count up through the whole log unless given. */
export function datasetOf(histories: number[][], numItems: number, times?: number[][]): Dataset {
	const offsets = new Int32Array(histories.length + 1);
	for (const [u, history] of histories.entries()) offsets[u + 1] = offsets[u]! + history.length;
	return new Dataset({
		name: 'made',
		items: Array.from({ length: numItems + 1 }, (_, i) => ({
			id: i ? `i${i}` : '',
			title: `${i}`,
			description: '',
			genres: [],
		})),
		userIds: histories.map((_, u) => `u${u}`),
		sequences: {
			offsets,
			items: Int32Array.from(histories.flat()),
			times: Float64Array.from(times?.flat() ?? histories.flat().map((_, n) => n)),
		},
	});
}
