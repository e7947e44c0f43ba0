import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { type Prompt, PromptBuilder, type PromptBuilderOptions } from '../../lib/llm/prompt.js';
import type { PromptTemplate } from '../../lib/llm/prompt-template.js';
import { genreTemplate, recommendationTemplate, referenceTemplate } from '../../lib/llm/prompt-template.js';
import { TitleStore } from '../../lib/llm/title-store.js';
import { CandidateScorer } from '../../lib/recommend/scorer.js';
import { HOSTILE, HUGE, hostileTexts } from '../support/hostile-text.js';
import { held, LONG, times } from '../support/reliability.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';

const loaded = (async () => CausalLM.load(await tinyLlm({ maxPositions: 1024 }), CPU))();
test.after.always(async () => (await loaded).dispose());

/** Index 0 is padding. */
const titles = ['', ...HOSTILE, ...Object.values(HUGE), ...hostileTexts(times(200, 2000), 7)];
const plain = titles.map((_, i) => `Title ${i}`);
const items = Array.from({ length: titles.length - 1 }, (_, i) => i + 1);

/** Words of a template are a user's own, too. */
const words = { past: '</s>[CandidateEmb]{noun}', noun: '"\n\0\u202e$&', verb: '[UserRep]' };

const templates: Record<string, PromptTemplate> = {
	recommendation: recommendationTemplate('game'),
	reference: referenceTemplate('movie'),
	genre: genreTemplate('item'),
	'hostile words': recommendationTemplate(words),
	'hostile lists': {
		...recommendationTemplate(words),
		answer: { before: '</s>', open: '[SEP]', close: '' },
		parts: recommendationTemplate(words).parts.map((part) =>
			part.type === 'candidates' || part.type === 'history'
				? { ...part, before: '[UserRep]', separator: '</s>', open: '\n', close: '[CandidateEmb]' }
				: part,
		),
	},
};

const builderOptions: PromptBuilderOptions[] = [
	{},
	{ withoutUser: true },
	{ withoutItemSlots: true },
	{ withoutTitles: true },
];

/** Soft rows as they stand in the ids, and the lengths of what lies between them. */
function slotsOf({ ids }: Prompt): { rows: number[]; between: Int32Array[] } {
	const places = [...ids.keys()].filter((at) => ids[at]! < 0);
	const ends = [-1, ...places];
	const between = ends.map((at, k) => ids.subarray(at + 1, places[k] ?? ids.length));
	return { rows: places.map((at) => ids[at]!), between };
}

test('slots follow from the structure of a prompt alone, whatever stands in titles and words', async (t) => {
	const { tokenizer } = await loaded;
	const random = new SeededRandom(3);
	const draw = (count: number) => Int32Array.from({ length: count }, () => items[random.int(items.length)]!);
	let prompts = 0;
	for (const [name, template] of Object.entries(templates)) {
		const hostileStore = await TitleStore.create(tokenizer, titles, template);
		const plainStore = await TitleStore.create(tokenizer, plain, template);
		for (const options of builderOptions) {
			const hostile = new PromptBuilder(hostileStore, { ...options, maxPositions: 1e6 });
			const harmless = new PromptBuilder(plainStore, { ...options, maxPositions: 1e6 });
			const lists = name !== 'genre';
			for (let i = 0; i < times(25, 500); i++) {
				const request = {
					history: draw(1 + random.int(12)),
					candidates: lists ? draw(1 + random.int(20)) : [],
				};
				const prompt = hostile.build(request);
				const expected = harmless.build(request);
				const { rows, between } = slotsOf(prompt);
				t.deepEqual(prompt.slots, expected.slots);
				t.deepEqual(
					rows,
					prompt.slots.map((_, k) => -k - 1),
				);
				// Where titles are left out, nothing of a prompt depends on them.
				if (options.withoutTitles) t.deepEqual(prompt.ids, expected.ids);
				// BOS is the only special token, and stands where the template has it.
				const special = Array.from(prompt.ids).filter((id) => id >= 0 && id <= 3);
				t.deepEqual(special, [tokenizer.bosId]);
				t.is(between.length, rows.length + 1);
				prompts++;
			}
		}
	}
	held(
		'Text',
		'Slots of a prompt follow from its structure alone: text neither adds, moves nor removes one.',
		{
			prompts,
			titles: titles.length - 1,
			'slots moved': 0,
		},
	);
});

