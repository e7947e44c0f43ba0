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
