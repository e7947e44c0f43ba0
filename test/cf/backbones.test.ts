import { readFile, writeFile } from 'node:fs/promises';
import test from 'ava';
import {
	BACKBONES,
	type BackboneKind,
	type BackboneOptions,
	loadBackbone,
	trainBackbone,
} from '../../lib/cf/backbones.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { metricValues } from '../../lib/evaluation/metrics.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const dataset = tinyDataset({ numUsers: 240 });
const split = leaveLastOut(dataset);
const users = split.users('test');
const histories = Array.from(users, (user) => split.history(user, 'test'));
const targets = users.map((user) => split.test[user]!);
const common = { hiddenUnits: 16, batchSize: 16, learningRate: 1e-2, epochs: 12, validateEvery: 3, seed: 3 };
/** Small ones of every kind that is trained. */
const tiny: { [Kind in BackboneKind]: BackboneOptions[Kind] } = {
	bprmf: { ...common, batchSize: 64 },
	gru4rec: { ...common, gruUnits: 24, dropoutRate: 0.1 },
	lightgcn: { ...common, batchSize: 64 },
	ncf: { ...common, batchSize: 64, embeddingSize: 16, towerUnits: 24, negatives: 2 },
	neumf: { ...common, batchSize: 64, towerUnits: 24, negatives: 2, epochs: 30 },
	nextitnet: { ...common, numBlocks: 1 },
	sasrec: { ...common, numHeads: 2, dropoutRate: 0.1 },
};
const sequential: readonly BackboneKind[] = ['gru4rec', 'nextitnet', 'sasrec'];

const mean = (values: Float64Array) => values.reduce((a, b) => a + b, 0) / values.length;

for (const kind of BACKBONES) {
	test(`${kind} learns, keeps its best weights, and is the same from its file`, async (t) => {
		await using model = await trainBackbone(kind, dataset, tiny[kind], { ...CPU, split });
		const vectors = await model.userVectors(histories, undefined, users);
		const ranks = await model.rankTargets(vectors, targets, histories);
		const untrained = await trainBackbone(kind, dataset, { ...tiny[kind], epochs: 0 }, { ...CPU, split });
		const before = await untrained.rankTargets(
			await untrained.userVectors(histories, undefined, users),
			targets,
			histories,
		);
		untrained.dispose();
		t.true(mean(metricValues(ranks, 'ndcg@10')) > 1.5 * mean(metricValues(before, 'ndcg@10')));
		t.is(model.training?.best?.metrics['NDCG@10'], model.training?.best?.score);

		const path = await fixture(`${kind}.safetensors`, '');
		await model.save(path);
		await using loaded = await loadBackbone(path, CPU);
		t.deepEqual(loaded.config, model.config);
		t.deepEqual(await loaded.userVectors(histories, undefined, users), vectors);
		t.deepEqual(await loaded.itemTable(), await model.itemTable());
	});

	test(`${kind}: scores are those of its tables`, async (t) => {
		await using model = await trainBackbone(kind, dataset, { ...tiny[kind], epochs: 1 }, { ...CPU, split });
		const vectors = await model.userVectors(histories, undefined, users);
		const all = Int32Array.from(
			{ length: users.length * dataset.numItems },
			(_, i) => 1 + (i % dataset.numItems),
		);
		const scores = await model.scoreCandidates(vectors, all, dataset.numItems);
		const { greater, ties } = await model.rankTargets(vectors, targets, histories);
		for (const [u, target] of targets.entries()) {
			const seen = new Set<number>(histories[u]);
			const row = scores.subarray(u * dataset.numItems, (u + 1) * dataset.numItems);
			const others = [...row].filter((_, i) => i + 1 !== target && !seen.has(i + 1));
			// Ranking multiplies matrices, in another order than single products.
			const above = others.filter((score) => score > row[target - 1]! + 1e-5).length;
			const below = others.filter((score) => score < row[target - 1]! - 1e-5).length;
			t.true(greater[u]! >= above && greater[u]! + ties[u]! <= others.length - below);
		}
	});

	// The clock that lets each step leave a checkpoint is everybody's.
	test.serial(
		`${kind}: an interrupted training that goes on equals one that was never stopped`,
		async (t) => {
			const folder = await freshPath();
			await using whole = await trainBackbone(kind, dataset, tiny[kind], { ...CPU, split });
			const reason = await interrupted(
				(interruption) =>
					trainBackbone(kind, dataset, tiny[kind], {
						...CPU,
						split,
						folder,
						checkpointSeconds: 0,
						...interruption,
					}),
				({ metrics }) => (metrics?.epoch ?? 0) >= 3,
			);
			t.is(reason, INTERRUPTED);
			await using resumed = await trainBackbone(kind, dataset, tiny[kind], { ...CPU, split, folder });
			t.is(maxDifference(await resumed.itemTable(), await whole.itemTable()), 0);
		},
	);
}

for (const kind of sequential)
	for (const loss of ['softmax', 'sampledSoftmax', 'gbce'] as const)
		test(`${kind} learns with ${loss}`, async (t) => {
			await using model = await trainBackbone(
				kind,
				dataset,
				{ ...tiny[kind], loss, negatives: 16, epochs: 40, validateEvery: 10 },
				{ ...CPU, split },
			);
			const vectors = await model.userVectors(histories);
			const ranks = await model.rankTargets(vectors, targets, histories);
			// A target drawn by lot among n has (n + 1) / 2 above or beside it.
			t.true(mean(Float64Array.from(ranks.greater)) < 0.75 * (dataset.numItems / 2));
		});

test('a file that is none, of an unknown kind, or that promises more than it holds', async (t) => {
	await using model = await trainBackbone(
		'gru4rec',
		dataset,
		{ ...tiny.gru4rec, epochs: 1 },
		{ ...CPU, split },
	);
	const path = await fixture('gru4rec.safetensors', '');
	await model.save(path);
	const bytes = (await readFile(path)).toString('latin1');
	const changed = async (from: string, to: string) => {
		t.true(bytes.includes(from));
		const other = await fixture('other.safetensors', '');
		await writeFile(other, bytes.replace(from, to.padEnd(from.length)), 'latin1');
		return loadBackbone(other, CPU);
	};
	await rejects(t, () => changed('gru4rec', 'gru5rec'), 'ERR_ALLMREC_CHECKPOINT', /kind `gru5rec`/);
	await rejects(
		t,
		() => changed('\\"hiddenUnits\\":16', '\\"hiddenUnits\\":99'),
		'ERR_ALLMREC_CHECKPOINT',
		/other\.safetensors/,
	);
	await rejects(
		t,
		() => trainBackbone('gru5rec' as never, dataset),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/bprmf, gru4rec, lightgcn, ncf, neumf, nextitnet, sasrec/,
	);
});
