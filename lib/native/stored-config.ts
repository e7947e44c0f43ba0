import { ALLMRecError } from '../errors.js';
import type { NativeTensorFile } from './addon.js';
import { guard } from './session.js';

/** What a model's file says of the model under `key` of its metadata; undefined where it says nothing. */
export function storedConfig<T>(file: NativeTensorFile, path: string, key: string): T | undefined {
	const text = file.metadata()[key];
	if (!text) return undefined;
	try {
		return JSON.parse(text) as T;
	} catch (cause) {
		throw new ALLMRecError('ERR_ALLMREC_CHECKPOINT', `${path}: its \`${key}\` is not JSON; it is damaged.`, {
			cause,
		});
	}
}

/**
 * Makes a model by a configuration out of a file: what cannot be is the file's fault, not the caller's.
 *
 * @throws ERR_ALLMREC_CHECKPOINT naming the file
 */
export function makeStored<T>(path: string, make: () => T): T {
	try {
		return guard(make);
	} catch (cause) {
		if (!(cause instanceof ALLMRecError) || cause.code !== 'ERR_ALLMREC_INVALID_ARGUMENT') throw cause;
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${path} describes a model that cannot be: ${cause.message}`,
			{ cause },
		);
	}
}