test('between two slots stands one title, as it is, to the character', async (t) => {
	const { tokenizer } = await loaded;
	const short = ['', ...titles.slice(1).filter((title) => Buffer.byteLength(title) < 100)];
	const store = await TitleStore.create(tokenizer, short, templates.recommendation!, { maxTokens: 400 });
	const builder = new PromptBuilder(store, { maxPositions: 1e6 });
	for (let item = 1; item + 2 < short.length; item += 3) {
		const prompt = builder.build({ history: [item], candidates: [item + 1, item + 2] });
		const texts = slotsOf(prompt).between.map((ids) => Buffer.from(tokenizer.decode(ids)).toString());
		const well = (i: number) => Buffer.from(short[i]!).toString();
		t.is(
			texts[1],
			` is a user representation. This user has played "${well(item)}"`,
			'BOS is special, so decoding leaves it out',
		);
		t.true(texts[2]!.endsWith(` title set, "${well(item + 1)}"`));
		t.is(texts[3], `,"${well(item + 2)}"`);
		t.is(texts[4], '. The recommendation is');
	}
});

test('long titles are cut to 128 tokens and never push a slot out of the window', async (t) => {
	const { tokenizer } = await loaded;
	const store = await TitleStore.create(tokenizer, titles, templates.recommendation!);
	const close = Array.from(tokenizer.encodeText('"'));
	for (const item of items)
		for (const place of ['history-next', 'candidates-first', 'answer'] as const) {
			const ids = store.title(item, place);
			t.true(ids.length <= 128);
			if (ids.length === 128) t.deepEqual(Array.from(ids.subarray(-close.length)), close);
		}
	const random = new SeededRandom(4);
	const long = items.filter((item) => store.title(item, 'answer').length === 128);
	t.true(long.length > 10);
	for (let i = 0; i < times(100, 2000); i++) {
		const maxPositions = 330 + random.int(670);
		const builder = new PromptBuilder(store, { maxPositions });
		const history = Array.from({ length: 10 }, () => long[random.int(long.length)]!);
		const candidates = Array.from({ length: 20 }, () => long[random.int(long.length)]!);
		const prompt = builder.build({ history, candidates });
		t.true(prompt.ids.length + 129 <= maxPositions);
		t.is(prompt.slots.length, 1 + prompt.history.length + 20);
		t.is(slotsOf(prompt).rows.length, prompt.slots.length);
		t.deepEqual(prompt.candidates, candidates);
	}
});

