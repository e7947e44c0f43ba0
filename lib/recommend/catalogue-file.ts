import type { CatalogueItem } from '../data/dataset.js';
import { inTurns, type Steps } from '../event-loop.js';
import { writeFileAtomic } from '../files/atomic.js';
import { type FileRules, LARGEST_TEXT_BYTES, tryReadValue, unusable } from '../files/read.js';
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

const RULES: FileRules = {
	code: 'ERR_ALLMREC_RUN',
	missing: 'ERR_ALLMREC_RUN',
	limit: LARGEST_TEXT_BYTES,
	remedy: 'train stage `align` again',
};

/** @throws ERR_ALLMREC_RUN if it is not there or damaged */
export async function readCatalogue(path: string, signal?: AbortSignal | undefined): Promise<Catalogue> {
	const value = await tryReadValue(path, RULES, { signal });
	const { items, trainingCounts } = (value ?? {}) as { items?: unknown; trainingCounts?: unknown };
	if (!Array.isArray(items) || !Array.isArray(trainingCounts) || items.length === 0)
		throw unusable(path, value === undefined ? 'it is missing' : 'it is no catalogue', RULES);
	if (items.length !== trainingCounts.length)
		throw unusable(path, `it has ${items.length} items and ${trainingCounts.length} counts`, RULES);
	await inTurns(expectItems(path, items, trainingCounts), signal);
	return inTurns(Catalogue.make(items, trainingCounts), signal);
}

function* expectItems(path: string, items: unknown[], counts: unknown[]): Steps<void> {
	const ids = new Set<string>();
	for (const [i, item] of items.entries()) {
		const { id, title, description, genres } = (item ?? {}) as Partial<CatalogueItem>;
		const texts = [id, title, description, ...(Array.isArray(genres) ? genres : [undefined])];
		if (!texts.every((text) => typeof text === 'string'))
			throw unusable(path, `item ${i} lacks its id, title, description or genres`, RULES);
		if (!Number.isInteger(counts[i]) || (counts[i] as number) < 0)
			throw unusable(path, `the count of item ${i} is not a whole number from 0`, RULES);
		ids.add(id!);
		if (ids.size !== i + 1) throw unusable(path, 'two of its items have the same id', RULES);
		if (i % 256 === 255) yield;
	}
}
