import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test from 'ava';
import { resolveCheckpoint } from '../../lib/text/hub.js';
import { folderOf } from './fixtures.js';

const COMMIT = 'a'.repeat(40);
const weights = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255));
const FILES: Record<string, Buffer> = {
	'config.json': Buffer.from('{"model_type":"opt"}'),
	'model.safetensors': weights,
	'pytorch_model.bin': Buffer.from('not wanted'),
	'flax_model.msgpack': Buffer.from('not wanted'),
	'merges.txt': Buffer.from('#version: 0.2\n'),
	'vocab.json': Buffer.from('{}'),
	'added_tokens.json': Buffer.alloc(0),
	'1_Pooling/config.json': Buffer.from('{"pooling_mode_mean_tokens":true}'),
	'onnx/config.json': Buffer.from('{}'),
	'README.md': Buffer.from('not wanted'),
};
const sha256 = (data: Buffer) => createHash('sha256').update(data).digest('hex');
const gitSha = (data: Buffer) =>
	createHash('sha1').update(`blob ${data.length}\0`).update(data).digest('hex');

interface Hub {
	endpoint: string;
	requests: string[];
	/** Changed by tests. */
	behaviour: { files: Record<string, Buffer>; cutAfter?: number; corrupt?: boolean; status?: number };
	close: () => Promise<void>;
}

/** The part of the Hub's interface that downloads need, on this machine. */
async function fakeHub(): Promise<Hub> {
	const behaviour: Hub['behaviour'] = { files: { ...FILES } };
	const requests: string[] = [];
	const server = createServer((request, response) => {
		const path = decodeURIComponent(new URL(request.url!, 'http://hub').pathname);
		requests.push(`${path} ${request.headers.range ?? ''}`.trim());
		const json = (value: unknown) => {
			response.setHeader('Content-Type', 'application/json');
			response.end(JSON.stringify(value));
		};
		if (behaviour.status !== undefined) {
			response.statusCode = behaviour.status;
			return json({ error: 'as the test wants it' });
		}
		if (path.startsWith('/api/models/owner/name/revision/'))
			return json({ _id: '1', id: 'owner/name', sha: COMMIT, lastModified: '2024-01-01T00:00:00Z' });
		if (path === `/api/models/owner/name/tree/${COMMIT}`)
			return json(
				Object.entries(behaviour.files).map(([name, data]) => ({
					type: 'file',
					path: name,
					size: data.length,
					oid: gitSha(data),
					...(data === weights ? { lfs: { oid: sha256(data), size: data.length, pointerSize: 100 } } : {}),
				})),
			);
		const prefix = `/owner/name/resolve/${COMMIT}/`;
		const data = path.startsWith(prefix) ? behaviour.files[path.slice(prefix.length)] : undefined;
		if (!data) {
			response.statusCode = 404;
			return json({ error: 'Repository not found' });
		}
		const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
		const [from, to] = range
			? [Number(range[1]), Math.min(Number(range[2]) + 1, data.length)]
			: [0, data.length];
		response.setHeader('ETag', `"${gitSha(data)}"`);
		if (range) {
			response.statusCode = 206;
			response.setHeader('Content-Range', `bytes ${from}-${to - 1}/${data.length}`);
		}
		let body = data.subarray(from, to);
		const { cutAfter, corrupt } = behaviour;
		if (corrupt && body.length > 1) body = Buffer.alloc(body.length, 1);
		response.setHeader('Content-Length', body.length);
		if (cutAfter !== undefined && body.length > cutAfter) {
			response.write(body.subarray(0, cutAfter), () => setTimeout(() => request.socket.destroy(), 20));
			return;
		}
		response.end(body);
	});
	await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
	return {
		endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
		requests,
		behaviour,
		close: () =>
			new Promise((resolve) => {
				server.closeAllConnections();
				server.close(() => resolve());
			}),
	};
}

