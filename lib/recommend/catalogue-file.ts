import { readFile } from 'node:fs/promises';
import type { CatalogueItem } from '../data/dataset.js';
import { writeFileAtomic } from '../data/folder.js';
import { ALLMRecError } from '../errors.js';
import { inTurns } from '../event-loop.js';
import { parseJson } from '../json.js';
import { Catalogue } from './catalogue.js';

/** Items of one part of the file. */
const PART = 64;

/** Writes a run's `catalogue.json`: its items and their training interactions. */
export async function writeCatalogue(path: string, catalogue: Catalogue): Promise<void> {
	await writeFileAtomic(path, serialise(catalogue));
}

function* serialise({ items, trainingCounts }: Catalogue): Generator<string> {
	yield '{"items": [';
	for (let from = 0; from < items.length; from += PART)
		yield `${from > 0 ? ',' : ''}\n${items
			.slice(from, from + PART)
			.map((item) => JSON.stringify(item))
			.join(',\n')}`;
	yield '\n],\n"trainingCounts": [';
	const counts = 256 * PART;
	for (let from = 0; from < trainingCounts.length; from += counts)
		yield `${from > 0 ? ',' : ''}${trainingCounts.slice(from, from + counts).join(',')}`;
	yield ']}\n';
}

/** @throws ERR_ALLMREC_RUN if it is not there or damaged */
export async function readCatalogue(path: string, signal?: AbortSignal | undefined): Promise<Catalogue> {
	let cause: unknown;
	try {
		const json = (await inTurns(parseJson(await readFile(path)), signal)) as {
			items: CatalogueItem[];
			trainingCounts: number[];
		};
		if (json.items.length > 0 && json.items.length === json.trainingCounts.length)
			return await inTurns(Catalogue.make(json.items, json.trainingCounts), signal);
	} catch (error) {
		signal?.throwIfAborted();
		cause = error;
	}
	throw new ALLMRecError('ERR_ALLMREC_RUN', `${path} cannot be read; train stage \`align\` again.`, {
		cause,
	});
}
