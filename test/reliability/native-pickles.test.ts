import { existsSync, writeFileSync } from 'node:fs';
import test from 'ava';
import { SASRec } from '../../lib/cf/sasrec.js';
import { loadAddon } from '../../lib/native/addon.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import {
	billionLaughs,
	bytes,
	call,
	global,
	integer,
	named,
	tensor,
	text,
	torchLegacy,
	torchZip,
} from '../support/checkpoint-bytes.js';
import { held } from '../support/reliability.js';
import { CPU } from '../support/tiny-world.js';

/** Exists as soon as anything of the pickles below has run. */
const canary = freshPath('executed').replace(/\/executed$/, '-executed');
const shell = text(`touch ${canary}`);
const python = text(`open(${JSON.stringify(canary)}, 'w').close()`);
const system = global('posix', 'system');
const long = (opcode: string, length: bigint) =>
	bytes(opcode, Buffer.from(BigUint64Array.of(length).buffer), 'abc');

/** What would run in Python, or take its memory; and what the refusal names. */
const HOSTILE: Record<string, [body: Uint8Array, refusal: RegExp]> = {
	'os.system': [call(system, shell), /"posix\.system"/],
	'os.system on Windows': [call(global('nt', 'system'), shell), /"nt\.system"/],
	'subprocess by __reduce__': [
		call(global('subprocess', 'check_output'), bytes('(', text('touch'), text(canary), 't')),
		/"subprocess\.check_output"/,
	],
	'subprocess.Popen made by NEWOBJ': [
		bytes(global('subprocess', 'Popen'), '(', shell, 't\x81'),
		/"subprocess\.Popen"/,
	],
	eval: [call(global('builtins', 'eval'), python), /"builtins\.eval"/],
	exec: [call(global('builtins', 'exec'), python), /"builtins\.exec"/],
	'eval of Python 2': [call(global('__builtin__', 'eval'), python), /"__builtin__\.eval"/],
	'a chain of getattr': [
		call(
			call(global('builtins', 'getattr'), call(global('builtins', '__import__'), text('os')), text('system')),
			shell,
		),
		/"builtins\.getattr"/,
	],
	'an import by name': [call(global('importlib', 'import_module'), text('os')), /"importlib\.import_module"/],
	runpy: [call(global('runpy', '_run_code'), python), /"runpy\._run_code"/],
	'a nested pickle': [
		call(global('_pickle', 'loads'), bytes('C\x20', 'cposix\nsystem\n(S"true"\ntR.'.padEnd(32, ' '))),
		/"_pickle\.loads"/,
	],
	'a nested pickle in a torch storage': [
		call(global('torch.storage', '_load_from_bytes'), bytes('C\x01.')),
		/"torch\.storage\._load_from_bytes"/,
	],
	'torch.load': [call(global('torch.serialization', 'load'), text(canary)), /"torch\.serialization\.load"/],
	'code of torch.jit': [
		call(global('torch.jit', 'CompilationUnit'), python),
		/"torch\.jit\.CompilationUnit"/,
	],
	'numpy.load': [call(global('numpy', 'load'), text(canary)), /"numpy\.load"/],
	'a string run by numpy': [
		call(global('numpy.testing._private.utils', 'runstring'), python, bytes('}')),
		/"numpy\.testing\._private\.utils\.runstring"/,
	],
	'an array of numpy objects': [
		call(global('numpy.core.multiarray', '_reconstruct'), global('numpy', 'ndarray')),
		/"numpy\.core\.multiarray\._reconstruct"/,
	],
	'codecs.encode with another codec': [
		call(global('_codecs', 'encode'), text('rapunzel'), text('zlib')),
		/arguments of _codecs\.encode/,
	],
	'codecs.decode': [call(global('_codecs', 'decode'), text('x'), text('rot13')), /"_codecs\.decode"/],
	'BUILD of a __setstate__': [
		bytes(global('argparse', 'Namespace'), ')\x81', named('__setstate__', system), 'b', shell, 'b'),
		/"posix\.system"/,
	],
	'BUILD of a list': [bytes(']', named('__setstate__', text('x')), 'b'), /expected the state of a Namespace/],
	INST: [bytes('(', shell, 'iposix\nsystem\n'), /opcode 0x69/],
	OBJ: [bytes('(', system, shell, 'o'), /"posix\.system"/],
	'OBJ of a class on the list': [bytes('(', global('argparse', 'Namespace'), shell, 'o'), /opcode 0x6f/],
	NEWOBJ_EX: [bytes(global('argparse', 'Namespace'), ')}\x92'), /opcode 0x92/],
	'STACK_GLOBAL of strings put together': [
		bytes(text('posix'), 'q\x05', '0', text('system'), 'q\x06', '0h\x05h\x06\x93(', shell, 'tR'),
		/"posix\.system"/,
	],
	'STACK_GLOBAL of attributes of what is on the list': [
		bytes(text('torch._utils'), text('_rebuild_tensor_v2.__globals__'), '\x93'),
		/"torch\._utils\._rebuild_tensor_v2\.__globals__"/,
	],
	'a name split elsewhere': [
		bytes(text('torch'), text('_utils._rebuild_tensor_v2.__class__'), '\x93'),
		/__class__"/,
	],
	'a global with a newline': [bytes(text('posix\nsystem'), text('x'), '\x93'), /"posix\\u000asystem\.x"/],
	'a letter that looks like another': [
		bytes(text('аrgparse'), text('Namespace'), '\x93'),
		/rgparse\.Namespace"/,
	],
	'the extension registry, EXT1': [bytes('\x82\x01'), /opcode 0x82/],
	'the extension registry, EXT2': [bytes('\x83\x01\x00'), /opcode 0x83/],
	'the extension registry, EXT4': [bytes('\x84\x01\x00\x00\x00'), /opcode 0x84/],
	PERSID: [bytes('Pstorage\n'), /opcode 0x50/],
	'a persistent id that is no storage': [bytes('(', text('module'), system, shell, 'tQ'), /"posix\.system"/],
	'a storage type that is a function': [tensor([1], [1], system), /"posix\.system"/],
	'the text of protocol 0': [bytes(`S'touch ${canary}'\n`), /opcode 0x53/],
	'a bytearray of 2^60': [long('\x96', 1n << 60n), /opcode 0x96/],
	'a buffer from outside': [bytes('\x97'), /opcode 0x97/],
	'text of 2^60 bytes': [long('\x8d', 1n << 60n), /expected 1152921504606846976 bytes/],
	'bytes of 2^63': [long('\x8e', 1n << 63n), /truncated or damaged/],
	'an integer of 2 GB': [bytes('\x8b\xff\xff\xff\x7f', 'abc'), /expected 2147483647 bytes/],
	'a frame of 2^62': [long('\x95', 1n << 62n), /expected a frame/],
	'a billion laughs of tensors': [billionLaughs(60), /too long for the size|too many objects/],
	'a billion laughs of values': [
		named('x', billionLaughs(60, integer(7))),
		/too long for the size|too many objects|deeper than/,
	],
	'pairs of pairs': [
		bytes(')q\x00', ...Array.from({ length: 60 }, () => bytes('h\x00h\x00\x86q\x00'))),
		/found more|too long for the size|too many objects|deeper than/,
	],
	'a list in itself': [bytes(']q\x01h\x01', tensor([1], [1]), '\x86a'), /contains itself/],
	'a dict in itself': [
		bytes('}q\x01', text('a'), 'h\x01s', text('b'), tensor([1], [1]), 's'),
		/contains itself/,
	],
	'lists in lists': [bytes(']'.repeat(50_000), 'a'.repeat(49_999)), /deeper than 64/],
	'a million marks': [bytes('('.repeat(1_000_000)), /too many marks/],
	'copies of copies': [bytes(')q\x01(', 'h\x01'.repeat(20_000), 'lq\x02'), /opcode 0x6c/],
};

