import { cp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import type { ALLMRec, UserRequest } from '../../lib/recommend/a-llm-rec.js';
import type { Recommendation } from '../../lib/recommend/lists.js';
import { loadRun } from '../../lib/recommend/run.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';
import { maxDifference } from '../support/weights.js';

const trained = tinyRun();

async function load(t: { teardown: (work: () => void) => void }, changes: object = {}): Promise<ALLMRec> {
	let { folder } = await trained;
	if (Object.keys(changes).length > 0) {
		const copy = freshPath('changed');
		await cp(folder, copy, { recursive: true });
		// Without its seal, which changes by hand would break.
		const { sha256: _, ...config } = JSON.parse(await readFile(join(copy, 'config.json'), 'utf8'));
		await writeFile(
			join(copy, 'config.json'),
			JSON.stringify({ ...config, options: { ...config.options, ...changes } }),
		);
		folder = copy;
	}
	const model = await loadRun(folder, CPU);
	t.teardown(() => model.dispose());
	return model;
}

/** All but the last item of some users. */
async function requests(): Promise<UserRequest[]> {
	const { dataset } = await trained;
	return [0, 3, 9, 20, 41].map((user) => ({
		history: [...dataset.sequence(user)].slice(0, -1).map((item) => dataset.items[item]!.id),
	}));
}

const idsOf = (lists: Recommendation[][]) => lists.map((list) => list.map(({ id }) => id));
const scoresOf = (lists: Recommendation[][]) =>
	lists.flat().flatMap(({ cf, llm, fused }) => [cf, llm, fused]);

const newItem = { id: 'new', title: 'A Game There Never Was', description: 'It came out today.' };

test('lists are ranked, without repetition, of the catalogue, and never of the history', async (t) => {
	const model = await load(t);
	const users = await requests();
	for (const by of ['fused', 'llm', 'cf'] as const) {
		const lists = await model.recommend(users, { topK: 7, by });
		t.is(lists.length, users.length);
		for (const [u, list] of lists.entries()) {
			t.deepEqual(
				list.map(({ rank }) => rank),
				[1, 2, 3, 4, 5, 6, 7],
			);
			t.is(new Set(list.map(({ id }) => id)).size, 7);
			for (const [i, place] of list.entries()) {
				t.false(users[u]!.history.includes(place.id));
				t.is(model.catalogue.item(model.catalogue.index(place.id)).title, place.title);
				t.is(place.score, place[by]);
				t.true(i === 0 || place.score <= list[i - 1]!.score);
				t.true([place.cf, place.llm, place.fused].every(Number.isFinite));
				if (by !== 'cf') t.true(place.llm < 0, 'a log-likelihood');
			}
		}
	}
});

test('a user is served alike alone and among others, and twice alike', async (t) => {
	const model = await load(t);
	const users = await requests();
	const together = await model.recommend(users);
	t.deepEqual(await model.recommend(users), together);
	for (const [u, user] of users.entries()) {
		const alone = await model.recommend([user]);
		t.deepEqual(idsOf(alone), idsOf([together[u]!]));
		t.true(maxDifference(scoresOf(alone), scoresOf([together[u]!])) < 1e-3);
	}
	t.deepEqual(await model.recommend([]), []);
});

test('candidates of one own are ranked, and nothing else', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const candidates = ['i03', 'i17', 'i44', 'i17'];
	const [list] = await model.recommend([{ ...user!, candidates }]);
	t.deepEqual(list!.map(({ id }) => id).sort(), ['i03', 'i17', 'i44']);
	const [one] = await model.recommend([{ ...user!, candidates }], { topK: 1 });
	t.deepEqual(one, list!.slice(0, 1));
	const [given, retrieved] = await model.recommend([{ ...user!, candidates }, user!]);
	t.is(given!.length, 3);
	t.is(retrieved!.length, 10);
});

test('more candidates than fit one prompt are scored in several', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const all = model.catalogue.items.slice(1).map(({ id }) => id);
	const [list] = await model.recommend([{ ...user!, candidates: all }], { topK: 1000, by: 'llm' });
	t.is(list!.length, 50);
	const [wide] = await model.recommend([user!], { topK: 45 });
	t.is(wide!.length, Math.min(45, 50 - new Set(user!.history).size));
});

test('cold items have their share of what is retrieved', async (t) => {
	const model = await load(t);
	const counts = model.catalogue.trainingCounts;
	const cold = model.catalogue.items.flatMap(({ id }, item) => (item > 0 && counts[item] === 0 ? [id] : []));
	t.true(cold.length > 2, 'the world has items that are never trained on');
	const users = await requests();
	const share = async (coldShare: number) => {
		const lists = await model.recommend(users, { retrieve: 10, coldShare });
		return lists.map((list) => list.filter(({ id }) => cold.includes(id)).length);
	};
	t.deepEqual(await share(0), [0, 0, 0, 0, 0]);
	t.deepEqual(await share(0.2), [2, 2, 2, 2, 2]);
	for (const count of await share(1)) t.true(count >= cold.length - 1);
});

