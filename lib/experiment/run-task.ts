import { cp, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { Dataset } from '../data/dataset.js';
import { rankTargets } from '../evaluation/metrics.js';
import { inTurns } from '../event-loop.js';
import { writeFileAtomic } from '../files/atomic.js';
import { isFile, LARGEST_TEXT_BYTES, readJson } from '../files/read.js';
import type { DeviceOptions } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { trainRun } from '../recommend/run.js';
import { makeCell, shuffled } from './cell.js';
import type { Contestant } from './contestant.js';
import { makeContestants } from './models.js';
import { cached, type ScoreTask, type StageTask, type Task } from './plan.js';
import { resultFields } from './results.js';

export interface TaskCalls extends LongCallOptions {
	/** The experiment's folder. */
	out: string;
	device: DeviceOptions;
	checkpointSeconds?: number | undefined;
}

/** What a scored model has found; a file of the cache. */
export const scoredSchema = resultFields
	.pick({
		models: true,
		curves: true,
		calibration: true,
		latents: true,
		maps: true,
		examples: true,
		genres: true,
		timings: true,
	})
	.extend({
		users: z.array(z.int().min(0)),
		targetCounts: z.array(z.int().min(0)),
		slices: resultFields.shape.slices,
	});
export type Scored = z.output<typeof scoredSchema>;

/** Name of the file that says a stage's folder is whole. */
const DONE = 'done';

/** Whether nothing is left to do of a task. */
export function isDone(out: string, task: Task): Promise<boolean> {
	const place = cached(out, task.id);
	return isFile(task.kind === 'score' ? `${place}.json` : join(place, DONE));
}

/** Does a task, going on where an earlier attempt stopped. */
export async function runTask(task: Task, calls: TaskCalls): Promise<void> {
	calls.signal?.throwIfAborted();
	await mkdir(cached(calls.out, ''), { recursive: true });
	const dataset = await Dataset.open(task.data.path, { signal: calls.signal });
	if (task.kind === 'score') await score(task, dataset, calls);
	else await trainStage(task, dataset, calls);
}

const STAGE_ORDER = ['cf', 'align', 'project'] as const;

/** The stages before are copied as they are, and found done. */
async function trainStage(task: StageTask, dataset: Dataset, calls: TaskCalls): Promise<void> {
	const { out, device, checkpointSeconds, signal, onProgress } = calls;
	const folder = cached(out, task.id);
	const stages = STAGE_ORDER.slice(0, STAGE_ORDER.indexOf(task.kind) + 1);
	if (task.from !== undefined)
		for (const stage of stages.slice(0, -1)) {
			if (await isFile(join(folder, stage, 'state.json'))) continue;
			await rm(join(folder, stage), { recursive: true, force: true });
			await cp(join(cached(out, task.from), stage), join(folder, stage), { recursive: true });
		}
	await trainRun(dataset, {
		...device,
		out: folder,
		datasetPath: task.data.path,
		options: task.options,
		stages,
		checkpointSeconds,
		signal,
		onProgress,
	});
	await writeFileAtomic(join(folder, DONE), ['']);
}

async function score(task: ScoreTask, dataset: Dataset, calls: TaskCalls): Promise<void> {
	const { out, device, signal, onProgress } = calls;
	const cell = await makeCell(dataset, task.cell, signal);
	const place = cached(out, task.id);
	const made = await makeContestants(task, {
		dataset,
		cell,
		device,
		from: task.from && cached(out, task.from),
		folder: join(place, 'training'),
		signal,
		onProgress,
	});
	try {
		const scores = new Map<string, Float32Array>();
		const models: Scored['models'] = {};
		const add = async ({ family, score }: Contestant, label: string, request = cell) => {
			const begun = performance.now();
			const values = await score(request, {
				signal,
				onProgress: onProgress && ((p) => onProgress({ ...p, stage: `score ${label}` })),
			});
			const { greater, ties } = await inTurns(rankTargets(values, cell.targets), signal);
			models[label] = {
				family,
				ranks: { greater: Array.from(greater), ties: Array.from(ties) },
				seconds: (performance.now() - begun) / 1000,
			};
			scores.set(label, values);
		};
		for (const model of made.models) await add(model, model.label);
		if (task.scenario === 'shuffle') {
			const other = shuffled(cell, task.cell.candidatesSeed);
			for (const model of made.models) await add(model, `${model.label}, shuffled`, other);
		}
		const details = (await made.details?.(cell, scores)) ?? {};
		const result: Scored = {
			...details,
			models,
			timings: { ...details.timings, ...made.timings },
			users: Array.from(cell.users),
			targetCounts: Array.from(cell.targetItems, (item) => cell.split.itemCounts[item]!),
			slices: Object.fromEntries(
				cell.slices.map(({ name, description, mask }) => [
					name,
					{ description, rows: Array.from(mask.keys()).filter((row) => mask[row] === 1) },
				]),
			),
		};
		await writeFileAtomic(`${place}.json`, [`${JSON.stringify(scoredSchema.parse(result))}\n`]);
	} finally {
		made.dispose();
	}
	await rm(place, { recursive: true, force: true });
}

/** @throws ERR_ALLMREC_FILE_FORMAT with the file's name */
export function readScored(out: string, id: string): Promise<Scored> {
	return readJson(`${cached(out, id)}.json`, scoredSchema, {
		limit: LARGEST_TEXT_BYTES,
		remedy: 'delete it and run the experiment again, which computes it anew',
	});
}
