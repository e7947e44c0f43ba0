/**
 * Scores and generates for some seconds, with errors and aborted calls among the others, and prints what memory the
 * process had each second, garbage collected: `node --expose-gc memory-soak-child.js SECONDS`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { loadRun } from '../../lib/recommend/run.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU } from '../support/tiny-world.js';

const seconds = Number(process.argv[2]);
const { folder, dataset } = await tinyRun();
const model = await loadRun(folder, CPU);
const { llm, session } = model.parts;
const ids = dataset.items.slice(1).map(({ id }) => id);

/** What a call rejects with is a part of the work. */
const fails = async (call: () => Promise<unknown>) => {
	try {
		await call();
	} catch {
		return;
	}
	throw new Error('A call that had to fail did not.');
};

let round = 0;
let calls = 0;
async function work(): Promise<void> {
	const at = (i: number) => ids[(round + i) % ids.length]!;
	const history = [at(0), at(3), at(7)];
	await model.recommend([{ history }, { history: [at(5)] }], { topK: 3 });
	await fails(() => model.recommend([{ history: ['no such item'] }]));
	const users = [
		{ user: 'a', history },
		{ user: 'b', history: [] },
		{ user: 'c', history: ['no such item'] },
		{ user: 'd', history, candidates: [at(1), at(2)] },
	];
	for await (const _ of model.scoreAll(users, { topK: 2 }));
	for await (const _ of model.scoreAll(users)) break;
	await llm.scoreCandidates('A game like', [' "one"', ' "two"', ' "three"']);
	await llm.scoreCandidates('A game like', [' "one"', ' "two", of many words'], { tokensPerBatch: 2 });
	await fails(() =>
		llm.scoreCandidates([4, -1], [[5]], { soft: new Float32Array(llm.tokenSize).fill(Number.NaN) }),
	);
	await llm.generate(['A game', 'A long game'], { maxNewTokens: 4 });
	await llm.generate('A game', { maxNewTokens: 4, numBeams: 3 });
	await llm.generate('A game', { maxNewTokens: 4, doSample: true, seed: round });
	for await (const _ of llm.stream('A game', { maxNewTokens: 20 })) break;
	const controller = new AbortController();
	// It may have come to its end before.
	const aborted = llm.generate('A game', { maxNewTokens: 300, signal: controller.signal }).catch(() => {});
	await sleep(1);
	controller.abort();
	await aborted;
	await fails(() => model.recommend([{ history }], { signal: AbortSignal.abort() }));
	round++;
	calls += 16;
}

const samples: { second: number; rss: number; heap: number; external: number; inUse: number }[] = [];
const begun = performance.now();
let next = 0;
while (performance.now() - begun < seconds * 1000) {
	await work();
	const second = (performance.now() - begun) / 1000;
	if (second < next) continue;
	next = second + Math.max(0.25, seconds / 200);
	globalThis.gc!();
	const { rss, heapUsed: heap, external } = process.memoryUsage();
	samples.push({ second, rss, heap, external, inUse: (await session.engine.memory()).inUse });
}
console.log(JSON.stringify({ calls, samples }));
model.dispose();