test('a pickle is read by an allow-list and executes nothing', async (t) => {
	const addon = loadAddon();
	let tried = 0;
	for (const [name, [body, refusal]] of Object.entries(HOSTILE)) {
		for (const [kind, file] of [
			['zip', torchZip(body)],
			['zip, protocol 4', torchZip(bytes(body), 4)],
			['legacy', torchLegacy(body)],
		] as const) {
			const path = await fixture('hostile.pth', file);
			const error = t.throws(() => addon.openTensorFile(path), { any: true }, `${name} (${kind})`) as {
				code?: string;
				message: string;
			};
			t.is(error.code, 'ERR_ALLMREC_CHECKPOINT', `${name} (${kind}): ${error.message}`);
			t.regex(error.message, refusal, `${name} (${kind})`);
			t.true(error.message.startsWith(path), error.message);
			t.true(error.message.length < path.length + 400, `${name}: ${error.message.length} characters`);
			tried++;
		}
		await rejects(t, () => load(body), 'ERR_ALLMREC_CHECKPOINT', refusal);
		t.false(existsSync(canary), `${name} was executed`);
	}
	// The same means with nothing hostile in them are read, and the canary can be seen.
	t.is(
		addon
			.openTensorFile(await fixture('good.pth', torchZip(named('w', tensor([3, 4], [4, 1])))))
			.readFloat32('w')[11],
		11,
	);
	t.is(
		addon
			.openTensorFile(await fixture('good.pth', torchLegacy(named('w', tensor([2], [1])))))
			.readFloat32('w')[1],
		1,
	);
	writeFileSync(canary, '');
	t.true(existsSync(canary));
	held('Files', 'A pickle is read by an allow-list and executes nothing', {
		'kinds of hostile pickle': Object.keys(HOSTILE).length,
		'files tried': tried,
		executed: 0,
		'read without an error': 0,
	});
});

async function load(body: Uint8Array) {
	return SASRec.load(await fixture('model.pth', torchZip(body)), CPU);
}
