import test from 'ava';
import type { Dataset } from '../../lib/data/dataset.js';
import type { World } from '../../lib/data/demo-world.js';
import { temporalSplit } from '../../lib/data/split.js';
import { evaluateRun } from '../../lib/evaluation/protocol.js';
import { loadRun, openRunDataset } from '../../lib/recommend/run.js';
import { readRunFile } from '../../lib/recommend/run-config.js';
import { freshPath, rejects } from '../data/folders.js';
import { hashes, preparedWorld, tinyRunOptions, trainTinyRun } from '../support/tiny-run.js';
import { CPU, datasetOfWorld, tinyDataset, tinyWorld } from '../support/tiny-world.js';

/** A world with 200 more users of three interactions each, with the items that `itemOf` gives. */
function withColdUsers(itemOf: (user: number, place: number) => number): World {
	const world = tinyWorld();
	const cold = Array.from({ length: 600 }, (_, n) => ({
		...world.interactions[0]!,
		user: `cold-${Math.floor(n / 3)}`,
		item: world.items[itemOf(Math.floor(n / 3), n % 3)]!.id,
		time: 1_000_000 + n,
	}));
	return { ...world, interactions: [...world.interactions, ...cold] };
}

/** Hashes of what a run trained. */
async function weights(dataset: Dataset, changes: object): Promise<Record<string, string>> {
	const folder = freshPath('run');
	const tiny = await tinyRunOptions();
	const cf = { ...tiny.cf, epochs: 30, validateEvery: 1 }; // an epoch is chosen
	await trainTinyRun(folder, dataset, { ...tiny, cf, ...changes });
	const all = await hashes(folder);
	return Object.fromEntries(Object.entries(all).filter(([name]) => name.startsWith('model/')));
}

test.serial('what cold users did changes nothing that is trained, chosen or counted', async (t) => {
	const options = { excludeColdUsers: true };
	const one = datasetOfWorld(withColdUsers((user, place) => (3 * user + place) % 50));
	const other = datasetOfWorld(withColdUsers((user, place) => (7 * user + 5 * place + 11) % 50));
	t.notDeepEqual(one.sequences.items, other.sequences.items);
	const [first, second] = [await weights(one, options), await weights(other, options)];
	t.true('model/cf.safetensors' in first && 'model/fusion.json' in first);
	t.deepEqual(first, second);
	const [inside, changed] = [await weights(one, {}), await weights(other, {})];
	t.notDeepEqual(inside, changed, 'in training they count');
});

test.serial('cold users and all others are evaluated; few-shot training sees K users', async (t) => {
	const { path, dataset } = await preparedWorld(withColdUsers((user, place) => (3 * user + place) % 50));
	for (const changes of [{ excludeColdUsers: true }, { trainUsers: 12 }]) {
		const folder = freshPath('run');
		await trainTinyRun(folder, dataset, { ...(await tinyRunOptions()), ...changes }, { datasetPath: path });
		const { split, test: drawn, validation } = await openRunDataset(folder);
		const trained = Array.from({ length: dataset.numUsers }, (_, u) => split.trainSequence(u).length > 0);
		t.is(drawn.users.length, dataset.numUsers);
		t.true(validation.users.every((user) => trained[user]));
		t.is(
			trained.filter(Boolean).length,
			'trainUsers' in changes ? 12 : dataset.numUsers - split.coldUsers.length,
		);
		const counts = new Int32Array(dataset.numItems + 1);
		for (const item of split.train.items) counts[item]!++;
		const model = await loadRun(folder, CPU);
		t.deepEqual([...model.parts.catalogue.trainingCounts], [...counts]);
		const { candidates } = await evaluateRun(model, split, drawn, { fullUsers: 0 });
		model.dispose();
		t.is(candidates.slices.coldUsers!.users, split.coldUsers.length);
		t.true(split.coldUsers.length >= 200);
		if ('trainUsers' in changes) t.true(candidates.slices.neverSeen!.users > 0);
	}
});

test.serial('a run of a temporal split trains before the cut and is evaluated behind it', async (t) => {
	const { path, dataset } = await preparedWorld();
	const folder = freshPath('run');
	const shares = { testShare: 0.3, validationShare: 0.2 };
	const options = { ...(await tinyRunOptions()), split: { temporal: shares } };
	await trainTinyRun(folder, dataset, options, { datasetPath: path });
	t.deepEqual((await readRunFile(folder)).options.split, { temporal: shares });
	const { split, test: drawn, validation } = await openRunDataset(folder);
	t.deepEqual(split.toJSON(), temporalSplit(dataset, { ...shares, seed: 2 }).toJSON());
	const latest = Math.max(...timesOf(dataset, (u) => [0, split.trainSequence(u).length]));
	for (const { users, targets, candidates, phase } of [drawn, validation]) {
		t.true(users.length > 0);
		for (const [row, user] of users.entries()) {
			t.is(candidates[row * 10 + targets[row]!], split.targets(phase)[user]);
			const at = dataset.sequences.offsets[user]! + split.history(user, phase).length;
			t.true(dataset.sequences.times[at]! > latest);
		}
	}
	const model = await loadRun(folder, CPU);
	t.deepEqual([...model.parts.catalogue.trainingCounts], [...split.itemCounts]);
	const { candidates } = await evaluateRun(model, split, drawn, { fullUsers: 0 });
	model.dispose();
	const unseen = [...drawn.users].filter((user) => split.itemCounts[split.test[user]!] === 0).length;
	t.is(candidates.slices.neverSeen!.users, unseen);
	t.is(candidates.slices.overall!.users, drawn.users.length);
});

function timesOf(dataset: Dataset, range: (user: number) => [number, number]): number[] {
	const { offsets, times } = dataset.sequences;
	return Array.from({ length: dataset.numUsers }, (_, u) => {
		const [from, to] = range(u);
		return [...times.subarray(offsets[u]! + from, offsets[u]! + to)];
	}).flat();
}

test('a split that cannot be is refused before the folder is taken', async (t) => {
	for (const split of [
		'temporl',
		{ temporal: { testshare: 0.1 } },
		{ temporal: { testShare: 0 } },
		{ temporal: { testShare: 0.6, validationShare: 0.4 } },
	]) {
		const folder = freshPath('run');
		const options = { ...(await tinyRunOptions()), split } as object;
		await rejects(t, () => trainTinyRun(folder, tinyDataset(), options), 'ERR_ALLMREC_INVALID_ARGUMENT');
		await rejects(t, () => readRunFile(folder), 'ERR_ALLMREC_RUN');
	}
});
