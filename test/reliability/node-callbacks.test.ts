import test from 'ava';
import * as api from '../../lib/index.js';
import type { Progress } from '../../lib/progress.js';
import { fixture, freshPath } from '../data/folders.js';
import { fastClock } from '../support/fast-clock.js';
import { held } from '../support/reliability.js';
import { preparedWorld, type TinyRun, tinyRun, tinyRunOptions } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

let path: string;
let run: TinyRun;
let model: api.ALLMRec;
let users: { user: string; history: string[] }[];

test.before(async () => {
	const world = await preparedWorld(tinyWorld({ numUsers: 80 }));
	path = world.path;
	run = await tinyRun(world.dataset);
	model = await api.loadRun(run.folder, CPU);
	const { items } = run.dataset;
	users = Array.from({ length: 40 }, (_, u) => ({
		user: `u${u}`,
		history: [1, 4, 7].map((i) => items[1 + ((u + i) % 40)]!.id),
	}));
});

const LISTS = { topK: 3, retrieve: 10 };

test('`onProgress` that throws: the call rejects with its error and stops, and the model stays usable', async (t) => {
	const before = await model.recommend(users.slice(0, 3), LISTS);
	const { split, test: candidates } = await api.openRunDataset(run.folder, path);
	const options = await tinyRunOptions();
	const file = await fixture('users.jsonl', users.map((user) => `${JSON.stringify(user)}\n`).join(''));
	const log = await fixture(
		'log.csv',
		`user,item,time\n${users.map(({ user }, i) => `${user},i${i % 5},${i}\n`).join('')}`,
	);
	const count = 200;
	const scores = Float32Array.from({ length: count * 5 }, (_, i) => (i * 7) % 11);
	/** Calls with `onProgress`, and the stages it is to be told of by them. */
	const calls: Record<string, (onProgress: (progress: Progress) => void) => Promise<unknown>> = {
		prepare: (onProgress) =>
			api.prepare({ format: 'csv', interactions: [log], kCore: 1, out: freshPath(), onProgress }),
		'SASRec.train': (onProgress) =>
			api.SASRec.train(run.dataset, { hiddenUnits: 16, epochs: 20 }, { onProgress, ...CPU }),
		trainRun: (onProgress) =>
			api.trainRun(run.dataset, { out: freshPath('run'), datasetPath: path, options, ...CPU, onProgress }),
		'SentenceEncoder.tokenize': (onProgress) => model.parts.encoder.tokenize(['a', 'b'], { onProgress }),
		'ALLMRec.recommend': (onProgress) => model.recommend(users, { ...LISTS, onProgress }),
		'ALLMRec.scoreAll': async (onProgress) => {
			for await (const _ of model.scoreAll(users, { ...LISTS, batchSize: 8, onProgress }));
		},
		scoreFile: (onProgress) =>
			api.scoreFile(model, {
				users: file,
				out: freshPath('lists.jsonl').replace('/lists', '-lists'),
				...LISTS,
				onProgress,
			}),
		evaluateGenres: (onProgress) =>
			api.evaluateGenres(model, split, { users: 20, constrained: true, onProgress }),
		evaluateRun: (onProgress) => api.evaluateRun(model, split, candidates, { users: 20, onProgress }),
		evaluateModels: (onProgress) =>
			api.evaluateModels({
				users: Int32Array.from({ length: count }, (_, u) => u),
				candidates: Int32Array.from({ length: count * 5 }, (_, i) => 1 + (i % 50)),
				targets: new Int32Array(count),
				models: { a: scores, b: scores },
				trainingCounts: new Int32Array(51).fill(3),
				onProgress,
			}),
	};
	let thrown = 0;
	const stages = new Set<string>();
	for (const [name, call] of Object.entries(calls)) {
		// At the first report, and at the first of each stage there is.
		const own = new Set<string>();
		for (;;) {
			const error = new Error(`thrown in ${name}`);
			const restore = fastClock();
			let fresh = '';
			let after = 0;
			try {
				await t.throwsAsync(
					call(({ stage }) => {
						if (fresh) after++;
						if (own.has(stage)) return;
						own.add(stage);
						fresh = stage;
						throw error;
					}),
					{ is: error },
					`${name}, stages so far: ${[...own].join(', ')}`,
				);
			} finally {
				restore();
			}
			t.is(after, 0, `${name} goes on after its callback has thrown`);
			stages.add(fresh);
			thrown++;
			if (name !== 'trainRun' || own.has('fusion')) break;
		}
	}
	t.deepEqual(await model.recommend(users.slice(0, 3), LISTS), before, 'the model is as it was');
	held(
		'Node',
		'A callback that throws: the call rejects with that very error, stops, and the model stays usable',
		{
			calls: Object.keys(calls).length,
			'errors thrown': thrown,
			stages: stages.size,
		},
	);
});

test('consumers that leave or throw, and users that cannot be had', async (t) => {
	const before = await model.recommend(users.slice(0, 3), LISTS);
	const error = new Error('thrown by the consumer');
	const { llm } = model.parts;
	const consume = async (iterable: AsyncIterable<unknown>, then: () => void) => {
		for await (const _ of iterable) return then();
	};
	const fails = () => {
		throw error;
	};
	const streams = {
		scoreAll: () => model.scoreAll(users, { ...LISTS, batchSize: 4 }),
		stream: () => llm.stream('A user', { maxNewTokens: 200, eosId: -1 }),
	};
	for (const [name, stream] of Object.entries(streams)) {
		await consume(stream(), () => {}); // leaves
		await t.throwsAsync(consume(stream(), fails), { is: error }, name);
		const iterator = stream();
		await iterator.next();
		await t.throwsAsync(iterator.throw(error), { is: error }, name);
		t.true((await iterator.next()).done, name);
		await stream().return(undefined); // before it has begun
	}
	// One of two that share a batch leaves; the other gets all of its text.
	const alone = await llm.generate('A user', { maxNewTokens: 40, eosId: -1 });
	const [together] = await Promise.all([
		llm.generate('A user', { maxNewTokens: 40, eosId: -1 }),
		consume(llm.stream('has played', { maxNewTokens: 200, eosId: -1 }), () => {}),
	]);
	t.deepEqual(together.ids, alone.ids);
	// The source of users fails, or is left while it waits.
	let closed = 0;
	async function* source(fail: boolean) {
		try {
			for (let i = 0; ; i++) {
				if (fail && i === 20) throw error;
				yield users[i % users.length]!;
			}
		} finally {
			closed++;
		}
	}
	await t.throwsAsync(
		(async () => {
			for await (const _ of model.scoreAll(source(true), { ...LISTS, batchSize: 4 }));
		})(),
		{ is: error },
	);
	await consume(model.scoreAll(source(false), { ...LISTS, batchSize: 4 }), () => {});
	t.is(closed, 2, 'the source is closed');
	t.deepEqual(await model.recommend(users.slice(0, 3), LISTS), before, 'the model is as it was');
	held('Node', 'A consumer that leaves a stream or throws in it stops the work, and nobody else notices', {
		streams: 10,
	});
});
