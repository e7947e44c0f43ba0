import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { ALLMRecError } from '../errors.js';
import { loadAddon } from '../native/addon.js';
import { guard } from '../native/session.js';

/** What the lock's file says of its owner. */
interface Owner {
	pid: number;
	host: string;
	since: string;
}

/** An owner writes who it is right after it has taken the lock. */
const OWNER_TRIES = 20;
const OWNER_WAIT = 10;

/**
 * Does `work` while holding the lock file `path`, which is the kernel's: it goes with the process, however that ends,
 * and holds between the threads and calls of one process too. Nobody waits for it. Its folder has to be there.
 *
 * @param what is locked, at the beginning of a sentence
 * @throws ERR_ALLMREC_LOCKED with the owner's process id and machine, ERR_ALLMREC_WRITE
 */
export async function withLock<T>(path: string, what: string, work: () => Promise<T>): Promise<T> {
	const own: Owner = { pid: process.pid, host: hostname(), since: new Date().toISOString() };
	const { FileLock } = loadAddon();
	let lock = guard(() => new FileLock(path, JSON.stringify(own)));
	for (let tries = 1; !lock.held && lock.owner === '' && tries < OWNER_TRIES; tries++) {
		await sleep(OWNER_WAIT);
		lock = guard(() => new FileLock(path, JSON.stringify(own)));
	}
	if (!lock.held) throw lockedError(path, what, lock.owner, own);
	try {
		return await work();
	} finally {
		lock.release();
	}
}

function lockedError(path: string, what: string, text: string, own: Owner): ALLMRecError {
	let owner: Partial<Owner> = {};
	try {
		owner = JSON.parse(text) as Owner;
	} catch {}
	const by =
		owner.pid === own.pid && owner.host === own.host
			? `another call of this process (${own.pid})`
			: owner.pid === undefined
				? 'another process'
				: `process ${owner.pid} on ${owner.host}`;
	const since = owner.since === undefined ? '' : ` since ${owner.since}`;
	return new ALLMRecError(
		'ERR_ALLMREC_LOCKED',
		`${what} is being worked on by ${by}${since}. Wait for it to end or stop it, or give another one (the lock is ${path}; it goes with that process).`,
	);
}
