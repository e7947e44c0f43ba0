import { appendFile, mkdir, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { ALLMRecError } from '../errors.js';
import { makeFolder, removeTemporaries, syncFile, writeFileAtomic, writeJson } from '../files/atomic.js';
import { withLock } from '../files/lock.js';
import { tryReadJson } from '../files/read.js';
import { writing } from '../files/write-error.js';
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
	/** Seconds between checkpoints within and across epochs; 0 = as often as can be. Default 60. */
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
	/**
	 * Runs `count` steps from step `first`, fewer if the signal is aborted, which is no error: the weights are those of
	 * the steps done.
	 */
	run(first: number, count: number, signal: AbortSignal | undefined): Promise<StepsDone>;
	/** `score`: higher is better. */
	validate(signal: AbortSignal | undefined): Promise<{ score: number; metrics: Record<string, number> }>;
	/** Weights, for the best and the final state. Saving is not stopped by an abort, which leaves a checkpoint itself. */
	saveWeights(path: string): Promise<void>;
	loadWeights(path: string): Promise<void>;
	saveOptimizer(path: string): Promise<void>;
	loadOptimizer(path: string): Promise<void>;
}

export interface StepsDone {
	steps: number;
	/** Means over those steps; undefined where an abort has cut them off. */
	losses: Record<string, number> | undefined;
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
	/** Epochs that have been validated and logged. */
	epochs: number;
	/** Folder of the weights and the optimizer of this step. */
	checkpoint: string;
	best: LoopResult['best'];
	/** Folder of the best weights; empty where there are none, and at the end, when they are the checkpoint's. */
	bestWeights: string;
	badValidations: number;
	done: boolean;
	stoppedEarly: boolean;
	/** Means over `lossSteps` steps of the epoch that is under way, or of the last one. */
	losses: Record<string, number>;
	lossSteps: number;
	seconds: number;
	/** What the stage was started with; another one does not go on from here. */
	fingerprint: string;
}

const STATE = 'state.json';
const LOG = 'log.jsonl';
const WEIGHTS = 'model.safetensors';
const OPTIMIZER = 'optimizer.safetensors';
const CHUNK_SECONDS = 0.25;

/**
 * Trains a stage to its end: epochs, validation, early stopping, best weights, checkpoints, resuming, log.
 * Afterwards the stage holds the best weights (the last ones without validation).
 *
 * @param fingerprint identifies data and options; a checkpoint of another one is an error, not a start.
 * @throws ERR_ALLMREC_RUN if the folder holds a checkpoint of other options, ERR_ALLMREC_LOCKED, ERR_ALLMREC_WRITE; an
 * abort leaves a checkpoint and rejects with the signal's reason
 */
