import { invalidArgument } from '../errors.js';
import { SeededRandom } from './random.js';

/** Words of one taste. */
export interface ThemeWords {
	genre: string;
	/** Seen in titles and descriptions. */
	adjectives: readonly string[];
	nouns: readonly string[];
	/** What players do; only in descriptions. */
	actions: readonly string[];
}

/**
 * The words a catalogue is made of. Patterns hold slots: `{A}` `{N}` `{V}` an adjective, a noun, an action of the item's
 * theme; `{a}` `{n}` words that tell nothing. Each slot is a fresh draw, and items of two themes draw from either.
 */
export interface Lexicon {
	/** Of the data set. */
	name: string;
	themes: readonly ThemeWords[];
	adjectives: readonly string[];
	nouns: readonly string[];
	/** Of two to four words. */
	titlePatterns: readonly string[];
	openings: readonly string[];
	closings: readonly string[];
}

const words = (text: string) => text.split(' ');
const phrases = (text: string) => text.split(', ');

function theme(genre: string, adjectives: string, nouns: string, actions: string): ThemeWords {
	return { genre, adjectives: words(adjectives), nouns: words(nouns), actions: phrases(actions) };
}

/** An invented shelf of board games. */
export const demoLexicon: Lexicon = {
	name: 'demo-board-games',
	themes: [
		theme(
			'Seafaring',
			'Tidal Salty Becalmed Stormy Coral Naval Driftwood',
			'Harbor Lighthouse Reef Galleon Anchor Lagoon Cutter Compass',
			'chart hidden reefs, load cargo at crowded docks, outsail rival captains, salvage sunken wrecks, read the tides, hire a crew of sailors',
		),
		theme(
			'Railways',
			'Iron Steam Narrow-Gauge Alpine Express Coal-Fired Riveted',
			'Locomotive Junction Viaduct Railway Signal Depot Timetable Tunnel',
			'lay track across the mountains, connect distant stations, keep trains on time, bid for freight contracts, couple wagons, tunnel through the ridge',
		),
		theme(
			'Gardening',
			'Blooming Mossy Verdant Budding Dewy Perennial Thorny',
			'Orchard Greenhouse Tulip Hedge Meadow Bonsai Beehive Trellis',
			'plant seedlings in neat beds, graft fruit trees, attract bees, prune the roses, water thirsty flowers, compete at the harvest show',
		),
		theme(
			'Space',
			'Orbital Stellar Lunar Cosmic Weightless Galactic Radiant',
			'Comet Starship Nebula Satellite Asteroid Observatory Rocket Moonbase',
			'launch probes to distant planets, mine asteroids, dock at orbital stations, terraform a moon, plot a course between stars, trade with alien worlds',
		),
		theme(
			'Haunted House',
			'Haunted Ghostly Creaking Cursed Moonless Eerie Spectral',
			'Manor Attic Seance Crypt Phantom Portrait Cellar Graveyard',
			'flee from room to room, bind restless spirits, light the last candle, bargain with a ghost, open forbidden doors, break an old curse',
		),
		theme(
			'Detective',
			'Unsolved Forged Suspicious Midnight Missing Coded Undercover',
			'Alibi Ledger Witness Cipher Inspector Fingerprint Casebook Informant',
			'question witnesses, uncover false alibis, follow a trail of clues, decode secret letters, name the culprit, search the crime scene',
		),
		theme(
			'Medieval',
			'Royal Knightly Feudal Besieged Gilded Heraldic Stony',
			'Castle Banner Tournament Drawbridge Abbey Crown Squire Rampart',
			'raise castle walls, joust for honour, tax the villages, lay siege to fortresses, marry into noble houses, swear loyalty to the king',
		),
		theme(
			'Cooking',
			'Simmering Spicy Buttered Rustic Candied Savory Crispy',
			'Kitchen Bakery Recipe Noodle Banquet Oven Market-Stall Pantry',
			'chop fresh ingredients, plate perfect dishes, rush orders out of the kitchen, impress hungry critics, season the broth, bake towering cakes',
		),
		theme(
			'Dragons',
			'Fabled Scaled Smoldering Enchanted Winged Runic Elder',
			'Dragon Hoard Wyvern Spellbook Griffin Sorcerer Talisman Lair',
			'hatch dragon eggs, cast powerful spells, steal treasure from a lair, tame winged beasts, brew potions, duel rival sorcerers',
		),
		theme(
			'Expeditions',
			'Polar Frozen Uncharted Snowbound Windswept Northern Glacial',
			'Glacier Sled Basecamp Summit Blizzard Icebreaker Husky Crevasse',
			'cross the ice by sled, ration supplies, survive the blizzard, climb the last summit, map uncharted valleys, rescue lost explorers',
		),
	],
	adjectives: words(
		'Clever Grand Quiet Hidden Golden Little Restless Bold Lost Brave Crooked Patient Twin Seventh Second Forgotten',
	),
	nouns: words(
		'Rivals Legacy Council Hours Promise Puzzle Company Gambit Fortunes Chronicles Season Masters Secrets Wager Society Roads',
	),
	titlePatterns: [
		'The {A} {N}',
		'{A} {N}',
		'{N} {n}',
		'{a} {N}',
		'The {a} {N}',
		'{n} of the {N}',
		'{A} {n}',
		'{N} and {N}',
		'The {N} {n}',
		'The {a} {n}',
	],
	openings: [
		'Players {V} and {V} in this {a} game of the {A} {N}.',
		'A {a} board game in which two to five players {V}, then {V}.',
		'Gather your friends, {V} and {V} before the {A} {N} is lost.',
		'In this {A} contest you {V} while your rivals {V}.',
		'A {A} race for the {N}: {V}, {V} and never look back.',
	],
	closings: [
		'Every round the {N} changes hands, so {a} planning beats luck.',
		'Includes {N} tiles, wooden {N} tokens and a {a} rulebook.',
		'A {a} choice for evenings with the family, about {A} {N} and {n}.',
		'Easy to learn, with {A} artwork and a {a} solo mode.',
		'The {n} expansion adds the {A} {N}.',
	],
};

