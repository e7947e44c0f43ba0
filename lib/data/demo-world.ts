import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { writeFileAtomic } from '../files/atomic.js';
import { demoLexicon, type Lexicon, type ThemeWords } from './lexicon.js';
import { rejectUnknownOptions } from './options.js';
import { SeededRandom } from './random.js';

export { demoLexicon, inventLexicon, type Lexicon, type ThemeWords } from './lexicon.js';

export interface WorldOptions {
	/** A whole number from 0. The same seed and options give the same world on every machine. */
	seed: number;
	/** Default: 600. */
	numUsers?: number | undefined;
	/** Default: 240. */
	numItems?: number | undefined;
	/** Words of titles and descriptions. Default: {@link demoLexicon}. */
	lexicon?: Lexicon | undefined;
	/** Share of items with few interactions. Default: 0.12. */
	coldItemShare?: number | undefined;
	/** Share of items that only ever are a user's last one, so leave-last-out never trains on them. Default: 0.08. */
	unseenItemShare?: number | undefined;
	/** Share of users with exactly three interactions. Default: 0.1. */
	coldUserShare?: number | undefined;
	/** Longest sequence, at least 8. Default: 30. */
	maxLength?: number | undefined;
}

export type ItemKind = 'regular' | 'cold' | 'unseen';

export interface WorldItem {
	id: string;
	title: string;
	description: string;
	genres: string[];
	/** Indices into the lexicon's themes; the first is the main one. */
	themes: number[];
	kind: ItemKind;
}

export interface WorldInteraction {
	user: string;
	item: string;
	/** Seconds since 1970. */
	time: number;
}

/** A made-up log with known tastes. */
export interface World {
	name: string;
	items: WorldItem[];
	/** Ordered by time. */
	interactions: WorldInteraction[];
	/** Themes each user likes, by user id. */
	tastes: Map<string, number[]>;
}

interface Shelf {
	items: WorldItem[];
	/** Popularity weight of each item. */
	weights: number[];
	/** Items of each main theme that may be drawn anywhere in a sequence, in the order they are mostly played in. */
	rings: number[][];
	/** Never-seen items of each main theme. */
	unseen: number[][];
}

/**
 * Generates a catalogue and its users. Users like one to three themes. What comes next depends on the recent past: mostly
 * the theme stays or moves on to the user's next one, and within a theme the items right after the last one of
 * that theme are likeliest, by popularity. Titles show the theme in part, descriptions always.
 */
export function generateWorld(options: WorldOptions): World {
	rejectUnknownOptions(options, {
		seed: true,
		numUsers: true,
		numItems: true,
		lexicon: true,
		coldItemShare: true,
		unseenItemShare: true,
		coldUserShare: true,
		maxLength: true,
	});
	const { seed, numUsers = 600, numItems = 240, lexicon = demoLexicon } = options;
	const { coldItemShare = 0.12, unseenItemShare = 0.08, coldUserShare = 0.1, maxLength = 30 } = options;
	const least = 5 * lexicon.themes.length;
	if (!Number.isInteger(numItems) || numItems < least)
		invalidArgument('numItems', `a whole number from ${least}, five for each theme`, numItems);
	if (!Number.isInteger(numUsers) || numUsers < 1)
		invalidArgument('numUsers', 'a whole number from 1', numUsers);
	if (!Number.isInteger(maxLength) || maxLength < 8)
		invalidArgument('maxLength', 'a whole number from 8', maxLength);
	for (const [name, share] of Object.entries({ coldItemShare, unseenItemShare, coldUserShare }))
		if (!(share >= 0 && share <= 0.4)) invalidArgument(name, 'between 0 and 0.4', share);
	const shelf = stock(new SeededRandom(seed, 1), lexicon, numItems, coldItemShare, unseenItemShare);
	const random = new SeededRandom(seed, 2);
	const coldUsers = Math.round(numUsers * coldUserShare);
	const lengths = random.shuffle(
		Array.from({ length: numUsers }, (_, u) => (u < coldUsers ? 3 : sequenceLength(random, maxLength))),
	);
	const tastes = lengths.map(() => drawTaste(random, lexicon.themes.length));
	const sequences = lengths.map((length, u) => drawSequence(random, shelf, tastes[u]!, length));
	placeUnseen(random, shelf, tastes, sequences);
	placeMissing(random, shelf, sequences);
	const userName = naming('u', numUsers);
	return {
		name: lexicon.name,
		items: shelf.items,
		interactions: sequences
			.flatMap((sequence, u) => {
				// Three years in which users begin, and days between two of a user's interactions.
				let time = 1_500_000_000 + random.int(3 * 365 * 86_400);
				return sequence.map((item) => {
					time += 3600 + random.int(12 * 86_400);
					return { user: userName(u), item: shelf.items[item]!.id, time };
				});
			})
			.sort((a, b) => a.time - b.time),
		tastes: new Map(tastes.map((taste, u) => [userName(u), taste])),
	};
}

