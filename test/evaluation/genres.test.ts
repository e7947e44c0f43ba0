import test from 'ava';
import { leaveLastOut } from '../../lib/data/split.js';
import { evaluateGenres, GenreFinder } from '../../lib/evaluation/genres.js';
import type { CausalLM } from '../../lib/llm/causal-lm.js';
import { loadRun } from '../../lib/recommend/run.js';
import { rejects } from '../data/folders.js';
import { tinyRun } from '../support/tiny-run.js';
import { CPU, tinyDataset } from '../support/tiny-world.js';

const dataset = tinyDataset();
const split = leaveLastOut(dataset);
const trained = tinyRun(dataset);

async function load(t: { teardown: (work: () => void) => void }) {
	const model = await loadRun((await trained).folder, CPU);
	t.teardown(() => model.dispose());
	return model;
}

test('known names are found as whole words, whatever their case, the longest first, each once', (t) => {
	const finder = new GenreFinder([
		'Fiction',
		'Science Fiction',
		'sci-fi',
		'R&B (old)',
		'Drama',
		'drama',
		' ',
	]);
	t.deepEqual(finder.names, ['Fiction', 'Science Fiction', 'sci-fi', 'R&B (old)', 'Drama']);
	t.deepEqual(finder.find('SCIENCE fiction, drama; Drama and Sci-Fi.'), [
		'Science Fiction',
		'Drama',
		'sci-fi',
	]);
	t.deepEqual(finder.find('melodramatic fictions, dramas'), []);
	t.deepEqual(finder.find('fiction/r&b (OLD)'), ['Fiction', 'R&B (old)']);
	t.deepEqual(finder.find(''), []);
	t.deepEqual(new GenreFinder(['C++', 'Ökologie']).find('c++, ÖKOLOGIE'), ['C++', 'Ökologie']);
});

test('a score is the share of the generated genres that later items have', async (t) => {
	const model = await load(t);
	const users = [...split.users('test')].slice(0, 1);
	t.is(users[0], 0);
	const later = [split.validation[0]!, split.test[0]!];
	const genres = dataset.items.map((_, item) => (later.includes(item) ? ['Here', 'Both'] : ['Elsewhere']));
	const asked: { ids: ArrayLike<number>; soft?: Float32Array | undefined }[][] = [];
	const answers = [' Both, here; elsewhere and ELSEWHERE.', ' nothing known'];
	model.parts.llm.generate = (async (prompts: (typeof asked)[number]) => {
		asked.push(prompts);
		return prompts.map(() => ({ text: answers[asked.length - 1] }));
	}) as unknown as CausalLM['generate'];
	const result = await evaluateGenres(model, split, { genres, users: 1 });
	t.is(result['A-LLMRec'].value, 2 / 3);
	t.is(result['LLM-Only'].value, 0, 'no known genre');
	t.is(result['A-LLMRec'].users, 1);
	// One user vector and the run's last four items of the history; LLM-Only has no vectors.
	const width = model.parts.llm.tokenSize;
	const told = Math.min(4, split.history(0, 'validation').length);
	t.is(asked[0]![0]!.soft!.length, (1 + told) * width);
	t.is(asked[1]![0]!.soft!.length, 0);
	t.true(Array.from(asked[1]![0]!.ids).every((id) => id >= 0));
});

test('all users are asked, freely and confined to the genres of the data set', async (t) => {
	const model = await load(t);
	const stages: string[] = [];
	const free = await evaluateGenres(model, split, {
		users: 6,
		maxNewTokens: 4,
		onProgress: ({ stage, done, total }) => stages.push(`${stage} ${done}/${total}`),
	});
	t.deepEqual(stages, ['genres 6/12', 'genres 12/12']);
	const confined = await evaluateGenres(model, split, { users: 6, constrained: true });
	for (const result of [free, confined]) {
		t.deepEqual(JSON.parse(JSON.stringify(result)), result);
		t.deepEqual(Object.keys(result), ['A-LLMRec', 'LLM-Only']);
		for (const { value, low, high, users } of Object.values(result)) {
			t.is(users, 6);
			t.true(0 <= low && low <= value && value <= high && high <= 1);
		}
	}
	// One genre is generated for each user, which is right or wrong.
	for (const { value } of Object.values(confined)) t.true(Math.abs(6 * value - Math.round(6 * value)) < 1e-9);
	t.deepEqual(await evaluateGenres(model, split, { users: 6, constrained: true }), confined);
});

test('what cannot be evaluated is an error with a code', async (t) => {
	const model = await load(t);
	const none = dataset.items.map(() => []);
	await rejects(
		t,
		() => evaluateGenres(model, split, { genres: none }),
		'ERR_ALLMREC_UNSUPPORTED',
		/no genres/,
	);
	const one = dataset.items.map((_, item) => (item === 0 ? ['Nobody'] : []));
	await rejects(t, () => evaluateGenres(model, split, { genres: one }), 'ERR_ALLMREC_EMPTY_DATASET');
	await rejects(
		t,
		() => evaluateGenres(model, split, { genres: [] }),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/genres/,
	);
	await rejects(t, () => evaluateGenres(model, split, { users: 0 }), 'ERR_ALLMREC_INVALID_ARGUMENT', /users/);
	await rejects(t, () => evaluateGenres(model, split, { user: 1 } as object), 'ERR_ALLMREC_INVALID_ARGUMENT');
	const signal = AbortSignal.abort(new Error('enough'));
	await t.throwsAsync(evaluateGenres(model, split, { signal }), { message: 'enough' });
});
