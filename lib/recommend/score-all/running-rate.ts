import type { Progress } from '../../progress.js';

/** Users a second since the start, and what is left at that rate. */
export class RunningRate {
	#done: number;
	readonly #before: number;
	readonly #begun = performance.now();

	/** @param before users done by runs before this one */
	constructor(before = 0) {
		this.#before = before;
		this.#done = before;
	}

	/** @param share of the input that is done, 0 … 1, where known; the number of a text's rows is estimated by it */
	report(users: number, share?: number): Progress {
		this.#done += users;
		const seconds = Math.max(1e-3, (performance.now() - this.#begun) / 1000);
		const progress: Progress = {
			stage: 'score',
			done: this.#done,
			unit: 'users',
			rate: (this.#done - this.#before) / seconds,
		};
		if (share === undefined || !(share > 0)) return progress;
		const total = Math.max(this.#done, Math.round(this.#done / share));
		return { ...progress, total, secondsLeft: (total - this.#done) / progress.rate! };
	}
}