/** Writes `interactions.csv` (user, item, time) and `items.csv` (id, title, description, genres) for `prepare --format csv`. */
export async function writeWorldCsv(
	folder: string,
	world: World,
): Promise<{ interactions: string; items: string }> {
	await mkdir(folder, { recursive: true });
	const files = { interactions: join(folder, 'interactions.csv'), items: join(folder, 'items.csv') };
	await writeFileAtomic(files.interactions, [
		'user,item,time\n',
		world.interactions.map(({ user, item, time }) => `${user},${item},${time}\n`).join(''),
	]);
	await writeFileAtomic(files.items, [
		'id,title,description,genres\n',
		world.items
			.map(
				(item) => `${[item.id, item.title, item.description, item.genres.join('|')].map(quote).join(',')}\n`,
			)
			.join(''),
	]);
	return files;
}

function quote(field: string): string {
	return /[",\n]/.test(field) ? `"${field.replaceAll('"', '""')}"` : field;
}

function naming(prefix: string, count: number): (index: number) => string {
	const digits = String(count).length;
	return (index) => `${prefix}${String(index + 1).padStart(digits, '0')}`;
}

function stock(
	random: SeededRandom,
	lexicon: Lexicon,
	numItems: number,
	coldShare: number,
	unseenShare: number,
): Shelf {
	const themeCount = lexicon.themes.length;
	const cold = Math.round(numItems * coldShare);
	const unseen = Math.round(numItems * unseenShare);
	const kinds = random.shuffle(
		Array.from(
			{ length: numItems },
			(_, i): ItemKind => (i < cold ? 'cold' : i < cold + unseen ? 'unseen' : 'regular'),
		),
	);
	const mains = random.shuffle(Array.from({ length: numItems }, (_, i) => i % themeCount));
	const id = naming('i', numItems);
	const titles = new Set<string>();
	const items = mains.map((main, i): WorldItem => {
		const themes = [main];
		if (random.uniform() < 0.25 && themeCount > 1)
			themes.push((main + 1 + random.int(themeCount - 1)) % themeCount);
		const { title, description } = describe(random, lexicon, themes, titles);
		const genres = themes.map((t) => lexicon.themes[t]!.genre);
		return { id: id(i), title, description, genres, themes, kind: kinds[i]! };
	});
	const rings: number[][] = Array.from({ length: themeCount }, () => []);
	const unseenByTheme: number[][] = Array.from({ length: themeCount }, () => []);
	for (const [i, item] of items.entries())
		(item.kind === 'unseen' ? unseenByTheme : rings)[item.themes[0]!]!.push(i);
	for (const ring of rings) random.shuffle(ring);
	const weights = items.map(({ kind }) =>
		kind === 'regular' ? Math.exp(0.8 * random.normal()) : kind === 'cold' ? 0.04 : 0,
	);
	return { items, weights, rings, unseen: unseenByTheme };
}

function describe(random: SeededRandom, lexicon: Lexicon, themes: number[], titles: Set<string>) {
	const fill = (pattern: string) => fillPattern(random, lexicon, themes, pattern);
	for (let attempt = 0; attempt < 10_000; attempt++) {
		const title = fill(random.choice(lexicon.titlePatterns));
		if (titles.has(title)) continue;
		titles.add(title);
		const description = `${fill(random.choice(lexicon.openings))} ${fill(random.choice(lexicon.closings))}`;
		return { title, description: lowerInSentences(description, lexicon) };
	}
	throw new ALLMRecError(
		'ERR_ALLMREC_INVALID_ARGUMENT',
		'The lexicon has too few words for so many different titles; ask for fewer items.',
	);
}

/** Replaces slots by words, none of them twice in one text. */
function fillPattern(random: SeededRandom, lexicon: Lexicon, themes: number[], pattern: string): string {
	const used = new Set<string>();
	const draw = (from: readonly string[]) => {
		const free = from.filter((word) => !used.has(word));
		const word = random.choice(free.length > 0 ? free : from);
		used.add(word);
		return word;
	};
	const ofTheme = (pick: (theme: ThemeWords) => readonly string[]) => {
		const theme = themes.length > 1 && random.uniform() < 0.4 ? themes[1]! : themes[0]!;
		return draw(pick(lexicon.themes[theme]!));
	};
	const slots: Record<string, () => string> = {
		A: () => ofTheme((theme) => theme.adjectives),
		N: () => ofTheme((theme) => theme.nouns),
		V: () => ofTheme((theme) => theme.actions),
		a: () => draw(lexicon.adjectives),
		n: () => draw(lexicon.nouns),
	};
	return pattern
		.replaceAll(/\{(\w)\}/g, (_, slot: string) => slots[slot]!())
		.replaceAll(/\b([Aa]) (?=[AEIOUaeiou])/g, '$1n ');
}

/** Descriptions are sentences: slot words lose their capitals except at the start of one. */
function lowerInSentences(text: string, lexicon: Lexicon): string {
	const capitals = new Set(
		[lexicon, ...lexicon.themes].flatMap(({ adjectives, nouns }) => [...adjectives, ...nouns]),
	);
	return text.replaceAll(/(?<=[^.] )[A-Z][\w-]*/g, (word) =>
		capitals.has(word) ? word.toLowerCase() : word,
	);
}

/** From 4, mostly around 11. */
function sequenceLength(random: SeededRandom, maxLength: number): number {
	return Math.min(maxLength, 4 + Math.floor(-Math.log(1 - random.uniform()) * 4.5 + random.int(7)));
}

function drawTaste(random: SeededRandom, themeCount: number): number[] {
	const count = random.choice([1, 2, 3], [0.3, 0.45, 0.25]);
	return random.shuffle(Array.from({ length: themeCount }, (_, t) => t)).slice(0, count);
}

function drawSequence(random: SeededRandom, shelf: Shelf, taste: number[], length: number): number[] {
	const sequence: number[] = [];
	const seen = new Set<number>();
	let theme = random.choice(taste);
	const lastOf = new Map<number, number>();
	while (sequence.length < length) {
		if (sequence.length > 0) theme = nextTheme(random, taste, theme, shelf.rings.length);
		const ring = shelf.rings[theme]!;
		const from = lastOf.get(theme);
		const weights = ring.map((item, place) => {
			if (seen.has(item)) return 0;
			// The few items right after the last one of this theme, all round the ring.
			const ahead = from === undefined ? 0 : (place - from + ring.length) % ring.length;
			const closeness = from === undefined ? 1 : Math.exp(-(ahead - 1) / 2.5) + 0.02;
			return shelf.weights[item]! * closeness;
		});
		if (!weights.some((weight) => weight > 0)) {
			theme = random.int(shelf.rings.length);
			taste = [theme];
			continue;
		}
		const place = random.choice([...ring.keys()], weights);
		sequence.push(ring[place]!);
		seen.add(ring[place]!);
		lastOf.set(theme, place);
	}
	return sequence;
}

/** The theme stays (55 %), moves on to the user's next (37 %), or is any (8 %). */
function nextTheme(random: SeededRandom, taste: number[], theme: number, themeCount: number): number {
	const draw = random.uniform();
	if (draw < 0.08) return random.int(themeCount);
	const place = taste.indexOf(theme);
	if (place < 0) return random.choice(taste);
	return draw < 0.63 ? theme : taste[(place + 1) % taste.length]!;
}

/** Makes every never-seen item the last one of about three users who like its theme. */
function placeUnseen(random: SeededRandom, shelf: Shelf, tastes: number[][], sequences: number[][]): void {
	const order = random.shuffle(sequences.map((_, u) => u));
	const taken = new Set<number>();
	for (let round = 0; round < 3; round++)
		for (const [theme, items] of shelf.unseen.entries())
			for (const item of items) {
				const free = order.filter((u) => !taken.has(u) && sequences[u]!.length > 3);
				const user = free.find((u) => tastes[u]!.includes(theme)) ?? (round === 0 ? free[0] : undefined);
				if (user === undefined) continue;
				taken.add(user);
				sequences[user]![sequences[user]!.length - 1] = item;
			}
}

/** Gives items that chance left out of all training parts one place there, instead of another of their theme. */
function placeMissing(random: SeededRandom, shelf: Shelf, sequences: number[][]): void {
	const trained = new Map<number, number>();
	for (const sequence of sequences)
		for (const item of sequence.slice(0, -2)) trained.set(item, (trained.get(item) ?? 0) + 1);
	for (const ring of shelf.rings)
		for (const item of ring) {
			if (trained.has(item)) continue;
			const places = random
				.shuffle(sequences.filter((sequence) => !sequence.includes(item)))
				.flatMap((sequence) => sequence.slice(0, -2).map((other, at) => ({ sequence, at, other })));
			const spare = ({ other }: { other: number }) => (trained.get(other) ?? 0) > 3;
			const found = places.find((p) => spare(p) && ring.includes(p.other)) ?? places.find(spare);
			if (!found) continue;
			found.sequence[found.at] = item;
			trained.set(item, 1);
			trained.set(found.other, trained.get(found.other)! - 1);
		}
}
