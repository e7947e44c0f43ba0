import test from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import type { GeneratedPiece, GenerateOptions, TokenPrompt } from '../../lib/llm/generation.js';
import { ragged, Session } from '../../lib/native/session.js';
import { rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';

const source = tinyLlm({ maxPositions: 64 });
const load = async (options: object = {}) => CausalLM.load(await source, { ...CPU, ...options });

const PROMPTS: TokenPrompt[] = [
	{ ids: [2, 40, 50, 60] },
	{ ids: [2, 300] },
	{ ids: [2, 7, 8, 9, 10, 11, 12, 13] },
	{ ids: [2, 90, 91] },
	{ ids: [2, 33, 44, 55, 66] },
];

/** Logits after the last of the ids, in double precision from float32. */
async function logitsAfter(llm: CausalLM, ids: readonly number[]): Promise<number[]> {
	const { offsets, values } = ragged([ids]);
	const last = Int32Array.of(ids.length - 1);
	return [...(await llm.native.logits({ ids: values, offsets }, new Float32Array(0), last))];
}

function logSoftmax(logits: readonly number[]): number[] {
	const most = Math.max(...logits);
	const sum = most + Math.log(logits.reduce((total, x) => total + Math.exp(x - most), 0));
	return logits.map((x) => x - sum);
}

async function collect(pieces: AsyncIterable<GeneratedPiece>): Promise<GeneratedPiece[]> {
	const all: GeneratedPiece[] = [];
	for await (const piece of pieces) all.push(piece);
	return all;
}

const joined = (pieces: readonly GeneratedPiece[]) => pieces.map(({ text }) => text).join('');

test('a result has text, ids, why it ended and its log-probability', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const options = { maxNewTokens: 6, eosId: -1 };
	const results = await llm.generate(PROMPTS, options);
	for (const [i, result] of results.entries()) {
		const ids = [...(PROMPTS[i]!.ids as number[])];
		let logProb = 0;
		for (const id of result.ids) {
			logProb += logSoftmax(await logitsAfter(llm, ids))[id]!;
			ids.push(id);
		}
		// Six log-probabilities of some units in float32.
		t.true(Math.abs(result.logProb - logProb) < 1e-4);
		t.is(result.score, result.logProb);
		t.is(result.finishReason, 'length');
		t.is(result.text, llm.tokenizer.decode(result.ids));
		t.deepEqual(result.others, []);
		t.is(result.entry, undefined);
	}
	const eosId = results[0]!.ids[2]!;
	const ended = await llm.generate(PROMPTS[0]!, { maxNewTokens: 6, eosId });
	t.is(ended.finishReason, 'eos');
	t.is(ended.ids.at(-1), eosId);
	t.deepEqual(await llm.generate([], options), []);
	t.is((await llm.generate(PROMPTS[0]!, { maxNewTokens: 0 })).finishReason, 'length');
});

test('requests beyond the slots wait, and nothing depends on what runs beside', async (t) => {
	const wide = await load();
	const narrow = await load({ generationSlots: 4 });
	t.teardown(() => wide.dispose());
	t.teardown(() => narrow.dispose());
	const kinds: GenerateOptions[] = [
		{ maxNewTokens: 9, eosId: -1 },
		{ maxNewTokens: 5, repetitionPenalty: 1.4 },
		{ maxNewTokens: 7, numBeams: 3, numReturnSequences: 2, eosId: 60 },
		{ maxNewTokens: 8, doSample: true, temperature: 1.3, topP: 0.9, seed: 7, numReturnSequences: 2 },
		{ maxNewTokens: 6, trie: await wide.trie([' "A', ' "B C', ' "Some other"', ' "Some more"']) },
	];
	const alone = [];
	for (const options of kinds) for (const prompt of PROMPTS) alone.push(await wide.generate(prompt, options));
	for (const llm of [wide, narrow]) {
		const together = await Promise.all(
			kinds.flatMap((options) => PROMPTS.map((prompt) => llm.generate(prompt, options))),
		);
		for (const [i, { ids, text, finishReason, others }] of together.entries()) {
			t.deepEqual(ids, alone[i]!.ids, `${llm === wide ? 'wide' : 'narrow'} ${i}`);
			t.is(text, alone[i]!.text);
			t.is(finishReason, alone[i]!.finishReason);
			t.deepEqual(
				others.map((other) => other.ids),
				alone[i]!.others.map((other) => other.ids),
			);
		}
	}
	await rejects(
		t,
		() => narrow.generate(PROMPTS[0]!, { numBeams: 5 }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/5 sequences.*4 slots/,
	);
});

test.serial('memory of the cache is given back when nothing runs', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const session = Session.open(CPU);
	t.teardown(() => session.release());
	const before = (await session.engine.memory()).inUse;
	await llm.generate(PROMPTS, { maxNewTokens: 40, eosId: -1 });
	t.is((await session.engine.memory()).inUse, before);
	for await (const _ of llm.stream(PROMPTS[0]!, { maxNewTokens: 40, eosId: -1 })) break;
	await llm.generate(PROMPTS[0]!, { maxNewTokens: 1 });
	t.is((await session.engine.memory()).inUse, before);
});

