import { constants } from 'node:fs';
import { access, readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ALLMRecError, invalidArgument } from '../errors.js';

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
	let format: unknown;
	try {
		format = JSON.parse(await readFile(join(folder, MANIFEST), 'utf8')).format;
	} catch {}
	if (format !== DATASET_FORMAT)
		throw new ALLMRecError(
			'ERR_ALLMREC_INVALID_ARGUMENT',
			`The folder ${folder} is not empty and not a data set, so it is not overwritten; choose another \`out\`, or empty it first.`,
		);
}

/** @throws ERR_ALLMREC_FILE_NOT_FOUND if the file is not there or may not be read. */
export async function assertReadable(path: string): Promise<void> {
	try {
		await access(path, constants.R_OK);
	} catch (cause) {
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The file ${path} is not there or may not be read; check the path.`,
			{ cause },
		);
	}
}

export async function isFolder(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined))?.isDirectory() ?? false;
}
