import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { Alignment, type AlignmentOptions, jointEmbeddings } from '../../lib/alignment/alignment.js';
import { SASRec } from '../../lib/cf/sasrec.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { datasetOf } from '../data/datasets.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { D, stageOne } from '../support/tiny-stages.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const world = stageOne();
const TERMS = ['recommendation', 'matching', 'itemReconstruction', 'textReconstruction'] as const;
const tiny: AlignmentOptions = { jointSize: 8, batchSize: 8, learningRate: 2e-3, epochs: 3, seed: 5 };

/** Trains with an encoder of its own, which is disposed of after the test with everything else. */
async function train(
	t: { teardown: (work: () => void) => void },
	options: AlignmentOptions,
	{ dropoutRate, ...calls }: { dropoutRate?: number; folder?: string; signal?: AbortSignal } & object = {},
) {
	const { session, dataset, split, cf, encoder: source } = await world;
	const encoder = await SentenceEncoder.load(source, {
		session,
		...(dropoutRate === undefined ? {} : { dropoutRate }),
	});
	t.teardown(() => encoder.dispose());
	const alignment = await Alignment.train(
		dataset,
		cf,
		encoder,
		{ ...tiny, ...options },
		{ split, session, ...calls },
	);
	t.teardown(() => alignment.dispose());
	return { alignment, encoder };
}

async function log(
	folder: string,
): Promise<{ losses: Record<string, number>; metrics: Record<string, number> }[]> {
	const text = await readFile(join(folder, 'log.jsonl'), 'utf8');
	return text
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line));
}

test.serial('every term of the loss is there and falls, in training and in validation', async (t) => {
	const folder = freshPath();
	const { alignment } = await train(t, { epochs: 12, learningRate: 5e-3 }, { folder });
	const epochs = await log(folder);
	const [first, last] = [epochs[0]!, epochs.at(-1)!];
	for (const term of ['loss', ...TERMS]) {
		t.true(last.losses[term]! < first.losses[term]!, `${term}: ${first.losses[term]} → ${last.losses[term]}`);
		t.is(typeof last.metrics[`validation ${term}`], 'number', term);
	}
	t.true(last.metrics['validation loss']! < first.metrics['validation loss']!);
	t.is(alignment.training!.best!.score, -alignment.training!.best!.metrics['validation loss']!);
});

test.serial('the loss is the weighted sum of its terms', async (t) => {
	const weights = { recommendation: 0.7, matching: 2, alpha: 0.3, beta: 0.1 };
	const { alignment } = await train(t, { ...weights, epochs: 1 });
	const { losses } = alignment.training!;
	const { recommendation, matching, itemReconstruction, textReconstruction } = losses;
	const sum = 0.7 * recommendation! + 2 * matching! + 0.3 * itemReconstruction! + 0.1 * textReconstruction!;
	t.true(Math.abs(losses.loss! - sum) < 1e-5 * Math.abs(sum), `${losses.loss} is not ${sum}`);
});

test.serial(
	'a term of weight 0 is not learnt: the ablation without matching leaves the spaces apart',
	async (t) => {
		const options = { epochs: 15, learningRate: 5e-3, validateEvery: 0 };
		const [full, without] = [await train(t, options), await train(t, { ...options, matching: 0 })];
		const matching = ({ alignment }: typeof full) => alignment.training!.losses.matching!;
		t.true(matching(full) < 0.5 * matching(without), `${matching(full)} against ${matching(without)}`);
	},
);

test.serial(
	'texts encoded once give the losses of texts encoded at each step, before anything is learnt',
	async (t) => {
		for (const referenceCompat of [false, true]) {
			const options = { referenceCompat, batchSize: 1000, epochs: 1 };
			const frozen = await train(t, { ...options, freezeEncoder: true });
			const learning = await train(t, options, { dropoutRate: 0 });
			for (const term of ['loss', ...TERMS]) {
				const [a, b] = [frozen, learning].map(({ alignment }) => alignment.training!.losses[term]!);
				t.true(Math.abs(a! - b!) < 1e-5 * Math.abs(b!), `${term}: ${a} and ${b}`);
			}
		}
	},
);

