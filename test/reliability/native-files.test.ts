import { execFile, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import test, { type ExecutionContext } from 'ava';
import { loadAddon, type NativeTensorToWrite } from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { Projection } from '../../lib/projection/projection.js';
import { fixture, rejects } from '../data/folders.js';
import {
	billionLaughs,
	bytes,
	named,
	safetensors,
	tensor,
	torchLegacy,
	torchZip,
	zip,
} from '../support/checkpoint-bytes.js';
import { held, LONG, times } from '../support/reliability.js';
import { CPU } from '../support/tiny-world.js';

const addon = loadAddon();
const CODES = ['ERR_ALLMREC_CHECKPOINT', 'ERR_ALLMREC_UNSUPPORTED', 'ERR_ALLMREC_NUMERIC'];

/** Reads all of a file. */
function readAll(path: string): number {
	const file = addon.openTensorFile(path);
	try {
		file.metadata();
		const tensors = file.tensors();
		for (const { name } of tensors) file.readFloat32(name);
		return tensors.length;
	} finally {
		file.close();
	}
}

/** Whether it is refused; fails the test where it is refused in another way than by a code and the file's name. */
function refused(t: ExecutionContext, path: string, what: string, read: () => unknown): boolean {
	try {
		read();
		return false;
	} catch (error) {
		const { code, message } = error as { code?: string; message: string };
		if (!CODES.includes(code ?? '') || !message.includes(path)) t.fail(`${what}: ${code}: ${message}`);
		return true;
	}
}

const entry = (dtype: string, shape: number[], from: number, to: number) => ({
	dtype,
	shape,
	data_offsets: [from, to],
});
const f32 = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const SAFETENSORS = safetensors(
	{
		__metadata__: { format: 'pt', 'a-llmrec.other': '{}' },
		'layers.0.weight': entry('F32', [2, 3], 0, 24),
		'layers.0.bias': entry('BF16', [2], 24, 28),
		ids: entry('I64', [1], 28, 36),
		none: entry('F16', [0, 4], 36, 36),
	},
	bytes(f32(1, 2, 3, 4, 5, 6), Buffer.alloc(12)),
);
const STATE = bytes(
	'}(',
	...['a', 'b'].flatMap((name) => [named(name, tensor([2, 2], [1, 2])).subarray(1, -1)]),
	'u',
);
const GOOD: Record<string, Buffer> = {
	'a safetensors file': SAFETENSORS,
	'a torch zip': torchZip(STATE),
	'a torch pickle of the older format': torchLegacy(STATE),
};

test('a truncated or flipped checkpoint is read or refused, at every length and bit', async (t) => {
	let truncations = 0;
	let flips = 0;
	const masks = LONG ? [1, 2, 4, 8, 16, 32, 64, 128, 255] : [1, 128];
	for (const [name, good] of Object.entries(GOOD)) {
		const path = await fixture('checkpoint.bin', good);
		t.true(readAll(path) >= 2, name);
		const accepted: number[] = [];
		for (let length = 0; length < good.length; length++, truncations++) {
			writeFileSync(path, good.subarray(0, length));
			if (!refused(t, path, `${name} cut to ${length}`, () => readAll(path))) accepted.push(length);
		}
		t.deepEqual(accepted, [], `${name}: no part of it is taken for the whole`);
		for (let at = 0; at < good.length; at++)
			for (const mask of masks) {
				const flipped = Buffer.from(good);
				flipped[at]! ^= mask;
				writeFileSync(path, flipped);
				refused(t, path, `${name}, byte ${at} ^ ${mask}`, () => readAll(path));
				flips++;
			}
	}
	held('Files', 'Truncated and flipped checkpoints are read or refused with a code and their name', {
		'lengths tried': truncations,
		'truncated ones accepted': 0,
		'flips tried': flips,
		'crashes or other errors': 0,
	});
});

test('sizes that cannot be are refused', async (t) => {
	const four = f32(1);
	const w = (description: object) => safetensors({ w: description }, four);
	const two63 = 1n << 63n;
	const cases: Record<string, [file: Buffer, message: RegExp]> = {
		'a header of 2^63 bytes': [safetensors('{}', four, two63), /found a length of 9223372036854775808/],
		'a header of 2^64 - 1 bytes': [safetensors('{}', four, (1n << 64n) - 1n), /found a length of/],
		'a header of no bytes': [bytes(Buffer.alloc(8), '{'), /JSON/],
		'a header one byte too long': [safetensors('{}', Buffer.alloc(0), 3n), /at most 2 bytes/],
		'a shape whose product overflows': [w(entry('F32', [2 ** 62, 4], 0, 4)), /overflows/],
		'a shape that overflows beside a zero': [w(entry('F32', [0, 2 ** 62, 4], 0, 0)), /overflows/],
		'a shape of 2^53': [w(entry('F32', [2 ** 50], 0, 4)), /bytes apart/],
		'a negative size': [w(entry('F32', [-1], 0, 4)), /0 or more/],
		'a size with a fraction': [
			safetensors('{"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}', four),
			/0 or more/,
		],
		'offsets that overlap': [
			safetensors({ a: entry('F32', [1], 0, 4), b: entry('F32', [1], 0, 4) }, four),
			/at offset 4/,
		],
		'offsets out of order': [w(entry('F32', [1], 4, 0)), /4 bytes apart/],
		'a hole': [safetensors({ a: entry('U8', [1], 0, 1), b: entry('U8', [1], 3, 4) }, four), /at offset 1/],
		'offsets beyond the file': [w(entry('U8', [2 ** 52], 0, 2 ** 52)), /of 4, found offsets/],
		'bytes that belong to nothing': [safetensors({}, four), /expected 0 bytes of data/],
		'a repeated key': [safetensors('{"w":1,"w":1}'), /expected an object/],
		'a tensor that is there twice': [
			safetensors(
				'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
				four,
			),
			/"w" is repeated/,
		],
		'a key repeated inside': [
			safetensors('{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', four),
			/"dtype" is repeated/,
		],
		'a million brackets': [safetensors('['.repeat(1_000_000)), /expected a safetensors file/],
		'a million brackets within': [safetensors(`{"w":${'['.repeat(1_000_000)}`), /deeper than 64/],
		'a million axes': [w({ ...entry('F32', [], 0, 4), shape: Array(60_000).fill(1) }), /at most 64/],
		'a name of a million letters': [safetensors({ ['x'.repeat(1_000_000)]: 1 }), /expected an object/],
		'a zip directory that claims more entries': [zip([['a/data.pkl', four]], { count: 9 }), /central header/],
		'a zip record that claims 4 GB': [
			zip([['a/data.pkl', four]], { size: 0xfffffffe }),
			/truncated or damaged/,
		],
		'a zip record that needs zip64 and has none': [
			zip([['a/data.pkl', four]], { size: 0xffffffff }),
			/zip64/,
		],
		'a zip record that lies elsewhere': [
			zip([['a/data.pkl', four]], { offset: 0x7fffffff }),
			/outside the file/,
		],
		'a deflate bomb': [zip([['a/data.pkl', Buffer.alloc(100)]], { method: 8 }), /stored record/],
		'entries that share their bytes': [
			zip(
				[
					['a/data.pkl', four],
					['a/data.pkx', four],
				],
				{ offset: 0 },
			),
			/name of the central directory/,
		],
		'two pickles': [
			zip([
				['../../a/data.pkl', four],
				['a/data.pkl', four],
			]),
			/found more/,
		],
		'a path out of the folder': [zip([['../../../etc/passwd', four]]), /without a data\.pkl/],
		'a tensor beyond its storage': [torchZip(named('w', tensor([13], [1]))), /reaches element 12/],
		'a stride of 2^62': [torchZip(named('w', tensor([3, 3], [2 ** 62, 2 ** 62]))), /out of range/],
		'a number stretched to a terabyte': [torchZip(named('w', tensor([2 ** 40], [0]))), /out of proportion/],
		nothing: [Buffer.alloc(0), /a file of 0 bytes/],
		zeros: [Buffer.alloc(4096), /beginning with 00 00/],
	};
	for (const [name, [file, message]] of Object.entries(cases)) {
		const path = await fixture('absurd.bin', file);
		const error = t.throws(() => readAll(path), { any: true }, name) as Error & { code?: string };
		t.true(CODES.includes(error.code ?? ''), `${name}: ${error.code}`);
		t.true(error.message.startsWith(path), `${name}: ${error.message.slice(0, 300)}`);
		t.regex(error.message, message, name);
		t.true(error.message.length < path.length + 500, `${name}: ${error.message.length} characters`);
	}
	held('Files', 'Absurd sizes, overlaps, repeats and nesting in checkpoints are refused', {
		'kinds tried': Object.keys(cases).length,
		'read all the same': 0,
	});
});

/** A projector's file with changes to what it is made of. */
async function projector(
	change: (tensors: NativeTensorToWrite[]) => NativeTensorToWrite[],
	config: object | string = { kind: 'linear', userSize: 2, jointSize: 3, tokenSize: 4 },
): Promise<string> {
	const zeros = (name: string, ...shape: number[]): NativeTensorToWrite => ({
		name,
		dtype: 'F32',
		shape,
		data: new Float32Array(shape.reduce((product, size) => product * size, 1)),
	});
	const tensors = [
		zeros('log_emb_proj.weight', 4, 2),
		zeros('log_emb_proj.bias', 4),
		zeros('item_emb_proj.weight', 4, 3),
		zeros('item_emb_proj.bias', 4),
	];
	const path = await fixture('projector.safetensors', '');
	addon.writeSafetensors(path, change(tensors), {
		'a-llmrec.projector': typeof config === 'string' ? config : JSON.stringify(config),
	});
	return path;
}

test('weights that do not fit the model are refused by name', async (t) => {
	const session = Session.open(CPU);
	const load = (path: string) => Projection.load(path, session);
	const code = 'ERR_ALLMREC_CHECKPOINT' as const;
	try {
		(await load(await projector((tensors) => tensors))).dispose();
		let tried = 0;
		for (let i = 0; i < 4; i++) {
			const only = (change: (tensor: NativeTensorToWrite) => NativeTensorToWrite[]) =>
				projector((tensors) => tensors.flatMap((tensor, at) => (at === i ? change(tensor) : [tensor])));
			const wrong: [change: (tensor: NativeTensorToWrite) => NativeTensorToWrite[], message: RegExp][] = [
				[() => [], /lacks the tensor/],
				[(tensor) => [{ ...tensor, name: `${tensor.name}s` }], /lacks the tensor/],
				[(tensor) => [{ ...tensor, shape: [tensor.data.length, 1, 1] }], /of shape/],
				[
					(tensor) => [
						{
							...tensor,
							shape: [...tensor.shape].map((n) => n + 1),
							data: new Float32Array(tensor.shape.reduce((p, n) => p * (n + 1), 1)),
						},
					],
					/of shape/,
				],
				[(tensor) => [{ ...tensor, shape: [0], data: new Float32Array(0) }], /of shape/],
			];
			for (const [change, message] of wrong) {
				const path = await only(change);
				const error = await rejects(t, () => load(path), code, message);
				t.true(error.message.includes(path), error.message);
				tried++;
			}
			for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
				const path = await only((tensor) => [
					{ ...tensor, data: tensor.data.map((x, at) => (at === 1 ? bad : x)) },
				]);
				const error = await rejects(t, () => load(path), 'ERR_ALLMREC_NUMERIC', /a NaN or an infinity/);
				t.true(error.message.includes(path), error.message);
				tried++;
			}
		}
		for (const config of ['{', 'null', '[]', '7', '{}', '{"kind":"linear","userSize":-1}', '{"kind":9}']) {
			const path = await projector((tensors) => tensors, config);
			const error = await rejects(t, () => load(path), code);
			t.true(error.message.includes(path), error.message);
			tried++;
		}
		const large = { kind: 'mlp', userSize: 2 ** 24, jointSize: 2 ** 24, tokenSize: 2 ** 24 };
		const path = await projector((tensors) => tensors, large);
		await rejects(t, () => load(path), code);
		held('Files', 'Missing, misnamed, misshapen and non-finite weights are refused by name', {
			'files tried': tried + 1,
			'loaded all the same': 0,
		});
	} finally {
		session.release();
	}
});

