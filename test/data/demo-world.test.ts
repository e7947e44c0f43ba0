import test from 'ava';
import { type Dataset, prepare } from '../../lib/data/dataset.js';
import { demoLexicon, generateWorld, inventLexicon, writeWorldCsv } from '../../lib/data/demo-world.js';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut, type Split } from '../../lib/data/split.js';
import { freshPath } from './folders.js';

async function datasetOfWorld(world: ReturnType<typeof generateWorld>): Promise<Dataset> {
	const { interactions, items } = await writeWorldCsv(freshPath('world'), world);
	return prepare({
		format: 'csv',
		interactions: [interactions],
		items: [items],
		kCore: 1,
		name: world.name,
		out: freshPath(),
	});
}

test('the same seed gives the same world, another seed another', (t) => {
	t.deepEqual(generateWorld({ seed: 1 }), generateWorld({ seed: 1 }));
	t.notDeepEqual(generateWorld({ seed: 1 }).interactions, generateWorld({ seed: 2 }).interactions);
});

test('the world has the promised shape', (t) => {
	for (const seed of [1, 2, 3]) {
		const { items, interactions } = generateWorld({ seed });
		t.is(items.length, 240);
		t.is(new Set(items.map(({ title }) => title)).size, 240);
		const histories = new Map<string, string[]>();
		for (const { user, item } of interactions) {
			const history = histories.get(user);
			if (history) history.push(item);
			else histories.set(user, [item]);
		}
		t.is(histories.size, 600);
		const lengths = [...histories.values()].map((history) => history.length);
		t.true(Math.min(...lengths) === 3 && Math.max(...lengths) <= 30);
		t.is(lengths.filter((length) => length === 3).length, 60);
		t.true([...histories.values()].every((history) => new Set(history).size === history.length));
		const trained = new Map<string, number>();
		const last = new Set<string>();
		for (const history of histories.values()) {
			for (const item of history.slice(0, -2)) trained.set(item, (trained.get(item) ?? 0) + 1);
			last.add(history.at(-1)!);
		}
		const kind = (wanted: string) => items.filter((item) => item.kind === wanted);
		t.is(kind('unseen').length, 19);
		t.true(kind('unseen').every(({ id }) => !trained.has(id) && last.has(id)));
		t.is(kind('cold').length, 29);
		t.true(kind('cold').every(({ id }) => trained.get(id)! >= 1 && trained.get(id)! <= 12));
		t.true(kind('regular').every(({ id }) => trained.get(id)! >= 1));
		t.true(interactions.every(({ time }, n) => n === 0 || time >= interactions[n - 1]!.time));
	}
});