test.serial('the encoder learns unless it is frozen', async (t) => {
	const { session, encoder: source } = await world;
	const untouched = await SentenceEncoder.load(source, { session });
	t.teardown(() => untouched.dispose());
	const before = await weightsOf(untouched.native);
	const frozen = await train(t, { freezeEncoder: true });
	t.deepEqual(await weightsOf(frozen.encoder.native), before);
	const learning = await weightsOf((await train(t, {})).encoder.native);
	for (const [name, values] of Object.entries(learning)) {
		const isBiasOfKeys = name.endsWith('k_lin.bias'); // has no influence: softmax takes it out
		if (!isBiasOfKeys) t.notDeepEqual(values, before[name], name);
	}
});

test.serial("`items: 'all'` trains on every item with a history before it", async (t) => {
	const { dataset, split } = await world;
	const lengths = dataset.userIds.map((_, user) => split.trainSequence(user).length);
	const last = await train(t, { epochs: 1, freezeEncoder: true });
	const all = await train(t, { epochs: 1, freezeEncoder: true, items: 'all' });
	t.is(last.alignment.training!.steps, Math.ceil(lengths.filter((n) => n >= 2).length / 8));
	t.is(all.alignment.training!.steps, Math.ceil(lengths.reduce((sum, n) => sum + Math.max(0, n - 1), 0) / 8));
	t.true(all.alignment.training!.steps > 2 * last.alignment.training!.steps);
});

test.serial("the authors' losses: both sides, and logits that are means", async (t) => {
	const { alignment } = await train(t, { referenceCompat: true, batchSize: 1000, epochs: 1 });
	t.true(alignment.config.referenceCompat);
	const { recommendation } = alignment.training!.losses;
	t.true(Math.abs(recommendation! - 2 * Math.log(2)) < 0.3, `${recommendation} is about 2 ln 2 at first`);
	const paper = await train(t, { batchSize: 1000, epochs: 1 });
	t.true(
		alignment.training!.losses.matching! > 1.5 * paper.alignment.training!.losses.matching!,
		'twice, about',
	);
});

test.serial('latents: shapes, the padding, and what they are of', async (t) => {
	const { dataset, cf } = await world;
	const { alignment, encoder } = await train(t, { epochs: 1 });
	const rows = dataset.numItems + 1;
	const { size, e, q } = await alignment.latents(dataset, cf, encoder);
	t.deepEqual([size, e.length, q.length], [8, 8 * rows, 8 * rows]);
	t.true([...e.subarray(0, 8), ...q.subarray(0, 8)].every((x) => x === 0));
	t.true(
		[...e.subarray(8), ...q.subarray(8)].every((x) => x > 0 && x < 1),
		'of a sigmoid',
	);
	t.deepEqual(e.subarray(8), (await alignment.encodeItems(await cf.itemTable())).subarray(8));
	const { title, description } = dataset.items[3]!;
	const own = await alignment.encodeTexts(
		await encoder.encode([`Title: ${title}, Description: ${description}`]),
	);
	t.true(maxDifference(own, q.subarray(24, 32)) < 1e-5);
	t.is((await alignment.decodeItems(e)).length, rows * D);
	t.is((await alignment.decodeTexts(q)).length, rows * encoder.size);
	t.is((await alignment.encodeItems(new Float32Array(0))).length, 0);
	await rejects(t, () => alignment.encodeItems(new Float32Array(D + 1)), 'ERR_ALLMREC_INVALID_ARGUMENT');
});

test('one rule decides which latent stands for an item', (t) => {
	const latents = {
		size: 2,
		e: Float32Array.of(0, 0, 1, 1, 2, 2, 3, 3),
		q: Float32Array.of(0, 0, -1, -1, -2, -2, -3, -3),
	};
	const counts = [0, 0, 1, 5];
	const rows = (coldThreshold?: number) => [...jointEmbeddings(latents, counts, { coldThreshold })];
	t.deepEqual(rows(), [0, 0, -1, -1, 2, 2, 3, 3], 'by default items without interactions take their text');
	t.deepEqual(rows(0), [0, 0, 1, 1, 2, 2, 3, 3]);
	t.deepEqual(rows(1), rows());
	t.deepEqual(rows(5), [0, 0, -1, -1, -2, -2, 3, 3], 'fewer than, not at most');
	t.deepEqual(rows(Number.POSITIVE_INFINITY), [0, 0, -1, -1, -2, -2, -3, -3]);
	t.deepEqual([...latents.e], [0, 0, 1, 1, 2, 2, 3, 3], 'the latents stay as they are');
});

