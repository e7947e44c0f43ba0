import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type PrepareOptions, prepare } from '../../lib/data/dataset.js';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { freshPath, realData } from './folders.js';

function counts(options: Omit<PrepareOptions, 'out'>) {
	return prepare({ ...options, out: freshPath() });
}

async function recbole(t: ExecutionContext, folder: string, name: string, options: Partial<PrepareOptions>) {
	const path = realData(t, folder);
	if (!path) return undefined;
	return counts({
		format: 'recbole',
		interactions: [join(path, `${name}.inter`)],
		items: [join(path, `${name}.item`)],
		...options,
	});
}

test('MovieLens 100k, 5-core', async (t) => {
	const dataset = await recbole(t, 'movielens-100k', 'ml-100k', { kCore: 5 });
	if (!dataset) return;
	t.deepEqual([dataset.numUsers, dataset.numItems, dataset.numInteractions], [943, 1349, 99_287]);
	t.is(dataset.summary?.malformedLines, 0);
	t.deepEqual(dataset.items[dataset.itemIndex('1')], {
		id: '1',
		title: 'Toy Story',
		description: "Animation, Children's, Comedy",
		genres: ['Animation', "Children's", 'Comedy'],
	});
	const { offsets, times } = dataset.sequences;
	for (let u = 0; u < dataset.numUsers; u++)
		for (let n = offsets[u]! + 1; n < offsets[u + 1]!; n++) t.true(times[n]! >= times[n - 1]!);
	const drawn = sampleCandidates(leaveLastOut(dataset), { seed: 1 });
	t.is(drawn.users.length, 943);
});

test('Amazon Industrial 2018, 3-core', async (t) => {
	// Its histories were rebuilt from windows and hold repeated items, which the figures count.
	const dataset = await recbole(t, 'amazon-industrial-2018', 'industrial', { kCore: 3, duplicates: 'keep' });
	if (!dataset) return;
	t.deepEqual([dataset.numUsers, dataset.numItems, dataset.numInteractions], [3278, 2635, 21_273]);
	t.is(dataset.summary?.itemsWithoutTitle, 0);
	const named =
		/&(?:amp|quot|reg|trade|ndash|mdash|nbsp|deg|[lr][sd]quo|plusmn|eacute|Oslash|Omega|frac\d\d|sup\d|times|middot|hellip);|&#\d+;/;
	for (const { title, description } of dataset.items) t.notRegex(`${title} ${description}`, named);
});

test('Amazon Gift Cards 2018 in the original layout', async (t) => {
	const path = realData(t, 'amazon-gift-cards-2018');
	if (!path) return;
	const options = {
		format: 'amazon',
		interactions: [join(path, 'Gift_Cards_5.json.gz')],
		items: [join(path, 'meta_Gift_Cards.json.gz')],
	} as const;
	const whole = await counts({
		...options,
		interactions: [...options.interactions],
		items: [...options.items],
		kCore: 1,
		duplicates: 'keep',
	});
	t.deepEqual([whole.numUsers, whole.numItems, whole.numInteractions], [458, 148, 2972]);
	const core = await counts({
		...options,
		interactions: [...options.interactions],
		items: [...options.items],
	});
	t.deepEqual([core.numUsers, core.numItems, core.numInteractions], [453, 147, 2941]);
	for (const { title, description } of whole.items)
		t.notRegex(
			`${title} ${description}`,
			/<\/?(?:div|p|br|a|b|ul|li)\b|&(?:amp|quot|#39|apos|nbsp|ntilde);|\s\s/,
		);
});
