import { execFile } from 'node:child_process';
import { cp, mkdir, open, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { fixture, freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { held, LONG, times } from '../support/reliability.js';
import { preparedWorld } from '../support/tiny-run.js';

const child = fileURLToPath(new URL('../support/read-child.js', import.meta.url));

interface Outcome {
	outcome: string;
	seconds: number;
	/** Bytes resident at most. */
	peak: number;
}

async function readAlone(reader: string, path = ''): Promise<Outcome> {
	const { stdout } = await promisify(execFile)(process.execPath, [child, reader, path], { timeout: 240_000 });
	return JSON.parse(stdout);
}

const MiB = 2 ** 20;
/** What a process takes that reads nothing. */
const idle = readAlone('nothing');

/** The child's answer, and that its memory stayed within `room` beside what it takes idle. */
async function bounded(t: ExecutionContext, reader: string, path: string, room: number, what: string) {
	const { outcome, seconds, peak } = await readAlone(reader, path);
	const taken = peak - (await idle).peak;
	t.true(taken < room, `${what}: ${Math.round(taken / MiB)} MiB more than idle, of ${room / MiB}`);
	t.log(`${what}: ${outcome}, ${Math.round(taken / MiB)} MiB, ${seconds.toFixed(1)} s`);
	return { outcome, taken };
}

/** A gzipped file of many times its size: one line of spaces, behind a good beginning. */
function bomb(head: string, bytes: number): Buffer {
	const member = gzipSync(Buffer.alloc(MiB, 0x20), { level: 9 });
	return Buffer.concat([gzipSync(head), ...Array.from({ length: bytes / MiB }, () => member)]);
}

async function folderOf(files: Record<string, string | number>): Promise<string> {
	const folder = freshPath('folder');
	await mkdir(folder, { recursive: true });
	for (const [name, content] of Object.entries(files)) {
		if (typeof content === 'string') await writeFile(join(folder, name), content);
		else {
			const file = await open(join(folder, name), 'w');
			await file.truncate(content); // a file with a hole takes no room on the disk
			await file.close();
		}
	}
	return folder;
}

test('gzip bombs are read in bounded memory', async (t) => {
	const size = times(64, 512) * MiB;
	let most = 0;
	for (const [reader, name, head, expected] of [
		['users', 'users.jsonl.gz', '{"user":"a","history":["b"]}\n', 'read'],
		['users', 'users.csv.gz', 'user,history\na,b\n', 'read'],
		['amazon', 'reviews.json.gz', '{"reviewerID":"a","asin":"b","unixReviewTime":1}\n', undefined],
		['csv', 'log.csv.gz', 'user,item\na,b\n', undefined],
		['csv', 'header.csv.gz', 'user,item', 'ERR_ALLMREC_FILE_FORMAT'],
		['recbole', 'x.inter.gz', 'user_id:token\titem_id:token\na\tb\n', undefined],
	] as const) {
		if (!LONG && (reader === 'csv' || reader === 'recbole')) continue;
		const path = await fixture(name, bomb(head, size));
		const { outcome, taken } = await bounded(t, reader, path, 450 * MiB, name);
		most = Math.max(most, taken);
		if (expected) t.is(outcome, expected, name);
		else
			t.true(
				/^(read|ERR_ALLMREC_(FILE_FORMAT|EMPTY_DATASET|OUT_OF_MEMORY))$/.test(outcome),
				`${name}: ${outcome}`,
			);
	}
	held('Files', 'A gzipped file a thousand times its size when read takes bounded memory.', {
		'MiB when read': size / MiB,
		'most MiB taken': Math.round(most / MiB),
	});
});

test('sizes that a file claims take no memory that it does not fill', async (t) => {
	const [huge, deep] = [20 * 2 ** 30, '['.repeat(30 * MiB)];
	const config =
		'{"model_type":"opt","vocab_size":10,"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":1,"ffn_dim":8,"max_position_embeddings":8}';
	const { path } = await preparedWorld();
	const claims = freshPath('claims');
	await cp(path, claims, { recursive: true });
	const {
		files: _,
		sha256: __,
		...manifest
	} = JSON.parse(await readFile(join(path, 'dataset.json'), 'utf8'));
	await writeFile(
		join(claims, 'dataset.json'),
		JSON.stringify({ ...manifest, numInteractions: 2 ** 40, numUsers: 2 ** 40 }),
	);
	let most = 0;
	let tried = 0;
	const claimed = [
		['opt', await folderOf({ 'config.json': huge })],
		['opt', await folderOf({ 'config.json': deep })],
		['opt', await folderOf({ 'config.json': config, 'model.safetensors.index.json': huge })],
		['opt', await folderOf({ 'config.json': config, 'model.safetensors': huge })],
		['language', await folderOf({ 'tokenizer.json': huge })],
		['language', await folderOf({ 'tokenizer.json': deep })],
		['language', await folderOf({ 'vocab.json': '{"a":16777215,"b":1}', 'merges.txt': '' })],
		['language', await folderOf({ 'vocab.json': '{"a":0}', 'merges.txt': huge })],
		['sentence', await folderOf({ 'vocab.txt': huge })],
		['sentence', await folderOf({ 'tokenizer.json': `{"model":${deep}` })],
		['run', await folderOf({ 'config.json': huge })],
		['dataset', await folderOf({ 'dataset.json': huge })],
		['dataset', await folderOf({ 'dataset.json': deep })],
		['dataset', claims],
	] as const;
	// Each takes a process of its own.
	for (const [reader, folder] of claimed.filter((_, i) => LONG || i % 3 === 1)) {
		const { outcome, taken } = await bounded(t, reader, folder, 200 * MiB, `${reader} of ${folder}`);
		t.regex(outcome, /^ERR_ALLMREC_(CHECKPOINT|FILE_FORMAT|FILE_NOT_FOUND|RUN)$/);
		most = Math.max(most, taken);
		tried++;
	}
	held('Files', 'Sizes that a file claims and does not have take no memory.', {
		'files tried': tried,
		'most MiB taken': Math.round(most / MiB),
	});
});

test('a file of options that is none', async (t) => {
	const zero = freshPath('zero.json');
	await mkdir(dirname(zero), { recursive: true });
	await symlink('/dev/zero', zero);
	for (const [path, expected] of [
		[zero, /ERR_ALLMREC_FILE_NOT_FOUND.*zero\.json is a pipe or a device/],
		[await fixture('deep.json', '{"cf":'.repeat(1e5)), /ERR_ALLMREC_FILE_FORMAT.*deep\.json.*nested/],
		[await fixture('list.json', '[]'), /ERR_ALLMREC_FILE_FORMAT.*list\.json.*an object of options/],
	] as const) {
		const { code, err } = await command(['train', 'nowhere', '--out', 'nowhere', '--config', path]);
		t.is(code, 1);
		t.regex(err, expected);
	}
});
