/**
 * Long work in JavaScript makes way for whatever else the process does: timers, connections, aborts. It is written as
 * {@link Steps}, which can also be taken at once, or as a loop that asks {@link turnIsOver} and awaits {@link nextTurn}.
 * Turns are shared by all work that is under way, so that many calls at once take no longer turns than one.
 */

/** Work that yields wherever it may be interrupted, a millisecond or so of work apart, and returns its result. */
export type Steps<T> = Generator<undefined, T, undefined>;

/** Milliseconds of work in one turn of the event loop. */
const TURN = 8;

/** When work began in the turn that lasts; undefined before there was any. */
let begun: number | undefined;
const waiting: (() => void)[] = [];

/** Whether there has been work for long enough in this turn of the event loop. Some 50 ns. */
export function turnIsOver(): boolean {
	const now = performance.now();
	if (begun === undefined) begin(now);
	return now - begun! >= TURN;
}

/** Lets the event loop do everything else that is due. @throws the signal's reason, before and behind it */
export async function nextTurn(signal?: AbortSignal | undefined): Promise<void> {
	signal?.throwIfAborted();
	await new Promise<void>((resolve) => {
		if (waiting.push(resolve) === 1) setImmediate(resume);
	});
	signal?.throwIfAborted();
}

function begin(now: number): void {
	begun = now;
	setImmediate(end);
}

function end(): void {
	begun = undefined;
}

/** One piece of work in each turn, in the order they came. */
function resume(): void {
	begin(performance.now());
	waiting.shift()!();
	if (waiting.length > 0) setImmediate(resume);
}

/** Takes steps in turns of the event loop. @throws the signal's reason */
export async function inTurns<T>(steps: Steps<T>, signal?: AbortSignal | undefined): Promise<T> {
	signal?.throwIfAborted();
	for (;;) {
		const { done, value } = steps.next();
		if (done) return value;
		if (turnIsOver()) await nextTurn(signal);
	}
}

/** Takes all steps at once. */
export function atOnce<T>(steps: Steps<T>): T {
	for (;;) {
		const { done, value } = steps.next();
		if (done) return value;
	}
}

/** `work(from, to)` for blocks of 0 … count − 1, in order. */
export function* blocks(count: number, size: number, work: (from: number, to: number) => void): Steps<void> {
	for (let from = 0; from < count; from += size) {
		work(from, Math.min(count, from + size));
		yield;
	}
}