/**
 * A lexicon of made-up words, for catalogues that share no word with another.
 *
 * @param seed whole number from 0
 */
export function inventLexicon(seed: number, { themes = 10 }: { themes?: number } = {}): Lexicon {
	if (!Number.isInteger(themes) || themes < 1 || themes > 40)
		invalidArgument('themes', 'a whole number from 1 to 40', themes);
	const random = new SeededRandom(seed, 0x1ec51c0);
	const taken = new Set<string>();
	const word = (capital: boolean): string => {
		for (;;) {
			const made = pseudoWord(random);
			if (taken.has(made)) continue;
			taken.add(made);
			return capital ? made[0]!.toUpperCase() + made.slice(1) : made;
		}
	};
	const some = (count: number, capital = true) => Array.from({ length: count }, () => word(capital));
	return {
		name: `invented-${seed}`,
		themes: Array.from({ length: themes }, () => {
			const objects = some(4, false);
			return {
				genre: word(true),
				adjectives: some(7),
				nouns: some(8),
				actions: some(6, false).map((verb) => `${verb} the ${random.choice(objects)}`),
			};
		}),
		adjectives: some(16),
		nouns: some(16),
		titlePatterns: demoLexicon.titlePatterns,
		openings: [
			'You {V} and {V} in this {a} story of the {A} {N}.',
			'A {a} tale in which you {V}, then {V}.',
			'In this {A} tale you {V} while others {V}.',
		],
		closings: [
			'The {n} follows the {A} {N}.',
			'With {N}, {N} and a {a} {n}.',
			'A {a} choice, about {A} {N} and {n}.',
		],
	};
}

const onsets = words('b br c cl d dr f fl g gr h j k kr l m n p pl qu r s sk sl st t tr v w z');
const vowels = words('a e i o u ai ea ou');
const codas = words('l m n r s t th x nd rk sh');

/** Two or three syllables. */
function pseudoWord(random: SeededRandom): string {
	let made = '';
	for (let left = 2 + random.int(2); left > 0; left--) made += random.choice(onsets) + random.choice(vowels);
	return random.uniform() < 0.6 ? made + random.choice(codas) : made;
}
