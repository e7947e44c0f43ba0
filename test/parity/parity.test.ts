import { basename } from 'node:path';
import test from 'ava';
import { parityFolders } from '../../scripts/parity/check.js';
import { check, failuresOf, OWN, sharedFolders } from './folders.js';

for (const [where, folders] of Object.entries({ 'our copy': parityFolders(OWN), shared: sharedFolders() }))
	for (const folder of folders)
		test(`${basename(folder)} (${where}) is computed as PyTorch and transformers do`, async (t) => {
			const report = await check(folder);
			t.is(failuresOf(report), '');
			t.true(report.rows.length > 3);
			t.deepEqual(
				report.rows.filter(({ verdict }) => verdict === 'not checked'),
				[],
			);
		});

test('every kind of folder is among our copies', async (t) => {
	const kinds = await Promise.all(parityFolders(OWN).map(async (folder) => (await check(folder)).kind));
	t.deepEqual([...new Set(kinds)].sort(), [
		'GRU',
		'OPT',
		'RecFormer',
		'SASRec',
		'backbone',
		'byte-level BPE',
		'sentence encoder',
		'sentence tokenizer',
		'stage 1',
		'stage 2 projections',
	]);
});