test('what is drawn follows the distribution: temperature, top-k', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const prompt = { ids: [2, 40, 50, 60] };
	const [temperature, topK, perCall, calls] = [1.7, 8, 32, 125];
	const logits = await logitsAfter(llm, prompt.ids);
	const kept = [...logits.keys()].sort((a, b) => logits[b]! - logits[a]!).slice(0, topK);
	const probabilities = logSoftmax(kept.map((id) => logits[id]! / temperature)).map(Math.exp);
	const counts = new Map(kept.map((id) => [id, 0]));
	const options = { maxNewTokens: 1, eosId: -1, doSample: true, temperature, topK };
	const results = await Promise.all(
		Array.from({ length: calls }, (_, seed) =>
			llm.generate(prompt, { ...options, seed, numReturnSequences: perCall }),
		),
	);
	for (const { ids, others } of results)
		for (const one of [ids, ...others.map((other) => other.ids)]) {
			t.true(counts.has(one[0]!), 'only the top k are drawn');
			counts.set(one[0]!, counts.get(one[0]!)! + 1);
		}
	const drawn = perCall * calls;
	const chiSquare = kept.reduce((sum, id, i) => {
		const mean = drawn * probabilities[i]!;
		return sum + (counts.get(id)! - mean) ** 2 / mean;
	}, 0);
	// 99.9 % of the chi-square distribution of 7 degrees of freedom.
	t.true(chiSquare < 24.32, `chi-square ${chiSquare}`);
});

test('top-p draws from the smallest set that reaches it, after temperature and penalty', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const ids = [2, 40, 50, 60];
	const [temperature, topP, repetitionPenalty] = [0.8, 0.6, 1.5];
	const logits = (await logitsAfter(llm, ids)).map((x, id) =>
		ids.includes(id) ? (x < 0 ? x * repetitionPenalty : x / repetitionPenalty) : x,
	);
	const p = logSoftmax(logits.map((x) => x / temperature)).map(Math.exp);
	const order = [...p.keys()].sort((a, b) => p[b]! - p[a]!);
	let sum = 0;
	const nucleus = new Set(
		order.filter((id) => {
			const inside = sum < topP;
			sum += p[id]!;
			return inside;
		}),
	);
	const options = { maxNewTokens: 1, doSample: true, temperature, topP, repetitionPenalty, eosId: -1 };
	const seen = new Set<number>();
	for (let seed = 0; seed < 40; seed++) {
		const result = await llm.generate({ ids }, { ...options, seed, numReturnSequences: 32 });
		for (const one of [result, ...result.others]) seen.add(one.ids[0]!);
	}
	t.true([...seen].every((id) => nucleus.has(id)));
	// The likeliest tokens of it are all drawn in 1280 draws.
	t.true([...nucleus].filter((id) => p[id]! > 0.02).every((id) => seen.has(id)));
});

test('a seed gives the same text every time, another one another', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const options = { maxNewTokens: 12, eosId: -1, doSample: true, temperature: 1.5 };
	const first = await llm.generate(PROMPTS, { ...options, seed: 1 });
	t.deepEqual(await llm.generate(PROMPTS, { ...options, seed: 1 }), first);
	const [again, other] = await Promise.all([
		llm.generate(PROMPTS[2]!, { ...options, seed: 1 }),
		llm.generate(PROMPTS[2]!, { ...options, seed: 2 }),
	]);
	t.deepEqual(again!.ids, first[2]!.ids);
	t.notDeepEqual(other!.ids, first[2]!.ids);
	const [cold] = await llm.generate([PROMPTS[2]!], { ...options, temperature: 1e-4 });
	t.deepEqual(cold!.ids, (await llm.generate(PROMPTS[2]!, { maxNewTokens: 12, eosId: -1 })).ids);
});

