import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { TALLRec, type TALLRecOptions } from '../../lib/baselines/tallrec.js';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { Session } from '../../lib/native/session.js';
import { freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU, datasetOfWorld, tinyDataset, tinyWorld } from '../support/tiny-world.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const WIDTH = 5;
const session = Session.open(CPU);
const dataset = tinyDataset();
const split = leaveLastOut(dataset);
const model = (async () => CausalLM.load(await tinyLlm({ maxPositions: 512 }), { session }))();

const tiny: TALLRecOptions = {
	words: 'movie',
	historyLength: 4,
	batchSize: 12,
	learningRate: 1e-2,
	epochs: 2,
	patience: 100,
};

async function train(
	t: { teardown: (work: () => void) => void },
	options: TALLRecOptions = {},
	calls: object = {},
): Promise<TALLRec> {
	const tallrec = await TALLRec.train(
		dataset,
		await model,
		{ ...tiny, ...options },
		{ split, session, ...calls },
	);
	t.teardown(() => tallrec.dispose());
	return tallrec;
}

function request(phase: 'test' | 'validation' = 'test') {
	const { users, candidates, targets } = sampleCandidates(split, { seed: 3, negatives: WIDTH - 1, phase });
	const histories = Array.from(users, (user) => split.history(user, phase));
	return { users, candidates, targets, histories, width: WIDTH };
}

/** Share of (target, other) pairs in which the target has the higher score. */
function pairsWon(scores: Float32Array, targets: Int32Array): number {
	let won = 0;
	for (const [user, target] of targets.entries())
		for (let c = 0; c < WIDTH; c++)
			if (c !== target) won += Number(scores[user * WIDTH + target]! > scores[user * WIDTH + c]!);
	return won / (targets.length * (WIDTH - 1));
}

test.serial(
	'it learns which titles users choose, above chance, and leaves the language model as it was',
	async (t) => {
		// Wide enough for its hidden states to say a token with certainty.
		const wideModel = { maxPositions: 512, hiddenSize: 64, embedSize: 64 };
		const llm = await CausalLM.load(await tinyLlm(wideModel), { session });
		t.teardown(() => llm.dispose());
		const before = await weightsOf(llm.native);
		// As many items again that nobody ever has, as their titles tell.
		const world = tinyWorld({ numUsers: 120 });
		const shunned = world.items.map((item, i) => ({
			...item,
			id: `shunned ${i}`,
			title: `Zzz ${item.title}`,
		}));
		const wide = datasetOfWorld({ ...world, items: [...world.items, ...shunned] });
		const held = leaveLastOut(wide);
		const tallrec = await TALLRec.train(
			wide,
			llm,
			{ ...tiny, dropout: 0, epochs: 40 },
			{ split: held, session },
		);
		t.teardown(() => tallrec.dispose());
		const { users, candidates, targets } = sampleCandidates(held, { seed: 3, negatives: WIDTH - 1 });
		const histories = Array.from(users, (user) => held.history(user, 'test'));
		const share = pairsWon(await tallrec.score({ users, histories, candidates, width: WIDTH }), targets);
		// A coin wins half of the pairs, with a standard error of 0.023 were they independent.
		t.true(share > 0.65, `${share} of ${targets.length * (WIDTH - 1)} pairs`);
		t.true(-tallrec.training!.best!.score < Math.LN2, `${tallrec.training!.best!.score}`);
		t.deepEqual(await weightsOf(llm.native), before);
	},
);

