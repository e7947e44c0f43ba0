import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { RecFormer } from '../../lib/baselines/recformer.js';
import type { RecFormerOptions } from '../../lib/baselines/recformer-options.js';
import { batchOf, ItemSentences, itemAttributes } from '../../lib/baselines/recformer-text.js';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut } from '../../lib/data/split.js';
import type { EncoderConfig } from '../../lib/native/addon.js';
import { run, Session } from '../../lib/native/session.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { tinyEncoder } from '../support/tiny-checkpoints.js';
import { CPU, datasetOfWorld, tinyDataset, tinyWorld } from '../support/tiny-world.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const WIDTH = 10;
const session = Session.open(CPU);
const dataset = tinyDataset();
const split = leaveLastOut(dataset);
const encoder = tinyEncoder();

const tiny: RecFormerOptions = {
	maxTokens: 96,
	maxItemTokens: 8,
	maxItems: 6,
	window: 16,
	batchSize: 16,
	learningRate: 2e-3,
	pretrainEpochs: 1,
	epochs: 2,
	patience: 100,
};

async function train(
	t: { teardown: (work: () => void) => void },
	options: RecFormerOptions = {},
	calls: object = {},
	data = dataset,
): Promise<RecFormer> {
	const model = await RecFormer.train(data, await encoder, { ...tiny, ...options }, { session, ...calls });
	t.teardown(() => model.dispose());
	return model;
}

function request(of = split) {
	const { users, candidates, targets } = sampleCandidates(of, { seed: 3, negatives: WIDTH - 1 });
	const histories = Array.from(users, (user) => of.history(user, 'test'));
	return { asked: { users, candidates, histories, width: WIDTH }, targets };
}

/** Share of (target, other) pairs in which the target has the higher score. */
function pairsWon(scores: Float32Array, targets: Int32Array): number {
	let won = 0;
	for (const [user, target] of targets.entries())
		for (let c = 0; c < WIDTH; c++)
			if (c !== target) won += Number(scores[user * WIDTH + target]! > scores[user * WIDTH + c]!);
	return won / (targets.length * (WIDTH - 1));
}

const shape: EncoderConfig = {
	kind: 'bert',
	vocabSize: 30,
	hiddenSize: 16,
	numLayers: 2,
	numHeads: 2,
	intermediateSize: 32,
	maxPositions: 24,
	typeVocabSize: 2,
	layerNormEps: 1e-12,
	activation: 'gelu',
	dropoutRate: 0,
};

/** Texts of 20, 1 and 7 tokens. */
function texts() {
	const lengths = [20, 1, 7];
	return batchOf(
		lengths.map((n) => ({
			ids: Int32Array.from({ length: n }, (_, i) => (7 * i + n) % 30),
			types: Int32Array.from({ length: n }, (_, i) => (i === 0 ? 0 : 1 + (i % 2))),
			items: Int32Array.from({ length: n }, (_, i) => Math.ceil(i / 5)),
		})),
	);
}

test('a window over the whole text is full attention: the states of the plain encoder', async (t) => {
	const plain = new session.addon.SentenceEncoder(session.engine, shape);
	await plain.initialise(5, 0.3);
	const batch = texts();
	const expected = await plain.hiddenStates(batch.texts);
	for (const [window, same] of [
		[38, true],
		[4, false],
	] as const) {
		const model = new session.addon.RecFormer(session.engine, { ...shape, window, maxItems: 4 });
		await model.initialise(6, 0.3);
		for (const { name } of plain.parameters()) await model.setParameter(name, await plain.getParameter(name));
		for (const name of ['text_type', 'item_position']) {
			const path = `embeddings.${name}_embeddings.weight`;
			await model.setParameter(path, new Float32Array((await model.getParameter(path)).length));
		}
		const difference = maxDifference(await model.hiddenStates(batch), expected);
		t.is(difference < 1e-5, same, `window ${window}: ${difference}`);
		model.dispose();
	}
	plain.dispose();
});

test('a token is seen from within the window and from [CLS], no further', async (t) => {
	const model = new session.addon.RecFormer(session.engine, {
		...shape,
		numLayers: 1,
		window: 4,
		maxItems: 4,
	});
	await model.initialise(5, 0.3);
	const batch = texts();
	const before = await model.hiddenStates(batch);
	batch.texts.values[10] = (batch.texts.values[10]! + 1) % 30;
	const after = await model.hiddenStates(batch);
	const changed = Array.from({ length: 28 }, (_, i) => i).filter(
		(i) => maxDifference(before.subarray(16 * i, 16 * i + 16), after.subarray(16 * i, 16 * i + 16)) > 0,
	);
	t.deepEqual(changed, [0, 8, 9, 10, 11, 12]);
	model.dispose();
});

