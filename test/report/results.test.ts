import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import {
	type ExperimentResult,
	readResults,
	resultsFolder,
	writeResult,
} from '../../lib/experiment/results.js';
import { freshPath, rejects } from '../data/folders.js';
import { sampleResult, sampleResults } from '../support/experiment-results.js';

test('what is written is read again', async (t) => {
	const out = freshPath('experiment');
	const results = sampleResults();
	for (const result of results) await writeResult(out, result);
	const byKey = (a: ExperimentResult, b: ExperimentResult) => (a.key < b.key ? -1 : 1);
	t.deepEqual((await readResults(out)).sort(byKey), results.sort(byKey));
});

test('a result that could not be read again is not written', async (t) => {
	const out = freshPath('experiment');
	const wrong: [Partial<ExperimentResult>, RegExp][] = [
		[{ key: '../escape' }, /key/],
		[{ users: [1, 2] }, /targetCounts: has 240 numbers for 2 users/],
		[{ models: {} }, /no model/],
		[{ slices: { odd: { description: '', rows: [0, 240] } } }, /slices\.odd\.rows\.1: is no row/],
		[{ slices: { odd: { description: '', rows: [7, 7] } } }, /a row twice/],
		[{ timings: { cf: Number.NaN } }, /timings\.cf/],
	];
	for (const [part, message] of wrong) {
		const result = { ...sampleResult(), ...part };
		await rejects(t, () => writeResult(out, result), 'ERR_ALLMREC_INVALID_ARGUMENT', message);
	}
	const twice = sampleResult();
	twice.users[5] = twice.users[4]!;
	await rejects(t, () => writeResult(out, twice), 'ERR_ALLMREC_INVALID_ARGUMENT', /a user twice/);
	await rejects(t, () => readResults(out), 'ERR_ALLMREC_FILE_NOT_FOUND', /results/);
});

test('a damaged result is named', async (t) => {
	const out = freshPath('experiment');
	await writeResult(out, sampleResult());
	const path = await writeResult(out, sampleResult({ seed: 1 }));
	const text = await readFile(path, 'utf8');
	const damaged = (change: (result: Record<string, unknown>) => void) => {
		const result = JSON.parse(text);
		change(result);
		return JSON.stringify(result);
	};
	for (const [contents, message] of [
		['', /it is empty/],
		[text.slice(0, text.length / 2), /not JSON, or cut off/],
		[damaged((result) => Object.assign(result, { version: 2 })), /`version`/],
		[damaged((result) => Object.assign(result, { targetCounts: [-1] })), /targetCounts/],
		[damaged((result) => Object.assign(result, { key: 'other' })), /under another name/],
		[damaged((result) => delete result.models), /`models`/],
	] as const) {
		await writeFile(path, contents);
		const error = await rejects(t, () => readResults(out), 'ERR_ALLMREC_FILE_FORMAT', message);
		t.true(error.message.includes(path), error.message);
	}
	const empty = freshPath('empty');
	await mkdir(resultsFolder(empty), { recursive: true });
	await writeFile(join(resultsFolder(empty), 'a.json.tmp-0'), '{');
	await rejects(t, () => readResults(empty), 'ERR_ALLMREC_FILE_NOT_FOUND', /has no results/);
});
