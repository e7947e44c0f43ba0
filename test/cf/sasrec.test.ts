import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { SASRec, type SASRecOptions } from '../../lib/cf/sasrec.js';
import { leaveLastOut, type Split } from '../../lib/data/split.js';
import { metricValues, type TargetRanks } from '../../lib/evaluation/metrics.js';
import { loadAddon } from '../../lib/native/addon.js';
import type { Progress } from '../../lib/progress.js';
import { datasetOf } from '../data/datasets.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const dataset = tinyDataset();
const split = leaveLastOut(dataset);
const tiny: SASRecOptions = {
	maxLength: 8,
	hiddenUnits: 16,
	numHeads: 2,
	dropoutRate: 0.2,
	batchSize: 16,
	learningRate: 5e-3,
	epochs: 6,
	validateEvery: 2,
	seed: 3,
};
const histories = Array.from(split.users('test'), (user) => split.history(user, 'test'));

/** Every weight of a model, read back from the file it saves: item table and all. */
async function savedWeights(model: SASRec): Promise<Record<string, Float32Array>> {
	const path = await fixture('sasrec.safetensors', '');
	await model.save(path);
	const file = loadAddon().openTensorFile(path);
	const weights = Object.fromEntries(file.tensors().map(({ name }) => [name, file.readFloat32(name)]));
	file.close();
	return weights;
}

async function epochLosses(folder: string): Promise<number[]> {
	const text = await readFile(join(folder, 'log.jsonl'), 'utf8');
	return text
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line).losses.loss);
}

/** Where a score for each item would rank the test items of all users, the items of the history left out. */
function naiveRanks(
	of: Split,
	users: ArrayLike<number>,
	score: (user: number, item: number) => number,
): TargetRanks {
	const ranks = { greater: new Int32Array(users.length), ties: new Int32Array(users.length) };
	for (let u = 0; u < users.length; u++) {
		const target = of.test[users[u]!]!;
		const seen = new Set(of.history(users[u]!, 'test'));
		const own = score(u, target);
		for (let item = 1; item <= of.dataset.numItems; item++) {
			if (item === target || seen.has(item)) continue;
			if (score(u, item) > own) ranks.greater[u]!++;
			else if (score(u, item) === own) ranks.ties[u]!++;
		}
	}
	return ranks;
}

const meanNdcg = (ranks: TargetRanks) => {
	const values = metricValues(ranks, 'ndcg@10');
	return values.reduce((a, b) => a + b, 0) / values.length;
};

test.serial('it learns: the loss falls, and it beats popularity where the order was planted', async (t) => {
	const world = tinyDataset({ seed: 2, numUsers: 300 });
	const parts = leaveLastOut(world);
	const folder = freshPath();
	const options = { ...tiny, maxLength: 10, hiddenUnits: 32, batchSize: 64, epochs: 40, validateEvery: 5 };
	const model = await SASRec.train(world, options, { split: parts, folder, ...CPU });
	t.teardown(() => model.dispose());
	const losses = await epochLosses(folder);
	t.true(losses.at(-1)! < 0.75 * losses[0]!, `${losses[0]} → ${losses.at(-1)}`);
	t.true(model.training!.best!.metrics['NDCG@10']! > 0);
	t.true(model.training!.best!.metrics['HR@10']! >= model.training!.best!.metrics['NDCG@10']!);

	const users = parts.users('test');
	const seen = Array.from(users, (user) => parts.history(user, 'test'));
	const vectors = await model.userVectors(seen);
	const targets = users.map((user) => parts.test[user]!);
	const own = meanNdcg(await model.rankTargets(vectors, targets, seen));
	const popular = meanNdcg(naiveRanks(parts, users, (_, item) => parts.itemCounts[item]!));
	t.true(own > 1.2 * popular, `NDCG@10 ${own} against ${popular} by popularity`);
});

