// A training whose numbers go wrong: what it says, what it keeps, and what is refused before it begins.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { Alignment } from '../../lib/alignment/alignment.js';
import { SASRec, type SASRecOptions } from '../../lib/cf/sasrec.js';
import { leaveLastOut } from '../../lib/data/split.js';
import type { ALLMRecError } from '../../lib/errors.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import { Projection } from '../../lib/projection/projection.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import { createPrompts } from '../../lib/recommend/model-parts.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { freshPath, rejects } from '../data/folders.js';
import { held } from '../support/reliability.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { type StageTwo, stageTwo } from '../support/tiny-stages.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';

const dataset = tinyDataset();
const split = leaveLastOut(dataset);
const tiny: SASRecOptions = {
	hiddenUnits: 16,
	maxLength: 10,
	batchSize: 64,
	epochs: 200,
	validateEvery: 1,
	patience: 200,
	dropoutRate: 0.2,
};

let two: StageTwo;
let llmFolder: string;
test.before(async () => {
	two = await stageTwo();
	llmFolder = await tinyLlm();
});
test.after.always(() => {
	two?.alignment.dispose();
	two?.cf.dispose();
	two?.session.release();
});

const LOWER =
	/lower the learning rate\. The best weights so far, of epoch (\d+) \(.*\), are in (.*best-\d+\/model\.safetensors)\. .*other ones in another folder, or delete/;

/** Trains until numbers are not finite; gives the epoch and the file of the best weights that the error names. */
async function diverges(
	t: Parameters<typeof rejects>[0],
	train: (folder: string) => Promise<unknown>,
	message: RegExp,
) {
	const folder = freshPath('diverging');
	const error = await rejects(t, () => train(folder), 'ERR_ALLMREC_NUMERIC', message);
	const [, epoch, best] = LOWER.exec(error.message) ?? [];
	t.truthy(best, error.message);
	t.true(best!.startsWith(folder), best);
	t.true(existsSync(best!));
	// The same options end in the same way, and nothing is lost.
	const again = await rejects(t, () => train(folder), 'ERR_ALLMREC_NUMERIC');
	t.is(again.message, error.message);
	return { epoch: Number(epoch), best: best!, error: error as ALLMRecError };
}

test.serial(
	'a learning rate that diverges in stage 0 names step and op and leaves the best weights',
	async (t) => {
		const { best, epoch } = await diverges(
			t,
			(folder) => SASRec.train(dataset, { ...tiny, learningRate: 3 }, { split, folder, ...CPU }),
			/^SASRec's (loss is|gradients are) not finite at step \d+ \(bce = .*\): the first number that is not finite is (NaN|-?infinity), in row \d+ and column \d+ of what the op `\w+` wrote \(\d+ × \d+, op \d+/,
		);
		t.true(epoch >= 1);
		const model = await SASRec.load(best, CPU);
		t.true((await model.itemTable()).every(Number.isFinite));
		t.true((await model.userVectors([[1, 2, 3]])).every(Number.isFinite));
		model.dispose();
		// Without a folder the error does not promise what is not there.
		await rejects(
			t,
			() => SASRec.train(dataset, { ...tiny, learningRate: 3 }, { split, ...CPU }),
			'ERR_ALLMREC_NUMERIC',
			/are lost\. Training with a folder keeps/,
		);
		// Other options do not go on from there: another folder, as the message says.
		const { folder } = { folder: join(best, '..') };
		if (existsSync(join(folder, 'state.json')))
			await rejects(
				t,
				() => SASRec.train(dataset, { ...tiny, learningRate: 1e-3 }, { split, folder, ...CPU }),
				'ERR_ALLMREC_RUN',
			);
		const other = await SASRec.train(
			dataset,
			{ ...tiny, learningRate: 1e-2, epochs: 2 },
			{ split, folder: freshPath('other'), ...CPU },
		);
		t.is(other.training?.epochs, 2);
		other.dispose();
	},
);

test.serial('a learning rate that diverges in stage 1 leaves the best weights', async (t) => {
	const { session, cf } = two;
	const encoder = await SentenceEncoder.load(two.encoder, { session });
	const align = await diverges(
		t,
		(folder) =>
			Alignment.train(
				two.dataset,
				cf,
				encoder,
				{
					jointSize: 8,
					activation: 'none',
					batchSize: 64,
					epochs: 400,
					patience: 400,
					learningRate: 1e6,
					freezeEncoder: true,
				},
				{ split: two.split, folder, session },
			),
		/^Stage 1's (loss is|gradients are) not finite at step \d+ \(.*itemReconstruction = .*(the op `\w+`|the gradient of `[\w.]+` reaches \S+, and float32)/,
	);
	const alignment = await Alignment.load(align.best, session);
	t.true((await alignment.encodeItems(new Float32Array(16).fill(0.1))).every(Number.isFinite));
	alignment.dispose();
	encoder.dispose();
	held(
		'Numbers',
		'A training that diverges stops with stage, step, loss and op, and the best weights stay on disk',
		{
			stages: 2,
			'not loadable': 0,
		},
	);
});

