import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { SASRec } from '../../lib/cf/sasrec.js';
import { Dataset } from '../../lib/data/dataset.js';
import { loadCandidates, NegativeSampler, SeededRandom, sampleCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut, temporalSplit } from '../../lib/data/split.js';
import { formatEvaluation } from '../../lib/evaluation/format.js';
import { evaluateRun } from '../../lib/evaluation/protocol.js';
import { PromptBuilder } from '../../lib/llm/prompt.js';
import type { ALLMRec, UserRequest } from '../../lib/recommend/a-llm-rec.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import type { ListOptions } from '../../lib/recommend/lists.js';
import { loadRun, trainRun } from '../../lib/recommend/run.js';
import type { RunOptions } from '../../lib/recommend/run-config.js';
import { scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { freshPath, rejects } from '../data/folders.js';
import { jsonLines, write } from '../support/hostile-world.js';
import { held, times } from '../support/reliability.js';
import { tinyRunOptions } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

interface WorldOptions {
	/** Items have titles. Default true. */
	titled?: boolean;
	/** All interactions at one time. Default false. */
	atOnce?: boolean;
}

/** A data set of given sequences over items 1 … numItems. */
function world(
	sequences: readonly (readonly number[])[],
	numItems: number,
	{ titled = true, atOnce = false }: WorldOptions = {},
): Dataset {
	const offsets = new Int32Array(sequences.length + 1);
	for (const [u, items] of sequences.entries()) offsets[u + 1] = offsets[u]! + items.length;
	const items = Int32Array.from(sequences.flat());
	return new Dataset({
		name: 'limits',
		items: Array.from({ length: numItems + 1 }, (_, i) => ({
			id: i === 0 ? '' : `i${i}`,
			title: titled && i > 0 ? `Game ${i}` : '',
			description: '',
			genres: [],
		})),
		userIds: sequences.map((_, u) => `u${u}`),
		sequences: { offsets, items, times: Float64Array.from(items, (_, i) => (atOnce ? 5 : i)) },
	});
}

const range = (count: number, from = 1) => Array.from({ length: count }, (_, i) => from + i);
/** Eight users of six items each, among thirty. */
const ordinary = range(8).map((u) => range(6, u));

const baseOptions = (async (): Promise<RunOptions> => {
	const options = await tinyRunOptions();
	return {
		...options,
		cf: { ...options.cf, epochs: 2, validateEvery: 1 },
		alignment: { ...options.alignment, epochs: 1 },
	};
})();

/** Numbers that are none, in whatever depth. */
function notNumbers(value: unknown): string[] {
	const found: string[] = [];
	JSON.stringify(value, (key, each) => {
		if (typeof each === 'number' && !Number.isFinite(each)) found.push(`${key}: ${each}`);
		return each;
	});
	return found;
}

interface Trained {
	folder: string;
	dataset: Dataset;
	model: ALLMRec;
}

async function train(dataset: Dataset, changes: RunOptions = {}): Promise<Trained> {
	const folder = freshPath('run');
	const base = await baseOptions;
	const options = {
		...base,
		...changes,
		cf: { ...base.cf, ...changes.cf },
		alignment: { ...base.alignment, ...changes.alignment },
		projection: { ...base.projection, ...changes.projection },
	};
	await trainRun(dataset, { out: folder, datasetPath: 'in memory', options, ...CPU });
	return { folder, dataset, model: await loadRun(folder, CPU) };
}

let asked = 0;

/** A list with what every list has: items once each, in order, with numbers. */
async function list(
	t: ExecutionContext,
	model: ALLMRec,
	request: UserRequest,
	options: ListOptions = {},
): Promise<string[]> {
	const [places] = await model.recommend([request], options);
	const ids = places!.map(({ id }) => id);
	t.deepEqual(notNumbers(places), []);
	t.is(new Set(ids).size, ids.length);
	t.deepEqual(
		places!.map(({ rank }) => rank),
		range(ids.length),
	);
	t.true(places!.every(({ score }, i) => i === 0 || score <= places![i - 1]!.score));
	if (request.candidates) t.true(ids.every((id) => request.candidates!.includes(id)));
	else t.false(ids.some((id) => request.history.includes(id)));
	asked++;
	return ids;
}

/** What every trained model has to answer, however small its world. */
async function answers(t: ExecutionContext, { model }: Trained): Promise<void> {
	const all = model.catalogue.items.slice(1).map(({ id }) => id);
	const [first, last] = [all[0]!, all.at(-1)!];
	const unseen = all.length - 1;
	const get = (request: UserRequest, options?: ListOptions) => list(t, model, request, options);
	for (const by of ['fused', 'llm', 'cf'] as const) {
		t.is((await get({ history: [first] }, { topK: 1000, by })).length, unseen);
		t.is((await get({ history: [first] }, { topK: 3, retrieve: 1000, by })).length, Math.min(3, unseen));
		t.deepEqual(await get({ history: all }, { by }), [], 'nothing is left to recommend');
		t.deepEqual(await get({ history: [first], candidates: [first] }, { by }), [first]);
	}
	t.is((await get({ history: [first] }, { coldShare: 1 })).length, Math.min(10, unseen));
	t.is(
		(await get({ history: [first], candidates: [first, first, last, first] })).length,
		new Set([first, last]).size,
	);
	const ranked = await get({ history: all, candidates: all }, { topK: 1000 });
	t.deepEqual(ranked.sort(), [...all].sort());
	const long = Array.from({ length: 10_000 }, (_, i) => all[i % Math.max(1, unseen)]!);
	t.deepEqual(await get({ history: long }), unseen > 0 ? [last] : []);
	await rejects(t, () => model.recommend([{ history: [] }]), 'ERR_ALLMREC_EMPTY_HISTORY');
	await rejects(
		t,
		() => model.recommend([{ history: [first], candidates: [] }]),
		'ERR_ALLMREC_INVALID_ARGUMENT',
	);
	const users = await write(
		'users.jsonl',
		jsonLines([
			{ history: [first] },
			{ history: all },
			{ history: [] },
			{ history: long },
			{ history: all, candidates: all },
			{ history: [first], candidates: [last, last] },
			{ history: [first], candidates: [] },
		]),
	);
	const out = join(dirname(users), 'out.jsonl');
	const summary = await scoreFile(model, { users, out });
	t.is(summary.users, 5);
	t.deepEqual(summary.rejected, { ERR_ALLMREC_EMPTY_HISTORY: 1, ERR_ALLMREC_FILE_FORMAT: 1 });
	const results = (await readFile(out, 'utf8'))
		.trim()
		.split('\n')
		.map((each) => JSON.parse(each));
	t.is(results.length, 5);
	t.deepEqual(results[1], { user: '2', recommendations: [] });
}

/** Evaluates; every figure is a number, and none is printed that is not. */
async function evaluated(t: ExecutionContext, { folder, dataset, model }: Trained) {
	const split = leaveLastOut(dataset, { seed: 2, excludeColdUsers: false });
	const { candidates } = await loadCandidates(join(folder, 'split.json'), split);
	const result = await evaluateRun(model, split, candidates.find(({ phase }) => phase === 'test')!);
	t.deepEqual(notNumbers(result), []);
	const text = formatEvaluation(result.candidates) + formatEvaluation(result.catalogue!);
	t.notRegex(text, /NaN|Infinity|undefined|null/);
	t.notRegex(JSON.stringify(result), /Infinity|NaN/);
	return { result, text };
}

const worlds: Record<string, { dataset: Dataset; changes?: RunOptions; unevaluated?: boolean }> = {
	'one user': { dataset: world([range(6)], 30) },
	'two items': {
		dataset: world(
			[
				[1, 1, 1, 1],
				[2, 2, 2, 2],
				[1, 1, 1],
				[2, 2, 2],
			],
			2,
		),
		changes: { negatives: 1, projection: { candidates: 2 } },
	},
	'all items cold': { dataset: world(ordinary, 30), changes: { coldThreshold: 1000 } },
	'one user has seen everything': {
		dataset: world([range(12), range(5), range(5, 3), range(6, 2)], 12),
		changes: { negatives: 3 },
	},
	'fewer negatives than asked for': {
		dataset: world([range(4), range(4), ...ordinary], 13),
		changes: { negatives: 9, projection: { candidates: 8 } },
	},
	'no one has enough negatives': {
		dataset: world(ordinary, 13),
		changes: { negatives: 12 },
		unevaluated: true,
	},
	'every user the same item': { dataset: world(Array(8).fill([1, 1, 1, 1, 1]), 30) },
	'every user the same items': { dataset: world(Array(8).fill(range(5)), 30) },
	'equal times': { dataset: world(ordinary, 30, { atOnce: true }) },
	'no item has text': { dataset: world(ordinary, 30, { titled: false }) },
	'windows of one item': {
		dataset: world(ordinary, 30),
		changes: { cf: { maxLength: 1 }, historyLength: 1 },
	},
	'batches larger than the data': {
		dataset: world(ordinary, 30),
		changes: { cf: { batchSize: 1e6 }, alignment: { batchSize: 1e6 }, projection: { batchSize: 1e6 } },
	},
	'users of two interactions': {
		dataset: world(
			range(8).map((u) => range(2, u)),
			30,
		),
		unevaluated: true,
	},
	'a history of 10,000': {
		dataset: world([range(10_000).map((i) => 1 + (i % 29)), range(5)], 30),
		changes: { historyLength: 10_000 },
	},
	'no epochs': {
		dataset: world(ordinary, 30),
		changes: { cf: { epochs: 0 }, alignment: { epochs: 0 }, projection: { epochs: 0 } },
	},
};

for (const [name, { dataset, changes, unevaluated = false }] of Object.entries(worlds))
	test.serial(`trained, recommended and evaluated: ${name}`, async (t) => {
		const trained = await train(dataset, changes);
		try {
			await answers(t, trained);
			if (unevaluated)
				await rejects(t, () => evaluated(t, trained), 'ERR_ALLMREC_EMPTY_DATASET', /fewer `negatives`/);
			else await evaluated(t, trained);
		} finally {
			trained.model.dispose();
		}
	});

const untrainable: Record<string, { dataset: Dataset; changes?: RunOptions; message: RegExp }> = {
	'one item, one user': { dataset: world([[1]], 1), message: /longer histories/ },
	'one item again and again': { dataset: world([[1, 1, 1, 1]], 1), message: /larger data set/ },
	'one interaction each': {
		dataset: world(
			range(8).map((u) => [u]),
			30,
		),
		message: /longer histories/,
	},
	'three interactions each': {
		dataset: world(
			range(8).map((u) => range(3, u)),
			30,
		),
		message: /longer histories/,
	},
	'everyone has seen everything': {
		dataset: world([range(12), range(12).reverse()], 12),
		message: /larger data set/,
	},
	'softmax over one item': {
		dataset: world([[1, 1, 1, 1]], 1),
		changes: { cf: { loss: 'softmax' } },
		message: /stage 1 has nothing to learn from/,
	},
	'too few items for stage 2': {
		dataset: world(ordinary, 13),
		changes: { projection: { candidates: 12 } },
		message: /lower `projection.candidates`/,
	},
};

test.serial('what cannot be trained says why and what to do', async (t) => {
	for (const { dataset, changes, message } of Object.values(untrainable))
		await rejects(t, () => train(dataset, changes), 'ERR_ALLMREC_EMPTY_DATASET', message);
	held(
		'Numbers',
		'Users and items at the limits are trained, recommended to and evaluated, or refused with a code; no number is missing.',
		{
			worlds: Object.keys(worlds).length,
			'refused worlds': Object.keys(untrainable).length,
			lists: asked,
			'numbers that are none': 0,
		},
	);
});

test.serial('one user is no evidence, and none is printed', async (t) => {
	const trained = await train(world([range(6)], 30));
	try {
		const { result, text } = await evaluated(t, trained);
		t.regex(text, /overall \(1 user, not enough for intervals and tests\)/);
		t.notRegex(text.replace(/^.*seed.*$/gm, ''), /[[▲▼]/);
		for (const { differences } of result.candidates.tests)
			for (const { pValue, adjusted } of Object.values(differences)) t.deepEqual([pValue, adjusted], [1, 1]);
		t.is(result.candidates.slices.coldUsers!.users, 0);
	} finally {
		trained.model.dispose();
	}
});

test.serial('negatives: as many as there are, or an error; never one of the user’s own', async (t) => {
	const random = new SeededRandom(1);
	let drawn = 0;
	for (let numItems = 1; numItems <= times(40, 200); numItems++) {
		const sampler = new NegativeSampler(numItems);
		for (let own = 0; own <= numItems; own++) {
			const sequence = Int32Array.from([...range(own), ...range(own)]);
			for (const wanted of new Set([1, numItems - own, numItems - own + 1])) {
				if (wanted < 1) continue;
				const items = new Int32Array(wanted);
				const enough = sampler.draw(random, sequence, items);
				if (enough !== wanted <= numItems - own) t.fail(`${numItems} items, ${own} own, ${wanted} wanted`);
				if (!enough) continue;
				const valid = items.every((item) => item > own && item <= numItems);
				if (!valid || new Set(items).size < wanted) t.fail(`${numItems} items, ${own} own: ${items}`);
				drawn += wanted;
			}
		}
	}
	const split = leaveLastOut(world([range(6), range(11)], 12));
	await rejects(
		t,
		async () => sampleCandidates(split, { seed: 1, negatives: 5 }),
		'ERR_ALLMREC_TOO_FEW_ITEMS',
		/User 1 /,
	);
	t.is(sampleCandidates(split, { seed: 1, negatives: 1 }).candidates.length, 4);
	t.pass(`${drawn}`);
});

test.serial('a user who knows all but one of 20,000 items is trained on, and in time', async (t) => {
	const dataset = world([range(19_999), range(6)], 20_000);
	const begun = process.cpuUsage();
	const model = await SASRec.train(
		dataset,
		{ hiddenUnits: 8, maxLength: 50, epochs: 2, validateEvery: 0, numBlocks: 1 },
		CPU,
	);
	const { user, system } = process.cpuUsage(begun);
	t.true((user + system) / 1e6 < 20);
	t.true((await model.userVectors([range(10_000)])).every(Number.isFinite));
	model.dispose();
});

test.serial('a split of a period without users, and of one', async (t) => {
	const dataset = world(ordinary, 30, { atOnce: true });
	for (const options of [{}, { testShare: 0.5, validationShare: 0.4 }]) {
		const split = temporalSplit(dataset, options);
		t.is(split.train.items.length + 0 * split.users('test').length, split.train.items.length);
		if (split.users('test').length === 0)
			t.is(sampleCandidates(split, { seed: 1, negatives: 3 }).users.length, 0);
	}
	await rejects(t, async () => leaveLastOut(dataset, { trainUsers: 0 }), 'ERR_ALLMREC_INVALID_ARGUMENT');
	t.is(leaveLastOut(dataset, { trainUsers: 1 }).train.items.length, 4);
	t.is(leaveLastOut(dataset, { trainUsers: 1e6 }).train.items.length, 32);
});

test.serial('a history of 10,000 titles is cut to what fits, at once', async (t) => {
	const { model } = await train(world(ordinary, 30));
	try {
		const { llm, template } = model.parts;
		const { TitleStore } = await import('../../lib/llm/title-store.js');
		const catalogue = new Catalogue(model.catalogue.items, model.catalogue.trainingCounts);
		const store = await TitleStore.create(
			llm.tokenizer,
			catalogue.items.map(({ title }) => title),
			template,
		);
		const builder = new PromptBuilder(store, { maxPositions: 2048, historyLength: 10_000 });
		const history = range(10_000).map((i) => 1 + (i % 30));
		const begun = process.cpuUsage();
		const prompt = builder.build({ history, candidates: range(20) });
		const { user, system } = process.cpuUsage(begun);
		t.true((user + system) / 1e6 < 1);
		t.true(prompt.history.length > 50);
		t.is(prompt.cut.history, 10_000 - prompt.history.length);
		t.deepEqual(prompt.history, history.slice(-prompt.history.length));
		const one = prompt.history.length + 1;
		const longer = new PromptBuilder(store, { maxPositions: 1e6, historyLength: one });
		const room = 2048 - Math.max(...range(20).map((item) => store.answer(item).length));
		t.true(longer.build({ history, candidates: range(20) }).ids.length > room, 'no item more would fit');
	} finally {
		model.dispose();
	}
});