test.serial('a score is that of the prompt written out alone', async (t) => {
	const llm = await model;
	const tallrec = await train(t);
	const { targets, ...asked } = request();
	const scores = await tallrec.score(asked);
	t.is(scores.length, targets.length * WIDTH);
	const { tokenizer } = llm;
	const titles = dataset.items.map(({ title }) => title);
	const shared = (a: Int32Array, b: Int32Array) => a.findIndex((id, i) => id !== b[i]);
	const [yes, no] = [tokenizer.encodeText('Yes'), tokenizer.encodeText('No')];
	const at = shared(yes, no);
	for (const user of [0, 7, 20])
		for (let c = 0; c < WIDTH; c++) {
			const told = Array.from(asked.histories[user]!).slice(-4);
			const pieces = [
				'### Instruction:\nGiven the movies that the user has watched, identify whether the user will like the target movie by answering "Yes" or "No".\n### Input:\nUser preference:',
				...told.map((item, i) => `${i === 0 ? ' ' : ', '}"${titles[item]}"`),
				'\nWhether the user will like the target movie',
				` "${titles[asked.candidates[user * WIDTH + c]!]}"`,
				'?\n### Response:\n',
			];
			const ids = Int32Array.of(
				tokenizer.bosId!,
				...pieces.flatMap((text) => [...tokenizer.encodeText(text)]),
				...yes.subarray(0, at),
			);
			const [logYes, logNo] = await llm.logProbs(
				{ ids, offsets: Int32Array.of(0, ids.length) },
				new Float32Array(0),
				Int32Array.of(ids.length - 1),
				Int32Array.of(0, 0),
				Int32Array.of(yes[at]!, no[at]!),
				undefined,
				tallrec.adapter,
			);
			t.true(Math.abs(scores[user * WIDTH + c]! - (logYes! - logNo!)) < 1e-4);
		}
});

test.serial('candidates of one item get one score, in any order', async (t) => {
	const tallrec = await train(t, { epochs: 1 });
	const histories = [[1, 2, 3]];
	const score = (items: number[]) =>
		tallrec.score({ users: [0], histories, candidates: Int32Array.from(items), width: items.length });
	const [a, b, c] = await score([7, 9, 7]);
	t.is(a, c);
	const [d, e] = await score([9, 7]);
	t.true(maxDifference([a!, b!], [e!, d!]) < 1e-5);
});

test.serial(
	'a training that is interrupted and called again ends with the same weights bit by bit',
	async (t) => {
		const options = { microBatchSize: 5, clipNorm: 1 };
		const whole = await train(t, options, { folder: freshPath() });
		const expected = await weightsOf(whole.adapter.native);
		const folder = freshPath();
		const error = await interrupted(
			(calls) => train(t, options, { folder, ...calls }),
			({ stage, done, total }) => stage === 'tallrec' && done > 0.6 * total!,
		);
		t.is(error, INTERRUPTED);
		const { step, done } = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
		t.true(!done && step > 0 && step < whole.training!.steps, `stopped at step ${step}`);
		const resumed = await train(t, options, { folder });
		t.deepEqual(await weightsOf(resumed.adapter.native), expected);
		t.deepEqual(resumed.training!.best, whole.training!.best);
	},
);

test.serial(
	'a saved model scores alike; its adapter can be merged; a damaged folder is refused by name',
	async (t) => {
		const llm = await model;
		const tallrec = await train(t);
		const folder = freshPath('tallrec');
		await tallrec.save(folder);
		const again = await TALLRec.load(folder, dataset, llm, { session });
		t.teardown(() => again.dispose());
		const { targets: _, ...asked } = request();
		t.deepEqual(await again.score(asked), await tallrec.score(asked));
		const merged = await CausalLM.load(llm.source, { session, adapter: folder });
		merged.dispose();
		const damaged = freshPath('tallrec');
		await cp(folder, damaged, { recursive: true });
		await writeFile(join(damaged, 'tallrec.json'), '{"version":1,"words":"item","historyLength":0}');
		await rejects(
			t,
			() => TALLRec.load(damaged, dataset, llm, { session }),
			'ERR_ALLMREC_CHECKPOINT',
			/tallrec\.json.*historyLength/,
		);
		await rejects(
			t,
			() => tallrec.score({ ...asked, width: 3 }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			/candidates/,
		);
	},
);
