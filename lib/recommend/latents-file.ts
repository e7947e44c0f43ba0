import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { ItemLatents } from '../alignment/alignment.js';
import { ALLMRecError } from '../errors.js';
import { blocks, inTurns, type Steps } from '../event-loop.js';
import { writeFileAtomic } from '../files/atomic.js';
import { guard, type Session } from '../native/session.js';

const NAME = 'latents.safetensors';
/** Bytes before a safetensors file's header: its length. */
const PREFIX = 8;
/** Numbers looked at in one step. */
const BLOCK = 1 << 17;

/** Writes both latents as one safetensors file of a folder. The arrays may be large: they are written as they lie. */
export async function saveLatents(folder: string, { size, e, q }: ItemLatents): Promise<void> {
	const shape = [e.length / size, size];
	const tensor = (begin: number, { byteLength }: Float32Array) => ({
		dtype: 'F32',
		shape,
		data_offsets: [begin, begin + byteLength],
	});
	const header = JSON.stringify({ e: tensor(0, e), q: tensor(e.byteLength, q) });
	const padded = header.padEnd(Math.ceil(header.length / PREFIX) * PREFIX);
	const length = Buffer.alloc(PREFIX);
	length.writeBigUInt64LE(BigInt(padded.length));
	await writeFileAtomic(join(folder, NAME), [length, padded, bytesOf(e), bytesOf(q)]);
}

/**
 * Reads what {@link saveLatents} wrote.
 *
 * @param jointSize d'
 * @param items entries of the catalogue, the padding item included
 * @throws ERR_ALLMREC_CHECKPOINT for a file of another catalogue or alignment, ERR_ALLMREC_NUMERIC for numbers that
 * are not finite
 */
export async function loadLatents(
	session: Session,
	folder: string,
	jointSize: number,
	items: number,
	signal?: AbortSignal | undefined,
): Promise<ItemLatents> {
	const path = join(folder, NAME);
	// The native reader checks the header and that the file holds all that it promises.
	const checked = guard(() => session.addon.openTensorFile(path));
	const tensors = new Map(checked.tensors().map((tensor) => [tensor.name, tensor]));
	checked.close();
	for (const name of ['e', 'q']) {
		const { dtype, shape = [] } = tensors.get(name) ?? {};
		if (dtype !== 'F32' || shape.length !== 2 || shape[0] !== items || shape[1] !== jointSize)
			throw new ALLMRecError(
				'ERR_ALLMREC_CHECKPOINT',
				`${path} does not fit the catalogue and the alignment network beside it: expected \`${name}\` as ${items} × ${jointSize} numbers of F32, found ${dtype ? `${shape.join(' × ')} of ${dtype}` : 'none'}. Train stage \`align\` again.`,
			);
	}
	const file = await open(path);
	try {
		const prefix = Buffer.alloc(PREFIX);
		await file.read(prefix, 0, PREFIX, 0);
		const header = Buffer.alloc(Number(prefix.readBigUInt64LE()));
		await file.read(header, 0, header.length, PREFIX);
		const entries = JSON.parse(header.toString('utf8')) as Record<string, { data_offsets: [number, number] }>;
		const read = async (name: string): Promise<Float32Array> => {
			const values = new Float32Array(items * jointSize);
			const bytes = bytesOf(values);
			const begin = PREFIX + header.length + entries[name]!.data_offsets[0];
			for (let at = 0; at < bytes.length; ) {
				signal?.throwIfAborted();
				const length = Math.min(bytes.length - at, 1 << 24);
				const { bytesRead } = await file.read(bytes, at, length, begin + at);
				if (bytesRead === 0) throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path} is cut off.`);
				at += bytesRead;
			}
			await inTurns(expectFinite(values, path), signal);
			return values;
		};
		return { size: jointSize, e: await read('e'), q: await read('q') };
	} finally {
		await file.close();
	}
}

function* expectFinite(values: Float32Array, path: string): Steps<void> {
	yield* blocks(values.length, BLOCK, (from, to) => {
		for (let at = from; at < to; at++)
			if (!Number.isFinite(values[at]!))
				throw new ALLMRecError('ERR_ALLMREC_NUMERIC', `${path} holds numbers that are not finite.`);
	});
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
	return new Uint8Array(buffer, byteOffset, byteLength);
}