test('what is no regular file is refused at once', async (t) => {
	const folder = dirname(await fixture('x', ''));
	const pipe = join(folder, 'pipe');
	execFileSync('mkfifo', [pipe]);
	const server = createServer().listen(join(folder, 'socket'));
	await once(server, 'listening');
	symlinkSync(join(folder, 'loop'), join(folder, 'loop'));
	mkdirSync(join(folder, 'folder'));
	const cases: [path: string, code: string][] = [
		[pipe, 'ERR_ALLMREC_CHECKPOINT'],
		['/dev/zero', 'ERR_ALLMREC_CHECKPOINT'],
		['/dev/null', 'ERR_ALLMREC_CHECKPOINT'],
		[join(folder, 'folder'), 'ERR_ALLMREC_CHECKPOINT'],
		[join(folder, 'socket'), 'ERR_ALLMREC_CHECKPOINT'],
		[join(folder, 'loop'), 'ERR_ALLMREC_FILE_NOT_FOUND'],
		[join(folder, 'absent'), 'ERR_ALLMREC_FILE_NOT_FOUND'],
		[join(folder, 'x', 'below-a-file'), 'ERR_ALLMREC_FILE_NOT_FOUND'],
		[join(folder, 'n'.repeat(300)), 'ERR_ALLMREC_FILE_NOT_FOUND'],
		['', 'ERR_ALLMREC_FILE_NOT_FOUND'],
		[`${folder}/x\0y`, 'ERR_ALLMREC_INVALID_ARGUMENT'],
	];
	for (const [path, code] of cases) {
		const started = performance.now();
		const error = t.throws(() => readAll(path), { any: true }, path) as Error & { code?: string };
		if (basename(path) === 'socket') t.regex(error.code ?? '', /CHECKPOINT|NOT_FOUND/, error.message);
		else t.is(error.code, code, `${path}: ${error.message}`);
		t.true(error.message.startsWith(path.split('\0')[0]!), error.message);
		t.true(performance.now() - started < 2000, `${path} takes its time`);
	}
	server.close();
	const odd = await fixture('a\nb "c".safetensors', SAFETENSORS);
	t.is(readAll(odd), 4, 'a newline in a name is a name');
	held(
		'Files',
		'Pipes, devices, folders, sockets, loops and odd names are refused or read, without waiting',
		{
			'kinds tried': cases.length + 1,
		},
	);
});

