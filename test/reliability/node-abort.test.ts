import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { atOnce } from '../../lib/event-loop.js';
import * as api from '../../lib/index.js';
import { Session } from '../../lib/native/session.js';
import { createPrompts, jointTable } from '../../lib/recommend/model-parts.js';
import { fixture, freshPath } from '../data/folders.js';
import { held, LONG, times } from '../support/reliability.js';
import { runDelay } from '../support/run-delay.js';
import { zeroLlm } from '../support/slow-models.js';
import { tinyEncoder } from '../support/tiny-checkpoints.js';
import { preparedWorld, tinyRun } from '../support/tiny-run.js';
import { CPU, tinyDataset, tinyWorld } from '../support/tiny-world.js';

/** Milliseconds until an abort has taken effect, beside those in which threads stood ready and got no core. */
const BOUND = 200;

interface Case {
	/** A call that would take seconds. */
	call(signal: AbortSignal): Promise<unknown>;
	/** Milliseconds after which it is surely in the middle of its work; moments are drawn up to there. Default 400. */
	within?: number;
}

type Cases = Record<string, Case>;

const random = new SeededRandom(Date.now() % 2 ** 31);

/** Aborts every call before it begins and at random moments. */
async function abortAll(t: import('ava').ExecutionContext, cases: Cases): Promise<void> {
	const each = times(2, 20);
	const late: string[] = [];
	for (const [name, { call, within = 400 }] of Object.entries(cases)) {
		let latest = within;
		for (let i = 0; i < each; ) {
			const controller = new AbortController();
			const reason = new Error(`abort ${i} of ${name}`);
			if (i === 0) controller.abort(reason); // before it begins
			let ended = 0;
			let delay = runDelay();
			const begun = performance.now();
			const running = call(controller.signal)
				.then(
					() => ({ ok: true as const }),
					(error: unknown) => ({ ok: false as const, error }),
				)
				.finally(() => {
					ended = performance.now();
				});
			let asked = begun;
			if (i > 0) {
				await Promise.race([running, sleep(i === 1 ? latest : random.int(latest))]);
				if (ended > 0) {
					latest = Math.floor(latest / 2); // a faster machine than the moments were chosen on
					if (latest > 0) continue;
					t.fail(`${name} is too short to be aborted in its middle`);
					break;
				}
				delay = runDelay();
				asked = performance.now();
				controller.abort(reason);
			}
			const result = await running;
			const took = ended - asked;
			i++;
			t.false(result.ok, `${name} came to its end although it was aborted`);
			if (!result.ok) t.is(result.error, reason, name);
			const waited = Math.max(0, runDelay() - delay);
			tried.aborts++;
			tried.slowest = Math.max(tried.slowest, took - waited);
			const figures = `${name}, abort ${i}: ${Math.round(took)} ms, ${Math.round(waited)} of them without a core`;
			if (took - waited > BOUND / 2) t.log(figures);
			if (took - waited > BOUND) late.push(figures);
		}
		tried.calls.add(name);
	}
	t.deepEqual(late, []);
}

const tried = { calls: new Set<string>(), aborts: 0, slowest: 0 };

test.after(() => {
	if (tried.calls.size < 20) return; // some of the tests alone
	held('Node', 'Every long call that is aborted rejects with the reason within 200 ms', {
		calls: tried.calls.size,
		aborts: tried.aborts,
		'slowest, ms': Math.round(tried.slowest),
	});
});

const drain = async (iterable: AsyncIterable<unknown>) => {
	for await (const _ of iterable);
};

