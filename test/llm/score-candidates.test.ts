import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { ragged } from '../../lib/native/session.js';
import { rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const loaded = (async () => CausalLM.load(await tinyLlm(), CPU))();
test.after.always(async () => (await loaded).dispose());

const random = new SeededRandom(11);
const SOFT = 3;

async function material(count: number) {
	const llm = await loaded;
	const token = () => 4 + random.int(llm.config.vocabSize - 4);
	const prompt = Array.from({ length: 40 }, token);
	for (let k = 0; k < SOFT; k++) prompt[5 + 7 * k] = -k - 1;
	const soft = Float32Array.from({ length: SOFT * llm.tokenSize }, () => random.normal());
	const answers = Array.from({ length: count }, () => Array.from({ length: 1 + random.int(9) }, token));
	return { llm, prompt, soft, answers };
}

/** A candidate as a sequence of its own: plain positions, plain causal attention. */
async function alone(
	llm: CausalLM,
	prompt: readonly number[],
	soft: Float32Array,
	answer: readonly number[],
) {
	const { offsets, values } = ragged([[...prompt, ...answer.slice(0, -1)]]);
	const rows = Int32Array.from(answer, (_, i) => prompt.length - 1 + i);
	const pairs = Int32Array.from(answer.keys());
	const values64 = await llm.logProbs({ ids: values, offsets }, soft, rows, pairs, Int32Array.from(answer));
	return values64.reduce((a, b) => a + b, 0);
}

for (const count of [1, 20, 300])
	test(`${count} candidates score as each alone, in one sequence and in groups behind the same prompt`, async (t) => {
		const { llm, prompt, soft, answers } = await material(count);
		const expected = await Promise.all(answers.map((answer) => alone(llm, prompt, soft, answer)));
		const means = expected.map((sum, i) => sum / answers[i]!.length);
		// All at once, a few in a group, one in a group.
		for (const tokensPerBatch of [1e5, 64, 1]) {
			const { sum, mean } = await llm.scoreCandidates(prompt, answers, { soft, tokensPerBatch });
			t.is(sum.length, count);
			// float32 sums of at most nine terms of about 6, computed in another order.
			t.true(maxDifference(mean, means) < 1e-5, `${tokensPerBatch}: ${maxDifference(mean, means)}`);
			t.true(maxDifference(sum, expected) < 1e-5 * 9, `${tokensPerBatch}`);
		}
	});

test('a prompt that is too long loses what follows its first token', async (t) => {
	const { llm, prompt, soft, answers } = await material(5);
	const longest = answers.reduce((most, { length }) => Math.max(most, length), 0);
	const room = llm.maxPositions - longest + 1;
	const long = [2, ...Array.from({ length: llm.maxPositions }, (_, i) => 4 + (i % 50)), ...prompt];
	const cut = [2, ...long.slice(long.length - room + 1)];
	t.is(cut.length, room);
	const whole = await llm.scoreCandidates(long, answers, { soft });
	t.deepEqual(whole, await llm.scoreCandidates(cut, answers, { soft }));
	const everything = Array.from({ length: llm.maxPositions + 1 }, () => 5);
	await rejects(t, () => llm.scoreCandidates(prompt, [everything], { soft }), 'ERR_ALLMREC_PROMPT_TOO_LONG');
});

test('texts are tokenised, with EOS behind candidates', async (t) => {
	const { llm } = await material(0);
	const { encodeText, encodeWithSpecials } = {
		encodeText: (text: string) => llm.tokenizer.encodeText(text),
		encodeWithSpecials: (text: string) => llm.tokenizer.encodeWithSpecials(text),
	};
	const candidates = [' the crypt', ' a garden of roads'];
	const ids = candidates.map((text) => [...encodeText(text), llm.tokenizer.eosId!]);
	t.deepEqual(
		await llm.scoreCandidates('I would like', candidates),
		await llm.scoreCandidates(encodeWithSpecials('I would like'), ids),
	);
});

test('no candidates, empty ones, and an abort', async (t) => {
	const { llm, prompt, soft, answers } = await material(3);
	t.deepEqual(await llm.scoreCandidates(prompt, [], { soft }), {
		sum: new Float32Array(0),
		mean: new Float32Array(0),
	});
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => llm.scoreCandidates(prompt, [[4], []], { soft }), code, /candidates\[1\]/);
	await rejects(t, () => llm.scoreCandidates([], answers), code, /prompt/);
	await rejects(t, () => llm.scoreCandidates(prompt, answers, { soft, tokensPerBatch: 0 }), code);
	await rejects(t, () => llm.scoreCandidates(prompt, answers), code, /soft/);
	await rejects(t, () => llm.scoreCandidates(prompt, [[1e6]], { soft }), code, /answers/);
	const reason = new Error('enough');
	await t.throwsAsync(llm.scoreCandidates(prompt, answers, { soft, signal: AbortSignal.abort(reason) }), {
		is: reason,
	});
});
