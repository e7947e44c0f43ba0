import { open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { huggingFaceOptConfig } from '../../lib/llm/opt-config.js';
import type { NativeModel, OptConfig } from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { tinyLlm } from './tiny-checkpoints.js';
import { CPU } from './tiny-world.js';

/**
 * Replaces a checkpoint's weights by zeros, and its configuration by one of another size. The file is a hole: it takes
 * no room on the disk however large it is.
 */
async function writeZeros(folder: string, make: (session: Session) => NativeModel): Promise<void> {
	const session = Session.open(CPU);
	const model = make(session);
	const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
	let at = 0;
	for (const { name, shape } of model.parameters()) {
		const end = at + 4 * shape.reduce((product, n) => product * n, 1);
		header[name] = { dtype: 'F32', shape, data_offsets: [at, end] };
		at = end;
	}
	model.dispose();
	session.release();
	const text = Buffer.from(JSON.stringify(header));
	const length = Buffer.alloc(8);
	length.writeBigUInt64LE(BigInt(text.length));
	const file = await open(join(folder, 'model.safetensors'), 'w');
	try {
		await file.write(Buffer.concat([length, text]));
		await file.truncate(8 + text.length + at);
	} finally {
		await file.close();
	}
}

const TINY: OptConfig = {
	vocabSize: 520,
	hiddenSize: 32,
	embedSize: 32,
	numLayers: 2,
	numHeads: 2,
	ffnSize: 64,
	maxPositions: 512,
	normBefore: true,
	finalNorm: true,
	activation: 'relu',
};

/**
 * A language model with the tiny one's tokens and soft tokens, and as many and as large layers as are asked for, all of
 * zeros: it takes its time. Gives its folder.
 */
export async function zeroLlm(changes: Partial<OptConfig>): Promise<string> {
	const folder = await tinyLlm();
	const config = { ...TINY, ...changes };
	await writeFile(join(folder, 'config.json'), JSON.stringify(huggingFaceOptConfig(config)));
	// In the dtype that takes the least memory: only names and shapes are asked for.
	await writeZeros(folder, ({ addon, engine }) => new addon.Opt(engine, { ...config, dtype: 'int8' }));
	return folder;
}
