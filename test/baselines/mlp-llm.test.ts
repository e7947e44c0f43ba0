import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import test from 'ava';
import { MlpLlm } from '../../lib/baselines/mlp-llm.js';
import { sampleCandidates } from '../../lib/data/sampling.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import { Projection } from '../../lib/projection/projection.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import { createPrompts } from '../../lib/recommend/model-parts.js';
import { freshPath, rejects } from '../data/folders.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { stageOne } from '../support/tiny-stages.js';

const world = (async () => {
	const one = await stageOne();
	const llm = await CausalLM.load(await tinyLlm({ maxPositions: 256 }), { session: one.session });
	const catalogue = Catalogue.of(one.dataset, one.split.itemCounts);
	const prompts = await createPrompts(llm, catalogue, recommendationTemplate(), { historyLength: 3 });
	return { ...one, llm, prompts };
})();

const tiny = { candidates: 4, batchSize: 8, learningRate: 3e-3, epochs: 3, validationUsers: 10 };

for (const initialisation of ['xavier', 'shared'] as const)
	test.serial(`${initialisation}: MLP-LLM trains on the recommender's items and scores them`, async (t) => {
		const { dataset, cf, llm, split, session, prompts } = await world;
		const calls = { split, session, prompts };
		const model = await MlpLlm.train(dataset, cf, llm, { ...tiny, initialisation }, calls);
		t.teardown(() => model.dispose());
		const start = await MlpLlm.train(dataset, cf, llm, { ...tiny, initialisation, epochs: 0 }, calls);
		t.teardown(() => start.dispose());
		t.is(model.projection.config.jointSize, cf.size);
		if (initialisation === 'shared') {
			// Before training both projections are one map.
			const items = await cf.itemTable();
			const [a, b] = [await start.projection.users(items), await start.projection.items(items)];
			const far = a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
			const length = a.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
			t.true(far < 0.05 * length, `${far} of ${length}`);
		}
		const { users, candidates } = sampleCandidates(split, { seed: 1, negatives: 3 });
		const request = {
			users,
			histories: Array.from(users, (user) => split.history(user, 'test')),
			candidates,
			width: 4,
		};
		const scores = await model.score(request);
		t.is(scores.length, candidates.length);
		t.true(scores.every(Number.isFinite));
		t.notDeepEqual(await start.score(request), scores);
		const path = freshPath('mlp-llm.safetensors');
		await mkdir(dirname(path), { recursive: true });
		await model.projection.save(path);
		const again = await MlpLlm.of(await Projection.load(path, session), cf, llm, prompts);
		t.deepEqual(await again.score(request), scores);
		again.dispose();
		await rejects(
			t,
			() => model.score({ ...request, width: 3 }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			/candidates/,
		);
	});
