import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import { ragged } from '../../lib/native/session.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import { createPrompts } from '../../lib/recommend/model-parts.js';
import { CandidateScorer, type ScoreRequest } from '../../lib/recommend/scorer.js';
import { rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const world = (async () => {
	const dataset = tinyDataset();
	const llm = await CausalLM.load(await tinyLlm(), CPU);
	const catalogue = Catalogue.of(dataset, new Int32Array(dataset.numItems + 1));
	const prompts = await createPrompts(llm, catalogue, recommendationTemplate());
	const random = new SeededRandom(4);
	const itemTokens = Float32Array.from({ length: (dataset.numItems + 1) * llm.tokenSize }, () =>
		random.normal(),
	);
	const requests = Array.from({ length: 5 }, (_, u): ScoreRequest => {
		const items = random.shuffle(Array.from({ length: dataset.numItems }, (_, i) => i + 1));
		return {
			history: items.slice(0, 1 + 3 * u),
			candidates: items.slice(20, u === 2 ? 23 : 40),
			user: Float32Array.from({ length: llm.tokenSize }, () => random.normal()),
		};
	});
	return { dataset, llm, catalogue, prompts, itemTokens, requests };
})();

/** Each candidate as a sequence of its own behind the prompt: plain positions, plain causal attention. */
async function naive(request: ScoreRequest): Promise<{ sum: number[]; mean: number[] }> {
	const { llm, prompts, itemTokens } = await world;
	const width = llm.tokenSize;
	const prompt = prompts.build(request);
	const soft = new Float32Array(prompt.slots.length * width);
	for (const [k, slot] of prompt.slots.entries())
		soft.set(
			slot.kind === 'user' ? request.user! : itemTokens.subarray(slot.item * width, (slot.item + 1) * width),
			k * width,
		);
	const sum: number[] = [];
	const mean: number[] = [];
	for (const item of Array.from(request.candidates)) {
		const answer = [...prompts.answer(item)];
		const { offsets, values } = ragged([[...prompt.ids, ...answer.slice(0, -1)]]);
		const rows = Int32Array.from(answer, (_, i) => prompt.ids.length - 1 + i);
		const pairs = Int32Array.from(answer.keys());
		const logProbs = await llm.logProbs({ ids: values, offsets }, soft, rows, pairs, Int32Array.from(answer));
		sum.push(logProbs.reduce((a, b) => a + b, 0));
		mean.push(sum.at(-1)! / answer.length);
	}
	return { sum, mean };
}

test('candidates packed behind one prompt score as each alone behind its own', async (t) => {
	const { llm, prompts, itemTokens, requests } = await world;
	const scorer = new CandidateScorer(llm, prompts, { itemTokens });
	const scores = await scorer.score(requests);
	const alone = await Promise.all(requests.map(naive));
	t.is(scores.sum.length, 20 + 20 + 3 + 20 + 20);
	t.true(
		maxDifference(
			scores.sum,
			alone.flatMap(({ sum }) => sum),
		) < 1e-4,
	);
	t.true(
		maxDifference(
			scores.mean,
			alone.flatMap(({ mean }) => mean),
		) < 1e-4,
	);
	t.true(scores.sum.every((x) => x < 0));
});

test('the size of the batches changes no score', async (t) => {
	const { llm, prompts, itemTokens, requests } = await world;
	const expected = await new CandidateScorer(llm, prompts, { itemTokens, tokensPerBatch: 1 }).score(requests);
	for (const tokensPerBatch of [700, 4096, 1e6]) {
		const scores = await new CandidateScorer(llm, prompts, { itemTokens, tokensPerBatch }).score(requests);
		t.true(maxDifference(scores.sum, expected.sum) < 1e-4, `${tokensPerBatch}`);
		t.true(maxDifference(scores.mean, expected.mean) < 1e-4, `${tokensPerBatch}`);
	}
	const one = await new CandidateScorer(llm, prompts, { itemTokens }).score([requests[1]!]);
	t.true(maxDifference(one.sum, expected.sum.subarray(20, 40)) < 1e-4);
});

test('vectors of user and items count, and those of other items do not', async (t) => {
	const { llm, prompts, itemTokens, requests, dataset } = await world;
	const request = requests[0]!;
	const score = async (tokens: Float32Array, user = request.user!) =>
		(await new CandidateScorer(llm, prompts, { itemTokens: tokens }).score([{ ...request, user }])).sum;
	const expected = await score(itemTokens);
	const width = llm.tokenSize;
	const changed = (item: number) => {
		const tokens = itemTokens.slice();
		tokens.fill(9, item * width, (item + 1) * width);
		return tokens;
	};
	t.true(
		maxDifference(
			await score(
				itemTokens,
				request.user!.map((x) => -x),
			),
			expected,
		) > 1e-3,
	);
	t.true(maxDifference(await score(changed(request.history[0]!)), expected) > 1e-3);
	t.true(maxDifference(await score(changed(request.candidates[3]!)), expected) > 1e-3);
	const told = new Set([...Array.from(request.history), ...Array.from(request.candidates)]);
	const other = Array.from({ length: dataset.numItems }, (_, i) => i + 1).find((item) => !told.has(item))!;
	t.deepEqual(await score(changed(other)), expected);
});

test('prompts without vectors need none', async (t) => {
	const { llm, catalogue, requests } = await world;
	const plain = await createPrompts(llm, catalogue, recommendationTemplate(), {
		withoutUser: true,
		withoutItemSlots: true,
	});
	const { sum } = await new CandidateScorer(llm, plain).score(requests.map(({ user: _, ...rest }) => rest));
	t.is(sum.length, 83);
	t.true(sum.every(Number.isFinite));
});

test('nothing to score, prompts that do not fit, and an abort', async (t) => {
	const { llm, prompts, itemTokens, requests, dataset } = await world;
	const scorer = new CandidateScorer(llm, prompts, { itemTokens });
	t.deepEqual(await scorer.score([]), { sum: new Float32Array(0), mean: new Float32Array(0) });
	const everything = Array.from({ length: 4 * dataset.numItems }, (_, i) => 1 + (i % dataset.numItems));
	const long = { ...requests[0]!, candidates: everything };
	await rejects(t, () => scorer.score([requests[1]!, long]), 'ERR_ALLMREC_PROMPT_TOO_LONG');
	await rejects(t, () => scorer.score([{ ...requests[0]!, history: [] }]), 'ERR_ALLMREC_EMPTY_HISTORY');
	const reason = new Error('enough');
	await t.throwsAsync(scorer.score(requests, { signal: AbortSignal.abort(reason) }), { is: reason });
});

test('progress counts users', async (t) => {
	const { llm, prompts, itemTokens, requests } = await world;
	const done: number[] = [];
	const scorer = new CandidateScorer(llm, prompts, { itemTokens, tokensPerBatch: 1 });
	await scorer.score(requests, {
		onProgress: (progress) => {
			t.like(progress, { stage: 'score', unit: 'users', total: 5 });
			done.push(progress.done);
		},
	});
	t.deepEqual(done, [1, 2, 3, 4, 5]);
});