export async function trainLoop(
	stage: Stage,
	options: LoopOptions,
	fingerprint: string,
): Promise<LoopResult> {
	const { folder } = options;
	if (folder) {
		await makeFolder(folder);
		return withLock(join(folder, '.lock'), `The training in ${folder}`, () =>
			train(stage, options, fingerprint, folder),
		);
	}
	// The best weights need a place while training goes on.
	const scratch = await writing(tmpdir(), () => mkdtemp(join(tmpdir(), 'a-llmrec-')));
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
	if (folder) await removeOthers(folder, state);
	if (folder && !state.done) await cutLog(folder, state.epochs);
	const started = performance.now() - state.seconds * 1000;
	const firstStep = state.step;
	const finished = state.done;
	/** What the state on the disk has. */
	let saved = { ...state };
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

	const save = async () => {
		if (!folder) return;
		state.seconds = seconds();
		saved = await checkpoint(stage, folder, state, saved.checkpoint);
		lastCheckpoint = performance.now();
	};

	/** Leaves if the signal is aborted; what was trained since the last checkpoint is kept. What is done is ended first. */
	const leaveIfAborted = async () => {
		if (!signal?.aborted || state.done) return;
		const moved = state.step !== saved.step || state.epochs !== saved.epochs;
		if (moved) await save().catch(() => {}); // the last checkpoint stands
		throw signal.reason;
	};

	/** Where the best weights are, in an error of numbers that are not finite. */
	const diverged = (error: unknown, where = ''): never => {
		if (!(error instanceof ALLMRecError) || error.code !== 'ERR_ALLMREC_NUMERIC') throw error;
		throw new ALLMRecError(error.code, `${where}${error.message} ${whatIsKept(state, folder)}`, {
			cause: error,
		});
	};

	/** Validates, keeps the weights if they are the best, and logs. */
	const endEpoch = async () => {
		const epoch = state.epochs + 1;
		const next: Partial<State> = { epochs: epoch };
		let metrics: Record<string, number> = {};
		if (validateEvery > 0 && (epoch % validateEvery === 0 || epoch === epochs)) {
			const validation = await stage
				.validate(signal)
				.then(expectFinite)
				.catch((error) =>
					diverged(error, `The validation of epoch ${epoch} failed; lower the learning rate. `),
				);
			metrics = validation.metrics;
			if (!state.best || validation.score > state.best.score) {
				next.best = { score: validation.score, epoch, metrics };
				next.bestWeights = `best-${state.step}`;
				next.badValidations = 0;
				await saveInto(join(place, next.bestWeights), (path) => stage.saveWeights(path), WEIGHTS);
			} else {
				next.badValidations = state.badValidations + 1;
				next.stoppedEarly = next.badValidations >= (patience ?? Number.POSITIVE_INFINITY);
				next.done = next.stoppedEarly;
			}
		}
		const { step, losses } = state;
		if (folder) await log(folder, { stage: stage.name, epoch, step, losses, metrics, seconds: seconds() });
		// At one stroke: what stops before leaves the epoch to be ended again.
		const replaced = next.bestWeights === undefined ? '' : state.bestWeights;
		Object.assign(state, next);
		bestInMemory = next.bestWeights !== undefined;
		report(losses, state.done || step === totalSteps);
		if (replaced && replaced !== saved.bestWeights) await removeFolder(join(place, replaced));
	};

	const runStarted = performance.now();
	await leaveIfAborted();
	while (!state.done && (state.step < totalSteps || state.epochs < epochs)) {
		const epochEnd = (state.epochs + 1) * stage.stepsPerEpoch;
		if (state.step < epochEnd) {
			const count = Math.min(chunk, epochEnd - state.step);
			const before = performance.now();
			const { steps, losses } = await stage.run(state.step, count, signal).catch((error) => diverged(error));
			const took = (performance.now() - before) / 1000;
			chunk = Math.max(
				1,
				Math.min(stage.stepsPerEpoch, Math.round((count * CHUNK_SECONDS) / Math.max(took, 1e-4))),
			);
			if (state.step === state.epochs * stage.stepsPerEpoch) state.lossSteps = 0;
			state.step += steps;
			if (losses) addLosses(state, losses, steps);
			await leaveIfAborted();
			report(state.losses, false);
		}
		if (state.step === epochEnd) {
			try {
				await endEpoch();
			} catch (error) {
				await leaveIfAborted();
				throw error;
			}
			await leaveIfAborted();
		}
		if (!state.done && performance.now() - lastCheckpoint > checkpointSeconds * 1000) await save();
	}
	if (!finished) {
		state.done = true;
		state.seconds = seconds();
		if (state.best && !bestInMemory) await stage.loadWeights(join(place, state.bestWeights, WEIGHTS));
		if (folder) await checkpoint(stage, folder, { ...state, bestWeights: '' }, '');
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
		epochs: 0,
		checkpoint: '',
		best: undefined,
		bestWeights: '',
		badValidations: 0,
		done: false,
		stoppedEarly: false,
		losses: {},
		lossSteps: 0,
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
const weights = (names: RegExp) => z.string().regex(names, 'expected the name of a folder of weights');
const stateSchema = z
	.strictObject({
		version: z.literal(1),
		step: z.int().min(0),
		epochs: z.int().min(0).optional(),
		// Names of folders beside it, and nothing else.
		checkpoint: weights(/^(final|checkpoint-\d+)?$/),
		best: z.strictObject({ score: z.number(), epoch: z.number(), metrics: numbers }).optional(),
		bestWeights: weights(/^(best-\d+)?$/).optional(),
		badValidations: z.int().min(0),
		done: z.boolean(),
		stoppedEarly: z.boolean(),
		losses: numbers,
		lossSteps: z.int().min(0).optional(),
		seconds: z.number().min(0),
		fingerprint: z.string(),
	})
	// Of earlier versions, whose trainings can be used but not gone on with.
	.refine(
		({ done, epochs, bestWeights, lossSteps }) =>
			done || (epochs !== undefined && bestWeights !== undefined && lossSteps !== undefined),
		'of a training that an earlier version began',
	)
	.transform((state) => state as State);

async function resume(stage: Stage, folder: string, fingerprint: string): Promise<State | undefined> {
	const state = await readState(folder);
	if (!state) return undefined;
	if (state.fingerprint !== fingerprint)
		throw new ALLMRecError(
			'ERR_ALLMREC_RUN',
			`${folder} was trained with other data or options. Take another --out folder, or delete this one to train it again.`,
		);
	if (state.checkpoint) {
		await stage.loadWeights(join(folder, state.checkpoint, WEIGHTS));
		if (!state.done) await stage.loadOptimizer(join(folder, state.checkpoint, OPTIMIZER));
	}
	return state;
}

/**
 * Weights and optimizer go to a folder of their own; the state file that names it is renamed into place last. Gives the
 * state that was written.
 *
 * @param present checkpoint of the state on the disk, whose files are never written over
 */
async function checkpoint(stage: Stage, folder: string, state: State, present: string): Promise<State> {
	const name = state.done ? 'final' : `checkpoint-${state.step}`;
	const path = join(folder, name);
	if (name !== present) {
		await saveInto(path, (file) => stage.saveWeights(file), WEIGHTS);
		if (!state.done) await saveInto(path, (file) => stage.saveOptimizer(file), OPTIMIZER);
	}
	const log = join(folder, LOG);
	await writing(log, () => syncFile(log).catch(unlessAbsent));
	const written = { ...state, checkpoint: name };
	await writeJson(join(folder, STATE), written);
	await removeOthers(folder, written);
	return written;
}

/** Deletes what killed processes left, and weights of other checkpoints than the state's. */
async function removeOthers(folder: string, { checkpoint, bestWeights }: State): Promise<void> {
	await removeTemporaries(folder);
	for (const entry of await writing(folder, () => readdir(folder)))
		if (/^(checkpoint|best)-\d+$/.test(entry) && entry !== checkpoint && entry !== bestWeights)
			await removeFolder(join(folder, entry));
}

async function saveInto(folder: string, write: (path: string) => Promise<void>, name: string): Promise<void> {
	// In a folder that must be there: one that has vanished is not begun again without what it held.
	await writing(folder, () => mkdir(folder).catch(unlessPresent));
	await removeTemporaries(folder);
	await writing(join(folder, name), () => write(join(folder, name)));
}

function removeFolder(path: string): Promise<void> {
	return writing(path, () => rm(path, { recursive: true, force: true }));
}

async function log(folder: string, entry: object): Promise<void> {
	const path = join(folder, LOG);
	await writing(path, () => appendFile(path, `${JSON.stringify(entry)}\n`));
}

/** Takes the lines off the log that are of later epochs, which will be trained again, or torn. */
async function cutLog(folder: string, epochs: number): Promise<void> {
	const path = join(folder, LOG);
	const text = await readFile(path, 'utf8').catch(unlessAbsent);
	if (text === undefined) return;
	const lines = text.split(/(?<=\n)/);
	const kept = lines.filter((line) => {
		try {
			return line.endsWith('\n') && (JSON.parse(line) as { epoch: number }).epoch <= epochs;
		} catch {
			return false;
		}
	});
	if (kept.length < lines.length) await writeFileAtomic(path, kept);
}

function unlessPresent(error: NodeJS.ErrnoException): undefined {
	if (error.code !== 'EEXIST') throw error;
}

function unlessAbsent(error: NodeJS.ErrnoException): undefined {
	if (error.code !== 'ENOENT') throw error;
}

function whatIsKept({ best, bestWeights }: State, folder: string | undefined): string {
	const start = folder
		? `The same options come to the same end: train with other ones in another folder, or delete ${folder} first.`
		: 'Training with a folder keeps the best weights there.';
	if (!best || !bestWeights)
		return `No validation came before, so there are no weights to keep. ${folder ? start : ''}`.trim();
	const metrics = Object.entries(best.metrics).map(([name, value]) => `${name} ${value.toPrecision(4)}`);
	const which = `The best weights so far, of epoch ${best.epoch} (${metrics.join(', ')})`;
	return folder
		? `${which}, are in ${join(folder, bestWeights, WEIGHTS)}. ${start}`
		: `${which}, are lost. ${start}`;
}

/** A score that is no number is neither better nor worse than another. */
function expectFinite<T extends { score: number }>(validation: T): T {
	if (Number.isFinite(validation.score)) return validation;
	throw new ALLMRecError('ERR_ALLMREC_NUMERIC', `The validation's score is ${validation.score}.`);
}

function prefixed(metrics: Record<string, number> | undefined): Record<string, number> {
	return Object.fromEntries(Object.entries(metrics ?? {}).map(([name, value]) => [`best ${name}`, value]));
}

/** Puts the mean losses of further steps to those of the epoch. */
function addLosses(state: State, losses: Record<string, number>, steps: number): void {
	const before = state.lossSteps === 0 ? {} : state.losses;
	const lossSteps = state.lossSteps + steps;
	state.losses = Object.fromEntries(
		Object.entries(losses).map(([name, value]) => [
			name,
			((before[name] ?? 0) * state.lossSteps + value * steps) / lossSteps,
		]),
	);
	state.lossSteps = lossSteps;
}
