import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { atOnce } from '../../lib/event-loop.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { packBatch, packTraining } from '../../lib/llm/prompt-packing.js';
import { toLlmBatch } from '../../lib/projection/projection.js';
import { explainScore, meanRow, Vocabulary } from '../../lib/recommend/explain.js';
import { createPrompts } from '../../lib/recommend/model-parts.js';
import { loadRun } from '../../lib/recommend/run.js';
import { rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const trained = tinyRun();
const model = (async () => loadRun((await trained).folder, CPU))();

async function ids(...items: number[]): Promise<string[]> {
	const { dataset } = await trained;
	return items.map((item) => dataset.items[item]!.id);
}

/** A prompt of the run with soft tokens at random. */
async function randomPrompt(seed: number) {
	const { llm, template } = (await model).parts;
	const prompts = await createPrompts(llm, (await model).catalogue, template, { historyLength: 4 });
	const history = Int32Array.of(3, 7, 9);
	const candidates = Int32Array.of(4, 5, 6, 8);
	const random = new SeededRandom(seed);
	const draw = (rows: number) =>
		Float32Array.from({ length: rows * llm.tokenSize }, () => 0.5 * random.normal());
	const items = draw((await model).catalogue.size);
	return { llm, prompts, history, candidates, items, user: draw(1), draw };
}

test('the gradient of the soft tokens is that of finite differences', async (t) => {
	const { llm, prompts, history, candidates, draw } = await randomPrompt(1);
	const sequence = packTraining(prompts.build({ history, candidates }), prompts.answer(5));
	const batch = packBatch([sequence]);
	const soft = draw(sequence.slots.length);
	const targets = { rows: sequence.rows, tokens: sequence.rowTargets };
	const { meanLogProb, gradient } = await llm.native.softGradient(toLlmBatch(batch), soft, targets);
	const pairs = Int32Array.from(batch.rowTargets.keys());
	const mean = async (values: Float32Array) => {
		const logProbs = await llm.logProbs(toLlmBatch(batch), values, batch.rows, pairs, batch.rowTargets);
		return logProbs.reduce((sum, value) => sum + value, 0) / logProbs.length;
	};
	t.true(Math.abs(meanLogProb - (await mean(soft))) < 1e-5);
	// Along a direction, since single numbers are below what float32 tells apart.
	for (let k = 0; k < sequence.slots.length; k++) {
		const width = llm.tokenSize;
		const direction = draw(1);
		const moved = (by: number) => {
			const values = soft.slice();
			for (let c = 0; c < width; c++) values[k * width + c]! += by * direction[c]!;
			return mean(values);
		};
		const numeric = ((await moved(0.02)) - (await moved(-0.02))) / 0.04;
		const analytic = direction.reduce((sum, value, c) => sum + value * gradient[k * width + c]!, 0);
		t.true(
			Math.abs(numeric - analytic) < 1e-3 + 0.02 * Math.abs(numeric),
			`${k}: ${numeric} and ${analytic}`,
		);
	}
});

test('leaving out by a little is what the gradient says', async (t) => {
	const { llm, prompts, history, candidates, items, user, draw } = await randomPrompt(2);
	const width = llm.tokenSize;
	const near = (from: Float32Array) => from.map((value, i) => value + 0.02 * draw(1)[i % width]!);
	// All items alike but for their own noise: each is near their mean.
	for (let at = width; at < items.length; at++) items[at] = items[at % width]! + 0.02 * items[at]!;
	const { score, slots } = await explainScore({
		...{ llm, prompts, history, candidates, item: 6, normalisation: 'sum' },
		user: { token: user, baseline: near(user) },
		items: { tokens: items, baseline: atOnce(meanRow(items, width, 1)) },
	});
	t.deepEqual(
		slots.map(({ slot }) => (slot.kind === 'user' ? 'user' : slot.item)),
		['user', 3, 7, 9],
	);
	t.true(score < 0);
	for (const { leaveOneOut, gradientTimesInput } of slots) {
		t.not(leaveOneOut, 0);
		t.true(Math.abs(leaveOneOut - gradientTimesInput!) < 2e-4 + 0.1 * Math.abs(leaveOneOut));
	}
});

test('an explanation is of the score that lists have', async (t) => {
	const recommender = await model;
	const request = { history: await ids(3, 7, 9), candidates: await ids(4, 5, 6, 8) };
	const [list] = await recommender.recommend([request], { topK: 4, by: 'llm' });
	const best = await recommender.explain(request);
	t.is(best.item, list![0]!.id);
	for (const { id, llm } of list!) {
		const { item, score, parts, tokens } = await recommender.explain(request, { item: id, nearest: 3 });
		t.is(item, id);
		t.true(Math.abs(score - llm!) < 1e-5, `${score} and ${llm}`);
		t.deepEqual(
			parts.map(({ part, item }) => [part, item]),
			[['user', undefined], ...request.history.map((each) => ['history', each])] as never,
		);
		t.deepEqual(tokens.length, 5);
		for (const { nearest } of tokens) {
			t.is(nearest.length, 3);
			t.true(nearest[0]!.similarity >= nearest[2]!.similarity && nearest[0]!.similarity <= 1.00001);
		}
	}
	const { tokens } = await recommender.explain(request, { nearest: 0 });
	t.deepEqual(tokens, []);
});

test('nearest to an embedding is its own token', async (t) => {
	await using llm = await CausalLM.load(await tinyLlm(), CPU);
	const vocabulary = await Vocabulary.of(llm);
	const table = await llm.native.getParameter('model.decoder.embed_tokens.weight');
	for (const id of [20, 45]) {
		const row = table.slice(id * llm.tokenSize, (id + 1) * llm.tokenSize).map((value) => 7 * value);
		const [first, second] = await vocabulary.nearest(row, 2);
		t.is(first!.id, id);
		t.true(Math.abs(first!.similarity - 1) < 1e-5 && second!.similarity < first!.similarity);
		t.is(first!.text, llm.tokenizer.decode([id]));
	}
});

test('a run without user vector explains the history alone', async (t) => {
	const { folder } = await tinyRun(undefined, { withoutUser: true });
	await using recommender = await loadRun(folder, CPU);
	const { parts } = await recommender.explain({ history: await ids(3, 7) });
	t.deepEqual(
		parts.map(({ part }) => part),
		['history', 'history'],
	);
});

test('what cannot be explained is said', async (t) => {
	const recommender = await model;
	const history = await ids(3, 7);
	await rejects(t, () => recommender.explain({ history: [] }), 'ERR_ALLMREC_EMPTY_HISTORY', /empty history/);
	await rejects(
		t,
		() => recommender.explain({ history }, { item: 'none' }),
		'ERR_ALLMREC_UNKNOWN_ITEM',
		/none/,
	);
	await rejects(
		t,
		() => recommender.explain({ history }, { itm: 'x' } as never),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/item/,
	);
});