test.serial('the softmax loss learns too', async (t) => {
	const folder = freshPath();
	const model = await SASRec.train(
		dataset,
		{ ...tiny, loss: 'softmax', epochs: 12 },
		{ split, folder, ...CPU },
	);
	const losses = await epochLosses(folder);
	t.true(Math.abs(losses[0]! - Math.log(dataset.numItems)) < 0.7, `${losses[0]} is about ln 50 at first`);
	t.true(losses.at(-1)! < 0.9 * losses[0]!, `${losses[0]} → ${losses.at(-1)}`);
	model.dispose();
});

test.serial(
	'a seed and the number of threads: the same weights bit by bit; another seed, others',
	async (t) => {
		const weights: Record<string, Float32Array>[] = [];
		for (const [seed, threads] of [
			[3, 1],
			[3, 1],
			[3, 2],
			[4, 1],
		] as const) {
			const model = await SASRec.train(
				dataset,
				{ ...tiny, epochs: 3, seed },
				{ split, device: 'cpu', threads },
			);
			weights.push(await savedWeights(model));
			model.dispose();
		}
		t.deepEqual(weights[1], weights[0]);
		t.deepEqual(weights[2], weights[0]);
		t.notDeepEqual(weights[3], weights[0]);
	},
);

test.serial(
	'a training that is interrupted and called again ends with the same weights bit by bit',
	async (t) => {
		const whole = await SASRec.train(dataset, tiny, { split, folder: freshPath(), ...CPU });
		t.teardown(() => whole.dispose());
		const expected = await savedWeights(whole);
		const perEpoch = whole.training!.steps / 6;
		t.true(perEpoch >= 3, 'so that a stop can be within an epoch');
		for (const share of [0.4, 0.55]) {
			const folder = freshPath();
			const train = (options: object) => SASRec.train(dataset, tiny, { split, folder, ...CPU, ...options });
			t.is(await interrupted(train, ({ done, total }) => done > share * total!), INTERRUPTED);
			const { step, done } = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
			t.false(done);
			t.true(step > 0 && step < whole.training!.steps, `stopped at step ${step}`);
			const resumed = await train({});
			t.deepEqual(await savedWeights(resumed), expected);
			t.deepEqual(resumed.training!.best, whole.training!.best);
			t.is(resumed.training!.steps, whole.training!.steps);
			resumed.dispose();
		}
	},
);

test.serial('a folder of other options, and one that is finished', async (t) => {
	const folder = freshPath();
	const train = (options: SASRecOptions) => SASRec.train(dataset, options, { split, folder, ...CPU });
	const first = await train({ ...tiny, epochs: 2 });
	const again = await train({ ...tiny, epochs: 2 });
	t.deepEqual(await savedWeights(again), await savedWeights(first));
	t.is((await epochLosses(folder)).length, 2);
	await rejects(t, () => train({ ...tiny, epochs: 3 }), 'ERR_ALLMREC_RUN', /other data or options/);
	first.dispose();
	again.dispose();
});

test.serial('an abort rejects with the reason of the signal', async (t) => {
	const reason = new Error('enough');
	const endless = { ...tiny, epochs: 1e6, validateEvery: 0 };
	await t.throwsAsync(SASRec.train(dataset, endless, { signal: AbortSignal.abort(reason), ...CPU }), {
		is: reason,
	});
	const controller = new AbortController();
	setTimeout(() => controller.abort(reason), 100);
	await t.throwsAsync(SASRec.train(dataset, endless, { signal: controller.signal, ...CPU }), { is: reason });
	const model = await SASRec.train(dataset, { ...tiny, epochs: 0 }, { split, ...CPU });
	await t.throwsAsync(model.userVectors(histories, AbortSignal.abort(reason)), { is: reason });
	model.dispose();
});

test.serial('progress of the training', async (t) => {
	const reports: Progress[] = [];
	const onProgress = (progress: Progress) => reports.push(progress);
	const model = await SASRec.train(dataset, { ...tiny, epochs: 2 }, { split, onProgress, ...CPU });
	const last = reports.at(-1)!;
	const trained = dataset.userIds.filter((_, user) => split.trainSequence(user).length >= 2).length;
	t.like(last, { stage: 'cf', unit: 'sequences', done: 2 * trained, total: 2 * trained });
	t.deepEqual(Object.keys(last.metrics!), ['epoch', 'loss', 'best NDCG@10', 'best HR@10']);
	model.dispose();
});

