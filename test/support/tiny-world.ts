import { Dataset } from '../../lib/data/dataset.js';
import { generateWorld, type World } from '../../lib/data/demo-world.js';

/** Where all models of these tests run: one thread, so that tests share the machine. */
export const CPU = { device: 'cpu', threads: 1 } as const;

export interface TinyWorldOptions {
	seed?: number;
	numUsers?: number;
	/** At least 50: five for each theme of the lexicon. */
	numItems?: number;
}

/** A made-up log small enough to train all stages on in seconds. */
export function tinyWorld({ seed = 1, numUsers = 60, numItems = 50 }: TinyWorldOptions = {}): World {
	return generateWorld({ seed, numUsers, numItems, maxLength: 12 });
}

/** The data set that `prepare` would make of a world, without the detour over files. */
export function datasetOfWorld({ name, items, interactions }: World): Dataset {
	const itemIndices = new Map(items.map(({ id }, i) => [id, i + 1]));
	const histories = new Map<string, { items: number[]; times: number[] }>();
	for (const { user, item, time } of interactions) {
		const history = histories.get(user) ?? { items: [], times: [] };
		history.items.push(itemIndices.get(item)!);
		history.times.push(time);
		histories.set(user, history);
	}
	const offsets = new Int32Array(histories.size + 1);
	for (const [u, history] of [...histories.values()].entries())
		offsets[u + 1] = offsets[u]! + history.items.length;
	return new Dataset({
		name,
		items: [
			{ id: '', title: '', description: '', genres: [] },
			...items.map(({ id, title, description, genres }) => ({ id, title, description, genres })),
		],
		userIds: [...histories.keys()],
		sequences: {
			offsets,
			items: Int32Array.from([...histories.values()].flatMap(({ items }) => items)),
			times: Float64Array.from([...histories.values()].flatMap(({ times }) => times)),
		},
	});
}

export function tinyDataset(options?: TinyWorldOptions): Dataset {
	return datasetOfWorld(tinyWorld(options));
}
