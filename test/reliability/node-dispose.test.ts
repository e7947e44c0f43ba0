import { cp, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { atOnce } from '../../lib/event-loop.js';
import * as api from '../../lib/index.js';
import { Session } from '../../lib/native/session.js';
import { createPrompts, jointTable } from '../../lib/recommend/model-parts.js';
import { freshPath } from '../data/folders.js';
import { held, times } from '../support/reliability.js';
import { type TinyRun, tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

interface Subject {
	/** A new object. */
	make(): Promise<{ dispose(): void }>;
	/** Calls of every public method, by its name. */
	// biome-ignore lint/suspicious/noExplicitAny: each subject knows its own class
	calls: Record<string, (object: any) => unknown>;
}

let run: TinyRun;
let subjects: Record<string, Subject>;

test.before(async () => {
	run = await tinyRun();
	const { folder, dataset, options } = run;
	const { parts } = await api.loadRun(folder, CPU);
	const { session, cf, encoder, alignment } = parts;
	const model = (name: string) => `${folder}/model/${name}.safetensors`;
	const histories = Array.from({ length: 50 }, (_, u) => Array.from(dataset.sequence(u)));
	const ids = [2, 3, 4].map((item) => dataset.items[item]!.id);
	const x = new Float32Array(50 * cf.size).fill(0.1);
	const e = new Float32Array(50 * alignment.config.jointSize).fill(0.1);
	const items = new Int32Array(100).fill(3);
	const users = [{ history: ids }];
	const dense = { history: Int32Array.of(2, 3), candidates: undefined };
	const lists = { topK: 3, retrieve: 10, coldShare: 0.1, by: 'fused' as const };
	const texts = Array.from({ length: 50 }, (_, i) => `title ${i}`);
	const all = async (generator: AsyncIterable<unknown>) => {
		for await (const _ of generator);
	};
	const backbone: Subject['calls'] = {
		itemTable: (m) => m.itemTable(),
		userVectors: (m) => m.userVectors(histories),
		scoreCandidates: (m) => m.scoreCandidates(x, items, 2),
		scoreVectors: (m) => m.scoreVectors(x, x, 1),
		withItems: (m) => m.withItems(x),
		retrieve: (m) => m.retrieve(x, histories, 5),
		rankTargets: (m) => m.rankTargets(x, items.subarray(50), histories),
		save: (m) => m.save(freshSave()),
	};
	const gru = freshSave();
	const trained = await api.trainBackbone('gru4rec', dataset, { hiddenUnits: cf.size, epochs: 1 }, CPU);
	await trained.save(gru);
	trained.dispose();
	const request = {
		users: Int32Array.from(histories.keys()),
		histories,
		candidates: items,
		width: 2,
	};
	const prompts = await createPrompts(parts.llm, parts.catalogue, api.recommendationTemplate('game'), {
		historyLength: 4,
	});
	const direct = { epochs: 0, candidates: 4 };
	const calls = { split: api.leaveLastOut(dataset), session };
	const tallrec = freshPath('tallrec');
	const lora = await api.TALLRec.train(dataset, parts.llm, { epochs: 0 }, calls);
	await lora.save(tallrec);
	lora.dispose();
	const recformer = freshPath('recformer');
	const tiny = { maxTokens: 32, window: 8, maxItemTokens: 8, pretrainEpochs: 0, epochs: 0 };
	const reader = await api.RecFormer.train(dataset, String(options.textEncoder), tiny, calls);
	await reader.save(recformer);
	reader.dispose();
	subjects = {
		SASRec: { make: () => api.SASRec.load(model('cf'), CPU), calls: backbone },
		Backbone: { make: () => api.loadBackbone(gru, CPU), calls: backbone },
		MlpLlm: {
			make: () => api.MlpLlm.train(dataset, cf, parts.llm, direct, { ...calls, prompts }),
			calls: { score: (m) => m.score(request) },
		},
		RecFormer: {
			make: () => api.RecFormer.load(recformer, dataset, { session }),
			calls: { score: (m) => m.score(request), save: (m) => m.save(freshPath('saved')) },
		},
		TALLRec: {
			make: () => api.TALLRec.load(tallrec, dataset, parts.llm, { session }),
			calls: { score: (m) => m.score(request), save: (m) => m.save(freshPath('saved')) },
		},
		Alignment: {
			make: () => api.Alignment.load(model('alignment'), session),
			calls: {
				encodeItems: (m) => m.encodeItems(x),
				decodeItems: (m) => m.decodeItems(e),
				encodeTexts: (m) => m.encodeTexts(new Float32Array(encoder.size * 3)),
				decodeTexts: (m) => m.decodeTexts(e),
				latents: (m) => m.latents(dataset, cf, encoder),
				save: (m) => m.save(freshSave()),
			},
		},
		Projection: {
			make: () => api.Projection.load(model('projector'), session),
			calls: {
				users: (m) => m.users(x),
				items: (m) => m.items(e),
				save: (m) => m.save(freshSave()),
			},
		},
		SentenceEncoder: {
			make: () => api.SentenceEncoder.load(String(options.textEncoder), CPU),
			calls: {
				encode: (m) => m.encode(texts),
				save: (m) => m.save(freshPath('saved')),
			},
		},
		CausalLM: {
			make: () => api.CausalLM.load(String(options.llm), CPU),
			calls: {
				logProbs: (m) =>
					m.logProbs(
						{ ids: Int32Array.of(1, 2, 3), offsets: Int32Array.of(0, 3) },
						new Float32Array(0),
						Int32Array.of(1),
						Int32Array.of(0),
						Int32Array.of(3),
					),
				scoreCandidates: (m) => m.scoreCandidates('A user', texts),
				generateIds: (m) => m.generateIds([[1, 2, 3]]),
				generate: (m) => m.generate(texts),
				stream: (m) => all(m.stream('A user')),
				trie: (m) => m.trie(texts),
			},
		},
		ALLMRec: {
			make: () => api.loadRun(folder, CPU),
			calls: {
				recommend: (m) => m.recommend(users),
				scoreAll: (m) => all(m.scoreAll([{ user: 'u', history: ids }])),
				recommendEach: (m) => m.recommendEach([dense], lists),
				userVectors: (m) => m.userVectors(histories),
				cfScores: (m) => m.cfScores(x, items, 2),
				llmScores: (m) => m.llmScores(x.subarray(0, cf.size), [[2, 3]], items.subarray(0, 4)),
				candidateScores: (m) =>
					m.candidateScores(x.subarray(0, cf.size), [[2, 3]], [items.subarray(0, 4)], 'aligned'),
				addItem: (m) => m.addItem({ id: `new ${Math.random()}`, title: 'A new one' }),
				generate: (m) => m.generate({ history: ids }),
				explain: (m) => m.explain({ history: ids }),
				genrePrompts: (m) => m.genrePrompts([dense.history], 'aligned', 8),
			},
		},
	};
});

function freshSave(): string {
	return join(run.folder, `saved-${Math.random()}.safetensors`);
}

/** Methods that need no model: `dispose()` takes nothing from them. */
const PLAIN = new Set(['constructor', 'dispose', 'fusedScores', 'fusedSteps', 'tokenize']);

test('every public class with `dispose` and each of its methods is tried here', (t) => {
	const disposable = Object.entries(api).filter(
		([, value]) => typeof value === 'function' && typeof value.prototype?.dispose === 'function',
	) as [string, { prototype: object }][];
	t.deepEqual(disposable.map(([name]) => name).sort(), Object.keys(subjects).sort());
	for (const [name, { prototype }] of disposable) {
		t.deepEqual(methodsOf(prototype).sort(), Object.keys(subjects[name]!.calls).sort(), name);
	}
});

/** Names of the methods of a class and of those it extends. */
function methodsOf(prototype: object): string[] {
	if (prototype === Object.prototype) return [];
	const own = Object.entries(Object.getOwnPropertyDescriptors(prototype))
		.filter(([method, { value }]) => typeof value === 'function' && !PLAIN.has(method))
		.map(([method]) => method);
	return [...new Set([...own, ...methodsOf(Object.getPrototypeOf(prototype))])];
}

/** What a call came to. */
async function outcome(call: () => unknown): Promise<{ ok: boolean; error?: unknown }> {
	try {
		await call();
		return { ok: true };
	} catch (error) {
		return { ok: false, error };
	}
}

test('`dispose()` twice is nothing, and every call after it is told so', async (t) => {
	let calls = 0;
	for (const [name, { make, calls: methods }] of Object.entries(subjects)) {
		const object = await make();
		object.dispose();
		object.dispose();
		if (Symbol.asyncDispose in object) await (object as AsyncDisposable)[Symbol.asyncDispose]();
		for (const [method, call] of Object.entries(methods)) {
			const { ok, error } = await outcome(() => call(object));
			t.false(ok, `${name}.${method} after dispose()`);
			t.true(error instanceof api.ALLMRecError, `${name}.${method}: ${error}`);
			t.is((error as api.ALLMRecError).code, 'ERR_ALLMREC_DISPOSED', `${name}.${method}: ${error}`);
			calls++;
		}
	}
	held('Node', 'A call after `dispose()` rejects with ERR_ALLMREC_DISPOSED; `dispose()` twice is nothing', {
		classes: Object.keys(subjects).length,
		methods: calls,
	});
});

test('`dispose()` in the middle of every call: it ends, well or with ERR_ALLMREC_DISPOSED', async (t) => {
	const rounds = times(2, 40);
	let [calls, finished] = [0, 0];
	for (const [name, { make, calls: methods }] of Object.entries(subjects))
		for (const [method, call] of Object.entries(methods))
			for (let round = 0; round < rounds; round++) {
				const object = await make();
				const running = outcome(() => call(object));
				if (round > 0) await sleep(round % 8);
				object.dispose();
				const result = await Promise.race([running, sleep(20_000)]);
				if (!result) return t.fail(`${name}.${method} hangs`);
				if (result.ok) finished++;
				else
					t.is(
						(result.error as api.ALLMRecError).code,
						'ERR_ALLMREC_DISPOSED',
						`${name}.${method}: ${result.error}`,
					);
				calls++;
			}
	held('Node', '`dispose()` in the middle of a call lets it end, or rejects it with ERR_ALLMREC_DISPOSED', {
		calls,
		finished,
		'rejected with ERR_ALLMREC_DISPOSED': calls - finished,
	});
});

// Alone, since the others' models are on the same engine.
test.serial('a training or a loading that fails leaves no native memory behind', async (t) => {
	const { folder, dataset, options } = run;
	const session = Session.open(CPU);
	const split = api.leaveLastOut(dataset);
	const { parts, catalogue } = await api.loadRun(folder, CPU);
	const { cf, llm, encoder, alignment, latents } = parts;
	const prompts = await createPrompts(llm, catalogue, api.recommendationTemplate('game'), {
		historyLength: 4,
	});
	const error = new Error('on purpose');
	const onProgress = () => {
		throw error;
	};
	const calls = { split, session, onProgress };
	/** A copy of a folder or a file with its weights cut off. */
	const damaged = async (path: string, weights = '') => {
		const copy = freshPath('damaged');
		await cp(path, copy, { recursive: true });
		const file = join(copy, weights);
		await truncate(file, (await stat(file)).size - 1000);
		return copy;
	};
	const model = (name: string) => join(folder, 'model', name);
	const failing: Record<string, () => Promise<unknown>> = {
		'SASRec.train': () => api.SASRec.train(dataset, { hiddenUnits: 16, epochs: 500 }, calls),
		'Alignment.train': () => api.Alignment.train(dataset, cf, encoder, { jointSize: 8, epochs: 50 }, calls),
		'Projection.train': () =>
			api.Projection.train(
				dataset,
				cf,
				llm,
				{ candidates: 4, epochs: 20 },
				{ ...calls, joint: atOnce(jointTable(latents, split.itemCounts, 'aligned')), prompts, alignment },
			),
		'SASRec.load': async () => api.SASRec.load(await damaged(model('cf.safetensors')), { session }),
		'Alignment.load': async () => api.Alignment.load(await damaged(model('alignment.safetensors')), session),
		'Projection.load': async () =>
			api.Projection.load(await damaged(model('projector.safetensors')), session),
		'SentenceEncoder.load': async () =>
			api.SentenceEncoder.load(await damaged(String(options.textEncoder), 'model.safetensors'), { session }),
		'CausalLM.load': async () =>
			api.CausalLM.load(await damaged(String(options.llm), 'model.safetensors'), { session }),
		loadRun: async () =>
			api.loadRun(folder, { llm: await damaged(String(options.llm), 'model.safetensors'), ...CPU }),
	};
	const inUse = async () => (await session.engine.memory()).inUse;
	const before = await inUse();
	for (const [name, call] of Object.entries(failing)) {
		await t.throwsAsync(call, { any: true }, name);
		t.is(await inUse(), before, name);
	}
	session.release();
	held('Node', 'A training or a loading that fails leaves no native memory behind', {
		calls: Object.keys(failing).length,
		'bytes left': 0,
	});
});