test('requests that cannot be served, by their codes', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const of =
		(change: object, options = {}) =>
		() =>
			model.recommend([user!, { ...user!, ...change }], options);
	await rejects(t, of({ history: ['i033'] }), 'ERR_ALLMREC_UNKNOWN_ITEM', /`i033`.*Did you mean `i\d\d`\?/);
	await rejects(t, of({ history: ['', 'i03'] }), 'ERR_ALLMREC_UNKNOWN_ITEM');
	await rejects(t, of({ history: [] }), 'ERR_ALLMREC_EMPTY_HISTORY', /User 1/);
	await rejects(t, of({ candidates: ['i03', 'xyz'] }), 'ERR_ALLMREC_UNKNOWN_ITEM', /`xyz`/);
	await rejects(t, of({ candidates: [] }), 'ERR_ALLMREC_INVALID_ARGUMENT', /`candidates`/);
	for (const options of [
		{ topK: 0 },
		{ topK: 1.5 },
		{ retrieve: 0 },
		{ coldShare: 2 },
		{ coldShare: Number.NaN },
		{ by: 'luck' },
	])
		await rejects(
			t,
			of({}, options),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			new RegExp(`\`${Object.keys(options)[0]}\``),
		);
	const reason = new Error('enough');
	await t.throwsAsync(model.recommend([user!], { signal: AbortSignal.abort(reason) }), { is: reason });
});

test('an item is added by its text and can be recommended at once', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const request = { ...user!, candidates: ['new', 'i03', 'i17'] };
	await rejects(t, () => model.recommend([request]), 'ERR_ALLMREC_UNKNOWN_ITEM');
	await model.addItem(newItem);
	const [list] = await model.recommend([request]);
	const place = list!.find(({ id }) => id === 'new')!;
	t.is(place.title, newItem.title);
	t.true([place.cf, place.llm, place.fused].every(Number.isFinite));
	const [retrieved] = await model.recommend([user!], { coldShare: 1, topK: 50 });
	t.true(
		retrieved!.some(({ id }) => id === 'new'),
		'retrieved from the whole catalogue',
	);
	// Part of a history, alone and beside others.
	const lists = await model.recommend([{ history: ['new'] }, { history: [...user!.history, 'new'] }], {
		coldShare: 1,
	});
	for (const list of lists) t.false(list.some(({ id }) => id === 'new'));
});

test('an item without a title is known by its id', async (t) => {
	const model = await load(t);
	await model.addItem({ id: 'untitled', title: '' });
	const [user] = await requests();
	const [list] = await model.recommend([{ ...user!, candidates: ['untitled'] }]);
	t.is(list![0]!.title, 'untitled');
});

test('it does not matter whether items are added before or after the first recommendation', async (t) => {
	const [early, late] = [await load(t), await load(t)];
	const [user] = await requests();
	const request = { history: [...user!.history, 'other'], candidates: ['other', 'i03', 'new', 'i17'] };
	const other = { id: 'other', title: 'Something Else', description: 'Not a game at all.' };
	await early.addItem(newItem);
	await early.addItem(other);
	await late.recommend([user!]);
	await late.generate(user!);
	await late.addItem(newItem);
	await late.recommend([user!]);
	await late.addItem(other);
	// A vector computed alone and the same one computed among others differ in their last bits.
	const [a, b] = [(await late.recommend([request]))[0]!, (await early.recommend([request]))[0]!];
	t.deepEqual(
		a.map(({ id }) => id),
		b.map(({ id }) => id),
	);
	for (const [i, { cf, llm, fused }] of a.entries())
		for (const [x, y] of [
			[cf, b[i]!.cf],
			[llm, b[i]!.llm],
			[fused, b[i]!.fused],
		] as const)
			t.true(Math.abs(x - y) <= 1e-5 * Math.max(1, Math.abs(y)), `${x} ${y}`);
	t.is(await late.generate(request), await early.generate(request));
});

