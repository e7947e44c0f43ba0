import { readFile, writeFile } from 'node:fs/promises';
import test from 'ava';
import { loadCandidates, SeededRandom, sampleCandidates, saveCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { datasetOf } from './datasets.js';
import { freshPath, rejects } from './folders.js';

function randomHistories(users: number, items: number, seed = 1): number[][] {
	const random = new SeededRandom(seed);
	return Array.from({ length: users }, () => {
		const all = random.shuffle(Array.from({ length: items }, (_, i) => i + 1));
		return all.slice(0, 3 + random.int(12));
	});
}

test('the generator gives the same numbers everywhere', (t) => {
	const random = new SeededRandom(42);
	t.deepEqual(
		Array.from({ length: 4 }, () => random.next()),
		[3820685171, 3076863853, 3507838148, 3007282147],
	);
	t.notDeepEqual(new SeededRandom(42, 0).next(), new SeededRandom(42).next());
	t.not(new SeededRandom(1, 2).next(), new SeededRandom(2, 1).next());
	t.not(new SeededRandom(2 ** 40).next(), new SeededRandom(2 ** 41).next());
	t.throws(() => new SeededRandom(-1), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.throws(() => new SeededRandom(0.5), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('uniform, int, normal, choice and shuffle have their distributions', (t) => {
	const random = new SeededRandom(7);
	const n = 40_000;
	const mean = (draw: () => number) => Array.from({ length: n }, draw).reduce((a, b) => a + b) / n;
	// Bounds are five standard errors.
	t.true(Math.abs(mean(() => random.uniform()) - 0.5) < (5 * 0.2887) / Math.sqrt(n));
	t.true(Math.abs(mean(() => random.normal())) < 5 / Math.sqrt(n));
	t.true(Math.abs(mean(() => random.normal() ** 2) - 1) < (5 * Math.SQRT2) / Math.sqrt(n));
	t.true(Math.abs(mean(() => random.int(7)) - 3) < (5 * 2) / Math.sqrt(n));
	t.true(Math.abs(mean(() => random.choice([0, 1, 2], [0, 3, 1])) - 1.25) < (5 * 0.433) / Math.sqrt(n));
	const firsts = new Float64Array(5);
	for (let i = 0; i < n; i++) firsts[random.shuffle([0, 1, 2, 3, 4])[0]!]!++;
	for (const count of firsts) t.true(Math.abs(count / n - 0.2) < (5 * 0.4) / Math.sqrt(n));
	t.deepEqual([...random.shuffle(Int32Array.of(3, 1, 2))].sort(), [1, 2, 3]);
	t.throws(() => random.int(0), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('candidates: one target, different negatives, nothing the user ever touched', (t) => {
	const dataset = datasetOf(randomHistories(200, 60), 60);
	const split = leaveLastOut(dataset);
	for (const phase of ['test', 'validation'] as const) {
		const { users, candidates, targets } = sampleCandidates(split, { seed: 5, phase });
		t.is(users.length, 200);
		for (const [row, user] of users.entries()) {
			const items = candidates.subarray(row * 20, row * 20 + 20);
			const target = split.targets(phase)[user];
			t.is(items[targets[row]!], target);
			t.is(new Set(items).size, 20);
			const seen = new Set(dataset.sequence(user));
			t.true(items.every((item) => item >= 1 && item <= 60 && (item === target || !seen.has(item))));
		}
	}
});

test('candidates depend on seed, phase and user only', (t) => {
	const split = leaveLastOut(datasetOf(randomHistories(50, 80), 80));
	const all = sampleCandidates(split, { seed: 1 });
	t.deepEqual(sampleCandidates(split, { seed: 1 }), all);
	const some = sampleCandidates(split, { seed: 1, users: [40, 3] });
	t.deepEqual([...some.users], [40, 3]);
	t.deepEqual(some.candidates.subarray(0, 20), all.candidates.subarray(40 * 20, 41 * 20));
	t.deepEqual(some.candidates.subarray(20), all.candidates.subarray(3 * 20, 4 * 20));
	t.notDeepEqual(sampleCandidates(split, { seed: 2 }).candidates, all.candidates);
});

test('negatives are uniform, targets stand anywhere', (t) => {
	const split = leaveLastOut(
		datasetOf(
			Array.from({ length: 4000 }, () => [1, 2, 3]),
			40,
		),
	);
	const { candidates, targets } = sampleCandidates(split, { seed: 3, negatives: 9 });
	const counts = new Float64Array(41);
	for (const item of candidates) counts[item]!++;
	const expected = (4000 * 9) / 37;
	for (let item = 4; item <= 40; item++) t.true(Math.abs(counts[item]! - expected) < 6 * Math.sqrt(expected));
	t.deepEqual([counts[1], counts[2], counts[3]], [0, 0, 4000]);
	const places = new Float64Array(10);
	for (const place of targets) places[place]!++;
	for (const count of places) t.true(Math.abs(count - 400) < 6 * Math.sqrt(400));
});

test('all free items are found when there are just enough, and too few are an error', (t) => {
	const split = leaveLastOut(datasetOf([[1, 2, 3]], 10));
	const { candidates } = sampleCandidates(split, { seed: 1, negatives: 7 });
	t.deepEqual(
		[...candidates].sort((a, b) => a - b),
		[3, 4, 5, 6, 7, 8, 9, 10],
	);
	t.throws(() => sampleCandidates(split, { seed: 1, negatives: 8 }), {
		code: 'ERR_ALLMREC_TOO_FEW_ITEMS',
		message: /8 of 10 items.*negatives/,
	});
});

test('users without a target and wrong options are errors', (t) => {
	const split = leaveLastOut(datasetOf([[1, 2, 3], [1]], 30));
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	t.throws(() => sampleCandidates(split, { seed: 1, users: [1] }), { code, message: /users\[0\]/ });
	t.throws(() => sampleCandidates(split, { seed: 1, users: [9] }), { code });
	t.throws(() => sampleCandidates(split, { seed: 1, negatives: 0 }), { code });
	t.throws(() => sampleCandidates(split, { seed: -1 }), { code });
	t.deepEqual([...sampleCandidates(split, { seed: 1 }).users], [0]);
});

test('split.json keeps candidates, and notices another split', async (t) => {
	const dataset = datasetOf(randomHistories(1500, 70), 70);
	const split = leaveLastOut(dataset);
	const drawn = [
		sampleCandidates(split, { seed: 1 }),
		sampleCandidates(split, { seed: 1, phase: 'validation', negatives: 4, users: [5, 2] }),
	];
	const path = freshPath('split.json');
	await saveCandidates(path, split, drawn);
	const loaded = await loadCandidates(path, split);
	t.deepEqual(loaded.candidates, drawn);
	t.deepEqual(loaded.split, split.toJSON());
	t.deepEqual((await loadCandidates(path)).candidates, drawn);
	await saveCandidates(path, split, []);
	t.deepEqual((await loadCandidates(path, split)).candidates, []);
	const other = leaveLastOut(dataset, { excludeColdUsers: true });
	await rejects(t, () => loadCandidates(path, other), 'ERR_ALLMREC_RUN', /another split/);
});

test('split.json: missing, cut off, wrong', async (t) => {
	const split = leaveLastOut(datasetOf(randomHistories(3, 50), 50));
	const path = freshPath('split.json');
	await rejects(t, () => loadCandidates(path), 'ERR_ALLMREC_FILE_NOT_FOUND');
	await saveCandidates(path, split, [sampleCandidates(split, { seed: 1, negatives: 2 })]);
	const text = await readFile(path, 'utf8');
	for (const [wrong, message] of [
		[text.slice(0, -20), /cut off/],
		['{}', /format/],
		[text.replace('"negatives":2', '"negatives":3'), /row 0/],
		[text.replace('"seed":1', '"seed":"x"'), /seed/],
		[text.replace(/"targets":\[\d/, '"targets":[7'), /target/],
		[text.replace(/\n\[\d+/, '\n[51'), /row 0/],
	] as const) {
		t.not(wrong, text);
		await writeFile(path, wrong);
		await rejects(t, () => loadCandidates(path, split), 'ERR_ALLMREC_FILE_FORMAT', message);
	}
});
