/** One report of a long-running call. */
export interface Progress {
	/** What is being done, e.g. `cf`, `align`, `project`, `prepare`, `evaluate`. */
	stage: string;
	/** Units done so far. */
	done: number;
	/** Units in all, where known. */
	total?: number;
	/** What the units are, e.g. `sequences`, `users`, `steps`. */
	unit: string;
	/** Units per second. */
	rate?: number;
	/** Seconds left, estimated. */
	secondsLeft?: number;
	/** Loss terms and validation metrics by name. */
	metrics?: Record<string, number>;
	/** A sentence for a person, where there is one. */
	message?: string;
}

/** What every long call takes. */
export interface LongCallOptions {
	/** Aborting rejects the call with the signal's reason. */
	signal?: AbortSignal | undefined;
	/** Called at most about ten times a second. */
	onProgress?: ((progress: Progress) => void) | undefined;
}

/**
 * What a promise gives that others wait for too, or the signal's reason as soon as it is aborted: the work behind it
 * goes on for the others.
 */
export function orAborted<T>(shared: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
	if (!signal) return shared;
	return new Promise((resolve, reject) => {
		const abort = () => reject(signal.reason);
		signal.addEventListener('abort', abort, { once: true });
		if (signal.aborted) abort();
		const settled = () => signal.removeEventListener('abort', abort);
		shared.then(resolve, reject).finally(settled);
	});
}