test('stop strings are found across tokens, stop tokens as they are', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const options = { maxNewTokens: 20, eosId: -1, doSample: true, temperature: 2, seed: 3 };
	const free = await llm.generate(PROMPTS[0]!, options);
	const pieces = [...free.ids].map((id) => llm.tokenizer.decode([id]));
	// A string that begins in the middle of one token and ends in the middle of a later one.
	const at = pieces.findIndex(
		(piece, i) => i > 2 && /^[\x20-\x7e]{2,}$/.test(piece) && /^[\x20-\x7e]{2,}$/.test(pieces[i + 1] ?? ''),
	);
	t.true(at > 0);
	const stop = pieces[at]!.slice(1) + pieces[at + 1]![0];
	const end = free.text.indexOf(stop);
	const stopped = await llm.generate(PROMPTS[0]!, { ...options, stop: ['never said', stop] });
	t.is(stopped.finishReason, 'stop');
	t.is(stopped.text, free.text.slice(0, end));
	t.deepEqual(stopped.ids, free.ids.slice(0, stopped.ids.length));
	t.true(stopped.ids.length <= at + 2);
	const streamed = await collect(llm.stream(PROMPTS[0]!, { ...options, stop: [stop] }));
	t.is(joined(streamed), stopped.text);
	t.is(streamed.at(-1)!.finishReason, 'stop');
	const tokens = [...free.ids.slice(4, 6)];
	const byTokens = await llm.generate(PROMPTS[0]!, { ...options, stop: [tokens] });
	t.is(byTokens.finishReason, 'stop');
	t.deepEqual([...byTokens.ids.slice(-2)], tokens);
	t.is(byTokens.text, llm.tokenizer.decode(byTokens.ids.slice(0, -2)));
	t.is(joined(await collect(llm.stream(PROMPTS[0]!, { ...options, stop: [tokens] }))), byTokens.text);
	// Beams end there too: no text goes on behind it.
	for (const prompt of PROMPTS) {
		const searched = await llm.generate(prompt, {
			maxNewTokens: 20,
			eosId: -1,
			numBeams: 4,
			numReturnSequences: 4,
			stop: ['e'],
		});
		for (const { text, ids, finishReason } of [searched, ...searched.others]) {
			t.false(text.includes('e'));
			const whole = llm.tokenizer.decode(ids);
			t.is(whole.includes('e'), finishReason === 'stop');
			t.false(llm.tokenizer.decode(ids.slice(0, -1)).includes('e'));
		}
	}
});

test('a stream gives the same text in pieces, whole characters only', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const options = { maxNewTokens: 10, eosId: -1 };
	const whole = await llm.generate(PROMPTS[1]!, options);
	const pieces = await collect(llm.stream(PROMPTS[1]!, options));
	t.deepEqual(
		pieces.map(({ id }) => id),
		[...whole.ids],
	);
	t.is(joined(pieces), whole.text);
	t.true(Math.abs(pieces.reduce((sum, { logProb }) => sum + logProb, 0) - whole.logProb) < 1e-6);
	t.deepEqual(
		pieces.map(({ finishReason }) => finishReason),
		[...new Array(9).fill(undefined), 'length'],
	);
	const answer = ' "Amélie 日本語 😀 – fin"';
	const trie = await llm.trie([answer]);
	const forced = await collect(llm.stream(PROMPTS[0]!, { trie, maxNewTokens: 60 }));
	t.true(forced.length > [...answer].length / 2 && forced.some(({ text }) => text === ''));
	t.true(forced.every(({ text }) => !text.includes('\uFFFD')));
	t.is(joined(forced), answer);
	// Cut within a character, the rest of it is what a decoder makes of it.
	const bytes = llm.tokenizer.encodeText(' 😀');
	const cut = await llm.trie([bytes]);
	const half = { trie: cut, maxNewTokens: bytes.length - 1 };
	const result = await llm.generate(PROMPTS[0]!, half);
	t.is(result.finishReason, 'length');
	t.is(result.text, llm.tokenizer.decode(result.ids));
	t.is(joined(await collect(llm.stream(PROMPTS[0]!, half))), result.text);
});

