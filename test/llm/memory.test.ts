import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { languageModelMemory, memoryOf } from '../../lib/llm/memory.js';
import { openOptCheckpoint } from '../../lib/llm/opt-checkpoint.js';
import { rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { CPU } from '../support/tiny-world.js';

const MiB = 2 ** 20;
const CHILD = fileURLToPath(new URL('memory-child.js', import.meta.url));

/** Peaks in bytes of a process of its own. */
async function measure(folder: string, dtype: string, prompt: number, candidates: number, length: number) {
	const { stdout } = await promisify(execFile)(process.execPath, [
		CHILD,
		folder,
		dtype,
		...[prompt, candidates, length].map(String),
	]);
	return JSON.parse(stdout) as { loaded: number; scored: number; rows: number };
}

test('the peak of a process that scores is within a tenth of the prediction', async (t) => {
	const folder = await tinyLlm({
		vocabSize: 8000,
		hiddenSize: 1024,
		embedSize: 1024,
		numLayers: 6,
		numHeads: 16,
		ffnSize: 4096,
		maxPositions: 1024,
	});
	for (const dtype of ['float32', 'int8'] as const) {
		const { loaded, scored, rows } = await measure(folder, dtype, 400, 20, 12);
		const { config } = await openOptCheckpoint(folder, { dtype });
		const { scoring } = memoryOf(config, { tokens: 640, rows, threads: 2 });
		t.log(
			`${dtype}: loaded ${(loaded / MiB).toFixed(1)} of ${(scoring.weights / MiB).toFixed(1)} MiB, scored ${(scored / MiB).toFixed(1)} of ${(scoring.peak / MiB).toFixed(1)} MiB`,
		);
		t.true(
			Math.abs(scored - scoring.peak) <= scoring.peak / 10,
			`${dtype}: ${scored} against ${scoring.peak}`,
		);
		// A block of 8 MiB of the file, what it is converted with, and Node's own.
		t.true(loaded < scoring.weights + 40 * MiB, `${dtype}: loading took ${loaded}`);
	}
});

test('weights in bytes are those of the model', async (t) => {
	const changes = [
		{},
		{ bias: false, normAffine: false },
		{ embedSize: 16, normBefore: false },
		{ tiedHead: false },
	];
	for (const change of changes) {
		const folder = await tinyLlm({ maxPositions: 64, ...change });
		const llm = await CausalLM.load(folder, CPU);
		const { parameters, weights } = await languageModelMemory(folder, { dtype: 'float32' });
		const shapes = llm.native.parameters();
		t.is(parameters, llm.native.parameterCount());
		// Every tensor of these shapes ends at a multiple of 64 bytes.
		t.is(weights.float32, 4 * parameters);
		const matrices = shapes.filter(({ name }) =>
			/(proj|project_in|project_out|fc[12]|embed_tokens|lm_head)\b.*weight$/.test(name),
		);
		const inMatrices = matrices.reduce((sum, { shape }) => sum + shape[0]! * shape[1]!, 0);
		t.is(weights.bfloat16, 4 * parameters - 2 * inMatrices);
		llm.dispose();
	}
});

test('a cache is counted for every sequence, position and layer', async (t) => {
	const folder = await tinyLlm({ maxPositions: 64 });
	const of = (options: object) => languageModelMemory(folder, { context: 64, ...options });
	const cache = async (options: object) => (await of(options)).generation.cache;
	t.is(await cache({ batch: 1 }), 2 * 64 * 2 * 32 * 4);
	t.is(await cache({ batch: 3, context: 10 }), 3 * 2 * 10 * 2 * 32 * 4);
	t.is(await cache({ batch: 3, context: 10, dtype: 'int8' }), (3 * 2 * 10 * 2 * 32 * 4) / 2);
	t.is((await of({})).scoring.cache, 0);
	await rejects(t, () => of({ tokens: 0 }), 'ERR_ALLMREC_INVALID_ARGUMENT', /`tokens`/);
	await rejects(t, () => of({ context: 65 }), 'ERR_ALLMREC_INVALID_ARGUMENT', /64 positions/);
});
