/**
 * Writes a made-up log in the layout of Amazon Reviews 2018, of the size of Movies and TV: 8.7 million lines of which
 * the 5-core keeps 297,498 users, 59,944 items and 3,409,147 interactions. For measuring `prepare`; nothing in it is anybody's data.
 *
 *   node dist/scripts/generate-log.js --out /tmp/log [--scale 1] [--seed 1] [--words 25] [--gzip]
 */
import { once } from 'node:events';
import { createWriteStream, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createGzip } from 'node:zlib';
import { SeededRandom } from '../lib/data/sampling.js';

const { values } = parseArgs({
	options: {
		out: { type: 'string' },
		scale: { type: 'string', default: '1' },
		seed: { type: 'string', default: '1' },
		words: { type: 'string', default: '25' },
		gzip: { type: 'boolean', default: false },
	},
});
if (!values.out) throw new Error('Name the folder to write to: --out FOLDER.');
const scale = Number(values.scale);
const meanWords = Number(values.words);
const random = new SeededRandom(Number(values.seed));

/** Sizes of Movies and TV, times the scale. */
const size = {
	coreUsers: Math.round(297_498 * scale),
	coreItems: Math.round(59_944 * scale),
	coreInteractions: Math.round(3_409_147 * scale),
	lines: Math.round(8_700_000 * scale),
	rareItems: Math.round(122_000 * scale),
};

/** Lines of the log, one entry of each array for each. */
const users = new Int32Array(size.lines);
const items = new Int32Array(size.lines);
const times = new Int32Array(size.lines);
let written = 0;

function add(user: number, item: number): void {
	users[written] = user;
	items[written] = item;
	times[written] = 1_000_000_000 + random.int(540_000_000);
	written++;
}

/** Items with a skewed popularity: the square of a uniform number favours low ids. */
const popularItem = () => Math.floor(size.coreItems * random.uniform() ** 3);
const rareItem = () => size.coreItems + random.int(size.rareItems);

/**
 * The core: every user has at least five different items, and every item at least five users, because the first
 * items handed out run through the whole catalogue five times.
 */
function addCore(): void {
	const { coreUsers, coreItems, coreInteractions } = size;
	const lengths = new Int32Array(coreUsers).fill(5);
	for (let left = coreInteractions - 5 * coreUsers; left > 0; left--)
		lengths[Math.floor(coreUsers * random.uniform() ** 2.5)]!++;
	const reserved = 5 * coreItems;
	const order = random.shuffle(Int32Array.from({ length: coreItems }, (_, i) => i));
	for (let u = 0; u < coreUsers; u++) {
		const own = new Set<number>();
		for (let r = u; r < reserved; r += coreUsers) own.add(order[r % coreItems]!);
		const length = Math.min(lengths[u]!, Math.floor(coreItems / 2));
		for (let tries = 0; own.size < length; tries++)
			own.add(tries < 20 * length ? popularItem() : random.int(coreItems));
		for (const item of own) add(u, item);
	}
}

/** What the 5-core drops: repeated lines, users who stay below five, and small rings that only go round by round. */
function addRest(): void {
	let user = size.coreUsers;
	const core = written;
	for (let n = Math.round(0.02 * core); n > 0 && written < size.lines; n--) {
		const line = random.int(core);
		add(users[line]!, items[line]!);
	}
	const rareCount = new Uint8Array(size.rareItems);
	/** A rare item that stays below five lines, if one is found at once. */
	const cautiousItem = () => {
		const item = rareItem();
		if (rareCount[item - size.coreItems]! >= 4) return popularItem();
		rareCount[item - size.coreItems]!++;
		return item;
	};
	while (written < size.lines) {
		// Five different items, but two of them too rare: these users go in the second round.
		const chained = random.uniform() < 0.02;
		const count = Math.min(
			chained ? 5 : random.choice([1, 2, 3, 4], [0.7, 0.17, 0.08, 0.05]),
			size.lines - written,
		);
		const first = random.int(size.coreItems);
		let certain = 0;
		for (let n = 0; n < count; n++) {
			let item = chained ? (first + n * 7919) % size.coreItems : popularItem();
			if (chained ? n < 2 : random.uniform() < 0.08) item = cautiousItem();
			if (item >= size.coreItems) certain++;
			// Without a rare item this user would stay in the core: leave one line out.
			if (chained && n === 4 && certain === 0) break;
			add(user, item);
		}
		user++;
	}
}