test('leaving a stream, aborting it, and aborting a call end the work', async (t) => {
	const llm = await load({ generationSlots: 1 });
	t.teardown(() => llm.dispose());
	const options = { maxNewTokens: 50, eosId: -1 };
	const whole = await llm.generate(PROMPTS[0]!, options);
	let left = 0;
	for await (const { id } of llm.stream(PROMPTS[0]!, options)) {
		t.is(id, whole.ids[left]!);
		if (++left === 3) break;
	}
	// There is one slot only: the next call runs once the stream has left it.
	t.deepEqual((await llm.generate(PROMPTS[0]!, options)).ids, whole.ids);

	const reason = new Error('enough');
	for (const onAbort of ['throw', 'return'] as const) {
		const controller = new AbortController();
		const got: number[] = [];
		const loop = async () => {
			for await (const { id } of llm.stream(PROMPTS[0]!, {
				...options,
				signal: controller.signal,
				onAbort,
			})) {
				got.push(id);
				if (got.length === 2) controller.abort(reason);
			}
		};
		if (onAbort === 'throw') await t.throwsAsync(loop, { is: reason });
		else await loop();
		t.true(got.length >= 2 && got.length < 50);
		t.deepEqual(got, [...whole.ids.slice(0, got.length)]);
	}

	const controller = new AbortController();
	const { signal } = controller;
	const running = llm.generate(PROMPTS, { ...options, signal });
	const waiting = llm.generate(PROMPTS[1]!, { ...options, signal, onAbort: 'return' });
	controller.abort(reason);
	await t.throwsAsync(running, { is: reason });
	const partial = await waiting;
	t.is(partial.finishReason, 'abort');
	t.true(partial.ids.length < 50);
	await t.throwsAsync(llm.generate(PROMPTS[0]!, { ...options, signal }), { is: reason });
	await t.throwsAsync(llm.stream(PROMPTS[0]!, { ...options, signal }).next(), { is: reason });
	t.deepEqual((await llm.generate(PROMPTS[0]!, options)).ids, whole.ids);
});

test('a trie confines greedy decoding and beams to its answers', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const { tokenizer } = llm;
	const answers = [' "A', ' "A B"', ' "Something"', ' "Some', ' "Zebra"', ' "A B"', ' "Nine lives"'];
	const rows = answers.map((answer) => [...tokenizer.encodeText(answer), tokenizer.eosId!]);
	const trie = await llm.trie(answers);
	t.like(trie, { size: 7, eosId: tokenizer.eosId, depth: Math.max(...rows.map(({ length }) => length)) });
	const children = (path: readonly number[]) => [
		...new Set(rows.filter((row) => path.every((id, i) => row[i] === id)).map((row) => row[path.length]!)),
	];
	for (const { ids: prompt } of PROMPTS) {
		// log p of every answer, normalised over the children of each node.
		const logProbs = await Promise.all(
			rows.map(async (row) => {
				let sum = 0;
				for (let i = 0; i < row.length; i++) {
					const options = children(row.slice(0, i));
					if (options.length === 1) continue;
					const logits = await logitsAfter(llm, [...(prompt as number[]), ...row.slice(0, i)]);
					sum += logSoftmax(options.map((id) => logits[id]!))[options.indexOf(row[i]!)]!;
				}
				return sum;
			}),
		);
		const path: number[] = [];
		while (path.at(-1) !== tokenizer.eosId) {
			const logits = await logitsAfter(llm, [...(prompt as number[]), ...path]);
			path.push(children(path).reduce((best, id) => (logits[id]! > logits[best]! ? id : best)));
		}
		const greedy = await llm.generate({ ids: prompt }, { trie });
		t.deepEqual([...greedy.ids], path);
		t.is(greedy.finishReason, 'eos');
		t.is(greedy.text, answers[greedy.entry!]!);
		t.true(Math.abs(greedy.logProb - logProbs[greedy.entry!]!) < 1e-4);
		// With as many beams as answers nothing is lost: all of them, by score. Equal answers are one.
		const distinct = [0, 1, 2, 3, 4, 6];
		const best = await llm.generate(
			{ ids: prompt },
			{ trie, numBeams: 8, numReturnSequences: 6, earlyStopping: 'never', lengthPenalty: 0 },
		);
		const found = [best, ...best.others];
		t.deepEqual(
			found.map(({ entry }) => entry),
			distinct.sort((a, b) => logProbs[b]! - logProbs[a]!),
		);
		for (const { entry, logProb, score } of found) {
			t.true(Math.abs(logProb - logProbs[entry!]!) < 1e-4);
			t.true(Math.abs(score - logProb) < 1e-5);
		}
		const sampled = await llm.generate({ ids: prompt }, { trie, doSample: true, numReturnSequences: 16 });
		t.true([sampled, ...sampled.others].every(({ text, entry }) => text === answers[entry!]));
	}
	t.is((await llm.generate(PROMPTS[0]!, { trie, maxNewTokens: 1 })).entry, undefined);
	await rejects(t, () => llm.trie([]), 'ERR_ALLMREC_INVALID_ARGUMENT');
	await rejects(t, () => llm.trie(['']), 'ERR_ALLMREC_INVALID_ARGUMENT', /Sequence 0 .* empty/);
	await rejects(t, () => llm.trie([[5, 2]]), 'ERR_ALLMREC_INVALID_ARGUMENT', /token 2/);
	const foreign = await llm.trie([[9999]]);
	await rejects(
		t,
		() => llm.generate(PROMPTS[0]!, { trie: foreign }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/9999/,
	);
	await rejects(t, () => llm.generate(PROMPTS[0]!, { trie, eosId: 5 }), 'ERR_ALLMREC_INVALID_ARGUMENT');
});

