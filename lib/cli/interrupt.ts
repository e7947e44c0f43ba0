import { type ProgressPrinter, progressPrinter } from './terminal.js';

const SIGNALS = ['SIGINT', 'SIGTERM'] as const;

/** Why a verb's work was stopped: by Ctrl-C, or by who wants the process to end. */
export class Interrupted extends Error {
	override readonly name = 'AbortError';

	constructor(readonly signal: (typeof SIGNALS)[number]) {
		super(`interrupted by ${signal}`);
	}
}

/**
 * Runs a verb's work with progress on the error stream and an abort signal for Ctrl-C and SIGTERM. Work that leaves a
 * checkpoint does so; a second Ctrl-C ends the process at once.
 */
export async function interruptible<T>(
	work: (signal: AbortSignal, onProgress: ProgressPrinter['onProgress']) => Promise<T>,
): Promise<T> {
	const interrupt = new AbortController();
	const stop = (signal: NodeJS.Signals) => {
		release(); // the next one acts as ever
		interrupt.abort(new Interrupted(signal as Interrupted['signal']));
	};
	const release = () => {
		for (const signal of SIGNALS) process.removeListener(signal, stop);
	};
	for (const signal of SIGNALS) process.on(signal, stop);
	const printer = progressPrinter();
	try {
		return await work(interrupt.signal, printer.onProgress);
	} finally {
		printer.stop();
		release();
	}
}
