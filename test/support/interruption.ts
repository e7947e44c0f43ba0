import type { Progress } from '../../lib/progress.js';
import { fastClock } from './fast-clock.js';

/** What a call that is to be interrupted is given. */
export interface Interruption {
	signal: AbortSignal;
	onProgress: (progress: Progress) => void;
}

/**
 * Runs a training whose every step leaves a checkpoint and aborts it once `when` holds; gives what it rejected with.
 *
 * @throws if it came to its end
 */
export async function interrupted(
	train: (interruption: Interruption) => Promise<unknown>,
	when: (progress: Progress) => boolean,
): Promise<unknown> {
	const controller = new AbortController();
	const restore = fastClock();
	try {
		await train({
			signal: controller.signal,
			onProgress: (progress) => {
				if (when(progress)) controller.abort(INTERRUPTED);
			},
		});
	} catch (error) {
		return error;
	} finally {
		restore();
	}
	throw new Error('The training came to its end.');
}

/** The reason {@link interrupted} aborts with. */
export const INTERRUPTED = new Error('interrupted by the test');
