import { fork } from 'node:child_process';
import { cpus, freemem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Dataset } from '../data/dataset.js';
import { demoLexicon, generateWorld, writeWorldCsv } from '../data/demo-world.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { makeFolder } from '../files/atomic.js';
import { withLock } from '../files/lock.js';
import { isFile } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import type { DeviceOptions } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { type Experiment, type ExperimentFile, parseExperiment, readExperiment } from './experiment-file.js';
import { deserializeError, type FromWorker, type ToWorker } from './messages.js';
import { type Plan, type PlannedCell, type PlannedData, planExperiment, type Task } from './plan.js';
import { type ExperimentResult, writeResult } from './results.js';
import { isDone, readScored, runTask, type Scored } from './run-task.js';

export interface RunExperimentOptions extends LongCallOptions, DeviceOptions {
	/** Folder of the results, `results/`, and of everything that was trained, `cache/`; earlier results stay. */
	out: string;
	/** Tasks done at once, each in a process of its own; 1 = in this one. Default: as many as cores and memory allow. */
	jobs?: number | undefined;
	/** Seconds between checkpoints. Default 60. */
	checkpointSeconds?: number | undefined;
	/** What made the results, as typed. */
	command?: string | undefined;
}

/** What has come of an experiment. */
export interface ExperimentSummary {
	/** Files that were written, one for each cell. */
	results: string[];
	/** Tasks that were done now, and those that were found done. */
	done: number;
	found: number;
	/** Why some cells are missing. */
	failures: { task: string; error: Error }[];
}

/**
 * Trains and evaluates everything an experiment asks for and writes a result for each of its cells. What has been
 * computed for the same content is taken from the cache, so an experiment that was stopped goes on where it was, and one
 * that has grown computes what is new. A task that fails takes those with it that need it, and no others.
 *
 * @param experiment a file, YAML or JSON, or what it would hold
 * @throws ERR_ALLMREC_INVALID_ARGUMENT, ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT, ERR_ALLMREC_LOCKED, the
 * signal's reason
 */
export async function runExperiment(
	experiment: string | ExperimentFile,
	options: RunExperimentOptions,
): Promise<ExperimentSummary> {
	expectKnown('runExperiment', options);
	const { out, jobs = defaultJobs(), signal } = options;
	if (!Number.isInteger(jobs) || jobs < 1) invalidArgument('jobs', 'a whole number from 1', jobs);
	const parsed =
		typeof experiment === 'string' ? await readExperiment(experiment) : parseExperiment(experiment);
	await makeFolder(out);
	return withLock(join(out, '.lock'), `The experiment in ${out}`, async () => {
		const data: PlannedData[] = [];
		for (const source of parsed.data) data.push(await prepared(source, out, signal));
		const plan = await planExperiment(parsed, data);
		// A cell is written as soon as it is whole: an experiment may take nights.
		const written = new Map<PlannedCell, string>();
		const scheduler = new Scheduler(plan, options, jobs, async (finished) => {
			for (const cell of plan.cells) {
				if (written.has(cell) || !cell.scores.every((id) => finished.has(id))) continue;
				written.set(cell, await writeResult(out, await assemble(parsed, cell, options)));
			}
		});
		await scheduler.run();
		const results = plan.cells.flatMap((cell) => written.get(cell) ?? []);
		return { results, done: scheduler.done, found: scheduler.found, failures: scheduler.failures };
	});
}

async function prepared(
	{ name, path, demo, options }: Experiment['data'][number],
	out: string,
	signal: AbortSignal | undefined,
): Promise<PlannedData> {
	if (path !== undefined) {
		if (!(await isFile(join(path, 'dataset.json'))))
			throw new ALLMRecError(
				'ERR_ALLMREC_FILE_NOT_FOUND',
				`${path}, the data set ${name} of the experiment, is no folder written by \`a-llmrec prepare\`; prepare it, or give its \`path\`.`,
			);
		return { name, path, options };
	}
	const folder = join(out, 'data', name);
	if (!(await isFile(join(folder, 'dataset.json')))) {
		const log = await writeWorldCsv(
			join(out, 'data', `${name}.log`),
			generateWorld({ seed: demo!.seed, lexicon: demoLexicon }),
		);
		await Dataset.prepare({
			format: 'csv',
			interactions: [log.interactions],
			items: [log.items],
			kCore: 1,
			name,
			out: folder,
			signal,
		});
	}
	return { name, path: folder, options };
}

