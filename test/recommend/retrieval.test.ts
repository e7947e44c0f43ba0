import test from 'ava';
import { Backbone } from '../../lib/cf/backbone.js';
import { SeededRandom } from '../../lib/data/random.js';
import { atOnce } from '../../lib/event-loop.js';
import { Session } from '../../lib/native/session.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import { rankedList } from '../../lib/recommend/lists.js';
import { Retriever } from '../../lib/recommend/retrieval.js';
import { CPU } from '../support/tiny-world.js';

const SIZE = 8;
const ITEMS = 60;
const random = new SeededRandom(7);
const table = Float32Array.from({ length: (ITEMS + 1) * SIZE }, () => random.normal());
// Whole numbers: products are exact, and equal rows tie.
for (const item of [10, 20, 30, 40]) table.fill(3, item * SIZE, (item + 1) * SIZE);
const users = Float32Array.from({ length: 3 * SIZE }, (_, i) => (i < SIZE ? 1 : random.normal()));
const histories = [Int32Array.of(20, 5), Int32Array.of(1), Int32Array.from({ length: 59 }, (_, i) => i + 1)];

/** Sorts everything. */
function expected(u: number, cold: Set<number>, count: number, share: number): number[] {
	const score = (item: number) => {
		let dot = 0;
		for (let c = 0; c < SIZE; c++) dot += users[u * SIZE + c]! * table[item * SIZE + c]!;
		return dot;
	};
	const fresh = Array.from({ length: ITEMS }, (_, i) => i + 1)
		.filter((item) => !histories[u]!.includes(item))
		.sort((a, b) => score(b) - score(a) || a - b);
	const [warm, known] = [fresh.filter((item) => !cold.has(item)), fresh.filter((item) => cold.has(item))];
	const room = Math.min(known.length, Math.max(Math.round(count * share), count - warm.length));
	return [...warm.slice(0, count - room), ...known.slice(0, room)];
}

for (const cold of [[], [10, 11, 30, 50], Array.from({ length: ITEMS }, (_, i) => i + 1)])
	test(`the best of ${ITEMS - cold.length} warm and ${cold.length} cold items, ties by the lower id`, async (t) => {
		const session = Session.open(CPU);
		const cf = await Backbone.ofTable(session, table, SIZE);
		const retriever = await Retriever.create({ cf, table, cold: Int32Array.from(cold) });
		t.teardown(() => {
			retriever.dispose();
			cf.dispose();
			session.release();
		});
		for (const [count, share] of [
			[5, 0.4],
			[20, 0],
			[20, 1],
			[200, 0.1],
		] as const) {
			const found = await retriever.retrieve(users, histories, count, share);
			for (const u of histories.keys())
				t.deepEqual([...found[u]!], expected(u, new Set(cold), count, share), `${u}: ${count}, ${share}`);
		}
	});

test('equal scores are in the order of the catalogue', (t) => {
	const items = Array.from({ length: 6 }, (_, i) => ({
		id: `i${i}`,
		title: `Item ${i}`,
		description: '',
		genres: [],
	}));
	const catalogue = new Catalogue(items, new Int32Array(6));
	const candidates = Int32Array.of(5, 2, 4, 1, 3);
	const scores = Float32Array.of(1, 7, 1, 1, 7);
	const zeros = new Float32Array(5);
	const list = atOnce(
		rankedList(catalogue, candidates, { cf: zeros, llm: scores, fused: zeros }, { by: 'llm', topK: 4 }),
	);
	t.deepEqual(
		list.map(({ id, rank, score }) => [id, rank, score]),
		[
			['i2', 1, 7],
			['i3', 2, 7],
			['i1', 3, 1],
			['i4', 4, 1],
		],
	);
});