test('a candidate is scored to its end: all its tokens, and EOS once', async (t) => {
	const llm = await loaded;
	const { tokenizer, tokenSize } = llm;
	const store = await TitleStore.create(tokenizer, titles, templates.recommendation!);
	const builder = new PromptBuilder(store, { maxPositions: 1024 });
	const random = new SeededRandom(5);
	const normal = (count: number) => Float32Array.from({ length: count }, () => random.normal());
	const itemTokens = normal(titles.length * tokenSize);
	const user = normal(tokenSize);
	const scorer = new CandidateScorer(llm, builder, { itemTokens });
	let scored = 0;
	let worst = 0;
	for (let first = 0; first + 8 <= (LONG ? items.length : HOSTILE.length); first += 8) {
		const candidates = items.slice(first, first + 8);
		const history = items.slice(first, first + 3);
		const { sum, mean } = await scorer.score([{ history, candidates, user }]);
		const prompt = builder.build({ history, candidates });
		const answers = candidates.map((item) => builder.answer(item));
		for (const [i, answer] of answers.entries()) {
			t.deepEqual(
				Array.from(answer).filter((id) => id <= 3),
				[tokenizer.eosId],
			);
			t.is(answer.at(-1), tokenizer.eosId);
			const title = ` "${titles[candidates[i]!]!}"`;
			const bare = Array.from(tokenizer.encodeText(title));
			if (bare.length <= 128) t.deepEqual(Array.from(answer.subarray(0, -1)), bare);
		}
		const soft = new Float32Array(prompt.slots.length * tokenSize);
		for (const [k, slot] of prompt.slots.entries())
			soft.set(
				slot.kind === 'user' ? user : itemTokens.subarray(slot.item * tokenSize, (slot.item + 1) * tokenSize),
				k * tokenSize,
			);
		const reference = await llm.scoreCandidates(prompt.ids, answers, { soft });
		for (let i = 0; i < 8; i++) {
			t.true(Number.isFinite(sum[i]!));
			// float32 sums of up to 129 terms, computed in another order.
			worst = Math.max(worst, Math.abs(sum[i]! - reference.sum[i]!) / answers[i]!.length);
			t.true(Math.abs(mean[i]! * answers[i]!.length - sum[i]!) < 1e-3 * answers[i]!.length);
		}
		scored += 8;
	}
	t.true(worst < 2e-5, `${worst}`);
	held('Text', 'A candidate is scored to its end, whatever its title holds: all its tokens, then EOS once.', {
		candidates: scored,
		'worst difference per token from ids scored directly': worst.toExponential(1),
	});
});

test('items of one title get one score, to the bit', async (t) => {
	const llm = await loaded;
	const same = [
		'',
		'A "title"</s>',
		'Other',
		'A "title"</s>',
		'x'.repeat(5000),
		`${'x'.repeat(5000)} different`,
	];
	const store = await TitleStore.create(llm.tokenizer, same, templates.recommendation!);
	const builder = new PromptBuilder(store, { maxPositions: 1024, withoutItemSlots: true, withoutUser: true });
	const scorer = new CandidateScorer(llm, builder);
	const { sum } = await scorer.score([{ history: [2], candidates: [1, 2, 3, 4, 5] }]);
	t.is(sum[0], sum[2]);
	t.not(sum[0], sum[1]);
	t.is(sum[3], sum[4], 'cut to the same tokens');
});

test('answers confined to titles lead back to their items', async (t) => {
	const llm = await loaded;
	const store = await TitleStore.create(llm.tokenizer, titles, templates.recommendation!);
	const chosen = items.slice(0, HOSTILE.length);
	const answers = chosen.map((item) => store.title(item, 'answer'));
	const byIds = new Map<string, number[]>();
	for (const [entry, ids] of answers.entries())
		byIds.set(String(ids), [...(byIds.get(String(ids)) ?? []), entry]);
	const trie = await llm.trie(answers);
	const prompt = llm.tokenizer.encodeWithSpecials('The recommendation is');
	const { others, ...best } = await llm.generate(
		{ ids: prompt },
		{ trie, numBeams: 32, numReturnSequences: 32, earlyStopping: 'never', maxNewTokens: 400 },
	);
	const found = [best, ...(others ?? [])].filter(({ entry }) => entry !== undefined);
	t.true(found.length >= 16, `${found.length}`);
	for (const { entry, ids } of found) {
		const entries = byIds.get(String(Array.from(ids).slice(0, -1)));
		t.true(entries?.includes(entry!), `entry ${entry}`);
	}
	// Each answer alone is what a trie of it leads to.
	for (const [i, item] of chosen.entries()) {
		if (i % times(9, 1) !== 0) continue;
		const alone = await llm.trie([answers[i]!]);
		const { ids, entry } = await llm.generate({ ids: prompt }, { trie: alone, maxNewTokens: 400 });
		t.is(entry, 0);
		t.deepEqual(Array.from(ids), Array.from(store.answer(item)));
	}
});