test('a file that is cut short while it is read is an error, not the end of the process', async (t) => {
	const size = 4 << 20;
	const data = Buffer.alloc(size);
	const whole = safetensors({ w: entry('F32', [size / 4], 0, size) }, data);
	const path = await fixture('changing.safetensors', whole);
	const file = addon.openTensorFile(path);
	truncateSync(path, 1 << 20);
	const error = t.throws(() => file.readFloat32('w'), { any: true }) as Error & { code?: string };
	t.is(error.code, 'ERR_ALLMREC_CHECKPOINT');
	t.regex(error.message, /changing\.safetensors: the file became shorter while it was read/);
	file.close();

	// Another thread cuts and restores it all the time.
	writeFileSync(path, whole);
	const state = new Int32Array(new SharedArrayBuffer(4));
	const cutter = new Worker(
		`const { workerData: { path, state } } = require('node:worker_threads');
		 const fs = require('node:fs');
		 const whole = fs.readFileSync(path);
		 while (!Atomics.load(state, 0)) {
			fs.truncateSync(path, Math.floor(Math.random() * whole.length));
			fs.writeFileSync(path, whole, { flag: 'r+' });
		 }`,
		{ eval: true, workerData: { path, state } },
	);
	await once(cutter, 'online');
	const rounds = times(60, 1000);
	let errors = 0;
	for (let i = 0; i < rounds; i++) if (refused(t, path, `round ${i}`, () => readAll(path))) errors++;
	Atomics.store(state, 0, 1);
	await once(cutter, 'exit');
	t.deepEqual(readFileSync(path).length, whole.length);
	held('Files', 'A checkpoint cut short by another process while it is read is an error', {
		'reads of a changing file': rounds + 1,
		'refused, with a code': errors + 1,
		crashes: 0,
	});
});

