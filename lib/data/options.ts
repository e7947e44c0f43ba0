import { ALLMRecError } from '../errors.js';
import { nearest } from './nearest.js';

/** Throws ERR_ALLMREC_INVALID_ARGUMENT for a key that is no option, so that a misspelling does not pass unseen. */
export function rejectUnknownOptions<T extends object>(options: T, known: Record<keyof T, true>): void {
	for (const key of Object.keys(options)) {
		if (key in known) continue;
		const near = nearest(key, Object.keys(known));
		const hint = near ? `did you mean \`${near}\`?` : `there are ${Object.keys(known).join(', ')}.`;
		throw new ALLMRecError('ERR_ALLMREC_INVALID_ARGUMENT', `There is no option \`${key}\`; ${hint}`);
	}
}