test.serial(
	'a training that is interrupted and called again ends with the same weights bit by bit',
	async (t) => {
		const weights = async ({ alignment, encoder }: { alignment: Alignment; encoder: SentenceEncoder }) => [
			await weightsOf(alignment.native),
			await weightsOf(encoder.native),
		];
		const whole = await train(t, {}, { folder: freshPath() });
		const expected = await weights(whole);
		for (const share of [0.2, 0.6]) {
			const folder = freshPath();
			const error = await interrupted(
				(calls) => train(t, {}, { folder, ...calls }),
				({ stage, done, total }) => stage === 'align' && done > share * total!,
			);
			t.is(error, INTERRUPTED);
			const { step, done } = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
			t.true(!done && step > 0 && step < whole.alignment.training!.steps, `stopped at step ${step}`);
			const resumed = await train(t, {}, { folder });
			t.deepEqual(await weights(resumed), expected);
			t.deepEqual(resumed.alignment.training!.best, whole.alignment.training!.best);
			const again = await train(t, {}, { folder });
			t.deepEqual(await weights(again), expected, 'and once more, when there is nothing left to train');
		}
	},
);

test.serial('the best weights are kept, those of the encoder with them', async (t) => {
	const { session } = await world;
	const folder = freshPath();
	const { alignment, encoder } = await train(t, { learningRate: 1, epochs: 8, patience: 8 }, { folder });
	t.true(alignment.training!.best!.epoch < 8, 'the learning rate is high enough to end worse than it was');
	for (const [model, file] of [
		[alignment.native, 'final/model.safetensors'],
		[encoder.native, 'final/model.encoder.safetensors'],
	] as const) {
		const tensors = session.addon.openTensorFile(join(folder, file));
		for (const [name, values] of Object.entries(await weightsOf(model)))
			t.deepEqual(tensors.readFloat32(name), values, name);
		tensors.close();
	}
});

test.serial('a saved alignment is loaded with its configuration and encodes alike', async (t) => {
	const { session, cf } = await world;
	const { alignment } = await train(t, { epochs: 1, activation: 'gelu', alpha: 0.25 });
	const path = await fixture('alignment.safetensors', '');
	await alignment.save(path);
	const loaded = await Alignment.load(path, session);
	t.deepEqual(loaded.config, alignment.config);
	const table = await cf.itemTable();
	t.deepEqual(await loaded.encodeItems(table), await alignment.encodeItems(table));
	loaded.dispose();
	const other = await fixture('cf.safetensors', '');
	await cf.save(other);
	await rejects(t, () => Alignment.load(other, session), 'ERR_ALLMREC_CHECKPOINT', /no alignment network/);
	await rejects(t, () => Alignment.load('/no/such/file', session), 'ERR_ALLMREC_FILE_NOT_FOUND');
});

test.serial('an abort rejects with the reason of the signal', async (t) => {
	const reason = new Error('enough');
	await t.throwsAsync(train(t, {}, { signal: AbortSignal.abort(reason) }), { is: reason });
	const controller = new AbortController();
	setTimeout(() => controller.abort(reason), 50);
	await t.throwsAsync(train(t, { epochs: 1e6, validateEvery: 0 }, { signal: controller.signal }), {
		is: reason,
	});
});

test.serial('options that cannot be, folders of other options, and data to learn nothing from', async (t) => {
	const { session } = await world;
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => train(t, { jointSiz: 8 } as object), code, /did you mean `jointSize`\?/);
	await rejects(t, () => train(t, { alpha: -1 }), code, /`alpha`/);
	await rejects(t, () => train(t, { items: 'some' as 'all' }), code, /`items`/);
	const folder = freshPath();
	await train(t, { epochs: 1, freezeEncoder: true }, { folder });
	await rejects(t, () => train(t, { epochs: 2, freezeEncoder: true }, { folder }), 'ERR_ALLMREC_RUN');

	const cf = await SASRec.train(datasetOf([[1, 2, 3, 1]], 4), { hiddenUnits: D, epochs: 0 }, { session });
	t.teardown(() => cf.dispose());
	const dataset = datasetOf([[1], [2], [3, 1, 2]], 4);
	const encoder = await SentenceEncoder.load((await world).encoder, { session });
	t.teardown(() => encoder.dispose());
	await rejects(
		t,
		() => Alignment.train(dataset, cf, encoder, tiny, { split: leaveLastOut(dataset), session }),
		'ERR_ALLMREC_EMPTY_DATASET',
	);
});
