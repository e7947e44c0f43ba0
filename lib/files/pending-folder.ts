import { randomBytes } from 'node:crypto';
import { readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { loadAddon } from '../native/addon.js';
import { makeFolder, syncFile, syncFolder } from './atomic.js';
import { withLock } from './lock.js';
import { writing } from './write-error.js';

/**
 * Fills a folder beside its final place and puts it there when it is complete, so that a crash leaves either the old
 * folder or the new one. Meanwhile its place is locked by `.<name>.lock` beside it; what a killed process leaves is
 * named `.<name>.partial-…` and goes at the next start.
 *
 * @param what is written, at the beginning of a sentence
 * @param expectReplaceable throws for a folder that must not be replaced
 * @param fill writes into the folder it is given; when it has ended, a folder in the final place is replaced
 * @throws ERR_ALLMREC_LOCKED, ERR_ALLMREC_WRITE, what the two functions throw
 */
export async function writeFolder<T>(
	target: string,
	what: string,
	expectReplaceable: (target: string) => Promise<void>,
	fill: (folder: string) => Promise<T>,
): Promise<T> {
	const absolute = resolve(target);
	await expectReplaceable(absolute);
	const [parent, name] = [dirname(absolute), basename(absolute)];
	await makeFolder(parent);
	return withLock(join(parent, `.${name}.lock`), what, async () => {
		await recover(absolute);
		await expectReplaceable(absolute);
		const partial = join(parent, `.${name}.partial-${randomBytes(4).toString('hex')}`);
		try {
			await makeFolder(partial);
			const result = await fill(partial);
			await expectReplaceable(absolute);
			await writing(absolute, () => publish(partial, absolute));
			return result;
		} catch (error) {
			await rm(partial, { recursive: true, force: true }).catch(() => {});
			throw error;
		}
	});
}

async function publish(partial: string, target: string): Promise<void> {
	for (const entry of await readdir(partial, { recursive: true, withFileTypes: true }))
		if (entry.isFile()) await syncFile(join(entry.parentPath, entry.name));
	await syncFolder(partial);
	const old = `${partial}${OLD}`;
	if (!(await exists(target))) await rename(partial, target);
	else if (loadAddon().exchangePaths(partial, target)) await rename(partial, old);
	else {
		// Without an exchange at one stroke; recover() ends what is stopped in between.
		await rename(target, old);
		try {
			await rename(partial, target);
		} catch (cause) {
			await rename(old, target);
			throw cause;
		}
	}
	await syncFolder(dirname(target));
	// It is in its place: what cannot be deleted now goes at the next start.
	await rm(old, { recursive: true, force: true }).catch(() => {});
}

const OLD = '-old';

/** Puts a folder back that was moved away to be replaced, and deletes what else was left. */
async function recover(target: string): Promise<void> {
	const parent = dirname(target);
	const left = (await readdir(parent)).filter((name) => name.startsWith(`.${basename(target)}.partial-`));
	for (const name of left) {
		const path = join(parent, name);
		if (name.endsWith(OLD) && !(await exists(target))) await writing(target, () => rename(path, target));
		else await rm(path, { recursive: true, force: true });
	}
}

async function exists(path: string): Promise<boolean> {
	return (await stat(path).catch(() => undefined)) !== undefined;
}