test.serial(
	'a loss that explodes but stays a number ends by early stopping with the best weights',
	async (t) => {
		const { session, cf } = two;
		const encoder = await SentenceEncoder.load(two.encoder, { session });
		const folder = freshPath('exploding');
		const alignment = await Alignment.train(
			two.dataset,
			cf,
			encoder,
			{ jointSize: 8, batchSize: 64, epochs: 50, patience: 3, learningRate: 1e4, freezeEncoder: true },
			{ split: two.split, folder, session },
		);
		const { training } = alignment;
		t.true(training!.stoppedEarly);
		t.true(training!.losses.loss! > 1e6, `${training!.losses.loss}`);
		t.true(training!.epochs < 50);
		const best = await Alignment.load(join(folder, 'final', 'model.safetensors'), session);
		t.deepEqual(
			await alignment.native.getParameter('mlp.fc1.weight'),
			await best.native.getParameter('mlp.fc1.weight'),
		);
		best.dispose();
		alignment.dispose();
		encoder.dispose();
		held(
			'Numbers',
			'A loss that explodes without becoming NaN ends by early stopping with the best weights',
			{
				loss: training!.losses.loss!.toExponential(0),
				'best epoch': training!.best!.epoch,
				epochs: training!.epochs,
			},
		);
	},
);

test.serial('stage 2 bears the largest learning rate there is: norms keep its loss a number', async (t) => {
	const { session, cf } = two;
	const llm = await CausalLM.load(llmFolder, { session });
	const prompts = await createPrompts(
		llm,
		Catalogue.of(two.dataset, two.split.itemCounts),
		recommendationTemplate('game'),
		{ historyLength: 4 },
	);
	const train = (folder: string, learningRate: number) =>
		Projection.train(
			two.dataset,
			cf,
			llm,
			{ candidates: 4, batchSize: 16, epochs: 12, patience: 3, validationUsers: 10, learningRate },
			{ split: two.split, joint: two.joint, prompts, alignment: two.alignment, folder, session },
		);
	const folder = freshPath('projection');
	const projection = await train(folder, 1e6);
	const best = await Projection.load(join(folder, 'final', 'model.safetensors'), session);
	const x = new Float32Array(16).fill(0.1);
	t.deepEqual(await projection.users(x), await best.users(x));
	t.true((await best.users(x)).every(Number.isFinite));
	t.true(projection.training!.epochs < 12 && projection.training!.stoppedEarly);
	projection.dispose();
	best.dispose();
	await rejects(t, () => train(freshPath('projection'), 1e7), 'ERR_ALLMREC_INVALID_ARGUMENT', /learningRate/);
	llm.dispose();
});

test.serial('hyper-parameters out of range are refused before anything is trained', async (t) => {
	const wrong: Record<string, unknown[]> = {
		learningRate: [0, -1, Number.POSITIVE_INFINITY, Number.NaN, 1e300, '1'],
		dropoutRate: [1, -0.1, Number.NaN, 2],
		beta1: [1, -1, Number.NaN],
		beta2: [1, 1.5],
		l2Embedding: [-1, Number.NaN, Number.POSITIVE_INFINITY],
		epochs: [-1, 0.5, Number.NaN],
		batchSize: [0, -1, 1.5, Number.POSITIVE_INFINITY],
		hiddenUnits: [0, 2 ** 40],
		maxLength: [0, 2 ** 40],
	};
	let refused = 0;
	for (const [name, values] of Object.entries(wrong))
		for (const value of values) {
			await rejects(
				t,
				() =>
					SASRec.train(dataset, { ...tiny, epochs: 1, [name]: value } as SASRecOptions, { split, ...CPU }),
				'ERR_ALLMREC_INVALID_ARGUMENT',
				new RegExp(name),
			);
			refused++;
		}
	// The limits of what is allowed train.
	for (const options of [{ dropoutRate: 0 }, { learningRate: 1e-30 }, { beta1: 0, beta2: 0 }, { epochs: 0 }])
		(await SASRec.train(dataset, { ...tiny, epochs: 1, ...options }, { split, ...CPU })).dispose();
	const { session, encoder } = two;
	const loaded = await SentenceEncoder.load(encoder, { session });
	const adam = { learningRate: 1e-3, trainEncoder: false, seed: 0 };
	for (const options of [
		{ eps: 0 },
		{ eps: Number.NaN },
		{ beta1: 1 },
		{ clipNorm: -1 },
		{ weightDecay: Number.NaN },
		{ learningRate: Number.NaN },
	]) {
		t.throws(() => new session.addon.AlignmentTrainer(two.alignment.native, null, { ...adam, ...options }), {
			code: 'ERR_ALLMREC_INVALID_ARGUMENT',
		});
		refused++;
	}
	for (const temperature of [0, -1, Number.NaN]) {
		t.throws(
			() => new session.addon.ContrastiveTrainer(loaded.native, { learningRate: 1e-3, temperature, seed: 0 }),
			{
				code: 'ERR_ALLMREC_INVALID_ARGUMENT',
			},
		);
		refused++;
	}
	loaded.dispose();
	held('Numbers', 'Hyper-parameters out of range are refused with their name', { refused });
});
