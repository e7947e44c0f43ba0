import { cp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { Dataset } from '../../lib/data/dataset.js';
import { SeededRandom } from '../../lib/data/random.js';
import { loadCandidates, sampleCandidates, saveCandidates } from '../../lib/data/sampling.js';
import { leaveLastOut } from '../../lib/data/split.js';
import type { ErrorCode } from '../../lib/errors.js';
import { loadRun, openRunDataset, trainRun } from '../../lib/recommend/run.js';
import { newState, readState, writeState } from '../../lib/recommend/score-all/job-state.js';
import { datasetOf } from '../data/datasets.js';
import { freshPath, rejects } from '../data/folders.js';
import {
	type Damage,
	figures,
	flips,
	jsonDamages,
	newTally,
	type Reader,
	some,
	textDamages,
	truncations,
	tryDamages,
	tryImpostors,
} from '../support/damage.js';
import { held, LONG, times } from '../support/reliability.js';
import { preparedWorld, tinyRunOptions, trainTinyRun } from '../support/tiny-run.js';
import { CPU, tinyWorld } from '../support/tiny-world.js';

const FORMAT: readonly ErrorCode[] = ['ERR_ALLMREC_FILE_FORMAT', 'ERR_ALLMREC_FILE_NOT_FOUND'];

function* binaryDamages(bytes: Buffer, count: number): Generator<Damage> {
	yield* truncations(bytes);
	yield* flips(bytes, count, new SeededRandom(11));
}

/** In the header of a safetensors file, which holds a model's configuration. */
function* headerDamages(bytes: Buffer, count: number): Generator<Damage> {
	const end = 8 + Number(bytes.readBigUInt64LE(0));
	for (const { what, bytes: head } of flips(bytes.subarray(0, end), count, new SeededRandom(12)))
		yield { what, bytes: Buffer.concat([head, bytes.subarray(end)]) };
}

const damagesOf = (file: string, bytes: Buffer, count: number) =>
	file.endsWith('.json')
		? textDamages(bytes, 5, { flipped: count, json: count })
		: binaryDamages(bytes, count);

/** What a data set is made of, in full. */
async function contents(path: string): Promise<unknown> {
	const { name, items, userIds, sequences } = await Dataset.open(path);
	return [name, items, userIds, [...sequences.offsets], [...sequences.items], [...sequences.times]];
}

test('every byte of a data set folder is checked', async (t) => {
	const { path } = await preparedWorld(tinyWorld({ numUsers: 12 }));
	const tally = newTally();
	for (const file of ['dataset.json', 'items.parquet', 'users.parquet', 'interactions.parquet']) {
		const reader: Reader = {
			...{ name: file, source: path, file, read: contents, codes: FORMAT, named: false },
			sealed: true,
		};
		const bytes = await readFile(join(path, file));
		await tryDamages(reader, some(damagesOf(file, bytes, times(60, 800)), times(12, 1e6)), tally);
		if (LONG || file === 'dataset.json') await tryImpostors(reader, tally);
	}
	t.deepEqual(tally.failures, []);
	held('Files', 'A data set folder in which anything changed is rejected.', figures(tally));
});

test('a data set folder of an earlier version, without checksums', async (t) => {
	const { path } = await preparedWorld(tinyWorld({ numUsers: 12 }));
	const manifest = join(path, 'dataset.json');
	const { files: _, sha256: __, ...old } = JSON.parse(await readFile(manifest, 'utf8'));
	await writeFile(manifest, JSON.stringify(old));
	const tally = newTally();
	for (const file of ['dataset.json', 'items.parquet', 'users.parquet', 'interactions.parquet']) {
		const reader: Reader = {
			...{ name: file, source: path, file, codes: FORMAT, named: false },
			read: async (from) => {
				await contents(from);
			},
		};
		const bytes = await readFile(join(path, file));
		const all = [...damagesOf(file, bytes, times(60, 400))];
		await tryDamages(reader, some(all, times(8, 1e6)), tally);
	}
	t.deepEqual(tally.failures, []);
	held('Files', 'A damaged data set folder without checksums is rejected or read whole.', figures(tally));
});

test('split.json', async (t) => {
	const dataset = datasetOf(
		Array.from({ length: 9 }, (_, u) => Array.from({ length: 5 }, (_, i) => 1 + ((u * 3 + i * 7) % 30))),
		30,
	);
	const split = leaveLastOut(dataset);
	const path = join(freshPath('split'), 'split.json');
	await saveCandidates(path, split, [
		sampleCandidates(split, { seed: 1, negatives: 4 }),
		sampleCandidates(split, { seed: 1, negatives: 4, phase: 'validation' }),
	]);
	const reader: Reader = {
		...{ name: 'split.json', source: path, codes: [...FORMAT, 'ERR_ALLMREC_RUN'] },
		read: async (file) => {
			for (const { phase, users, candidates, targets, negatives } of (await loadCandidates(file, split))
				.candidates)
				for (const [row, user] of users.entries()) {
					const items = candidates.subarray(row * (negatives + 1), (row + 1) * (negatives + 1));
					if (items.some((item) => item < 1 || item > 30)) throw new Error('an item out of range');
					if (items[targets[row]!] !== split.targets(phase)[user]) throw new Error('another target');
				}
		},
	};
	const bytes = await readFile(path);
	const tally = await tryDamages(
		reader,
		textDamages(bytes, 9, { flipped: times(200, 4000), json: times(200, 3000) }),
	);
	await tryImpostors(reader, tally);
	t.deepEqual(tally.failures, []);
	held('Files', 'A damaged split.json is rejected, or its targets are those of the split.', figures(tally));
});

test('the state of a scoring job', async (t) => {
	const job = { input: 'a', options: '{"topK":10}', models: 'b' };
	const path = join(freshPath('job'), 'out.jsonl.state.json');
	const state = { ...newState(job), position: { rows: 77, bytes: 4321 }, users: 70, rejected: { E: 7 } };
	await writeState(path, state);
	const reader: Reader = {
		...{ name: 'state', source: path, sealed: true },
		codes: ['ERR_ALLMREC_FILE_FORMAT'],
		read: async (file) => {
			const { position, users, rejected } = (await readState(file, job)) ?? {};
			return [position, users, rejected];
		},
	};
	const bytes = await readFile(path);
	const damages = textDamages(bytes, 9, { flipped: times(300, 1e6), json: times(150, 1e6) });
	const tally = await tryDamages(reader, damages);
	await tryImpostors({ ...reader, sealed: false }, tally);
	t.deepEqual(tally.failures, []);
	held('Files', 'A scoring job whose state changed does not go on from a wrong row.', figures(tally));
});

/** A run of all stages with its data set, and what it recommends. */
const trained = (async () => {
	const { path, dataset } = await preparedWorld();
	const run = freshPath('run');
	const options = await tinyRunOptions();
	await trainRun(dataset, { out: run, datasetPath: path, options, ...CPU });
	return { run, dataset, options };
})();

async function recommendations(folder: string): Promise<unknown> {
	const { test: candidates, config } = await openRunDataset(folder);
	const model = await loadRun(folder, CPU);
	try {
		const { historyLength, coldThreshold, joint } = config;
		const { items } = model.catalogue;
		const lists = await model.recommend([{ history: [items[1]!.id, items[2]!.id] }], { topK: 5 });
		return [[...candidates.candidates], historyLength, coldThreshold, joint, items, lists];
	} finally {
		model.dispose();
	}
}

const RUN: readonly ErrorCode[] = ['ERR_ALLMREC_RUN', 'ERR_ALLMREC_FILE_NOT_FOUND'];
const RUN_FILES = [
	...['config.json', 'split.json', 'files.json', 'model/catalogue.json', 'model/fusion.json'],
	...['model/latents.safetensors', 'model/cf.safetensors', 'model/alignment.safetensors'],
	...['model/projector.safetensors', 'model/encoder/model.safetensors', 'model/encoder/config.json'],
	...['model/encoder/vocab.txt', 'model/encoder/tokenizer_config.json'],
];

test('every byte of a run folder is checked', async (t) => {
	const { run } = await trained;
	const tally = newTally();
	for (const file of RUN_FILES) {
		const reader: Reader = {
			...{ name: file, source: run, file, read: recommendations, codes: RUN, sealed: true, named: false },
		};
		const bytes = await readFile(join(run, file));
		const json = file.endsWith('.json') ? [...jsonDamages(bytes, times(10, 30), new SeededRandom(2))] : [];
		const damages = [...truncations(bytes), ...flips(bytes, times(10, 30), new SeededRandom(4)), ...json];
		// Without its records a run is one of an earlier version, which the next test is about.
		const found = file === 'files.json' ? damages.filter(({ bytes }) => bytes.length > 0) : damages;
		await tryDamages(reader, some(found, times(4, 1e6)), tally);
		if (file === 'config.json' || file === 'split.json')
			await tryImpostors({ ...reader, sealed: false }, tally);
	}
	t.deepEqual(tally.failures, []);
	held('Files', 'A run folder in which anything changed is rejected.', figures(tally));
});

test('a run folder of an earlier version, without checksums', async (t) => {
	const { run } = await trained;
	const old = freshPath('old');
	await cp(run, old, { recursive: true });
	await rm(join(old, 'files.json'));
	const { sha256: _, ...config } = JSON.parse(await readFile(join(old, 'config.json'), 'utf8'));
	await writeFile(join(old, 'config.json'), JSON.stringify(config));
	const tally = newTally();
	const codes = [...RUN, ...FORMAT, 'ERR_ALLMREC_CHECKPOINT', 'ERR_ALLMREC_NUMERIC'] as ErrorCode[];
	const weights = ['cf', 'alignment', 'projector', 'latents'].map((name) => `model/${name}.safetensors`);
	for (const file of ['config.json', 'split.json', 'model/catalogue.json', 'model/fusion.json', ...weights]) {
		const reader: Reader = {
			...{ name: file, source: old, file, codes, named: false },
			read: async (path) => {
				const [, , , , items] = (await recommendations(path)) as unknown[];
				if (!Array.isArray(items) || items.length !== 51) throw new Error('another catalogue');
			},
		};
		const bytes = await readFile(join(old, file));
		const damages = file.endsWith('.json')
			? textDamages(bytes, 13, { flipped: times(30, 60), json: times(60, 120) })
			: headerDamages(bytes, times(30, 60));
		await tryDamages(reader, some(damages, times(10, 1e6)), tally);
	}
	t.deepEqual(tally.failures, []);
	held('Files', 'A damaged run folder without checksums is rejected or recommends.', figures(tally));
});

test('the state of training', async (t) => {
	const { run, dataset, options } = await trained;
	const tally = newTally();
	const reader: Reader = {
		...{ name: 'state.json', source: run, file: 'cf/state.json', codes: ['ERR_ALLMREC_RUN'] },
		...{ named: false },
		read: async (path) => {
			await trainTinyRun(path, dataset, options, { stages: ['cf'], datasetPath: 'in memory' });
		},
	};
	const bytes = await readFile(join(run, 'cf/state.json'));
	const damages = jsonDamages(bytes, times(30, 300), new SeededRandom(3));
	await tryDamages(reader, [...some(truncations(bytes), 6), ...damages], tally);
	t.deepEqual(tally.failures, []);
	held(
		'Files',
		'A damaged state of training is rejected by name, or training goes on from it.',
		figures(tally),
	);
});

test('names in a record of files do not lead out of the run', async (t) => {
	const { run } = await trained;
	const copy = freshPath('copied');
	await cp(run, copy, { recursive: true });
	for (const name of ['../secret', 'model/../../secret', '/etc/passwd', '.', '..', '', 'model/..']) {
		const files = { [name]: { bytes: 1, sha256: '0'.repeat(64) } };
		await writeFile(
			join(copy, 'files.json'),
			JSON.stringify({ format: 'a-llmrec-files', version: 1, files }),
		);
		await rejects(t, () => loadRun(copy, CPU), 'ERR_ALLMREC_RUN', /files\.json/);
	}
});
