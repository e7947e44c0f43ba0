import { appendFile, mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { ALLMRecError } from '../errors.js';
import { tryReadJson } from '../files/read.js';
import type { LongCallOptions } from '../progress.js';

/** How long a stage trains and when it stops. */
export interface LoopOptions extends LongCallOptions {
	/** Passes over the training examples at most. */
	epochs: number;
	/** Epochs between validations. Default 1; 0 = never validates and keeps the last weights. */
	validateEvery?: number | undefined;
	/** Validations without improvement after which training stops. Default: none, all epochs are run. */
	patience?: number | undefined;
	/** Folder for checkpoints, the log and the best weights. Without it nothing is kept on disk and nothing resumes. */
	folder?: string | undefined;
	/** Seconds between checkpoints within and across epochs. Default 60. */
	checkpointSeconds?: number | undefined;
}

/** One stage as the loop sees it. Steps are numbered from 0 over all epochs, and each depends on its number alone. */
export interface Stage {
	/** `cf`, `align` or `project`. */
	name: string;
	stepsPerEpoch: number;
	/** What progress counts, with how many of it an epoch holds. */
	unit: string;
	unitsPerEpoch: number;
	/** Runs `count` steps from step `first`; gives their mean losses. */
	run(first: number, count: number, signal: AbortSignal | undefined): Promise<Record<string, number>>;
	/** `score`: higher is better. */
	validate(signal: AbortSignal | undefined): Promise<{ score: number; metrics: Record<string, number> }>;
	/** Weights, for the best and the final state. */
	saveWeights(path: string): Promise<void>;
	loadWeights(path: string): Promise<void>;
	saveOptimizer(path: string): Promise<void>;
	loadOptimizer(path: string): Promise<void>;
}

export interface LoopResult {
	/** Steps done, over all runs. */
	steps: number;
	epochs: number;
	/** Score and epoch of the weights that were kept. */
	best: { score: number; epoch: number; metrics: Record<string, number> } | undefined;
	stoppedEarly: boolean;
	losses: Record<string, number>;
	seconds: number;
}

interface State {
	version: 1;
	step: number;
	/** Folder of the weights and the optimizer of this step. */
	checkpoint: string;
	best: LoopResult['best'];
	badValidations: number;
	done: boolean;
	stoppedEarly: boolean;
	losses: Record<string, number>;
	seconds: number;
	/** What the stage was started with; another one does not go on from here. */
	fingerprint: string;
}

const STATE = 'state.json';
const BEST = 'best.safetensors';
const CHUNK_SECONDS = 0.25;

/**
 * Trains a stage to its end: epochs, validation, early stopping, best weights, checkpoints, resuming, log.
 * Afterwards the stage holds the best weights (the last ones without validation).
 *
 * @param fingerprint identifies data and options; a checkpoint of another one is an error, not a start.
 * @throws ERR_ALLMREC_RUN if the folder holds a checkpoint of other options.
 */
export async function trainLoop(
	stage: Stage,
	options: LoopOptions,
	fingerprint: string,
): Promise<LoopResult> {
	if (options.folder) return train(stage, options, fingerprint, options.folder);
	// The best weights need a place while training goes on.
	const scratch = await mkdtemp(join(tmpdir(), 'a-llmrec-'));
	try {
		return await train(stage, options, fingerprint, scratch);
	} finally {
		await rm(scratch, { recursive: true, force: true });
	}
}

/** @param place the run's folder, or one that goes when training ends */
async function train(
	stage: Stage,
	options: LoopOptions,
	fingerprint: string,
	place: string,
): Promise<LoopResult> {
	const { epochs, validateEvery = 1, patience, folder, checkpointSeconds = 60, signal, onProgress } = options;
	const totalSteps = epochs * stage.stepsPerEpoch;
	const state = (folder && (await resume(stage, folder, fingerprint))) || freshState(fingerprint);
	const started = performance.now() - state.seconds * 1000;
	const firstStep = state.step;
	const finished = state.done;
	let bestInMemory = false;
	let lastCheckpoint = performance.now();
	let lastReport = 0;
	let chunk = 1;
	const seconds = () => (performance.now() - started) / 1000;

	const report = (losses: Record<string, number>, force: boolean) => {
		if (!onProgress || (!force && performance.now() - lastReport < 100)) return;
		lastReport = performance.now();
		const stepSeconds = (performance.now() - runStarted) / 1000 / Math.max(1, state.step - firstStep);
		const unitsPerStep = stage.unitsPerEpoch / stage.stepsPerEpoch;
		onProgress({
			stage: stage.name,
			done: Math.round(state.step * unitsPerStep),
			total: Math.round(totalSteps * unitsPerStep),
			unit: stage.unit,
			rate: unitsPerStep / stepSeconds,
			secondsLeft: (totalSteps - state.step) * stepSeconds,
			metrics: {
				epoch: Math.floor(state.step / stage.stepsPerEpoch),
				...losses,
				...prefixed(state.best?.metrics),
			},
		});
	};

	const runStarted = performance.now();
	const epochLosses = new MeanLosses();
	epochLosses.add(state.losses, state.step % stage.stepsPerEpoch); // of an epoch that was begun before
	while (!state.done && state.step < totalSteps) {
		signal?.throwIfAborted();
		const epochEnd = (Math.floor(state.step / stage.stepsPerEpoch) + 1) * stage.stepsPerEpoch;
		const count = Math.min(chunk, epochEnd - state.step);
		const before = performance.now();
		const losses = await stage.run(state.step, count, signal);
		signal?.throwIfAborted();
		const took = (performance.now() - before) / 1000;
		chunk = Math.max(
			1,
			Math.min(stage.stepsPerEpoch, Math.round((count * CHUNK_SECONDS) / Math.max(took, 1e-4))),
		);
		state.step += count;
		epochLosses.add(losses, count);
		state.losses = epochLosses.mean();
		report(state.losses, false);
		if (state.step === epochEnd) {
			const epoch = state.step / stage.stepsPerEpoch;
			let metrics: Record<string, number> = {};
			if (validateEvery > 0 && (epoch % validateEvery === 0 || epoch === epochs)) {
				const validation = await stage.validate(signal);
				metrics = validation.metrics;
				if (!state.best || validation.score > state.best.score) {
					state.best = { score: validation.score, epoch, metrics };
					state.badValidations = 0;
					await saveAs(place, BEST, (path) => stage.saveWeights(path));
					bestInMemory = true;
				} else {
					state.badValidations++;
					bestInMemory = false;
					if (patience !== undefined && state.badValidations >= patience) {
						state.done = true;
						state.stoppedEarly = true;
					}
				}
			} else bestInMemory = false;
			if (folder)
				await log(folder, stage.name, {
					epoch,
					step: state.step,
					losses: state.losses,
					metrics,
					seconds: seconds(),
				});
			report(state.losses, state.done || state.step === totalSteps);
			epochLosses.clear();
		}
		if (folder && !state.done && performance.now() - lastCheckpoint > checkpointSeconds * 1000) {
			await checkpoint(stage, folder, { ...state, seconds: seconds() });
			lastCheckpoint = performance.now();
		}
	}
	if (!finished) {
		state.done = true;
		state.seconds = seconds();
		if (state.best && !bestInMemory) await stage.loadWeights(join(place, BEST));
		if (folder) await checkpoint(stage, folder, state, true);
	}
	return {
		steps: state.step,
		epochs: state.step / stage.stepsPerEpoch,
		best: state.best,
		stoppedEarly: state.stoppedEarly,
		losses: state.losses,
		seconds: state.seconds,
	};
}

/** Whether a stage's folder holds a finished training of the same fingerprint. */
export async function isTrained(folder: string, fingerprint: string): Promise<boolean> {
	const state = await readState(folder);
	return state?.done === true && state.fingerprint === fingerprint;
}

function freshState(fingerprint: string): State {
	return {
		version: 1,
		step: 0,
		checkpoint: '',
		best: undefined,
		badValidations: 0,
		done: false,
		stoppedEarly: false,
		losses: {},
		seconds: 0,
		fingerprint,
	};
}

async function readState(folder: string): Promise<State | undefined> {
	return tryReadJson(join(folder, STATE), stateSchema, {
		code: 'ERR_ALLMREC_RUN',
		missing: 'ERR_ALLMREC_RUN',
		remedy: `delete the folder ${folder} to train this stage again`,
	});
}

const numbers = z.record(z.string(), z.number());
const stateSchema: z.ZodType<State> = z.strictObject({
	version: z.literal(1),
	step: z.int().min(0),
	// Names a folder beside it, and nothing else.
	checkpoint: z.string().regex(/^(final|checkpoint-\d+)?$/, 'expected the name of a checkpoint'),
	best: z.strictObject({ score: z.number(), epoch: z.number(), metrics: numbers }).optional(),
	badValidations: z.int().min(0),
	done: z.boolean(),
	stoppedEarly: z.boolean(),
	losses: numbers,
	seconds: z.number().min(0),
	fingerprint: z.string(),
}) as z.ZodType<State>;

async function resume(stage: Stage, folder: string, fingerprint: string): Promise<State | undefined> {
	const state = await readState(folder);
	if (!state) return undefined;
	if (state.fingerprint !== fingerprint)
		throw new ALLMRecError(
			'ERR_ALLMREC_RUN',
			`${folder} was trained with other data or options. Take another --out folder, or delete this one to train it again.`,
		);
	if (state.checkpoint) {
		await stage.loadWeights(join(folder, state.checkpoint, 'model.safetensors'));
		if (!state.done) await stage.loadOptimizer(join(folder, state.checkpoint, 'optimizer.safetensors'));
	}
	return state;
}

/** Weights and optimizer go to a folder of their own; the state file that names it is renamed into place last. */
async function checkpoint(stage: Stage, folder: string, state: State, final = false): Promise<void> {
	const name = final ? 'final' : `checkpoint-${state.step}`;
	const path = join(folder, name);
	await mkdir(path, { recursive: true });
	await stage.saveWeights(join(path, 'model.safetensors'));
	if (!final) await stage.saveOptimizer(join(path, 'optimizer.safetensors'));
	await saveAs(folder, STATE, (to) =>
		writeFile(to, `${JSON.stringify({ ...state, checkpoint: name }, null, '\t')}\n`),
	);
	for (const entry of await readdir(folder))
		if (entry.startsWith('checkpoint-') && entry !== name)
			await rm(join(folder, entry), { recursive: true, force: true });
}

async function saveAs(folder: string, name: string, write: (path: string) => Promise<void>): Promise<void> {
	await mkdir(folder, { recursive: true });
	const temporary = join(folder, `${name}.part`);
	await write(temporary);
	await rename(temporary, join(folder, name));
}

async function log(folder: string, stage: string, entry: object): Promise<void> {
	await mkdir(folder, { recursive: true });
	await appendFile(join(folder, 'log.jsonl'), `${JSON.stringify({ stage, ...entry })}\n`);
}

function prefixed(metrics: Record<string, number> | undefined): Record<string, number> {
	return Object.fromEntries(Object.entries(metrics ?? {}).map(([name, value]) => [`best ${name}`, value]));
}

class MeanLosses {
	#sums = new Map<string, number>();
	#count = 0;

	add(losses: Record<string, number>, count: number): void {
		if (count === 0) return;
		for (const [name, value] of Object.entries(losses))
			this.#sums.set(name, (this.#sums.get(name) ?? 0) + value * count);
		this.#count += count;
	}

	mean(): Record<string, number> {
		return Object.fromEntries([...this.#sums].map(([name, sum]) => [name, sum / this.#count]));
	}

	clear(): void {
		this.#sums.clear();
		this.#count = 0;
	}
}
