import { readdirSync, readFileSync } from 'node:fs';

/**
 * Milliseconds that threads of this process have stood ready to run while others had the cores, all together: in a test
 * whose threads wait for each other, what a busy machine has added to the time it took. 0 where the system does not say.
 */
export function runDelay(): number {
	let nanoseconds = 0;
	for (const thread of threads()) {
		try {
			nanoseconds += Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'utf8').split(' ')[1]);
		} catch {
			// It has ended since.
		}
	}
	return nanoseconds / 1e6;
}

function threads(): string[] {
	try {
		return readdirSync('/proc/self/task');
	} catch {
		return [];
	}
}
