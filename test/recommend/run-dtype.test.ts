import { stat } from 'node:fs/promises';
import test from 'ava';
import { quantizeCheckpoint } from '../../lib/llm/quantization.js';
import { type LoadRunOptions, loadRun } from '../../lib/recommend/run.js';
import { readRunFile } from '../../lib/recommend/run-config.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { tinyRun, tinyRunOptions, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';

const trained = tinyRun(tinyDataset(), { llmDtype: 'bfloat16', encoderDtype: 'bfloat16' });

/** The dtypes a run is loaded in, and one user's scores. */
async function loaded(options: LoadRunOptions = {}) {
	const { folder, dataset } = await trained;
	const model = await loadRun(folder, { ...CPU, ...options });
	try {
		const history = [...dataset.sequence(7)].slice(0, -1).map((item) => dataset.items[item]!.id);
		const [list] = await model.recommend([{ history }], { topK: 50, retrieve: 50 });
		const { llm, encoder } = model.parts;
		return {
			llm: llm.config.dtype,
			encoder: encoder.config.activationDtype,
			scores: new Map(list!.map(({ id, llm }) => [id, llm])),
		};
	} finally {
		model.dispose();
	}
}

test.serial('a run trains in bfloat16, and is loaded in what it was trained in or another', async (t) => {
	const { folder } = await trained;
	t.like((await readRunFile(folder)).options, { llmDtype: 'bfloat16', encoderDtype: 'bfloat16' });
	const own = await loaded();
	t.like(own, { llm: 'bfloat16', encoder: 'bfloat16' });
	const int8 = await loaded({ llmDtype: 'int8', encoderDtype: 'float32' });
	t.like(int8, { llm: 'int8', encoder: 'float32' });
	t.notDeepEqual(int8.scores, own.scores);
});

test.serial('a stored language model is loaded as it is stored', async (t) => {
	const { options } = await trained;
	const out = freshPath('quantized');
	await quantizeCheckpoint(options.llm!, { dtype: 'int8', out, ...CPU });
	const stored = await loaded({ llm: out });
	t.is(stored.llm, 'int8');
	t.deepEqual(stored.scores, (await loaded({ llmDtype: 'int8' })).scores);
});

test.serial('training in what has no gradients is refused before anything else', async (t) => {
	const dataset = tinyDataset();
	const attempt = async (changes: object) => {
		const folder = freshPath('run');
		const run = trainTinyRun(folder, dataset, { ...(await tinyRunOptions()), ...changes });
		return { folder, run };
	};
	for (const llmDtype of ['float16', 'int8', 'int4'] as const) {
		const { folder, run } = await attempt({ llmDtype });
		await rejects(t, () => run, 'ERR_ALLMREC_UNSUPPORTED', /float32 or bfloat16.*--llm-dtype/);
		t.is(await stat(folder).catch(() => undefined), undefined);
	}
	const llm = freshPath('quantized');
	await quantizeCheckpoint(await tinyLlm(), { dtype: 'int4', out: llm, ...CPU });
	const { folder, run } = await attempt({ llm });
	await rejects(t, () => run, 'ERR_ALLMREC_CHECKPOINT', /stored in int4/);
	t.is(await stat(folder).catch(() => undefined), undefined);
	await rejects(t, async () => (await attempt({ encoderDtype: 'int8' })).run, 'ERR_ALLMREC_INVALID_ARGUMENT');
});
