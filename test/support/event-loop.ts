import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync } from 'node:fs';
import { PerformanceObserver } from 'node:perf_hooks';
import { fileURLToPath } from 'node:url';

/** Milliseconds between two ticks of the timer that is watched. */
export const INTERVAL = 10;

/** A tick that was due and came later, in milliseconds since 1970. */
export interface LateTick {
	due: number;
	at: number;
}

export function now(): number {
	return performance.timeOrigin + performance.now();
}

/** How late a 10 ms timer of the main thread was while something ran; all in milliseconds. */
export interface LoopDelay {
	/** The worst, less what this thread waited for a processor in its window and what the control was late by in it. */
	worst: number;
	/** The worst as a clock on the wall shows it. */
	raw: number;
	/** When the worst one was due, from the beginning. */
	worstAt: number;
	/** The longest pause of the garbage collector, which counts as lateness. */
	collector: number;
	/** How long it all took. */
	took: number;
	ticks: number;
}

/** Watches the event loop of the main thread beside a process that only keeps time. */
export class LoopWatch {
	readonly #control: ChildProcess;
	readonly #scheduler = new SchedulerWait();

	private constructor(control: ChildProcess) {
		this.#control = control;
	}

	static async start(): Promise<LoopWatch> {
		const control = fork(fileURLToPath(new URL('./event-loop-control.js', import.meta.url)), {
			execArgv: [],
		});
		const watch = new LoopWatch(control);
		await watch.#controlTicks();
		return watch;
	}

	stop(): void {
		this.#control.disconnect();
		this.#scheduler.close();
	}

	/** Runs something and tells how late the timer was meanwhile. */
	async during<T>(work: () => Promise<T>): Promise<{ value: T; delay: LoopDelay }> {
		await this.#controlTicks();
		let collector = 0;
		const observer = new PerformanceObserver((list) => {
			for (const { duration } of list.getEntries()) collector = Math.max(collector, duration);
		});
		observer.observe({ entryTypes: ['gc'] });
		const begun = now();
		const late: (LateTick & { waited: number })[] = [];
		let ticks = 0;
		let due = begun + INTERVAL;
		let waited = this.#scheduler.read();
		const tick = () => {
			const at = now();
			const total = this.#scheduler.read();
			if (at - due > 1) late.push({ due, at, waited: total - waited });
			ticks++;
			waited = total;
			due = at + INTERVAL;
		};
		const timer = setInterval(tick, INTERVAL);
		let value: T;
		try {
			value = await work();
			// What the last stretch of work held up is seen by the tick behind it.
			await new Promise((resolve) => setTimeout(resolve, 2 * INTERVAL));
		} finally {
			clearInterval(timer);
			observer.disconnect();
		}
		const control = await this.#controlTicks();
		const delay = { worst: 0, raw: 0, worstAt: 0, collector, took: now() - begun, ticks };
		for (const one of late) {
			const lateness = one.at - one.due;
			const machine = Math.max(one.waited, overlap(control, one));
			delay.raw = Math.max(delay.raw, lateness);
			if (lateness - machine <= delay.worst) continue;
			delay.worst = lateness - machine;
			delay.worstAt = one.due - begun;
		}
		return { value, delay };
	}

	async #controlTicks(): Promise<LateTick[]> {
		this.#control.send('ticks');
		const [ticks] = await once(this.#control, 'message');
		return ticks as LateTick[];
	}
}

/** Milliseconds of a window in which the control was late too. */
function overlap(control: readonly LateTick[], { due, at }: LateTick): number {
	let sum = 0;
	for (const one of control) sum += Math.max(0, Math.min(at, one.at) - Math.max(due, one.due));
	return sum;
}

/** How long the main thread was ready and had no processor; 0 where the system does not tell. */
class SchedulerWait {
	readonly #file: number | undefined;
	readonly #buffer = Buffer.alloc(128);

	constructor() {
		try {
			this.#file = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r');
		} catch {}
	}

	/** In milliseconds, since the thread began. */
	read(): number {
		if (this.#file === undefined) return 0;
		const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, 0);
		return Number(this.#buffer.toString('latin1', 0, length).split(' ')[1]) / 1e6;
	}

	close(): void {
		if (this.#file !== undefined) closeSync(this.#file);
	}
}