test('data', async (t) => {
	const users = times(20_000, 100_000);
	const drawn = new SeededRandom(1);
	const lines = ['user,item,time,rating'];
	for (let u = 0; u < users; u++) for (let n = 0; n < 20; n++) lines.push(`u${u},i${drawn.int(5000)},${n},5`);
	const log = await fixture('log.csv', `${lines.join('\n')}\n`);
	const options = { format: 'csv' as const, interactions: [log], threads: 1 };
	const out = freshPath();
	await api.prepare({ ...options, kCore: 1, out });
	await abortAll(t, {
		prepare: { call: (signal) => api.prepare({ ...options, kCore: 3, out: freshPath(), signal }) },
		'Dataset.prepare': {
			call: (signal) => api.Dataset.prepare({ ...options, kCore: 3, out: freshPath(), signal }),
		},
		'Dataset.open': { call: (signal) => api.Dataset.open(out, { signal }), within: LONG ? 400 : 60 },
	});
});

test('stages', async (t) => {
	const dataset = tinyDataset();
	const split = api.leaveLastOut(dataset);
	const session = Session.open(CPU);
	const cf = await api.SASRec.train(dataset, { hiddenUnits: 16, epochs: 0 }, { session });
	const large = await api.SASRec.train(
		tinyDataset({ numItems: 5000 }),
		{ hiddenUnits: 512, numBlocks: 4, epochs: 0 },
		{ session },
	);
	const folder = await tinyEncoder({
		hiddenSize: 256,
		numLayers: 6,
		intermediateSize: 1024,
		maxPositions: 128,
	});
	const encoder = await api.SentenceEncoder.load(folder, { session });
	const llm = await api.CausalLM.load(await zeroLlm({ hiddenSize: 512, ffnSize: 2048, numLayers: 6 }), {
		session,
	});
	const { folder: run } = await tinyRun();
	const { parts, catalogue } = await api.loadRun(run, CPU);
	const prompts = await createPrompts(llm, catalogue, api.recommendationTemplate('game'), {
		historyLength: 4,
	});
	const histories = Array.from({ length: 4000 }, (_, u) => [1 + (u % 40), 2, 3, 4, 5, 6, 7, 8]);
	const vectors = new Float32Array(20_000 * 512).fill(0.1);
	const none = Array.from({ length: 20_000 }, () => []);
	const texts = Array.from(
		{ length: 1500 },
		(_, i) => `A story of ${i} words that goes on for a while, and on, and on`,
	);
	const many = Array.from({ length: 400_000 }, (_, i) => `A story of ${i} words`);
	const wide = tinyDataset({ numItems: 5000 });
	const wideCf = await api.SASRec.train(wide, { hiddenUnits: 16, epochs: 0 }, { session });
	const aligned = await api.Alignment.train(
		dataset,
		cf,
		encoder,
		{ jointSize: 8, epochs: 0, freezeEncoder: false },
		{ split, session },
	);
	const joint = atOnce(jointTable(parts.latents, split.itemCounts, 'aligned'));
	await abortAll(t, {
		'SASRec.train': {
			call: (signal) =>
				api.SASRec.train(
					dataset,
					{ hiddenUnits: 512, numBlocks: 4, batchSize: 60, epochs: 1000 },
					{ session, signal },
				),
		},
		'SASRec.userVectors': { call: (signal) => large.userVectors(histories, signal) },
		'SASRec.retrieve': { call: (signal) => large.retrieve(vectors, none, 50, signal) },
		'SASRec.rankTargets': {
			call: (signal) => large.rankTargets(vectors, new Int32Array(20_000).fill(3), none, signal),
		},
		'SentenceEncoder.tokenize': { call: (signal) => encoder.tokenize(many, { signal }) },
		'SentenceEncoder.encode': { call: (signal) => encoder.encode(texts, { signal }) },
		'Alignment.train': {
			call: (signal) =>
				api.Alignment.train(
					dataset,
					cf,
					encoder,
					{ jointSize: 8, batchSize: 60, epochs: 1000 },
					{ split, session, signal },
				),
		},
		'Alignment.latents': {
			call: (signal) => aligned.latents(wide, wideCf, encoder, { signal }),
		},
		'Projection.train': {
			call: (signal) =>
				api.Projection.train(
					dataset,
					parts.cf,
					llm,
					{ candidates: 10, batchSize: 30, epochs: 1000 },
					{ split, joint, prompts, alignment: parts.alignment, session: parts.session, signal },
				),
		},
	});
});

