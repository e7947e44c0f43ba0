import { Worker } from 'node:worker_threads';

/**
 * A timer in a thread that does nothing else: how late it is tells how busy the machine is, whatever this thread does.
 */
export class IdleTimer {
	readonly #worker: Worker;
	readonly #worst = new Float64Array(new SharedArrayBuffer(8));

	constructor() {
		this.#worker = new Worker(
			`const { workerData: worst } = require('node:worker_threads');
			let last = performance.now();
			setInterval(() => {
				const now = performance.now();
				worst[0] = Math.max(worst[0], now - last - 5);
				last = now;
			}, 5);`,
			{ eval: true, workerData: this.#worst },
		);
		this.#worker.unref();
	}

	/** Forgets how late it has been. */
	reset(): void {
		this.#worst[0] = 0;
	}

	/** Milliseconds it was late by at most since {@link reset}. */
	get worst(): number {
		return this.#worst[0]!;
	}

	async close(): Promise<void> {
		await this.#worker.terminate();
	}
}
