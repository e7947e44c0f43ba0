import { stat } from 'node:fs/promises';
import { ALLMRecError } from '../errors.js';
import { type FileRules, unusable } from '../files/read.js';
import { loadAddon } from './addon.js';
import { guard } from './session.js';

/** Least bytes that a number of weights takes in any file: two of int4 share one. */
const BYTES_PER_WEIGHT = 0.5;

/**
 * Makes a model as large as a file says it is, once it is known that its weight files can fill it: before, a
 * configuration could ask for any amount of memory.
 *
 * @param path the configuration, for messages
 * @param weights the numbers that it describes, or fewer
 * @throws `rules.code`, or what a damaged weight file gives
 */
export async function makeDescribed<T>(
	path: string,
	{ weights, files, rules }: { weights: number; files: readonly string[]; rules: FileRules },
	make: () => T,
): Promise<T> {
	// What is damaged in a weight file is said of it, not of what describes it.
	for (const file of files) guard(() => loadAddon().openTensorFile(file).close());
	const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
	const bytes = sizes.reduce((a, b) => a + b, 0);
	if (weights * BYTES_PER_WEIGHT > bytes)
		throw unusable(path, `it describes ${weights} weights or more, its files have ${bytes} bytes`, rules);
	try {
		return guard(make);
	} catch (cause) {
		// What is out of the core's range here is a field of the file, not an argument of the caller.
		if (cause instanceof ALLMRecError && cause.code === 'ERR_ALLMREC_INVALID_ARGUMENT')
			throw unusable(path, cause.message.replace(/\.$/, ''), rules, cause);
		throw cause;
	}
}
