import test from 'ava';
import type { ALLMRecError } from '../../lib/errors.js';
import { trainByteLevelBpe, writeByteLevelBpe } from '../../lib/llm/bpe-trainer.js';
import type { Prompt, PromptBuilderOptions } from '../../lib/llm/prompt.js';
import { PromptBuilder } from '../../lib/llm/prompt.js';
import { packBatch, packCandidates, packTraining } from '../../lib/llm/prompt-packing.js';
import { genreTemplate, recommendationTemplate, referenceTemplate } from '../../lib/llm/prompt-template.js';
import { TitleStore } from '../../lib/llm/title-store.js';
import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import { fixture, folderOf, HOSTILE_TITLES } from '../text/fixtures.js';

const TITLES = [
	'',
	'Alien',
	'Blade Runner',
	'Casablanca',
	'Dune: Part Two',
	'E.T.',
	'Fargo',
	'Gattaca',
	'Heat',
	'Ikiru',
];
const folder = folderOf('', []);
await writeByteLevelBpe(folder, trainByteLevelBpe(TITLES, { vocabSize: 300, minFrequency: 1 }));
const tokenizer = await loadLanguageTokenizer(folder);
const movie = recommendationTemplate('movie');
const titles = await TitleStore.create(tokenizer, TITLES, movie);

/** A prompt as text, with its slots by name. */
function read({ ids, slots }: Pick<Prompt, 'ids' | 'slots'>): string {
	let text = '';
	let pending: number[] = [];
	const flush = () => {
		text += tokenizer.decode(pending, { skipSpecialTokens: false });
		pending = [];
	};
	for (const id of ids)
		if (id >= 0) pending.push(id);
		else {
			flush();
			const slot = slots[-id - 1]!;
			text += slot.kind === 'user' ? '[U]' : `[${slot.kind[0]}${slot.item}]`;
		}
	flush();
	return text;
}

const built = (options: PromptBuilderOptions, history: number[], candidates: number[]) =>
	read(new PromptBuilder(titles, options).build({ history, candidates }));

test('the recommendation prompt, slots where they belong', (t) => {
	const prompt = new PromptBuilder(titles).build({ history: [1, 2], candidates: [3, 4] });
	t.is(
		read(prompt),
		'[U]</s> is a user representation. This user has watched "Alien"[h1],"Blade Runner"[h2] in the previous. Recommend one next movie for this user to watch next from the following movie title set, "Casablanca"[c3],"Dune: Part Two"[c4]. The recommendation is',
	);
	t.deepEqual(Array.from(prompt.ids.subarray(0, 2)), [-1, 2]);
	t.deepEqual(prompt.slots, [
		{ kind: 'user' },
		{ kind: 'history', item: 1 },
		{ kind: 'history', item: 2 },
		{ kind: 'candidate', item: 3 },
		{ kind: 'candidate', item: 4 },
	]);
	t.deepEqual([...prompt.ids.filter((id) => id < 0)], [-1, -2, -3, -4, -5]);
	t.deepEqual(prompt.cut, { history: 0, titleTokens: undefined });
	t.is(tokenizer.decode(titles.answer(3), { skipSpecialTokens: false }), ' "Casablanca"</s>');
});

test('the last ten items of the history, a repeated item included', (t) => {
	const history = [9, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1];
	const prompt = new PromptBuilder(titles).build({ history, candidates: [1] });
	t.deepEqual(prompt.history, history.slice(2));
	t.deepEqual(prompt.cut.history, 0);
	t.regex(built({ historyLength: 1 }, history, [1]), /watched "Alien"\[h1\] in/);
});

test('ablations', (t) => {
	t.regex(built({ withoutUser: true }, [1], [2]), /^<\/s> This user has watched "Alien"\[h1\] in/);
	t.regex(
		built({ withoutItemSlots: true }, [1, 2], [3]),
		/^\[U\].*watched "Alien","Blade Runner" in.*"Casablanca"\. The/,
	);
	const llmOnly = new PromptBuilder(titles, { withoutUser: true, withoutItemSlots: true });
	t.deepEqual(llmOnly.build({ history: [1], candidates: [2] }).slots, []);
	t.regex(built({ withoutTitles: true }, [1, 2], [3, 4]), /watched\[h1\],\[h2\] in.*set,\[c3\],\[c4\]\. The/);
	t.throws(() => new PromptBuilder(titles, { withoutTitles: true, withoutItemSlots: true }));
});

