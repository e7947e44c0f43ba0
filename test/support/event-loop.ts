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
	/**
	 * The worst of what is ours: outside the collector's pauses, by the share of its window in which this thread had a
	 * processor, and less what the control was late by in it.
	 */
	worst: number;
	/** The worst as a clock on the wall shows it. */
	raw: number;
	/** When the worst one was due, from the beginning. */
	worstAt: number;
	/** The longest pause of the garbage collector; long where its threads have no processor. */
	collector: number;
	/** How long it all took. */
	took: number;
	ticks: number;
}

/** Watches the event loop of the main thread beside a process that only keeps time. */
export class LoopWatch {
	readonly #control: ChildProcess;
	readonly #scheduler = new SchedulerTimes();

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
		const pauses: LateTick[] = [];
		const observer = new PerformanceObserver((list) => {
			for (const { startTime, duration } of list.getEntries()) {
				const due = performance.timeOrigin + startTime;
				pauses.push({ due, at: due + duration });
			}
		});
		observer.observe({ entryTypes: ['gc'] });
		const begun = now();
		const late: (LateTick & { window: number; waited: number; slept: number })[] = [];
		let ticks = 0;
		let last = begun;
		let due = begun + INTERVAL;
		let before = this.#scheduler.read();
		const tick = () => {
			const at = now();
			const times = this.#scheduler.read();
			const waited = times.waited - before.waited;
			const slept = before.ran === times.ran ? 0 : at - last - waited - (times.ran - before.ran);
			if (at - due > 1) late.push({ due, at, window: at - last, waited, slept });
			ticks++;
			last = at;
			before = times;
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
		const collector = pauses.reduce((most, { due, at }) => Math.max(most, at - due), 0);
		const delay = { worst: 0, raw: 0, worstAt: 0, collector, took: now() - begun, ticks };
		for (const one of late) {
			const lateness = one.at - one.due;
			const collected = overlap(pauses, one);
			const helpers = Math.max(0, Math.min(one.slept, collected));
			const share = Math.max(0, 1 - (one.waited + helpers) / one.window);
			const own = Math.min((lateness - collected) * share, lateness - overlap(control, one));
			delay.raw = Math.max(delay.raw, lateness);
			if (own <= delay.worst) continue;
			delay.worst = own;
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

/** Milliseconds of a window that other windows, none of them at the same time, cover. */
function overlap(others: readonly LateTick[], { due, at }: LateTick): number {
	let sum = 0;
	for (const one of others) sum += Math.max(0, Math.min(at, one.at) - Math.max(due, one.due));
	return sum;
}

/** What the scheduler knows of the main thread, in milliseconds since it began; 0 where the system does not tell. */
class SchedulerTimes {
	readonly #file: number | undefined;
	readonly #buffer = Buffer.alloc(128);

	constructor() {
		try {
			this.#file = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r');
		} catch {}
	}

	/** How long it has run, and how long it was ready and had no processor. */
	read(): { ran: number; waited: number } {
		if (this.#file === undefined) return { ran: 0, waited: 0 };
		const length = readSync(this.#file, this.#buffer, 0, this.#buffer.length, 0);
		const [ran, waited] = this.#buffer.toString('latin1', 0, length).split(' ');
		return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 };
	}

	close(): void {
		if (this.#file !== undefined) closeSync(this.#file);
	}
}