test('the language model', async (t) => {
	const folder = await zeroLlm({ hiddenSize: 512, ffnSize: 2048, numLayers: 6 });
	const llm = await api.CausalLM.load(folder, CPU);
	const long = Array.from({ length: 450 }, (_, i) => 4 + (i % 400));
	const prompts = Array.from({ length: 16 }, () => ({ ids: long }));
	const options = { maxNewTokens: 60, eosId: -1 };
	const candidates = Array.from({ length: 400 }, (_, i) => `candidate ${i}`);
	// An abort has taken effect when the device is free for the next call.
	const free = async (call: () => Promise<unknown>) => {
		try {
			return await call();
		} finally {
			await llm.native.getParameter('model.decoder.final_layer_norm.bias');
		}
	};
	await abortAll(t, {
		'CausalLM.scoreCandidates': { call: (signal) => llm.scoreCandidates(long, candidates, { signal }) },
		'CausalLM.generateIds': {
			call: (signal) =>
				free(() =>
					llm.generateIds(
						prompts.map(({ ids }) => ids),
						undefined,
						{ ...options, signal },
					),
				),
		},
		'CausalLM.generate': { call: (signal) => free(() => llm.generate(prompts, { ...options, signal })) },
		'CausalLM.stream': {
			call: (signal) => free(() => drain(llm.stream(prompts[0]!, { ...options, maxNewTokens: 61, signal }))),
		},
		quantizationError: {
			call: (signal) => api.quantizationError(folder, { dtype: 'int8', ...CPU, signal }),
		},
	});
	// All of it has left the model as it was.
	const { ids } = await llm.generate('A user', { maxNewTokens: 3, eosId: -1 });
	t.is(ids.length, 3);
	llm.dispose();
});

test('checkpoints', async (t) => {
	// 1.2 GB of holes.
	const folder = await zeroLlm({ hiddenSize: 2048, ffnSize: 8192, numLayers: times(6, 12), numHeads: 16 });
	const server = createServer(() => {}); // never answers
	server.listen(0);
	await once(server, 'listening');
	t.teardown(() => {
		server.closeAllConnections();
		server.close();
	});
	const endpoint = `http://localhost:${(server.address() as AddressInfo).port}`;
	await abortAll(t, {
		'CausalLM.load': { call: (signal) => api.CausalLM.load(folder, { ...CPU, dtype: 'int4', signal }) },
		quantizeCheckpoint: {
			call: (signal) => api.quantizeCheckpoint(folder, { dtype: 'int4', out: freshPath(), ...CPU, signal }),
			within: 1500,
		},
		resolveCheckpoint: {
			call: (signal) => api.resolveCheckpoint('owner/name', { endpoint, cacheDir: freshPath(), signal }),
		},
	});
});