/** Memory that a task is reckoned with. */
const TASK_BYTES = 2 ** 31;

function defaultJobs(): number {
	return Math.max(1, Math.min(cpus().length, Math.floor(freemem() / TASK_BYTES)));
}

class Scheduler {
	done = 0;
	found = 0;
	readonly failures: ExperimentSummary['failures'] = [];
	readonly #finished = new Set<string>();
	readonly #failed = new Set<string>();
	readonly #device: DeviceOptions;
	readonly #abort = new AbortController();

	constructor(
		readonly plan: Plan,
		readonly options: RunExperimentOptions,
		readonly jobs: number,
		/** Called whenever tasks are finished, never twice at once. */
		readonly onFinished: (finished: ReadonlySet<string>) => Promise<void>,
	) {
		const { device, threads = 0, cudaLibrary, cublasLt, profile } = options;
		const each = threads || Math.max(1, Math.floor(cpus().length / jobs));
		this.#device = { device, threads: jobs === 1 ? threads : each, cudaLibrary, cublasLt, profile };
	}

	async run(): Promise<void> {
		const { signal, out } = this.options;
		const stop = () => this.#abort.abort(signal!.reason);
		if (signal?.aborted) stop();
		signal?.addEventListener('abort', stop, { once: true });
		try {
			const waiting = new Map<string, Task>();
			for (const task of this.plan.tasks)
				if (await isDone(out, task)) this.#finish(task);
				else waiting.set(task.id, task);
			this.#leaveOut(waiting);
			await this.#tell();
			const work = Array.from({ length: this.jobs }, () => this.#work(waiting));
			for (const each of work) each.catch((error) => this.#abort.abort(error));
			await Promise.allSettled(work);
			await Promise.all(work);
			await this.#told;
			signal?.throwIfAborted();
		} finally {
			signal?.removeEventListener('abort', stop);
		}
	}

	#finish(task: Task): void {
		this.#finished.add(task.id);
		this.found++;
	}

	/** One after the other; what fails fails the experiment. */
	#tell(): Promise<void> {
		this.#told = this.#told.then(() => this.onFinished(this.#finished));
		return this.#told;
	}

	#told: Promise<void> = Promise.resolve();

