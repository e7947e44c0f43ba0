import { cp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeWorldCsv } from '../../lib/data/demo-world.js';
import type { RunOptions } from '../../lib/recommend/run-config.js';
import { fixture, freshPath } from '../data/folders.js';
import { command } from './command.js';
import { hashes, tinyRunOptions } from './tiny-run.js';
import { tinyWorld } from './tiny-world.js';

export const CPU_FLAGS = ['--device', 'cpu', '--threads', '1'];

/** What the command works on in the tests of crashes, made by the command. */
export interface CrashWorld {
	dataset: string;
	/** Arguments of `prepare` but for `--out`. */
	prepare: string[];
	/** Folder of the language model. */
	llm: string;
	/** Arguments of `train` into a folder. */
	train: (out: string) => string[];
	/** A run that was never stopped, and the seconds each of its stages took. */
	run: string;
	seconds: Record<string, number>;
	/** Hashes of that run's model and candidates. */
	expected: Record<string, string>;
}

/** @param changes of the tiny run's options */
export async function crashWorld(changes: RunOptions = {}): Promise<CrashWorld> {
	const log = await writeWorldCsv(freshPath('log'), tinyWorld());
	const prepare = [
		...['prepare', '--format', 'csv', '--interactions', log.interactions, '--items', log.items],
		...['--k-core', '1', '--threads', '1'],
	];
	const dataset = freshPath('dataset');
	await expectSuccess([...prepare, '--out', dataset]);
	const options = { ...(await tinyRunOptions()), ...changes };
	const config = await fixture('options.json', JSON.stringify(options));
	const train = (out: string) => [
		...['train', dataset, '--out', out, '--config', config, '--checkpoint-seconds', '0', ...CPU_FLAGS],
	];
	const run = freshPath('run');
	await expectSuccess(train(run));
	const seconds = Object.fromEntries(
		await Promise.all(
			['cf', 'align', 'project'].map(async (stage) => {
				const state = JSON.parse(await readFile(join(run, stage, 'state.json'), 'utf8'));
				return [stage, state.seconds as number] as const;
			}),
		),
	);
	return { dataset, prepare, llm: options.llm!, train, run, seconds, expected: await runHashes(run) };
}

export async function expectSuccess(args: readonly string[]): Promise<void> {
	const { code, err } = await command(args);
	if (code !== 0) throw new Error(`${args.join(' ')} ended with ${code}: ${err}`);
}

/** Hashes of what a run is made of. */
export async function runHashes(run: string): Promise<Record<string, string>> {
	const all = await hashes(run);
	return Object.fromEntries(
		Object.entries(all).filter(
			([name]) => name.startsWith('model/') || name.includes('/final/') || name === 'split.json',
		),
	);
}

/** A copy of a folder that a test may ruin. */
export async function copyOf(folder: string): Promise<string> {
	const copy = freshPath('copy');
	await cp(folder, copy, { recursive: true });
	return copy;
}
