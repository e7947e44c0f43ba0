/**
 * Long work in JavaScript makes way for whatever else the process does: timers, connections, aborts. Loops ask
 * {@link turnIsOver} now and then and await {@link nextTurn} where it is. Turns are shared by all such loops, so that many
 * at once take no longer turns than one.
 */

/** Milliseconds of work in one turn of the event loop. */
const TURN = 8;

let begun = Number.NEGATIVE_INFINITY;
const waiting: (() => void)[] = [];

/** Whether the loop's turn has lasted long enough; true where nothing has made way for a while. About 50 ns. */
export function turnIsOver(): boolean {
	return performance.now() - begun >= TURN;
}

/** Lets the event loop do everything else that is due. @throws the signal's reason, before and behind it */
export async function nextTurn(signal?: AbortSignal | undefined): Promise<void> {
	signal?.throwIfAborted();
	await new Promise<void>((resolve) => {
		if (waiting.push(resolve) === 1) setImmediate(resume);
	});
	signal?.throwIfAborted();
}

/** One loop in each turn, in the order they came. */
function resume(): void {
	begun = performance.now();
	waiting.shift()!();
	if (waiting.length > 0) setImmediate(resume);
}

/**
 * Calls `work(from, to)` for blocks of 0 … count − 1 in order, making way between them.
 *
 * @param block indices of one call: a millisecond or so of work
 */
export async function inBlocks(
	count: number,
	block: number,
	work: (from: number, to: number) => void,
	signal?: AbortSignal | undefined,
): Promise<void> {
	for (let from = 0; from < count; from += block) {
		if (turnIsOver()) await nextTurn(signal);
		work(from, Math.min(count, from + block));
	}
}