test('items added at the same time, and while others are recommended, keep their own vectors', async (t) => {
	const [orderly, busy] = [await load(t), await load(t)];
	const [user] = await requests();
	const added = ['a', 'b', 'c'].map((id) => ({
		id,
		title: `The ${id.repeat(3)}`,
		description: `All about ${id}.`,
	}));
	for (const item of added) await orderly.addItem(item);
	await Promise.all([
		busy.recommend([user!]),
		busy.addItem(added[0]!),
		busy.generate(user!),
		busy.addItem(added[1]!),
		busy.llmScores(await busy.userVectors([[1]]), [[1]], Int32Array.of(1, 2), 'text'),
		busy.addItem(added[2]!),
	]);
	const request = { history: [...user!.history, 'b'], candidates: ['i03', 'a', 'b', 'c'] };
	for (const [users, options] of [
		[[request], {}],
		[[user!], { coldShare: 1, by: 'cf' }],
	] as const) {
		const [mine, theirs] = [await busy.recommend(users, options), await orderly.recommend(users, options)];
		t.deepEqual(idsOf(mine), idsOf(theirs));
		t.true(maxDifference(scoresOf(mine), scoresOf(theirs)) < 1e-3, JSON.stringify([mine, theirs]));
	}
	t.is(await busy.generate(request), await orderly.generate(request));
	const [vectors, history] = [await busy.userVectors([[1]]), [[1]]];
	const items = Int32Array.of(51, 52, 53);
	for (const variant of ['text', 'llmOnly', 'aligned'] as const)
		t.true(
			maxDifference(
				await busy.llmScores(vectors, history, items, variant),
				await orderly.llmScores(vectors, history, items, variant),
			) < 1e-3,
			variant,
		);
});

test('items added while prompts are being prepared keep their own vectors', async (t) => {
	const [orderly, busy] = [await load(t), await load(t)];
	const [user] = await requests();
	const added = ['a', 'b', 'c'].map((id) => ({
		id,
		title: `The ${id.repeat(3)}`,
		description: `All about ${id}.`,
	}));
	for (const item of added) await orderly.addItem(item);
	// As with a large catalogue, whose titles take a while to be tokenised.
	const { tokenizer } = busy.parts.llm;
	const encodeMany = tokenizer.encodeMany.bind(tokenizer);
	tokenizer.encodeMany = async (...given) => {
		await sleep(30);
		return encodeMany(...given);
	};
	const first = busy.recommend([user!]);
	const text = busy.generate(user!);
	await sleep(20);
	await Promise.all([busy.addItem(added[0]!), busy.addItem(added[1]!), first, text]);
	await busy.addItem(added[2]!);
	const request = { history: [...user!.history, 'b'], candidates: ['i03', 'a', 'b', 'c'] };
	const [mine, theirs] = [await busy.recommend([request]), await orderly.recommend([request])];
	t.true(maxDifference(scoresOf(mine), scoresOf(theirs)) < 1e-3, JSON.stringify([mine, theirs]));
	t.is(await busy.generate(request), await orderly.generate(request));
});

test('items added at once to a model that was not used yet', async (t) => {
	const [orderly, busy] = [await load(t), await load(t)];
	const added = ['a', 'b', 'c'].map((id) => ({
		id,
		title: `The ${id.repeat(3)}`,
		description: `All about ${id}.`,
	}));
	for (const item of added) await orderly.addItem(item);
	await Promise.all(added.map((item) => busy.addItem(item)));
	const request = { history: ['i03'], candidates: ['a', 'b', 'c'] };
	const [mine, theirs] = [await busy.recommend([request]), await orderly.recommend([request])];
	t.true(maxDifference(scoresOf(mine), scoresOf(theirs)) < 1e-3, JSON.stringify([mine, theirs]));
});

test('without a threshold for cold items an added one is known by its text all the same', async (t) => {
	const [never, usual] = [await load(t, { coldThreshold: 0 }), await load(t)];
	const [user] = await requests();
	for (const model of [never, usual]) await model.addItem(newItem);
	const [list] = await never.recommend([user!], { coldShare: 1, topK: 40 });
	t.true(list!.some(({ id }) => id === 'new'));
	const request = { history: ['i03'], candidates: ['new'] };
	const [mine, theirs] = [await never.recommend([request]), await usual.recommend([request])];
	t.true(maxDifference(scoresOf(mine), scoresOf(theirs)) < 1e-3, JSON.stringify([mine, theirs]));
});

test('an added item leaves the vectors of the others as they were, random ones too', async (t) => {
	const request = { history: ['i03', 'i17'], candidates: ['i01', 'i44', 'i20'] };
	for (const joint of ['aligned', 'text', 'random']) {
		const [early, late] = [await load(t, { joint }), await load(t, { joint })];
		const before = await late.recommend([request]);
		await early.addItem(newItem);
		await late.addItem(newItem);
		t.true(maxDifference(scoresOf(await early.recommend([request])), scoresOf(before)) < 1e-3, joint);
		t.deepEqual(await late.recommend([request]), before, joint);
	}
});