test('a text ends at the last position', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const ids = Array.from({ length: 60 }, () => 5);
	for (const options of [{}, { numBeams: 3 }, { repetitionPenalty: 1.2 }]) {
		const result = await llm.generate({ ids }, { ...options, maxNewTokens: 99, eosId: -1 });
		t.is(result.ids.length, 4);
		t.is(result.finishReason, 'length');
	}
	const full = { ids: [...ids, 5, 5, 5, 5] };
	await rejects(t, () => llm.generate([PROMPTS[0]!, full]), 'ERR_ALLMREC_PROMPT_TOO_LONG');
});

test('options that mean nothing are named', async (t) => {
	const llm = await load();
	t.teardown(() => llm.dispose());
	const wrong: [GenerateOptions, RegExp][] = [
		[{ temperature: 0.5 }, /`doSample`.*`temperature`/],
		[{ lengthPenalty: 2 }, /`numBeams`.*`lengthPenalty`/],
		[{ doSample: true, temperature: 0 }, /temperature/],
		[{ doSample: true, topP: 1.5 }, /topP/],
		[{ doSample: true, topK: -1 }, /topK/],
		[{ doSample: true, seed: -1 }, /seed/],
		[{ doSample: true, numBeams: 2 }, /sample/],
		[{ numBeams: 0 }, /beams/],
		[{ numBeams: 2, earlyStopping: 'always' as never }, /earlyStopping/],
		[{ numReturnSequences: 2 }, /sequences/],
		[{ numBeams: 2, numReturnSequences: 3 }, /sequences/],
		[{ stop: [''] }, /`stop`/],
		[{ stop: [[]] }, /`stop`/],
		[{ repetitionPenalty: 0 }, /repetitionPenalty/],
		[{ onAbort: 'ignore' as never }, /onAbort/],
	];
	for (const [options, message] of wrong)
		await rejects(t, () => llm.generate(PROMPTS[0]!, options), 'ERR_ALLMREC_INVALID_ARGUMENT', message);
	await rejects(
		t,
		() => collect(llm.stream(PROMPTS[0]!, { numBeams: 2 })),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/streamed/,
	);
	// One wrong prompt among good ones: nothing runs.
	await rejects(t, () => llm.generate([PROMPTS[0]!, { ids: [999] }]), 'ERR_ALLMREC_INVALID_ARGUMENT');
	t.is((await llm.generate(PROMPTS[0]!, { maxNewTokens: 2, eosId: -1 })).ids.length, 2);
});

test('what runs at dispose is finished, what comes after is refused', async (t) => {
	const llm = await load();
	const expected = await llm.generate(PROMPTS[0]!, { maxNewTokens: 20, eosId: -1 });
	const running = llm.generate(PROMPTS[0]!, { maxNewTokens: 20, eosId: -1 });
	llm.dispose();
	t.deepEqual(await running, expected);
	await rejects(t, () => llm.generate(PROMPTS[0]!), 'ERR_ALLMREC_DISPOSED');
	t.throws(() => llm.stream(PROMPTS[0]!), { code: 'ERR_ALLMREC_DISPOSED' });
});