	/** Stages whose models are all scored already, e.g. where the cache was cleared of them. */
	#leaveOut(waiting: Map<string, Task>): void {
		const needed = new Set<string>();
		for (const task of [...this.plan.tasks].reverse())
			if (waiting.has(task.id) && (task.kind === 'score' || needed.has(task.id)))
				for (const id of task.needs) needed.add(id);
		for (const task of waiting.values())
			if (task.kind !== 'score' && !needed.has(task.id)) waiting.delete(task.id);
	}

	#running = new Set<Promise<unknown>>();

	async #work(waiting: Map<string, Task>): Promise<void> {
		for (;;) {
			if (this.#abort.signal.aborted) return;
			const task = this.#next(waiting);
			if (task) {
				waiting.delete(task.id);
				const work = this.#do(task);
				this.#running.add(work);
				await work;
				this.#running.delete(work);
			} else if (waiting.size > 0 && this.#running.size > 0) await Promise.race(this.#running);
			else return;
		}
	}

	#next(waiting: Map<string, Task>): Task | undefined {
		for (const task of waiting.values()) {
			const missing = task.needs.find((id) => this.#failed.has(id));
			if (missing !== undefined) {
				waiting.delete(task.id);
				this.#failed.add(task.id);
				continue;
			}
			if (task.needs.every((id) => this.#finished.has(id))) return task;
		}
		return undefined;
	}

	async #do(task: Task): Promise<void> {
		try {
			await (this.jobs === 1 ? this.#here(task) : this.#inProcess(task));
			this.#finished.add(task.id);
			this.done++;
		} catch (error) {
			if (this.#abort.signal.aborted) return;
			this.#failed.add(task.id);
			this.failures.push({ task: task.title, error: error as Error });
		}
		await this.#tell();
		const { onProgress } = this.options;
		const total = this.plan.tasks.length;
		const done = this.#finished.size + this.#failed.size;
		onProgress?.({ stage: 'experiment', done, total, unit: 'tasks', message: task.title });
	}

	#calls(task: Task) {
		const { out, checkpointSeconds, onProgress } = this.options;
		return {
			calls: { out, device: this.#device, checkpointSeconds },
			onProgress:
				onProgress &&
				((p: Parameters<typeof onProgress>[0]) => onProgress({ ...p, stage: `${task.title}: ${p.stage}` })),
		};
	}

	#here(task: Task): Promise<void> {
		const { calls, onProgress } = this.#calls(task);
		return runTask(task, { ...calls, signal: this.#abort.signal, onProgress });
	}

	#inProcess(task: Task): Promise<void> {
		const { calls, onProgress } = this.#calls(task);
		return new Promise((resolve, reject) => {
			const worker = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), {
				execArgv: [],
				serialization: 'advanced',
			});
			const say = (message: ToWorker) => worker.connected && worker.send(message);
			const abort = () => say({ kind: 'abort' });
			this.#abort.signal.addEventListener('abort', abort, { once: true });
			let outcome: Extract<FromWorker, { kind: 'done' | 'failed' }> | undefined;
			worker.on('message', (message: FromWorker) => {
				if (message.kind === 'progress') onProgress?.(message.progress);
				else outcome = message;
			});
			worker.on('error', reject);
			worker.on('exit', (code, signal) => {
				this.#abort.signal.removeEventListener('abort', abort);
				if (outcome?.kind === 'done') resolve();
				else if (outcome?.kind === 'failed') reject(deserializeError(outcome.error));
				else reject(new Error(`its process ended (${signal ?? `exit status ${code}`})`));
			});
			say({ kind: 'task', task, calls });
		});
	}
}

/** The result of a cell, all of whose models are scored. */
async function assemble(
	experiment: Experiment,
	cell: PlannedCell,
	{ out, command, signal }: RunExperimentOptions,
): Promise<ExperimentResult> {
	const parts: Scored[] = [];
	for (const id of cell.scores) parts.push(await readScored(out, id));
	const { numUsers, numItems, numInteractions } = await Dataset.open(cell.data.path, { signal });
	const [first] = parts;
	const all = <T>(pick: (part: Scored) => T[] | undefined): T[] => parts.flatMap((p) => pick(p) ?? []);
	const merge = <T>(pick: (part: Scored) => Record<string, T> | undefined): Record<string, T> =>
		Object.assign({}, ...parts.map((part) => pick(part) ?? {}));
	const curves = all(({ curves }) => curves);
	const latents = merge(({ latents }) => latents);
	const genres = merge(({ genres }) => genres);
	const found = parts.find(({ maps }) => maps !== undefined);
	const models = merge(({ models }) => models);
	for (const [label, parts] of Object.entries(cell.parts)) {
		const fusion = models[`${label} fused`];
		if (fusion && parts.every((part) => models[part])) fusion.parts = parts;
	}
	return {
		format: 'a-llmrec-result',
		version: 1,
		key: cell.key,
		experiment: experiment.name,
		dataset: { name: cell.data.name, numUsers, numItems, numInteractions },
		scenario: cell.scenario,
		seed: cell.seed,
		users: first!.users,
		targetCounts: first!.targetCounts,
		negatives: cell.cell.negatives,
		slices: first!.slices,
		models,
		...(curves.length > 0 ? { curves } : {}),
		...(Object.keys(latents).length > 0 ? { latents } : {}),
		...(found?.maps && { maps: found.maps }),
		...(found?.calibration && { calibration: found.calibration }),
		...(found?.examples && { examples: found.examples }),
		...(Object.keys(genres).length > 0 ? { genres } : {}),
		timings: merge(({ timings }) => timings),
		...(command === undefined ? {} : { command }),
	};
}