test('tokens are refused that no table has a row for', async (t) => {
	const model = new session.addon.RecFormer(session.engine, { ...shape, window: 4, maxItems: 3 });
	await model.initialise(5, 0.3);
	const refused = (change: object, message: RegExp) =>
		rejects(
			t,
			() => run(() => model.vectors({ ...texts(), ...change })),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			message,
		);
	await refused({}, /item 4/);
	await refused({ types: new Int32Array(3) }, /type and an item/);
	await refused({ items: new Int32Array(28), types: new Int32Array(28).fill(3) }, /type 3/);
	model.dispose();
});

test('a history is read from its end, each item as names and values, cut at its limits', async (t) => {
	const item = (title: string, genres: string[] = [], description = '') => ({
		id: title,
		title,
		genres,
		description,
	});
	t.deepEqual(itemAttributes(item('a', ['x', 'y'], 'x, y')), [
		['title', 'a'],
		['category', 'x, y'],
	]);
	t.deepEqual(itemAttributes(item('')), [['title', '']]);
	const loaded = await SentenceEncoder.load(await encoder, { session });
	t.teardown(() => loaded.dispose());
	const { tokenizer } = loaded;
	const { items } = dataset;
	const limits = { maxTokens: 20, maxItemTokens: 6, maxItems: 2 };
	const sentences = await ItemSentences.create(tokenizer, items, limits);
	const { ids, types, items: places } = sentences.pack([4, 1, 2]);
	const expected = [2, 1].flatMap((i) =>
		itemAttributes(items[i]!).flatMap(([name, value]) => {
			const key = [...tokenizer.encodeText(name)];
			const told = [...tokenizer.encodeText(value)].slice(0, 6 - key.length);
			return [...key.map((id) => [id, 1, i === 2 ? 1 : 2]), ...told.map((id) => [id, 2, i === 2 ? 1 : 2])];
		}),
	);
	t.true(expected.length > 20);
	t.deepEqual(
		Array.from(ids, (id, i) => [id, types[i], places[i]]),
		[[tokenizer.clsId, 0, 0], ...expected].slice(0, 20),
	);
	t.throws(() => sentences.pack([items.length]), { code: 'ERR_ALLMREC_UNKNOWN_ITEM' });
});

test.serial(
	'it learns what users choose, above chance, and ranks items nobody had by their text',
	async (t) => {
		const world = tinyWorld({ numUsers: 150, numItems: 100 });
		const data = datasetOfWorld(world);
		const held = leaveLastOut(data);
		const options = { pretrainEpochs: 20, epochs: 8, learningRate: 3e-3 };
		const model = await train(t, options, { split: held }, data);
		const { asked, targets } = request(held);
		const share = pairsWon(await model.score(asked), targets);
		// A coin wins half of the pairs, with a standard error of 0.014 were they independent.
		t.true(share > 0.6, `${share} of ${targets.length * (WIDTH - 1)} pairs`);
		// Of items without a training interaction, those of the genres that a history is most of are ahead.
		const unseen = Int32Array.from(data.items.keys()).filter((i) => i > 0 && held.itemCounts[i] === 0);
		const all = asked.users.length;
		const candidates = Int32Array.from({ length: all * unseen.length }, (_, i) => unseen[i % unseen.length]!);
		const scores = await model.score({ ...asked, candidates, width: unseen.length });
		let [won, pairs] = [0, 0];
		for (const [u, history] of asked.histories.entries()) {
			const shared = Array.from(
				unseen,
				(i) =>
					Array.from(history).filter((h) =>
						data.items[h]!.genres.some((g) => data.items[i]!.genres.includes(g)),
					).length / history.length,
			);
			for (const [a, near] of shared.entries())
				for (const [b, far] of shared.entries())
					if (near >= 0.5 && far === 0) {
						won += Number(scores[u * unseen.length + a]! > scores[u * unseen.length + b]!);
						pairs++;
					}
		}
		t.true(pairs > 200, `${pairs} pairs of ${unseen.length} items`);
		t.true(won / pairs > 0.6, `${won} of ${pairs}`);
	},
);