/** Lines ordered by item, as the original file is. */
function orderByItem(): Int32Array {
	const starts = new Int32Array(size.coreItems + size.rareItems + 1);
	for (let i = 0; i < written; i++) starts[items[i]! + 1]!++;
	for (let i = 0; i + 1 < starts.length; i++) starts[i + 1]! += starts[i]!;
	const order = new Int32Array(written);
	for (let i = 0; i < written; i++) order[starts[items[i]!]!++] = i;
	return order;
}

const id = (prefix: string, n: number, digits: number) =>
	prefix + n.toString(36).toUpperCase().padStart(digits, '0');
const asin = (item: number) => id('B00', item * 7 + 11, 7);
const vocabulary = Array.from({ length: 4000 }, (_, n) =>
	((n * 2654435761) % 2 ** 32).toString(36).replaceAll(/\d/g, 'e'),
);
const sentence = (count: number) => Array.from({ length: count }, () => random.choice(vocabulary)).join(' ');

class LineFile {
	readonly #file;
	readonly #stream;
	#buffer: string[] = [];

	constructor(path: string) {
		this.#file = createWriteStream(path + (values.gzip ? '.gz' : ''));
		if (!values.gzip) this.#stream = this.#file;
		else {
			const gzip = createGzip({ level: 1 });
			gzip.pipe(this.#file);
			this.#stream = gzip;
		}
	}

	async write(line: string): Promise<void> {
		this.#buffer.push(line);
		if (this.#buffer.length >= 4096) await this.#flush();
	}

	async #flush(): Promise<void> {
		const text = `${this.#buffer.join('\n')}\n`;
		this.#buffer = [];
		if (!this.#stream.write(text)) await once(this.#stream, 'drain');
	}

	async close(): Promise<void> {
		if (this.#buffer.length > 0) await this.#flush();
		this.#stream.end();
		await once(this.#file, 'close');
	}
}

async function writeReviews(folder: string): Promise<void> {
	const file = new LineFile(join(folder, 'reviews.json'));
	for (const line of orderByItem()) {
		const overall = random.choice([5, 4, 3, 2, 1], [0.6, 0.18, 0.1, 0.06, 0.06]);
		await file.write(
			`{"overall": ${overall}.0, "verified": true, "reviewTime": "06 17, 2018", "reviewerID": "${id('A', users[line]! * 13 + 5, 12)}", ` +
				`"asin": "${asin(items[line]!)}", "style": {"Format:": " DVD"}, "reviewerName": "reader", ` +
				`"reviewText": "${sentence(1 + random.int(2 * meanWords))}", "summary": "${sentence(3)}", "unixReviewTime": ${times[line]!}}`,
		);
	}
	await file.close();
}

async function writeMetadata(folder: string): Promise<void> {
	const file = new LineFile(join(folder, 'metadata.json'));
	for (let item = 0; item < size.coreItems + size.rareItems; item++) {
		const title = random.uniform() < 0.02 ? '' : `${sentence(3)} &amp; <span>${sentence(1)}</span>`;
		const description =
			random.uniform() < 0.1
				? []
				: [`<p>${sentence(10 + random.int(120))} &quot;${sentence(2)}&quot;</p>`, sentence(20)];
		await file.write(
			JSON.stringify({
				category: ['Movies & TV', sentence(1)],
				description,
				title,
				also_buy: Array.from({ length: random.int(30) }, () => asin(random.int(size.coreItems))),
				brand: sentence(1),
				feature: [],
				asin: asin(item),
			}),
		);
	}
	await file.close();
}

mkdirSync(values.out, { recursive: true });
addCore();
const core = written;
addRest();
await writeReviews(values.out);
await writeMetadata(values.out);
console.log(`${written} lines, ${core} of them in the 5-core, in ${values.out}`);