test.serial('a saved model is loaded with its options and scores alike', async (t) => {
	const model = await SASRec.train(dataset, { ...tiny, epochs: 1 }, { split, ...CPU });
	const path = await fixture('model.safetensors', '');
	await model.save(path);
	const loaded = await SASRec.load(path, CPU);
	t.deepEqual(loaded.config, model.config);
	t.is(loaded.training, undefined);
	t.deepEqual(await loaded.itemTable(), await model.itemTable());
	const vectors = await model.userVectors(histories);
	t.deepEqual(await loaded.userVectors(histories), vectors);
	const candidates = Int32Array.from({ length: 3 * histories.length }, (_, i) => 1 + (i % dataset.numItems));
	t.deepEqual(
		await loaded.scoreCandidates(vectors, candidates, 3),
		await model.scoreCandidates(vectors, candidates, 3),
	);
	model.dispose();
	t.is((await loaded.userVectors(histories)).length, vectors.length);
	loaded.dispose();
	await rejects(t, () => loaded.itemTable(), 'ERR_ALLMREC_DISPOSED');
	loaded.dispose();
});

test.serial('files that are no SASRec', async (t) => {
	await rejects(t, () => SASRec.load('/no/such/model', CPU), 'ERR_ALLMREC_FILE_NOT_FOUND');
	const other = await fixture('other.safetensors', '');
	loadAddon().writeSafetensors(
		other,
		[{ name: 'x', dtype: 'F32', shape: [2], data: Float32Array.of(1, 2) }],
		{},
	);
	await rejects(t, () => SASRec.load(other, CPU), 'ERR_ALLMREC_CHECKPOINT', /is no SASRec/);
	const model = await SASRec.train(dataset, { ...tiny, epochs: 0 }, { split, ...CPU });
	const path = await fixture('model.safetensors', '');
	await model.save(path);
	model.dispose();
	const bytes = await readFile(path);
	await writeFile(path, bytes.subarray(0, bytes.length / 2));
	const error = await t.throwsAsync(SASRec.load(path, CPU));
	t.regex((error as { code?: string }).code!, /^ERR_ALLMREC_CHECKPOINT$/, error.message);
	await writeFile(path, 'not a model at all');
	const damaged = await t.throwsAsync(SASRec.load(path, CPU));
	t.regex((damaged as { code?: string }).code!, /^ERR_ALLMREC_CHECKPOINT$/, damaged.message);
});

test.serial(
	'retrieval gives the best items, never an excluded one, and says where there are too few',
	async (t) => {
		const model = await SASRec.train(dataset, { ...tiny, epochs: 2 }, { split, ...CPU });
		const d = model.size;
		const vectors = await model.userVectors(histories);
		const table = await model.itemTable();
		const dot = (user: number, item: number) => {
			let sum = 0;
			for (let c = 0; c < d; c++) sum += vectors[user * d + c]! * table[item * d + c]!;
			return sum;
		};
		const k = 7;
		const { items, scores } = await model.retrieve(vectors, histories, k);
		for (const [u, history] of histories.entries()) {
			const found = Array.from(items.subarray(u * k, (u + 1) * k));
			const seen = new Set(history);
			t.false(found.some((item) => item === 0 || seen.has(item)));
			t.is(new Set(found).size, k);
			const expected = Array.from({ length: dataset.numItems }, (_, i) => i + 1)
				.filter((item) => !seen.has(item))
				.map((item) => dot(u, item))
				.sort((a, b) => b - a)
				.slice(0, k);
			t.true(maxDifference(scores.subarray(u * k, (u + 1) * k), expected) < 1e-5);
			t.true(
				maxDifference(
					found.map((item) => dot(u, item)),
					expected,
				) < 1e-5,
			);
		}
		// Everything but two items is excluded, so three of the five places stay empty.
		const all = Int32Array.from({ length: dataset.numItems - 2 }, (_, i) => i + 1);
		const few = await model.retrieve(vectors.subarray(0, d), [all], 5);
		t.deepEqual(
			[...few.items.subarray(0, 2)].sort((a, b) => a - b),
			[49, 50],
		);
		t.deepEqual([...few.items.subarray(2)], [-1, -1, -1]);
		model.dispose();
	},
);