test('a folder is itself', async (t) => {
	const folder = folderOf('', [], { 'config.json': '{}' });
	t.is(await resolveCheckpoint(folder), folder);
	const empty = folderOf('', [], { 'weights.txt': '' });
	await t.throwsAsync(resolveCheckpoint(empty), {
		code: 'ERR_ALLMREC_FILE_NOT_FOUND',
		message: /config\.json.*weights\.txt/,
	});
	await t.throwsAsync(resolveCheckpoint(join(folder, 'config.json')), { message: /is a file/ });
	for (const source of ['/no/such/folder', './nothing', 'a/b/c', '../x/y', 'gpt2', 'owner/..'])
		await t.throwsAsync(resolveCheckpoint(source), { code: 'ERR_ALLMREC_FILE_NOT_FOUND' }, source);
	await t.throwsAsync(resolveCheckpoint(''), { code: 'ERR_ALLMREC_INVALID_ARGUMENT' });
});

test('a model is downloaded into the cache layout of huggingface_hub, what is needed of it', async (t) => {
	const hub = await fakeHub();
	const cacheDir = folderOf('', []);
	const reports: { done: number; total?: number }[] = [];
	const folder = await resolveCheckpoint('owner/name', {
		cacheDir,
		endpoint: hub.endpoint,
		onProgress: (p) => reports.push(p),
	});
	const repository = join(cacheDir, 'models--owner--name');
	t.is(folder, join(repository, 'snapshots', COMMIT));
	t.is(readFileSync(join(repository, 'refs/main'), 'utf8'), COMMIT);
	for (const name of [
		'config.json',
		'model.safetensors',
		'merges.txt',
		'vocab.json',
		'added_tokens.json',
		'1_Pooling/config.json',
	])
		t.deepEqual(readFileSync(join(folder, name)), FILES[name], name);
	t.true(lstatSync(join(folder, 'model.safetensors')).isSymbolicLink());
	t.is(readlinkSync(join(folder, 'model.safetensors')), `../../blobs/${sha256(weights)}`);
	t.is(
		readlinkSync(join(folder, '1_Pooling/config.json')),
		`../../../blobs/${gitSha(FILES['1_Pooling/config.json']!)}`,
	);
	t.false(hub.requests.some((path) => /pytorch|flax|README|onnx/.test(path)));
	t.is(reports.at(-1)!.done, reports.at(-1)!.total!);
	hub.requests.length = 0;
	t.is(await resolveCheckpoint('owner/name@main', { cacheDir, endpoint: hub.endpoint }), folder);
	t.false(
		hub.requests.some((path) => path.includes('/resolve/')),
		'what is there is not fetched again',
	);
	await hub.close();
	// Without network the cache serves.
	t.is(await resolveCheckpoint('owner/name', { cacheDir, endpoint: hub.endpoint, attempts: 1 }), folder);
	t.is(await resolveCheckpoint('owner/name', { cacheDir, offline: true }), folder);
	await t.throwsAsync(resolveCheckpoint('owner/name@v2', { cacheDir, endpoint: hub.endpoint, attempts: 1 }), {
		code: 'ERR_ALLMREC_DOWNLOAD',
		message: /owner\/name@v2 .*by hand.*folder.*HF_TOKEN/,
	});
	await t.throwsAsync(resolveCheckpoint('owner/other', { cacheDir, offline: true }), {
		code: 'ERR_ALLMREC_DOWNLOAD',
	});
});

test('a cut connection goes on where it ended', async (t) => {
	const hub = await fakeHub();
	const cacheDir = folderOf('', []);
	hub.behaviour.cutAfter = 120_000;
	const options = { cacheDir, endpoint: hub.endpoint };
	await t.throwsAsync(resolveCheckpoint('owner/name', { ...options, attempts: 1 }), {
		code: 'ERR_ALLMREC_DOWNLOAD',
		message: /model\.safetensors did not arrive/,
	});
	const folder = await resolveCheckpoint('owner/name', options);
	t.deepEqual(readFileSync(join(folder, 'model.safetensors')), weights);
	const ranges = hub.requests.filter((path) => /safetensors bytes=[1-9]/.test(path));
	t.true(ranges.length >= 1, hub.requests.join('\n'));
	await hub.close();
});

