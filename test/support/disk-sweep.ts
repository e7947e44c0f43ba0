// Run by test/reliability/crash-disk.test.ts with the faulty disk preloaded: does a job again and again, each time with
// the disk failing at another call, and then once more with a sound disk. Prints what came of it as JSON.
import { cp, mkdir, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { prepare } from '../../lib/data/dataset.js';
import { ALLMRecError } from '../../lib/errors.js';
import { quantizeCheckpoint } from '../../lib/llm/quantization.js';
import { loadRun } from '../../lib/recommend/run.js';
import type { RunOptions } from '../../lib/recommend/run-config.js';
import { scoreFile } from '../../lib/recommend/score-all/score-file.js';
import { type Fault, FaultyDisk } from './faulty-disk.js';
import { hashes, trainTinyRun } from './tiny-run.js';
import { CPU, tinyDataset } from './tiny-world.js';

export interface SweepRequest {
	job: 'train' | 'score' | 'prepare' | 'quantize';
	/** Of the job. */
	input: { options?: RunOptions; run?: string; users?: string; out?: string; log?: string[]; llm?: string };
	/** Folder that the job begins with, with a finished older result; none without. */
	before?: string | undefined;
	/** Where the disk fails. */
	root: string;
	control: string;
	fault: Fault;
	lasts: boolean;
	/** How many calls to try, spread over all of them, or in all. */
	points: number;
}

export interface SweepResult {
	/** Calls of the job that change files. */
	calls: number;
	/** Calls that failed, one in each trial. */
	faults: number;
	/** Trials that ended with ERR_ALLMREC_WRITE; the others got over it. */
	refused: number;
	/** What is not as promised. */
	problems: string[];
}

const request = JSON.parse(process.argv[2]!) as SweepRequest;
const disk = new FaultyDisk([request.root], request.control);

async function sweep({ before, fault, lasts, points }: SweepRequest): Promise<SweepResult> {
	const work = await worker(request);
	const old = before ? await hashes(before) : {};
	let folder = await fresh(before);
	disk.heal();
	await work(folder);
	const { calls } = disk;
	const expected = resultHashes(await hashes(folder));
	const result: SweepResult = { calls, faults: 0, refused: 0, problems: [] };
	const step = Math.max(1, calls / points);
	for (let at = 1 + Math.floor(Math.random() * step); at <= calls; at = Math.floor(at + step)) {
		folder = await fresh(before);
		disk.fail(fault, at, lasts);
		const error = await work(folder).then(
			() => undefined,
			(reason: unknown) => reason,
		);
		const path = disk.failedPath;
		const failed = disk.failures > 0;
		disk.heal();
		if (failed) result.faults++;
		const problem = (text: string) => result.problems.push(`${fault} at call ${at} (${path}): ${text}`);
		if (error !== undefined) {
			if (!(error instanceof ALLMRecError) || error.code !== 'ERR_ALLMREC_WRITE') problem(String(error));
			else {
				result.refused++;
				if (!names(error.message, path)) problem(`the message does not name it: ${error.message}`);
				if (!/do the same again|free space|run .* again/.test(error.message))
					problem(`the message does not say what to do: ${error.message}`);
			}
			// What was good before is there, or what is good now.
			const left = await hashes(folder);
			for (const [name, hash] of Object.entries(old))
				if (left[name] !== hash && left[name] !== expected[name]) problem(`${name} is lost`);
		}
		try {
			await work(folder);
			const after = await hashes(folder);
			for (const [name, hash] of Object.entries(expected))
				if (after[name] !== hash) problem(`${name} differs after doing it again`);
			for (const name of Object.keys(after))
				if (/\.tmp-|\.lock$|\.partial-|checkpoint-|best-|\.part$/.test(name)) problem(`${name} is left over`);
		} catch (reason) {
			problem(`doing it again: ${reason}`);
		}
		await rm(folder, { recursive: true, force: true });
	}
	return result;
}

let folders = 0;

async function fresh(before: string | undefined): Promise<string> {
	const folder = join(request.root, String(folders++));
	if (before) await cp(before, folder, { recursive: true });
	else await mkdir(folder, { recursive: true });
	return folder;
}

async function worker({ job, input }: SweepRequest): Promise<(folder: string) => Promise<unknown>> {
	if (job === 'train') {
		const dataset = tinyDataset();
		return (folder) => trainTinyRun(join(folder, 'run'), dataset, input.options!, { checkpointSeconds: 0 });
	}
	if (job === 'score') {
		const model = await loadRun(input.run!, CPU);
		return (folder) => scoreFile(model, { users: input.users!, out: join(folder, input.out!), topK: 3 });
	}
	if (job === 'prepare')
		return (folder) =>
			prepare({
				format: 'csv',
				interactions: [input.log![0]!],
				items: [input.log![1]!],
				kCore: 1,
				out: join(folder, 'set'),
				threads: 1,
			});
	return (folder) =>
		quantizeCheckpoint(input.llm!, { dtype: 'int8', out: join(folder, 'stored'), force: true, ...CPU });
}

/** Those that are the same each time: times and what follows from them are in state.json, log.jsonl. */
function resultHashes(all: Record<string, string>): Record<string, string> {
	return Object.fromEntries(Object.entries(all).filter(([name]) => !/state\.json$|log\.jsonl$/.test(name)));
}

/** Whether a message names a file that a call failed on, by the name it was to have, or a folder it is in. */
function names(message: string, path: string): boolean {
	const final = path
		.replace(/\.tmp-[0-9a-f-]+/, '')
		.replace(/\/\.([^/]+)\.partial-[0-9a-f]+(-old)?/, '/$1')
		.replace(/\.(part|wal)$/, '');
	const told = message.replace(/\/\.([^/]+)\.partial-[0-9a-f]+(-old)?/, '/$1');
	return [final, dirname(final)].some((name) => told.includes(name)) || told.includes(basename(final));
}

process.stdout.write(JSON.stringify(await sweep(request)));