test('an id that is taken, and items that are none', async (t) => {
	const model = await load(t);
	await model.addItem(newItem);
	const { size } = model.catalogue;
	const add = (item: object) => () => model.addItem(item as typeof newItem);
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, add({ ...newItem, title: 'Another' }), code, /`id`.*not in the catalogue yet/);
	await rejects(t, add({ ...newItem, id: 'i03' }), code, /`id`/);
	await rejects(t, add({ ...newItem, id: '' }), code, /`id`/);
	await rejects(t, add({ title: 'No id' }), code, /`id`/);
	await rejects(t, add({ id: 'x' }), code, /`title`/);
	await rejects(t, add({ id: 'x', title: 3 }), code, /`title`/);
	await rejects(t, add({ id: 'x', title: 'X', description: 3 }), code, /`description`/);
	await rejects(t, add({ id: 'x', title: 'X', genres: 'many' }), code, /`genres`/);
	const twice = await Promise.allSettled([1, 2].map(() => model.addItem({ id: 'twice', title: 'Twice' })));
	t.deepEqual(twice.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
	t.is(model.catalogue.size, size + 1);
});

test('an addition that fails leaves everything as it was', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const before = await model.recommend([user!], { coldShare: 1 });
	const text = await model.generate(user!);
	const { encoder, projection, latents } = model.parts;
	const sizes = () => [model.catalogue.size, latents.e.length, latents.q.length];
	const expected = sizes();
	for (const [part, method] of [
		[encoder, 'encode'],
		[projection, 'items'],
	] as const) {
		const failing = part as unknown as Record<string, unknown>;
		failing[method] = () => Promise.reject(new Error('out of memory'));
		await t.throwsAsync(model.addItem(newItem), { message: 'out of memory' });
		delete failing[method];
		t.deepEqual(sizes(), expected);
		t.false(model.catalogue.has('new'));
	}
	t.deepEqual(await model.recommend([user!], { coldShare: 1 }), before);
	t.is(await model.generate(user!), text);
	await model.addItem(newItem);
	t.true((await model.recommend([user!], { coldShare: 1, topK: 50 }))[0]!.some(({ id }) => id === 'new'));
});

test('genres are generated as text', async (t) => {
	const model = await load(t);
	const [user] = await requests();
	const text = await model.generate(user!, { maxNewTokens: 8 });
	t.is(typeof text, 'string');
	t.true(text.length > 0);
	t.is(await model.generate(user!, { maxNewTokens: 8 }), text);
	await rejects(t, () => model.generate({ history: [] }), 'ERR_ALLMREC_EMPTY_HISTORY');
	await rejects(t, () => model.generate({ history: ['none'] }), 'ERR_ALLMREC_UNKNOWN_ITEM');
	await rejects(
		t,
		() => model.generate(user!, { task: 'poem' as 'favourite-genre' }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
	);
	const reason = new Error('enough');
	await t.throwsAsync(model.generate(user!, { signal: AbortSignal.abort(reason) }), { is: reason });
});

test('the variants of the language model are told different things', async (t) => {
	const model = await load(t);
	const histories = [[1, 2, 3], [4]];
	const vectors = await model.userVectors(histories);
	const candidates = Int32Array.of(5, 6, 7, 8, 9, 10);
	const score = (variant: 'aligned' | 'text' | 'llmOnly', x = vectors) =>
		model.llmScores(x, histories, candidates, variant);
	const [aligned, text, plain] = [await score('aligned'), await score('text'), await score('llmOnly')];
	t.is(aligned.length, 6);
	t.true(maxDifference(aligned, text) > 1e-6);
	t.true(maxDifference(aligned, plain) > 1e-4);
	const other = vectors.map((x) => -x);
	t.deepEqual(await score('llmOnly', other), plain, 'without vectors the user is not known');
	t.true(maxDifference(await score('aligned', other), aligned) > 1e-6);
	await rejects(
		t,
		() => model.llmScores(vectors.subarray(1), histories, candidates),
		'ERR_ALLMREC_INVALID_ARGUMENT',
	);
});

test('dispose twice, use after dispose', async (t) => {
	const { folder } = await trained;
	const [user] = await requests();
	let model: ALLMRec;
	{
		await using scoped = await loadRun(folder, CPU);
		model = scoped;
		t.is((await model.recommend([user!])).length, 1);
	}
	model.dispose();
	await rejects(t, () => model.recommend([user!]), 'ERR_ALLMREC_DISPOSED');
	await rejects(t, () => model.addItem(newItem), 'ERR_ALLMREC_DISPOSED');
	await rejects(t, () => model.generate(user!), 'ERR_ALLMREC_DISPOSED');
	await rejects(t, () => model.userVectors([[1]]), 'ERR_ALLMREC_DISPOSED');
	// One loaded beside it is not touched.
	const other = await load(t);
	t.is((await other.recommend([user!])).length, 1);
});
