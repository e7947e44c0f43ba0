import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import {
	type ExperimentFile,
	parseExperiment,
	readExperiment,
} from '../../lib/experiment/experiment-file.js';
import { fixture, rejects } from '../data/folders.js';

const small: ExperimentFile = { name: 'small', data: [{ name: 'demo', demo: {} }], models: ['sasrec'] };

test('defaults: one seed, one set of candidates, the overall scenario', (t) => {
	const { seeds, candidatesSeed, scenarios, users } = parseExperiment(small);
	t.deepEqual({ seeds, candidatesSeed, users }, { seeds: [0], candidatesSeed: 0, users: undefined });
	t.deepEqual(scenarios, [{ scenario: 'overall' }]);
});

const misspelled: [string, object, RegExp][] = [
	['a field', { modles: [] }, /unknown option `modles`, did you mean `models`/],
	['a model', { models: ['sasrec', 'popularty'] }, /models\.1\.model.*"popularity"/],
	['an option of runs', { options: { alignmnt: {} } }, /alignmnt.*`alignment`/s],
	['an option of a stage', { options: { alignment: { alhpa: 1 } } }, /alhpa.*alpha/s],
	['an option of a data set', { data: [{ name: 'demo', demo: {}, options: { wrods: 'movie' } }] }, /words/],
	['an option of a model', { models: [{ model: 'allmrec', options: { jiont: 'text' } }] }, /jiont.*joint/s],
	['a scenario', { scenarios: ['overal'] }, /scenarios\.0\.scenario/],
	[
		'a label',
		{ scenarios: [{ scenario: 'shuffle', models: ['SASrec'] }] },
		/no model is called «SASrec», did you mean «SASRec»/,
	],
	['a row', { scenarios: [{ scenario: 'ablation', rows: ['without L_rek'] }] }, /rows/],
];
for (const [what, changes, message] of misspelled)
	test(`${what} that is misspelled is named`, async (t) => {
		await rejects(
			t,
			async () => parseExperiment({ ...small, ...changes }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			message,
		);
	});

test('what the experiment sets, and what is there twice, is refused', async (t) => {
	const wrong: [object, RegExp][] = [
		[{ options: { seed: 3 } }, /`seed` is set by the experiment/],
		[{ seeds: [1, 1] }, /«1» is there twice/],
		[
			{ models: ['allmrec', { model: 'allmrec', options: { backbone: 'gru4rec' } }] },
			/«A-LLMRec» is there twice/,
		],
		[{ scenarios: ['overall', 'overall'] }, /«overall» is there twice/],
		[{ data: [{ name: 'demo' }] }, /one of `path` and `demo`/],
		[{ data: [{ name: '../up', demo: {} }] }, /data\.0\.name/],
	];
	for (const [changes, message] of wrong)
		await rejects(
			t,
			async () => parseExperiment({ ...small, ...changes }),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			message,
		);
});

test('YAML and JSON say the same; paths are relative to the file', async (t) => {
	const yaml = await fixture(
		'experiment.yaml',
		'name: a\ndata:\n  - { name: games, path: data/games }\nmodels: [sasrec, { model: allmrec, label: Ours }]\n',
	);
	const experiment = await readExperiment(yaml);
	t.is(experiment.data[0]!.path, join(yaml, '..', 'data', 'games'));
	const json = join(yaml, '..', 'experiment.json');
	await writeFile(
		json,
		JSON.stringify({
			name: 'a',
			data: [{ name: 'games', path: 'data/games' }],
			models: ['sasrec', { model: 'allmrec', label: 'Ours' }],
		}),
	);
	t.deepEqual(await readExperiment(json), experiment);
});

test('a file that is neither is named', async (t) => {
	const path = await fixture('broken.yaml', 'name: [\n');
	await rejects(t, () => readExperiment(path), 'ERR_ALLMREC_FILE_FORMAT', /broken\.yaml/);
	await rejects(t, () => readExperiment(`${path}.not`), 'ERR_ALLMREC_FILE_NOT_FOUND', /broken\.yaml\.not/);
});