test('empty history', (t) => {
	t.throws(() => built({}, [], [1]), { code: 'ERR_ALLMREC_EMPTY_HISTORY' });
	t.regex(built({ allowEmptyHistory: true }, [], [1]), /has watched nothing yet in the previous\./);
});

test('the genre task has the slots and no candidates', async (t) => {
	const store = await TitleStore.create(tokenizer, TITLES, genreTemplate('game'));
	const prompt = new PromptBuilder(store).build({ history: [1, 2] });
	t.regex(
		read(prompt),
		/^\[U\]<\/s> is a user .* has played "Alien"\[h1\],"Blade Runner"\[h2\] in .*game genres.* are$/,
	);
});

test('unknown items and missing candidates', (t) => {
	for (const item of [0, -1, 10, 1.5, Number.NaN])
		t.throws(() => built({}, [item], [1]), { code: 'ERR_ALLMREC_UNKNOWN_ITEM' });
	t.throws(() => built({ withoutTitles: true }, [1], [99]), { code: 'ERR_ALLMREC_UNKNOWN_ITEM' });
	t.throws(() => built({}, [1], []), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('the oldest history goes first, then titles shrink together, then the last history item', async (t) => {
	const long = ['', ...Array.from({ length: 30 }, (_, i) => `${'abcdefgh '.repeat(i % 2 ? 6 : 1)}${i}`)];
	const parts = movie.parts.map((part) => (part.type === 'history' ? { ...part, empty: ' -' } : part));
	const store = await TitleStore.create(tokenizer, long, { ...movie, parts });
	const [history, candidates] = [
		[1, 2, 3, 4, 5],
		[6, 7, 8],
	];
	const build = (maxPositions: number) =>
		new PromptBuilder(store, { maxPositions }).build({ history, candidates });
	const full = build(2048);
	const reserve = Math.max(...candidates.map((item) => store.answer(item).length));
	t.deepEqual(build(full.ids.length + reserve), full);
	const seen = new Set<string>();
	let last = full;
	for (let positions = full.ids.length + reserve - 1; positions > 0; positions--) {
		let prompt: Prompt;
		try {
			prompt = build(positions);
		} catch (error) {
			const { code, message } = error as ALLMRecError;
			t.is(code, 'ERR_ALLMREC_PROMPT_TOO_LONG');
			t.regex(message, new RegExp(`3 candidates.*cut to ${store.minTokens} tokens.*model has ${positions},`));
			seen.add('too long');
			break;
		}
		t.true(prompt.ids.length + reserve <= positions);
		t.deepEqual(prompt.history, history.slice(history.length - prompt.history.length));
		t.deepEqual(prompt.candidates, candidates);
		t.true(prompt.history.length <= last.history.length);
		if (prompt.cut.titleTokens !== undefined) {
			t.true(prompt.history.length <= 1);
			seen.add(prompt.history.length === 1 ? 'titles' : 'last item');
			const { titleTokens } = prompt.cut;
			for (const title of read(prompt).match(/"[^"]*"/g)!) t.true(title.length > 1, title);
			t.true(titleTokens >= store.minTokens && titleTokens < store.maxTokens);
		} else if (prompt.history.length < 5) seen.add('history');
		last = prompt;
	}
	t.deepEqual([...seen], ['history', 'titles', 'last item', 'too long']);
});

test('hostile titles are characters: as many slots and special tokens as without them', async (t) => {
	const hostile = ['', ...HOSTILE_TITLES, 'x'.repeat(100_000), '\u{1f3ae}'.repeat(25_000)];
	const store = await TitleStore.create(tokenizer, hostile, movie);
	const items = Array.from({ length: hostile.length - 1 }, (_, i) => i + 1);
	const prompt = new PromptBuilder(store, { historyLength: 100 }).build({
		history: items,
		candidates: items,
	});
	t.is(prompt.slots.length, 1 + prompt.history.length + items.length);
	t.is(prompt.ids.filter((id) => id < 0).length, prompt.slots.length);
	// BOS and nothing else.
	t.is(prompt.ids.filter((id) => id >= 0 && tokenizer.isSpecial(id)).length, 1);
	for (const item of items) {
		const answer = store.answer(item);
		t.true(answer.length <= store.maxTokens + 1);
		t.is(answer.filter((id) => tokenizer.isSpecial(id)).length, 1);
		t.is(answer.at(-1), tokenizer.eosId);
		const text = tokenizer.decode(answer);
		t.true(text.startsWith(' "') && text.endsWith('"'));
		if (hostile[item]!.length < 60) t.is(text, ` "${hostile[item]!.replace(/\p{Cs}/gu, '\ufffd')}"`);
	}
	// Cut far, it is still not a crash.
	const tight = new PromptBuilder(store, { maxPositions: 420 }).build({ history: items, candidates: items });
	t.true(tight.ids.length <= 420 && tight.slots.length === 1 + tight.history.length + items.length);
});

test('a title appended later is tokenised as if it had been there', async (t) => {
	const store = await TitleStore.create(tokenizer, TITLES.slice(0, 9), movie, { maxTokens: 8 });
	t.is(store.append(TITLES[9]!), 9);
	t.is(store.append('Dune: Part Two'.repeat(9)), 10);
	const whole = await TitleStore.create(tokenizer, [...TITLES, 'Dune: Part Two'.repeat(9)], movie, {
		maxTokens: 8,
	});
	for (let item = 1; item <= 10; item++) {
		t.deepEqual(store.answer(item), whole.answer(item));
		for (const place of ['history-first', 'history-next', 'candidates-next'] as const)
			t.deepEqual(store.title(item, place), whole.title(item, place));
	}
	t.is(store.size, 11);
	t.is(store.answer(10).length, 9);
	t.true(tokenizer.decode(store.answer(10)).endsWith('"'));
	await t.throwsAsync(TitleStore.create(tokenizer, TITLES, movie, { maxTokens: 3 }), {
		code: 'ERR_ALLMREC_INVALID_ARGUMENT',
	});
});

const shared = fixture('tok_opt');
if (shared)
	test('the reference prompt equals the authors’ text tokenised whole, slots as added tokens', async (t) => {
		const opt = await loadLanguageTokenizer(shared);
		const store = await TitleStore.create(
			opt,
			['', 'Super Mario 64', 'Zelda!', '...And more', '3D'],
			referenceTemplate('game'),
		);
		const prompt = new PromptBuilder(store, { withoutUser: false }).build({
			history: [1, 2],
			candidates: [3, 4, 1],
		});
		const whole = opt.encodeWithSpecials(
			' is a user representation.This user has played "Super Mario 64"[HistoryEmb],"Zelda!"[HistoryEmb] in the previous. Recommend one next game for this user to play next from the following game title set, "...And more"[CandidateEmb],"3D"[CandidateEmb],"Super Mario 64"[CandidateEmb]. The recommendation is ',
		);
		const [h, c] = [opt.idOf('[HistoryEmb]')!, opt.idOf('[CandidateEmb]')!];
		const kinds = { user: -1, history: h, candidate: c };
		const ours = Array.from(prompt.ids, (id) => (id < 0 ? kinds[prompt.slots[-id - 1]!.kind] : id));
		t.deepEqual(ours, [-1, ...whole]);
		const answer = opt.encodeWithSpecials('"Zelda!"</s>', { addSpecialTokens: false });
		t.deepEqual(store.answer(2), answer);
	});

test('packed candidates equal each candidate alone', (t) => {
	const builder = new PromptBuilder(titles);
	const prompt = builder.build({ history: [1, 2], candidates: [3, 4, 5] });
	const answers = [3, 4, 5].map((item) => titles.answer(item));
	const packed = packCandidates(prompt, answers);
	const P = packed.prefixLength;
	t.is(P, prompt.ids.length);
	t.deepEqual(packed.ids.subarray(0, P), prompt.ids);
	// What all answers begin with stands there once: the quote at least.
	const shared = [...answers[0]!].findIndex((token, i) => answers.some((answer) => answer[i] !== token));
	t.true(shared >= 1);
	const common = P + shared;
	t.is(packed.ids.length, common + answers.reduce((sum, { length }) => sum + length - 1 - shared, 0));
	t.deepEqual(
		packed.positions.subarray(0, common),
		Int32Array.from({ length: common }, (_, i) => i),
	);
	t.true(packed.ownBegin.subarray(0, common).every((begin) => begin === 0));
	t.true(packed.prefix.every((prefix, i) => prefix === (i < common ? 0 : common)));
	for (const [i, answer] of answers.entries()) {
		const mine = [...packed.rows.keys()].filter((row) => packed.rowCandidate[row] === i);
		// What a row sees, in order, is the prompt and the answer so far; it predicts the answer's next token.
		for (const [step, r] of mine.entries()) {
			const row = packed.rows[r]!;
			t.is(packed.rowTargets[r], answer[step]);
			t.is(packed.positions[row], P - 1 + step);
			const visible = [...packed.ids.keys()].filter(
				(j) => j < packed.prefix[row]! || (j >= packed.ownBegin[row]! && j <= row),
			);
			t.deepEqual(
				visible.map((j) => packed.ids[j]),
				[...prompt.ids, ...answer.subarray(0, step)],
			);
		}
		t.is(mine.length, answer.length);
		t.is(tokenizer.decode([...answer.subarray(0, -1)]), ` "${TITLES[3 + i]}"`);
	}
	t.throws(() => packCandidates(prompt, [new Int32Array(0)]), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
	t.deepEqual(packCandidates(prompt, []).ids, prompt.ids);
	t.deepEqual(
		[
			...packCandidates({ ids: Int32Array.of(7, 8), slots: [] }, [Int32Array.of(2), Int32Array.of(5, 2)])
				.rows,
		],
		[1, 1, 2],
	);
	// An answer that is the beginning of another shares all it reads.
	const nested = packCandidates({ ids: Int32Array.of(7, 8), slots: [] }, [
		Int32Array.of(5, 6, 9, 2),
		Int32Array.of(5, 6, 2),
	]);
	t.deepEqual([...nested.ids], [7, 8, 5, 6, 9]);
	t.deepEqual([...nested.rows], [1, 2, 3, 4, 1, 2, 3]);
	t.deepEqual([...nested.rowTargets], [5, 6, 9, 2, 5, 6, 2]);
});

test('training packs one answer, its rows in order', (t) => {
	const prompt = new PromptBuilder(titles).build({ history: [1], candidates: [2, 3] });
	const answer = titles.answer(2);
	const { ids, positions, rows, rowTargets, prefixLength } = packTraining(prompt, answer);
	t.deepEqual([...ids], [...prompt.ids, ...answer.subarray(0, -1)]);
	t.deepEqual([...positions], [...ids.keys()]);
	t.deepEqual(
		[...rows],
		Array.from(answer, (_, i) => prefixLength - 1 + i),
	);
	t.deepEqual(rowTargets, answer);
});

test('a batch is its sequences one after the other', (t) => {
	const builder = new PromptBuilder(titles);
	const sequences = [
		[[1], [2, 3]],
		[
			[4, 5, 6],
			[7, 8, 9],
		],
	].map(([history, candidates]) =>
		packCandidates(
			builder.build({ history: history!, candidates: candidates! }),
			candidates!.map((item) => titles.answer(item)),
		),
	);
	const batch = packBatch(sequences);
	t.deepEqual(
		[...batch.offsets],
		[0, sequences[0]!.ids.length, sequences[0]!.ids.length + sequences[1]!.ids.length],
	);
	t.deepEqual([...batch.slotOffsets], [0, 4, 11]);
	t.deepEqual([...batch.candidateOffsets], [0, 2, 5]);
	t.deepEqual(
		[...batch.prefixLengths],
		sequences.map(({ prefixLength }) => prefixLength),
	);
	t.deepEqual(
		[...batch.ids].filter((id) => id < 0),
		Array.from({ length: 11 }, (_, k) => -(k + 1)),
	);
	for (const [s, sequence] of sequences.entries()) {
		const [begin, end] = [batch.offsets[s]!, batch.offsets[s + 1]!];
		for (const name of ['positions', 'prefix', 'ownBegin'] as const)
			t.deepEqual(batch[name].subarray(begin, end), sequence[name]);
		for (const [i, id] of sequence.ids.entries()) {
			const packed = batch.ids[begin + i]!;
			if (id >= 0) t.is(packed, id);
			else t.is(batch.slots[-packed - 1], sequence.slots[-id - 1]);
		}
	}
	const first = sequences[0]!.rows.length;
	t.deepEqual(
		[...batch.rows.subarray(first)],
		Array.from(sequences[1]!.rows, (row) => row + batch.offsets[1]!),
	);
	t.deepEqual(
		[...batch.rowCandidate.subarray(first)],
		Array.from(sequences[1]!.rowCandidate, (i) => i + 2),
	);
	t.deepEqual(
		[...batch.logitRows],
		[...new Set(batch.rows)].sort((a, b) => a - b),
	);
	t.deepEqual(
		batch.pairRows.map((index) => batch.logitRows[index]!),
		batch.rows,
	);
	t.deepEqual([...packBatch([]).offsets], [0]);
});