test('titles have two to four words, descriptions show the theme', (t) => {
	for (const { title, description, themes } of generateWorld({ seed: 4 }).items) {
		const count = title.split(' ').length;
		t.true(count >= 2 && count <= 4, title);
		const { adjectives, nouns, actions } = demoLexicon.themes[themes[0]!]!;
		const own = [...adjectives, ...nouns, ...actions].map((word) => word.toLowerCase());
		const second = themes[1] === undefined ? [] : demoLexicon.themes[themes[1]]!.actions;
		t.true(
			[...own, ...second].some((word) => description.toLowerCase().includes(word)),
			description,
		);
		t.notRegex(description, /\{|undefined| a [aeiou]/);
	}
});

test('an invented lexicon is repeatable and shares no word with another', (t) => {
	const contents = (seed: number) => {
		const { themes, adjectives, nouns } = inventLexicon(seed);
		return [...adjectives, ...nouns, ...themes.flatMap((theme) => [...theme.adjectives, ...theme.nouns])];
	};
	t.deepEqual(inventLexicon(9), inventLexicon(9));
	const first = new Set(contents(1));
	t.is(first.size, contents(1).length);
	t.true(contents(2).filter((word) => first.has(word)).length < 3);
	const world = generateWorld({
		seed: 1,
		lexicon: inventLexicon(3, { themes: 6 }),
		numItems: 100,
		numUsers: 50,
	});
	t.is(world.items.length, 100);
	t.is(world.name, 'invented-3');
});

test('options are checked', (t) => {
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	t.throws(() => generateWorld({ seed: 1, numItems: 20 }), { code });
	t.throws(() => generateWorld({ seed: 1, numUsers: 0 }), { code });
	t.throws(() => generateWorld({ seed: 1, coldItemShare: 0.9 }), { code });
	t.throws(() => generateWorld({ seed: 1, maxLength: 3 }), { code });
	t.throws(() => inventLexicon(1, { themes: 0 }), { code });
});

type Scorer = (history: Int32Array, item: number) => number;

/** Hit@1 among twenty candidates, for all users and for targets never seen in training. */
function hits(split: Split, score: Scorer): { all: number; unseen: number } {
	const { users, candidates, targets } = sampleCandidates(split, { seed: 11 });
	const tally = { all: [0, 0], unseen: [0, 0] };
	for (const [row, user] of users.entries()) {
		const items = candidates.subarray(row * 20, row * 20 + 20);
		const history = split.history(user, 'test');
		const scores = Array.from(items, (item) => score(history, item));
		const hit = scores.indexOf(Math.max(...scores)) === targets[row] ? 1 : 0;
		const count = (part: number[]) => {
			part[0]! += hit;
			part[1]!++;
		};
		count(tally.all);
		if (split.itemCounts[items[targets[row]!]!] === 0) count(tally.unseen);
	}
	return { all: tally.all[0]! / tally.all[1]!, unseen: tally.unseen[0]! / tally.unseen[1]! };
}

/** How often one item follows another within six steps, weighted by nearness. */
function transitions(split: Split): Scorer {
	const width = split.dataset.numItems + 1;
	const table = new Float64Array(width * width);
	for (let user = 0; user < split.dataset.numUsers; user++) {
		const items = split.trainSequence(user);
		for (let to = 1; to < items.length; to++)
			for (let from = Math.max(0, to - 6); from < to; from++)
				table[items[from]! * width + items[to]!]! += 1 / (to - from);
	}
	return (history, item) =>
		history
			.subarray(-6)
			.reduceRight((sum, from, n, recent) => sum + table[from * width + item]! / (recent.length - n), 0);
}

/** Overlap of words with the history's texts, rare words counting more. */
function textOverlap({ items }: Dataset): Scorer {
	const words = items.map(
		({ title, description }) => new Set(`${title} ${description}`.toLowerCase().match(/[a-z]+/g)),
	);
	const frequency = new Map<string, number>();
	for (const own of words) for (const word of own) frequency.set(word, (frequency.get(word) ?? 0) + 1);
	const weight = (word: string) => Math.log(items.length / frequency.get(word)!) ** 2;
	return (history, item) =>
		history.reduce(
			(sum, from) =>
				sum + [...words[item]!].reduce((own, word) => own + (words[from]!.has(word) ? weight(word) : 0), 0),
			0,
		);
}

test('tastes can be learnt: from sequences, and for never-seen items from text', async (t) => {
	for (const lexicon of [demoLexicon, inventLexicon(5)]) {
		const dataset = await datasetOfWorld(generateWorld({ seed: 1, lexicon }));
		t.is(dataset.numItems, 240);
		const split = leaveLastOut(dataset);
		t.is(split.toJSON().counts.unseenItems, 19);
		const sequence = hits(split, transitions(split));
		t.log('transitions', sequence);
		t.true(sequence.all > 0.4 && sequence.all < 0.65);
		t.is(sequence.unseen, 0);
		const text = hits(split, textOverlap(dataset));
		t.log('text', text);
		// By chance 0.05; three standard errors of some sixty users are 0.08.
		t.true(text.unseen > 0.15);
		const popularity = hits(split, (_, item) => split.itemCounts[item]!);
		t.true(popularity.all < 0.25);
	}
});