const linuxTest = process.platform === 'linux' ? test : test.skip;

linuxTest('reading takes memory in the scale of the file', async (t) => {
	const scale = times(1, 4);
	const repeat = (text: string, count: number) => Buffer.from(text.repeat(count), 'latin1');
	const files: Record<string, Buffer> = {
		'empty arrays in a header': safetensors(`{"w":[${'[],'.repeat(300_000 * scale)}[]]}`),
		'tiny metadata': safetensors(
			`{"__metadata__":{${Array.from({ length: 60_000 * scale }, (_, i) => `"${i}":""`)}}}`,
		),
		'tiny tensors': safetensors(
			Object.fromEntries(Array.from({ length: 20_000 * scale }, (_, i) => [i, entry('U8', [0], 0, 0)])),
		),
		'empty lists in a pickle': torchZip(bytes('(', repeat(']', 1_000_000 * scale), 'l')),
		'empty tuples': torchZip(bytes('(', repeat(')', 1_000_000 * scale), 't')),
		'one list, many times': torchZip(bytes(']q\x01', repeat('h\x01h\x01\x86', 300_000 * scale))),
		'memo entries': torchZip(bytes('N', repeat('\x94', 1_000_000 * scale))),
		'items of a list': torchZip(bytes(']', ...Array(20 * scale).fill(bytes('(', repeat('N', 60_000), 'e')))),
		'small integers': torchZip(bytes('](', repeat('K\x01', 500_000 * scale), 'e')),
		'laughing tensors': torchZip(billionLaughs(60)),
		'zip entries': zip(Array.from({ length: 20_000 }, (_, i) => [`${i}`, Buffer.alloc(0)] as const)),
	};
	const paths: string[] = [];
	for (const file of Object.values(files)) paths.push(await fixture('bomb.bin', file));
	const small = await fixture('small.bin', SAFETENSORS);
	const child = `
		const addon = require('bindings')({ bindings: 'allmrec', module_root: process.cwd() });
		const read = (path) => {
			try { const file = addon.openTensorFile(path); file.metadata(); file.tensors(); file.close(); } catch {}
		};
		// Of this program alone: getrusage() begins with the peak of the process that started it.
		const peak = () => Number(/VmHWM:\\s+(\\d+)/.exec(require('node:fs').readFileSync('/proc/self/status', 'utf8'))[1]);
		read(process.argv[1]);
		const before = peak();
		read(process.argv[2]);
		console.log(peak() - before);`;
	const grown: Record<string, number> = {};
	const names = Object.keys(files);
	for (const [i, path] of paths.entries()) {
		const { stdout } = await promisify(execFile)(process.execPath, ['-e', child, small, path]);
		grown[names[i]!] = Number(stdout) / 1024;
	}
	let most = 0;
	for (const [name, megabytes] of Object.entries(grown)) {
		const own = files[name]!.length / 2 ** 20;
		t.true(megabytes <= 64 + 16 * own, `${name}: ${megabytes.toFixed(0)} MiB for ${own.toFixed(1)} MiB`);
		most = Math.max(most, megabytes);
	}
	t.log(grown);
	held('Files', 'Reading a checkpoint, even a bomb, takes memory in the scale of the file', {
		'kinds of bomb': names.length,
		'largest file': `${(Math.max(...Object.values(files).map((file) => file.length)) / 2 ** 20).toFixed(1)} MiB`,
		'most memory taken': `${most.toFixed(0)} MiB`,
	});
});