test('a file that is not what was announced is refused and leaves nothing behind', async (t) => {
	const hub = await fakeHub();
	const cacheDir = folderOf('', []);
	const options = { cacheDir, endpoint: hub.endpoint, attempts: 2 };
	hub.behaviour.corrupt = true;
	await t.throwsAsync(resolveCheckpoint('owner/name', options), {
		code: 'ERR_ALLMREC_DOWNLOAD',
		message: /checksum/,
	});
	hub.behaviour.corrupt = false;
	// A partial file of other content is found out by the checksum, then fetched anew.
	const blobs = join(cacheDir, 'models--owner--name/blobs');
	mkdirSync(blobs, { recursive: true });
	writeFileSync(join(blobs, `${sha256(weights)}.incomplete`), Buffer.alloc(1000, 9));
	const folder = await resolveCheckpoint('owner/name', options);
	t.deepEqual(readFileSync(join(folder, 'model.safetensors')), weights);
	await hub.close();
});

test('PyTorch weights where there is no safetensors; shards with their index', async (t) => {
	const hub = await fakeHub();
	const index = JSON.stringify({
		weight_map: { a: 'pytorch_model-00001-of-00002.bin', b: 'pytorch_model-00002-of-00002.bin' },
	});
	hub.behaviour.files = {
		'config.json': FILES['config.json']!,
		'pytorch_model.bin.index.json': Buffer.from(index),
		'pytorch_model-00001-of-00002.bin': Buffer.from('one'),
		'pytorch_model-00002-of-00002.bin': Buffer.from('two'),
		'tf_model.h5': Buffer.from('no'),
	};
	const cacheDir = folderOf('', []);
	const folder = await resolveCheckpoint('owner/name', { cacheDir, endpoint: hub.endpoint });
	t.is(readFileSync(join(folder, 'pytorch_model-00002-of-00002.bin'), 'utf8'), 'two');
	t.false(hub.requests.some((path) => path.includes('h5')));
	hub.behaviour.files = { 'config.json': FILES['config.json']! };
	await t.throwsAsync(
		resolveCheckpoint('owner/name', { cacheDir: folderOf('', []), endpoint: hub.endpoint }),
		{ message: /neither \*\.safetensors nor/ },
	);
	const bare = await resolveCheckpoint('owner/name', {
		cacheDir: folderOf('', []),
		endpoint: hub.endpoint,
		weights: false,
	});
	t.is(readFileSync(join(bare, 'config.json'), 'utf8'), '{"model_type":"opt"}');
	await hub.close();
});

test('what the Hub denies is said, with what to do; aborting gives the signal’s reason', async (t) => {
	const hub = await fakeHub();
	const options = { cacheDir: folderOf('', []), endpoint: hub.endpoint, attempts: 1 };
	for (const [status, message] of [
		[401, /private or gated, or does not exist/],
		[404, /no such model or revision/],
		[503, /as the test wants it/],
	] as const) {
		hub.behaviour.status = status;
		await t.throwsAsync(resolveCheckpoint('owner/name', options), { code: 'ERR_ALLMREC_DOWNLOAD', message });
	}
	hub.behaviour.status = undefined;
	const reason = new Error('enough');
	await t.throwsAsync(resolveCheckpoint('owner/name', { ...options, signal: AbortSignal.abort(reason) }), {
		is: reason,
	});
	const controller = new AbortController();
	const aborted = resolveCheckpoint('owner/name', {
		...options,
		signal: controller.signal,
		onProgress: () => controller.abort(reason),
	});
	await t.throwsAsync(aborted, { is: reason });
	await hub.close();
});

test('names that leave the folder are refused', async (t) => {
	const hub = await fakeHub();
	hub.behaviour.files['../../evil/config.json'] = Buffer.from('{}');
	const options = {
		cacheDir: folderOf('', []),
		endpoint: hub.endpoint,
		attempts: 1,
		files: ['config.json', '*/*/*/config.json'],
	};
	await t.throwsAsync(resolveCheckpoint('owner/name', options), {
		code: 'ERR_ALLMREC_DOWNLOAD',
		message: /evil/,
	});
	await hub.close();
});
