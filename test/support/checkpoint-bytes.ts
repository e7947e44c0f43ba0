// Checkpoint files byte by byte, good and hostile: safetensors, zip as torch writes it, pickles.

const u16 = (n: number) => Buffer.from(Uint16Array.of(n).buffer);
const u32 = (n: number) => Buffer.from(Uint32Array.of(n).buffer);
const u64 = (n: number | bigint) => Buffer.from(BigUint64Array.of(BigInt.asUintN(64, BigInt(n))).buffer);

/** Bytes: text stands for its Latin-1 bytes. */
export type Bytes = string | Uint8Array;

export function bytes(...parts: Bytes[]): Buffer {
	return Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'latin1') : part)));
}

/** A safetensors file with any header text; `length` lies about the header's. */
export function safetensors(
	header: object | string,
	data: Uint8Array = Buffer.alloc(0),
	length?: bigint,
): Buffer {
	const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
	return bytes(u64(length ?? text.length), text, data);
}

/** A zip file of stored records; `sizes` lies about how long they are. */
export function zip(
	records: readonly (readonly [string, Uint8Array])[],
	lies: { size?: number; method?: number; count?: number; offset?: number } = {},
): Buffer {
	const bodies: Buffer[] = [];
	const directory: Buffer[] = [];
	let offset = 0;
	for (const [name, data] of records) {
		const size = u32(lies.size ?? data.length);
		const body = bytes('PK\x03\x04', Buffer.alloc(22), u16(name.length), u16(0), name, data);
		directory.push(
			bytes('PK\x01\x02', Buffer.alloc(6), u16(lies.method ?? 0), Buffer.alloc(8), size, size),
			bytes(u16(name.length), u16(0), Buffer.alloc(10), u32(lies.offset ?? offset), name),
		);
		bodies.push(body);
		offset += body.length;
	}
	const entries = bytes(...directory);
	const count = u16(lies.count ?? records.length);
	return bytes(
		...bodies,
		entries,
		'PK\x05\x06',
		u32(0),
		count,
		count,
		u32(entries.length),
		u32(offset),
		u16(0),
	);
}

/** What a pickle pushes for text. */
export function text(value: string): Buffer {
	return bytes('X', u32(Buffer.byteLength(value)), Buffer.from(value));
}

export function global(module: string, name: string): Buffer {
	return bytes(`c${module}\n${name}\n`);
}

/** A long of eight bytes. */
export function integer(value: number | bigint): Buffer {
	return bytes('\x8a\x08', u64(value));
}

/** `callable(*parts)`. */
export function call(callable: Uint8Array, ...parts: Uint8Array[]): Buffer {
	return bytes(callable, '(', ...parts, 'tR');
}

/** A float32 tensor of the storage "0". */
export function tensor(
	shape: number[],
	strides: number[],
	storage = global('torch', 'FloatStorage'),
): Buffer {
	const tuple = (values: number[]) => bytes('(', ...values.map(integer), 't');
	return call(
		global('torch._utils', '_rebuild_tensor_v2'),
		bytes('(', text('storage'), storage, text('0'), text('cpu'), integer(12), 'tQ'),
		integer(0),
		tuple(shape),
		tuple(strides),
		bytes('\x89N'),
	);
}

/** A dict with one entry. */
export function named(name: string, value: Uint8Array): Buffer {
	return bytes('}', text(name), value, 's');
}

const STORAGE = Buffer.from(Float32Array.from({ length: 12 }, (_, i) => i).buffer);

/** What torch.save writes today around the pickle `body`, with the storage "0" of twelve floats. */
export function torchZip(body: Uint8Array, protocol = 2): Buffer {
	return zip([
		['archive/data.pkl', bytes(`\x80${String.fromCharCode(protocol)}`, body, '.')],
		['archive/data/0', STORAGE],
	]);
}

/** What torch.save wrote before 1.6. */
export function torchLegacy(body: Uint8Array, protocol = 2): Buffer {
	const stored = bytes(body).includes(text('storage'));
	return bytes(
		'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.',
		'\x80\x02M\xe9\x03.',
		bytes('\x80\x02}', text('little_endian'), '\x88s.'),
		bytes(`\x80${String.fromCharCode(protocol)}`, body, '.'),
		...(stored ? [bytes('\x80\x02]', text('0'), 'a.'), u64(12), STORAGE] : ['\x80\x02].']),
	);
}

/** Each list holds the one before twice: 2^depth paths to one tensor. */
export function billionLaughs(depth: number, leaf: Uint8Array = tensor([1], [1])): Buffer {
	const parts: Bytes[] = [']', leaf, 'aq\x01'];
	for (let i = 1; i <= depth; i++)
		parts.push(bytes('0](h', Uint8Array.of(i), 'h', Uint8Array.of(i), 'eq', Uint8Array.of(i + 1)));
	return bytes(...parts);
}