test.serial(
	'a score is the cosine of the vectors over the temperature, whoever else is asked for',
	async (t) => {
		const model = await train(t, { epochs: 0 });
		const { asked } = request();
		const scores = await model.score(asked);
		const loaded = await SentenceEncoder.load(await encoder, { session });
		t.teardown(() => loaded.dispose());
		const limits = { maxTokens: 96, maxItemTokens: 8, maxItems: 6 };
		const sentences = await ItemSentences.create(loaded.tokenizer, dataset.items, limits);
		for (const user of [0, 9, 31]) {
			const list = asked.candidates.subarray(user * WIDTH, (user + 1) * WIDTH);
			const packed = [asked.histories[user]!, ...Array.from(list, (item) => [item])].map((h) =>
				sentences.pack(h),
			);
			const vectors = await model.native.vectors(batchOf(packed));
			const of = (i: number) => vectors.subarray(16 * i, 16 * i + 16);
			const u = of(0);
			for (let c = 0; c < WIDTH; c++) {
				const v = of(c + 1);
				const cosine = v.reduce((sum, x, i) => sum + x * u[i]!, 0) / (Math.hypot(...u) * Math.hypot(...v));
				t.true(Math.abs(scores[user * WIDTH + c]! - cosine / 0.05) < 1e-3);
			}
		}
		const empty = { ...asked, histories: asked.histories.map(() => []) };
		await rejects(t, () => model.score(empty), 'ERR_ALLMREC_EMPTY_HISTORY', /history/);
		const unknown = { ...asked, candidates: asked.candidates.map(() => 1000) };
		await rejects(t, () => model.score(unknown), 'ERR_ALLMREC_UNKNOWN_ITEM', /1000/);
		const controller = new AbortController();
		controller.abort(INTERRUPTED);
		t.is(await t.throwsAsync(model.score(asked, { signal: controller.signal })), INTERRUPTED);
	},
);

for (const part of ['pretraining', 'stage1', 'stage2'])
	test.serial(
		`a training cut off in ${part} and called again ends with the same weights bit by bit`,
		async (t) => {
			const whole = await train(t, {}, { folder: freshPath() });
			const folder = freshPath();
			const inUse = async () => (await session.engine.memory()).inUse;
			const before = await inUse();
			const error = await interrupted(
				(calls) => train(t, {}, { folder, ...calls }),
				({ stage, done, total }) => stage === `recformer ${part}` && done > 0.6 * total!,
			);
			t.is(error, INTERRUPTED);
			t.is(await inUse(), before, 'memory is given back');
			const { step, done } = JSON.parse(await readFile(join(folder, part, 'state.json'), 'utf8'));
			t.true(!done && step > 0, `stopped at step ${step}`);
			const resumed = await train(t, {}, { folder });
			t.deepEqual(await weightsOf(resumed.native), await weightsOf(whole.native));
			const { asked } = request();
			t.deepEqual(await resumed.score(asked), await whole.score(asked));
			t.deepEqual(resumed.training!.stage2.best, whole.training!.stage2.best);
		},
	);

test.serial(
	'a saved model scores alike; a damaged folder, or another catalogue, is refused by name',
	async (t) => {
		const model = await train(t);
		const folder = freshPath('recformer');
		await model.save(folder);
		const again = await RecFormer.load(folder, dataset, { session });
		t.teardown(() => again.dispose());
		const { asked } = request();
		t.deepEqual(await again.score(asked), await model.score(asked));
		const damaged = freshPath('recformer');
		await cp(folder, damaged, { recursive: true });
		const config = await readFile(join(damaged, 'recformer.json'), 'utf8');
		await writeFile(join(damaged, 'recformer.json'), config.replace('"window": 16', '"window": 15'));
		const load = (path: string, data = dataset) => RecFormer.load(path, data, { session });
		await rejects(t, () => load(damaged), 'ERR_ALLMREC_CHECKPOINT', /recformer\.json.*window/);
		const other = tinyDataset({ seed: 2 });
		await rejects(t, () => load(folder, other), 'ERR_ALLMREC_CHECKPOINT', /other items/);
		await rejects(t, () => train(t, { window: 3 }), 'ERR_ALLMREC_INVALID_ARGUMENT', /window/);
		model.dispose();
		await rejects(t, () => model.score(asked), 'ERR_ALLMREC_DISPOSED', /RecFormer/);
	},
);