test.serial('ranks of targets agree with a ranking in JavaScript', async (t) => {
	const model = await SASRec.train(dataset, { ...tiny, epochs: 2 }, { split, ...CPU });
	const users = split.users('test');
	const vectors = await model.userVectors(histories);
	const targets = users.map((user) => split.test[user]!);
	const all = Int32Array.from({ length: dataset.numItems }, (_, i) => i + 1);
	const everyone = Int32Array.from({ length: users.length * all.length }, (_, i) => all[i % all.length]!);
	const scores = await model.scoreCandidates(vectors, everyone, all.length);
	const ranks = await model.rankTargets(vectors, targets, histories);
	const expected = naiveRanks(split, users, (u, item) => scores[u * all.length + item - 1]!);
	// Two kernels may round a score differently: a rank may differ by one where two items are that close.
	let differing = 0;
	for (let u = 0; u < users.length; u++) {
		const gap = Math.abs(ranks.greater[u]! - expected.greater[u]!);
		t.true(gap <= 1);
		differing += gap;
	}
	t.true(differing <= 1, `${differing} ranks differ`);
	t.deepEqual([...ranks.ties], [...expected.ties]);
	model.dispose();
});

test.serial('options that cannot be are named, misspelt ones with what may be meant', async (t) => {
	const train = (options: object) => () => SASRec.train(dataset, options as SASRecOptions, { split, ...CPU });
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(
		t,
		train({ hiddenUnit: 4 }),
		code,
		/unknown option `hiddenUnit`, did you mean `hiddenUnits`\?/,
	);
	await rejects(t, train({ hiddenUnits: 0 }), code, /`hiddenUnits`/);
	await rejects(t, train({ dropoutRate: 1 }), code, /`dropoutRate`/);
	await rejects(t, train({ learningRate: 'fast' }), code, /`learningRate`/);
	await rejects(t, train({ loss: 'bpr' }), code, /`loss`.*"bce"/);
	await rejects(t, train({ epochs: 1.5, seed: -1 }), code, /`epochs`.*`seed`/);
	await rejects(t, train({ hiddenUnits: 16, numHeads: 3 }), code, /numHeads/);
	await rejects(
		t,
		() => SASRec.train(dataset, tiny, { split, device: 'tpu' as 'cpu' }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
	);
});

test.serial('users of one item train nothing and are no harm', async (t) => {
	const made = datasetOf([[1], [2], [1, 2, 3, 4, 5], [3], [5, 4, 3, 2], [4, 1]], 6);
	const model = await SASRec.train(made, { ...tiny, epochs: 2 }, CPU);
	t.is(model.training!.steps, 2);
	const vectors = await model.userVectors([[1], [], [6]]);
	t.true(vectors.every(Number.isFinite));
	t.true(
		vectors.subarray(16, 32).every((x) => x === 0),
		'an empty history gives zeros',
	);
	t.is((await model.userVectors([])).length, 0);
	model.dispose();
	await rejects(
		t,
		() => SASRec.train(datasetOf([[1], [2], [3]], 3), tiny, CPU),
		'ERR_ALLMREC_EMPTY_DATASET',
		/nothing to train/,
	);
});

test.serial('a loss that is not finite is an error, not a model', async (t) => {
	await rejects(
		t,
		() => SASRec.train(dataset, { ...tiny, learningRate: 1e6, epochs: 200 }, { split, ...CPU }),
		'ERR_ALLMREC_NUMERIC',
		/learning rate/,
	);
});
