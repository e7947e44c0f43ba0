import type { ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { command } from './command.js';

/** Part of a training: a stage, or the fusion behind them. */
export const PARTS = ['cf', 'align', 'project', 'fusion'] as const;

export type Part = (typeof PARTS)[number];

/** What a run folder has still to do first; undefined when it is complete. */
export function nextPart(run: string): Part | undefined {
	for (const stage of ['cf', 'align', 'project'] as const) if (!isDone(join(run, stage))) return stage;
	return existsSync(join(run, 'model', 'fusion.json')) ? undefined : 'fusion';
}

function isDone(stage: string): boolean {
	return readJson(join(stage, 'state.json'))?.done === true;
}

/** Undefined where there is none yet; what is being written is never seen by half. */
export function readJson(path: string): Record<string, unknown> | undefined {
	if (!existsSync(path)) return undefined;
	try {
		return JSON.parse(readFileSync(path, 'utf8'));
	} catch (error) {
		// The lock's file is no result: it is emptied and written in place.
		if (path.endsWith('.lock') || !existsSync(path)) return undefined;
		throw error;
	}
}

/**
 * Runs `args` and kills the process `delay` milliseconds after it has begun with a part of the training in `run`. Gives
 * what was left to do at that moment; `ended` if the process was faster.
 */
export async function killedInPart(
	args: readonly string[],
	run: string,
	part: Part,
	delay: number,
): Promise<Part | 'ended' | undefined> {
	const { code, err } = await command(args, async (child) => {
		await begun(child, run, part);
		await sleep(delay);
		child.kill('SIGKILL');
	});
	if (code === 0) return 'ended';
	if (code !== null) throw new Error(`It was to be killed, but ended with ${code}: ${err}`);
	return nextPart(run);
}

/** Until a process trains a part: then it holds the lock of its folder. */
async function begun(child: ChildProcess, run: string, part: Part): Promise<void> {
	const begins = () =>
		part === 'fusion'
			? ownLock(run, child) &&
				nextPart(run) === 'fusion' &&
				existsSync(join(run, 'model/projector.safetensors'))
			: ownLock(join(run, part), child);
	while (child.exitCode === null && !begins()) await sleep(2);
}

function ownLock(folder: string, child: ChildProcess): boolean {
	return readJson(join(folder, '.lock'))?.pid === child.pid;
}
