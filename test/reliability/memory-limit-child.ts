/**
 * Works in a process whose memory is bounded to what it has and some more, and prints what came of it:
 * `node memory-limit-child.js FOLDER MEGABYTES`. FOLDER holds `llm` and `encoder`.
 *
 * Each task is first tried in a size the limit may refuse, then in a small one that has to give what it gave before
 * there was a limit.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import type { Ragged } from '../../lib/native/addon.js';
import { ragged, Session } from '../../lib/native/session.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';

const [folder, megabytes] = process.argv.slice(2);
const MiB = 2 ** 20;
const device = { device: 'cpu', threads: 2 } as const;

/** Private writable memory, which RLIMIT_DATA counts. */
const data = () => 1024 * Number(/^VmData:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]);

const session = Session.open(device);
const { addon, engine } = session;
const llm = await CausalLM.load(join(folder!, 'llm'), device);
const encoder = await SentenceEncoder.load(join(folder!, 'encoder'), device);
const sasrec = new addon.Backbone(engine, {
	kind: 'sasrec',
	numItems: 20_000,
	maxLength: 200,
	hiddenUnits: 64,
	numBlocks: 2,
	numHeads: 1,
	dropoutRate: 0.2,
	variant: 'reference',
});
await sasrec.initialise(1);
const random = new SeededRandom(3);
const rows = (count: number, length: number, most: number): Ragged =>
	ragged(Array.from({ length: count }, () => Array.from({ length }, () => 1 + random.int(most))));
const trainer = new addon.BackboneTrainer(sasrec, rows(256, 201, 20_000), rows(256, 1, 20_000), {
	batchSize: 4,
	loss: 'bce',
	l2Embedding: 0,
	seed: 0,
	learningRate: 1e-3,
});
const step = (histories: Ragged) => trainer.gradients(histories, histories.values, histories.values);

const packed = (sequences: number, length: number) => ({
	ids: Int32Array.from({ length: sequences * length }, (_, t) => 4 + (t % 90)),
	offsets: Int32Array.from({ length: sequences + 1 }, (_, s) => s * length),
	positions: Int32Array.from({ length: sequences * length }, (_, t) => t % length),
	prefix: new Int32Array(sequences * length),
	ownBegin: new Int32Array(sequences * length),
});
const score = async (batch: ReturnType<typeof packed>) => {
	const wanted = Int32Array.from(batch.offsets.subarray(1), (end) => end - 1);
	const values = await llm.logProbs(
		batch,
		new Float32Array(0),
		wanted,
		Int32Array.from(wanted.keys()),
		wanted.map(() => 5),
	);
	return values.slice(0, 4).join();
};
const generate = async (prompts: number, length: number) => {
	const ids = Array.from({ length: prompts }, () => Array.from({ length }, (_, t) => 4 + (t % 90)));
	const results = await llm.generateIds(ids, undefined, { maxNewTokens: 4 });
	return results[0]!.join();
};
const encode = async (texts: Ragged, tokens: number) =>
	(await encoder.native.encode(texts, tokens)).slice(0, 8).join();
const weights = async () => {
	let sum = 0;
	for (const model of [llm.native, encoder.native, sasrec])
		for (const x of await model.getParameter(model.parameters().at(-1)!.name)) sum += x;
	return sum;
};

// Large inputs are made while there is memory: the limit is for what the native code does with them.
const [largeBatch, smallBatch] = [packed(64, 500), packed(2, 8)];
const [largeTexts, smallTexts] = [rows(900, 40, 300), rows(2, 5, 300)];
const [largeHistories, smallHistories] = [rows(800, 200, 20_000), rows(2, 5, 20_000)];

interface Task {
	large(): Promise<unknown>;
	small(): Promise<unknown>;
}
const tasks: Record<string, Task> = {
	score: { large: () => score(largeBatch), small: () => score(smallBatch) },
	generate: { large: () => generate(32, 500), small: () => generate(1, 4) },
	encode: { large: () => encode(largeTexts, 36_000), small: () => encode(smallTexts, 64) },
	train: { large: () => step(largeHistories), small: async () => (await step(smallHistories)).loss },
	load: {
		large: async () => (await CausalLM.load(join(folder!, 'llm'), device)).dispose(),
		small: async () => (await CausalLM.load(join(folder!, 'small'), device)).dispose(),
	},
};

const expected: Record<string, unknown> = {};
for (const [name, { small }] of Object.entries(tasks)) expected[name] = await small();
const before = await weights();
engine.trim();
await engine.memory();
spawnSync('true'); // what it takes to start a program is there before the limit is
const limit = data() + Number(megabytes) * MiB;
const set = spawnSync('prlimit', ['--pid', String(process.pid), `--data=${limit}:${limit}`]);
if (set.status !== 0) throw new Error(`prlimit: ${set.stderr}`);

const outcomes: Record<
	string,
	{ refused?: { code: unknown; message: string }; right: boolean; inUse: number }
> = {};
const idle = (await engine.memory()).inUse;
for (const [name, { large, small }] of Object.entries(tasks)) {
	let refused: { code: unknown; message: string } | undefined;
	try {
		await large();
	} catch (error) {
		refused = { code: (error as { code?: unknown }).code, message: (error as Error).message };
	}
	const again = await small();
	outcomes[name] = {
		...(refused && { refused }),
		right: Object.is(again, expected[name]) && Object.is(await weights(), before),
		inUse: (await engine.memory()).inUse - idle,
	};
}
console.log(JSON.stringify(outcomes));
trainer.dispose();
sasrec.dispose();
encoder.dispose();
llm.dispose();
session.release();
