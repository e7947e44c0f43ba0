// Run by test/reliability/crash-lock.test.ts: at a moment given, tries to take one lock after another, and keeps those
// it gets until its standard input ends. Prints the numbers of those.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ALLMRecError } from '../../lib/errors.js';
import { withLock } from '../../lib/files/lock.js';

const [folder, rounds, at, every] = process.argv.slice(2) as [string, string, string, string];

const ended = new Promise((resolve) => process.stdin.resume().on('end', resolve));
const won: number[] = [];
for (let round = 0; round < Number(rounds); round++) {
	const moment = Number(at) + round * Number(every);
	await sleep(moment - Date.now() - 2);
	while (Date.now() < moment); // all of them in the same millisecond
	await new Promise<void>((tried) => {
		withLock(join(folder, `${round}.lock`), 'The test', () => {
			won.push(round);
			tried();
			return ended;
		}).catch((error) => {
			if (!(error instanceof ALLMRecError) || error.code !== 'ERR_ALLMREC_LOCKED') throw error;
			tried();
		});
	});
}
console.log(JSON.stringify(won));
