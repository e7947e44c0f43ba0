import { type ProgressPrinter, progressPrinter } from './terminal.js';

/** Runs a verb's work with Ctrl-C as an abort signal and progress on the error stream. */
export async function interruptible<T>(
	work: (signal: AbortSignal, onProgress: ProgressPrinter['onProgress']) => Promise<T>,
): Promise<T> {
	const interrupt = new AbortController();
	const stop = () => interrupt.abort();
	process.once('SIGINT', stop);
	const printer = progressPrinter();
	try {
		return await work(interrupt.signal, printer.onProgress);
	} finally {
		printer.stop();
		process.removeListener('SIGINT', stop);
	}
}