test('a run', async (t) => {
	const { path, dataset } = await preparedWorld(tinyWorld({ numUsers: 400 }));
	const { folder, options } = await tinyRun(dataset);
	const slow = await zeroLlm({ hiddenSize: 512, ffnSize: 2048, numLayers: 6 });
	const model = await api.loadRun(folder, { llm: slow, ...CPU });
	const { split, test: candidates } = await api.openRunDataset(folder, path);
	const ids = dataset.items.slice(1).map(({ id }) => id);
	const history = (u: number) => [0, 3, 5].map((i) => ids[(u + i) % ids.length]!);
	const users = Array.from({ length: 300 }, (_, u) => ({ user: `u${u}`, history: history(u) }));
	const file = await fixture('users.jsonl', users.map((user) => `${JSON.stringify(user)}\n`).join(''));
	const rows = Array.from({ length: 300 }, (_, u) => Array.from(dataset.sequence(u)));
	const vectors = await model.userVectors(rows);
	const shown = Int32Array.from({ length: 300 * 20 }, (_, i) => 1 + (i % 40));
	const lists = { topK: 5, retrieve: 20 };
	let outputs = 0;
	const score = (signal: AbortSignal, out: string) =>
		api.scoreFile(model, { users: file, out: join(folder, `${outputs++}-${out}`), ...lists, signal });
	await abortAll(t, {
		loadRun: {
			call: (signal) => api.loadRun(folder, { llm: slow, llmDtype: 'int4', ...CPU, signal }),
			within: 20,
		},
		openRunDataset: { call: (signal) => api.openRunDataset(folder, path, signal), within: 20 },
		trainRun: {
			call: (signal) =>
				api.trainRun(dataset, {
					out: freshPath('run'),
					datasetPath: path,
					options: { ...options, llm: slow, projection: { ...options.projection, epochs: 50 } },
					...CPU,
					signal,
				}),
			within: 3000,
		},
		'ALLMRec.recommend': { call: (signal) => model.recommend(users, { ...lists, signal }) },
		'ALLMRec.scoreAll': { call: (signal) => drain(model.scoreAll(users, { ...lists, signal })) },
		'ALLMRec.userVectors': {
			call: (signal) =>
				model.userVectors(
					Array.from({ length: 60_000 }, (_, u) => rows[u % 300]!),
					signal,
				),
			within: 200,
		},
		'ALLMRec.llmScores': { call: (signal) => model.llmScores(vectors, rows, shown, 'aligned', { signal }) },
		'ALLMRec.generate': {
			call: (signal) =>
				model.generate({ history: history(1) }, { maxNewTokens: 300, repetitionPenalty: 1, signal }),
			within: 100,
		},
		'scoreFile (jsonl)': { call: (signal) => score(signal, 'lists.jsonl') },
		'scoreFile (parquet)': { call: (signal) => score(signal, 'lists.parquet') },
		'ALLMRec.explain': { call: (signal) => model.explain({ history: history(1) }, { signal }) },
		evaluateGenres: {
			call: (signal) => api.evaluateGenres(model, split, { maxNewTokens: 300, repetitionPenalty: 1, signal }),
			within: 100,
		},
		evaluateRun: { call: (signal) => api.evaluateRun(model, split, candidates, { signal }) },
	});
	t.is((await model.recommend(users.slice(0, 1), { topK: 3, retrieve: 5 }))[0]!.length, 3);
	model.dispose();
});

test('evaluation', async (t) => {
	const users = times(10_000, 50_000);
	const width = 20;
	const drawn = new SeededRandom(3);
	const scores = () => Float32Array.from({ length: users * width }, () => drawn.uniform());
	const candidates = Int32Array.from({ length: users * width }, (_, i) => 1 + (i % 1000));
	const targets = new Int32Array(users);
	const trainingCounts = new Int32Array(1001).fill(3);
	const [cf, llm] = [scores(), scores()];
	const slices = [{ name: 'all', description: 'all users', mask: new Uint8Array(users).fill(1) }];
	const ranks = { greater: Int32Array.from(targets, () => drawn.int(100)), ties: targets };
	await abortAll(t, {
		evaluateModels: {
			call: (signal) =>
				api.evaluateModels({
					users: Int32Array.from(targets, (_, u) => u),
					candidates,
					targets,
					models: { cf, llm, both: cf },
					trainingCounts,
					tests: 'all',
					signal,
				}),
		},
		evaluateRanks: {
			call: (signal) =>
				api.evaluateRanks({ models: { a: ranks, b: ranks, c: ranks }, slices, tests: 'all', signal }),
		},
		fitFusion: {
			call: (signal) =>
				api.fitFusion({ cf, llm, popularity: new Float64Array(users * width).fill(3), targets, signal }),
		},
	});
});
