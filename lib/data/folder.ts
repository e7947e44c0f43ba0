import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { readJson } from '../files/read.js';

/** Name of the file that makes a folder a data set. */
export const MANIFEST = 'dataset.json';
export const DATASET_FORMAT = 'a-llmrec-dataset';

/** @throws ERR_ALLMREC_INVALID_ARGUMENT if `folder` is there and is neither empty nor a data set */
export async function assertReplaceable(folder: string): Promise<void> {
	let entries: string[];
	try {
		entries = await readdir(folder);
	} catch (cause) {
		const { code } = cause as NodeJS.ErrnoException;
		if (code === 'ENOENT') return;
		if (code === 'ENOTDIR') return invalidArgument('out', 'a folder, not a file', folder);
		throw cause;
	}
	if (entries.length === 0) return;
	const schema = z.looseObject({ format: z.literal(DATASET_FORMAT) });
	const isDataset = await readJson(join(folder, MANIFEST), schema).then(
		() => true,
		() => false,
	);
	if (!isDataset)
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`The folder ${folder} is not empty and not a data set, so it is not overwritten; choose another \`out\`, or empty it first.`,
		);
}

export async function isFolder(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}
