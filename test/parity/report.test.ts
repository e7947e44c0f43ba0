import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { loadAddon } from '../../lib/native/addon.js';
import { parityFolders } from '../../scripts/parity/check.js';
import { Report } from '../../scripts/parity/report.js';
import { roundToHalf } from '../../scripts/parity/weights.js';
import { check, OWN } from './folders.js';

const temporary: string[] = [];
process.once('exit', () => {
	for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
});

/** One of our folders under a name that says nothing. */
function copyOf(name: string): string {
	const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-parity-'));
	temporary.push(folder);
	cpSync(join(OWN, name), folder, { recursive: true });
	return folder;
}

/** Rewrites a file of float tensors. */
function change(
	path: string,
	edit: (tensors: Map<string, { shape: number[]; data: Float32Array }>) => void,
): void {
	const addon = loadAddon();
	const file = addon.openTensorFile(path);
	const tensors = new Map(
		file.tensors().map(({ name, shape }) => [name, { shape, data: file.readFloat32(name) }]),
	);
	file.close();
	edit(tensors);
	addon.writeSafetensors(
		path,
		Array.from(tensors, ([name, { shape, data }]) => ({ name, dtype: 'F32', shape, data })),
		{},
	);
}

test('the kind comes from the files, not from the folder', async (t) => {
	const report = await check(copyOf('gru'));
	t.is(report.kind, 'GRU');
	t.deepEqual(report.failures, []);
});

test('a wrong number, a number that is none, and a missing number fail', async (t) => {
	for (const [edit, name] of [
		[(data: Float32Array) => data.map((value, i) => value + (i === 3 ? 1e-3 : 0)), 'y'],
		[(data: Float32Array) => data.map((value, i) => (i === 0 ? Number.NaN : value)), 'hn'],
		[(data: Float32Array) => data.subarray(1), 'grad.bias_hh_l0'],
	] as const) {
		const folder = copyOf('gru');
		change(join(folder, 'expected.safetensors'), (tensors) => {
			const data = edit(tensors.get(name)!.data);
			tensors.set(name, {
				shape: data.length === tensors.get(name)!.data.length ? tensors.get(name)!.shape : [data.length],
				data,
			});
		});
		const report = await check(folder);
		t.deepEqual(
			report.failures.map((row) => row.name),
			[name],
		);
	}
});

test('a wrong weight fails', async (t) => {
	const folder = copyOf('stage2_proj');
	change(join(folder, 'model.safetensors'), (tensors) => {
		const bias = tensors.get('item_emb_proj.0.bias')!;
		bias.data[0]! += 0.01;
	});
	t.true((await check(folder)).failures.some(({ name }) => name === 'y2'));
});

test('an expectation that nothing was compared with fails', async (t) => {
	const folder = copyOf('stage2_proj');
	change(join(folder, 'expected.safetensors'), (tensors) => {
		tensors.set('something_new', { shape: [1], data: Float32Array.of(1) });
	});
	const { failures } = await check(folder);
	t.deepEqual(
		failures.map(({ name, note }) => [name, note]),
		[['something_new', 'expected, but nothing was compared with it']],
	);
	const tokenizer = copyOf('tok_wordpiece');
	const path = join(tokenizer, 'expected.json');
	const expected = JSON.parse(readFileSync(path, 'utf8')) as { ids: number[][]; more?: number };
	expected.ids[2]![1]!++;
	expected.more = 1;
	writeFileSync(path, JSON.stringify(expected));
	const names = (await check(tokenizer)).failures.map(({ name }) => name);
	t.deepEqual(names, ['ids', 'ids', 'more']);
});

test('a folder of no known kind, and one that cannot be read, fail', async (t) => {
	const empty = mkdtempSync(join(tmpdir(), 'a-llmrec-parity-'));
	temporary.push(empty);
	t.deepEqual(parityFolders(empty), []);
	writeFileSync(join(empty, 'expected.json'), '{"answer":42}');
	t.deepEqual(parityFolders(empty), [empty]);
	t.regex((await check(empty)).failures[0]!.note, /no kind/);
	const broken = copyOf('opt125m_like');
	writeFileSync(join(broken, 'model.safetensors'), 'nothing');
	t.is((await check(broken)).failures.length, 1);
});

test('a report counts errors against the largest expected value', (t) => {
	const report = new Report('here', 'nothing');
	report.compare('a', [1, 2.0004], [1, 2]);
	report.compare('b', [1, 2.0001], [1, 2]);
	report.compare('c', [0, 0], [0, 0]);
	report.compare('d', [1e-9, 0], [0, 0]);
	t.deepEqual(
		report.rows.map(({ verdict }) => verdict),
		['FAIL', 'ok', 'ok', 'FAIL'],
	);
	t.true(Math.abs(report.rows[0]!.max! - 2e-4) < 1e-8);
});

test('half precision rounds ties to even, and keeps what it can', (t) => {
	for (const [value, rounded] of [
		[1 + 2 ** -11, 1],
		[1 + 3 * 2 ** -11, 1 + 2 ** -9],
		[0.1, 0.0999755859375],
		[65504, 65504],
		[2 ** -25, 0],
		[3 * 2 ** -25, 2 ** -23],
		[-(2 ** -24), -(2 ** -24)],
	] as const)
		t.is(roundToHalf(value), rounded);
});
