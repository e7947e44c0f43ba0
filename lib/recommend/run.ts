import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { Alignment, type ItemLatents } from '../alignment/alignment.js';
import type { Backbone } from '../cf/backbone.js';
import { loadBackbone, trainBackbone } from '../cf/backbones.js';
import { Dataset } from '../data/dataset.js';
import { isFolder } from '../data/folder.js';
import {
	type Candidates,
	loadCandidates,
	sampleSteps,
	saveCandidates,
	unseenItems,
} from '../data/sampling.js';
import { leaveLastOutSteps, type Split, temporalSplitSteps } from '../data/split.js';
import { ALLMRecError } from '../errors.js';
import { inTurns } from '../event-loop.js';
import { makeFolder, removeTemporaries, writeJson } from '../files/atomic.js';
import { withLock } from '../files/lock.js';
import { isFile } from '../files/read.js';
import { expectKnown } from '../known-options.js';
import { CausalLM } from '../llm/causal-lm.js';
import { openOptCheckpoint } from '../llm/opt-checkpoint.js';
import { recommendationTemplate } from '../llm/prompt-template.js';
import type { LlmDtype } from '../native/addon.js';
import { type DeviceOptions, Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { Projection } from '../projection/projection.js';
import { resolveCheckpoint } from '../text/hub.js';
import { type EncoderDtype, SentenceEncoder } from '../text/sentence-encoder.js';
import { ALLMRec } from './a-llm-rec.js';
import { Catalogue } from './catalogue.js';
import { readCatalogue, writeCatalogue } from './catalogue-file.js';
import { resolveEmbedded } from './embedded.js';
import { fitFusion } from './fusion.js';
import { loadLatents, saveLatents } from './latents-file.js';
import { createPrompts, jointTable } from './model-parts.js';
import {
	parseRunOptions,
	type RunConfig,
	type RunOptions,
	readRunFile,
	tryReadRunFile,
	writeRunFile,
} from './run-config.js';
import { readFusion, recorded, verifyRun } from './run-files.js';

export type StageName = 'cf' | 'align' | 'project';

export const STAGES: readonly StageName[] = ['cf', 'align', 'project'];

export interface TrainRunOptions extends LongCallOptions, DeviceOptions {
	/** The run's folder; training goes on from what it holds. */
	out: string;
	/** Where the data set was opened from, for `evaluate`. */
	datasetPath: string;
	/** Stages to train now; a later one needs the earlier ones done. Default all. */
	stages?: readonly StageName[] | undefined;
	options?: RunOptions | undefined;
	/** Seconds between checkpoints: what a crash can cost. Default 60. */
	checkpointSeconds?: number | undefined;
}

/**
 * Trains a run: stage 0, 1 and 2 and the fusion, each in its folder, going on from what is there. A run is a folder
 * that can be copied and loaded anywhere. However a training is stopped, the same call goes on from the last checkpoint,
 * and the model comes out the same to the bit on the same device and thread count. An abort stops the computing
 * at once and leaves a checkpoint; the call rejects when that is written.
 *
 * While it runs the folder is locked (`.lock`); reading from it is free, since every file is replaced whole.
 *
 * @throws ERR_ALLMREC_RUN if the folder holds a run of other data or options, ERR_ALLMREC_LOCKED while another call or
 * process trains into it, ERR_ALLMREC_WRITE
 */
export async function trainRun(dataset: Dataset, options: TrainRunOptions): Promise<void> {
	expectKnown('trainRun', options);
	const config = parseRunOptions(options.options ?? {});
	expectTrainable(config.llmDtype);
	for (const source of ['llm', 'textEncoder'] as const)
		if (await isFolder(config[source])) config[source] = resolve(config[source]); // to be found from elsewhere
	const llmFolder = resolveEmbedded(config.llm);
	// What stage 2 could not load would only be found out after the stages before it.
	if ((options.stages ?? STAGES).includes('project') && (await isFolder(llmFolder)))
		await openOptCheckpoint(await resolveCheckpoint(llmFolder), { dtype: config.llmDtype });
	const { out } = options;
	await makeFolder(out);
	await withLock(join(out, '.lock'), `The run folder ${out}`, () =>
		inFolder(out, options.signal, () => trainStages(dataset, config, llmFolder, options)),
	);
}

/** A folder that goes while it is worked in would be made again without what it held; that is an error. */
async function inFolder(
	path: string,
	signal: AbortSignal | undefined,
	work: () => Promise<void>,
): Promise<void> {
	const { ino } = await stat(path);
	const expectIt = async (cause?: unknown) => {
		if ((await stat(path).catch(() => undefined))?.ino === ino) return;
		throw new ALLMRecError(
			'ERR_ALLMREC_WRITE',
			`${path} cannot be written: its folder is not there any more, or is another one; bring it back, then do the same again.`,
			{ cause },
		);
	};
	try {
		await work();
	} catch (error) {
		if (!signal?.aborted) await expectIt(error);
		throw error;
	}
	await expectIt();
}

async function trainStages(
	dataset: Dataset,
	config: RunConfig,
	llmFolder: string,
	{
		out,
		datasetPath,
		stages = STAGES,
		options: _,
		checkpointSeconds,
		signal,
		onProgress,
		...device
	}: TrainRunOptions,
): Promise<void> {
	for (const folder of [out, join(out, 'model'), join(out, 'model', 'encoder')])
		await removeTemporaries(folder);
	await claimFolder(out, dataset, datasetPath, config);
	const split = await splitOf(dataset, config, signal);
	await candidatesOf(out, split, config, signal);
	const session = Session.open(device);
	const calls = { signal, onProgress };
	const training = { ...calls, split, session, checkpointSeconds };
	const open: { dispose(): void }[] = [];
	const keep = <T extends { dispose(): void }>(model: T): T => {
		open.push(model);
		return model;
	};
	try {
		const model = join(out, 'model');
		await makeFolder(model);
		const cfPath = join(model, 'cf.safetensors');
		let cf: Backbone | undefined;
		if (stages.includes('cf')) {
			cf = keep(
				await trainBackbone(config.backbone, dataset, config.cf, { ...training, folder: join(out, 'cf') }),
			);
			const trained = cf;
			await recorded(out, ['model/cf.safetensors'], () => trained.save(cfPath));
		} else if (await isFile(cfPath)) {
			await verifyRun(out, 'model/cf.safetensors', signal);
			cf = keep(await loadBackbone(cfPath, { session, signal }));
		}
		if (!stages.includes('align') && !stages.includes('project')) return;
		if (!cf) throw missingStage(out, 'cf');

		const alignmentPath = join(model, 'alignment.safetensors');
		const catalogue = await inTurns(Catalogue.make(dataset.items, split.itemCounts), signal);
		let latents: ItemLatents;
		let alignment: Alignment;
		if (stages.includes('align')) {
			const encoder = keep(
				await SentenceEncoder.load(resolveEmbedded(config.textEncoder), {
					session,
					maxTokens: config.textTokens,
					dtype: config.encoderDtype,
					...calls,
				}),
			);
			alignment = keep(
				await Alignment.train(dataset, cf, encoder, config.alignment, {
					...training,
					folder: join(out, 'align'),
				}),
			);
			latents = await alignment.latents(dataset, cf, encoder, calls);
			const stage = { alignment, latents };
			await recorded(
				out,
				['encoder', 'latents.safetensors', 'catalogue.json', 'alignment.safetensors'].map(
					(name) => `model/${name}`,
				),
				async () => {
					await encoder.save(join(model, 'encoder'));
					await saveLatents(model, stage.latents);
					await writeCatalogue(join(model, 'catalogue.json'), catalogue);
					await stage.alignment.save(alignmentPath);
				},
			);
		} else {
			if (!(await isFile(alignmentPath))) throw missingStage(out, 'align');
			for (const name of ['alignment', 'latents']) await verifyRun(out, `model/${name}.safetensors`, signal);
			alignment = keep(await Alignment.load(alignmentPath, session, signal));
			latents = await loadLatents(session, model, alignment.config.jointSize, catalogue.size, signal);
		}
		if (!stages.includes('project')) return;

		const llm = keep(await CausalLM.load(llmFolder, { session, dtype: config.llmDtype, ...calls }));
		const prompts = await createPrompts(
			llm,
			catalogue,
			recommendationTemplate(config.words),
			{
				historyLength: config.historyLength,
				withoutUser: config.withoutUser,
				withoutItemSlots: config.joint === 'none',
			},
			calls,
		);
		const joint = await inTurns(
			jointTable(latents, split.itemCounts, config.joint, config.coldThreshold),
			signal,
		);
		const projection = keep(
			await Projection.train(dataset, cf, llm, config.projection, {
				...training,
				joint,
				prompts,
				alignment,
				folder: join(out, 'project'),
			}),
		);
		await recorded(out, ['model/projector.safetensors'], () =>
			projection.save(join(model, 'projector.safetensors')),
		);
	} finally {
		for (const each of open.reverse()) each.dispose();
		session.release();
	}
	await fitRunFusion(out, dataset, split, { signal, onProgress, ...device });
}

export interface LoadRunOptions extends DeviceOptions, LongCallOptions {
	/** Language model to use instead of the run's source, e.g. where its folder has moved. */
	llm?: string | undefined;
	/**
	 * How its weights are kept, whatever it was trained with. Default: that of a folder written by
	 * `quantizeCheckpoint`, else the run's `llmDtype`.
	 */
	llmDtype?: LlmDtype | undefined;
	/** What the sentence encoder computes in. Default: the run's `encoderDtype`. */
	encoderDtype?: EncoderDtype | undefined;
}

/**
 * Loads a trained run for recommending; the data set is not needed.
 *
 * @throws ERR_ALLMREC_RUN if a stage is missing, ERR_ALLMREC_CHECKPOINT
 */
export async function loadRun(folder: string, settings: LoadRunOptions = {}): Promise<ALLMRec> {
	expectKnown('loadRun', settings);
	const { llm: source, llmDtype, encoderDtype, signal, onProgress, ...device } = settings;
	const { options } = await readRunFile(folder);
	const model = join(folder, 'model');
	const files: [StageName, string][] = [
		['cf', 'cf.safetensors'],
		['align', 'alignment.safetensors'],
		['project', 'projector.safetensors'],
	];
	for (const [stage, file] of files)
		if (!(await isFile(join(model, file)))) throw missingStage(folder, stage);
	await verifyRun(folder, 'model', signal);
	const session = Session.open(device);
	const open: { dispose(): void }[] = [];
	const keep = <T extends { dispose(): void }>(part: T): T => {
		open.push(part);
		return part;
	};
	try {
		const cf = keep(await loadBackbone(join(model, 'cf.safetensors'), { session, signal }));
		const alignment = keep(await Alignment.load(join(model, 'alignment.safetensors'), session, signal));
		const projection = keep(await Projection.load(join(model, 'projector.safetensors'), session, signal));
		const encoder = keep(
			await SentenceEncoder.load(join(model, 'encoder'), {
				session,
				maxTokens: options.textTokens,
				dtype: encoderDtype ?? options.encoderDtype,
				signal,
			}),
		);
		const llm = keep(
			await CausalLM.load(resolveEmbedded(source ?? options.llm), {
				session,
				dtype: llmDtype,
				otherwise: options.llmDtype,
				signal,
				onProgress,
			}),
		);
		if (projection.config.tokenSize !== llm.tokenSize)
			throw new ALLMRecError(
				'ERR_ALLMREC_RUN',
				`The run's projector was trained for a language model of width ${projection.config.tokenSize}, this one has ${llm.tokenSize}. Give the one it was trained with.`,
			);
		const catalogue = await readCatalogue(join(model, 'catalogue.json'), signal);
		if (catalogue.size !== cf.numItems + 1)
			throw new ALLMRecError(
				'ERR_ALLMREC_RUN',
				`${join(model, 'catalogue.json')} has ${catalogue.size - 1} items, the recommender beside it ${cf.numItems}; they are not of one run.`,
			);
		const latents = await loadLatents(session, model, alignment.config.jointSize, catalogue.size, signal);
		const fusion = await readFusion(join(model, 'fusion.json'));
		return new ALLMRec({
			catalogue,
			cf,
			encoder,
			alignment,
			latents,
			projection,
			llm,
			template: recommendationTemplate(options.words),
			historyLength: options.historyLength,
			coldThreshold: options.coldThreshold,
			joint: options.joint,
			withoutUser: options.withoutUser,
			fusion: fusion?.gate,
			normalisation: fusion?.normalisation ?? 'mean',
			session,
		});
	} catch (error) {
		for (const part of open.reverse()) part.dispose();
		session.release();
		throw error;
	}
}

/** Opens the data set of a run, from where it was or from `path`. @throws ERR_ALLMREC_RUN if it is another one */
export async function openRunDataset(
	folder: string,
	path?: string,
	signal?: AbortSignal,
): Promise<{ dataset: Dataset; split: Split; config: RunConfig; test: Candidates; validation: Candidates }> {
	const file = await readRunFile(folder);
	const dataset = await Dataset.open(path ?? file.dataset.path, { signal });
	const { numUsers, numItems, numInteractions } = file.dataset;
	if (
		dataset.numUsers !== numUsers ||
		dataset.numItems !== numItems ||
		dataset.numInteractions !== numInteractions
	)
		throw new ALLMRecError(
			'ERR_ALLMREC_RUN',
			`The run was trained on ${numUsers} users, ${numItems} items and ${numInteractions} interactions; the data set has ${dataset.numUsers}, ${dataset.numItems} and ${dataset.numInteractions}.`,
		);
	const split = await splitOf(dataset, file.options, signal);
	const candidates = await candidatesOf(folder, split, file.options, signal);
	return { dataset, split, config: file.options, ...candidates };
}

/** Chooses the likelihoods' normalisation and the gate's parameters on the validation items, and saves them. */
async function fitRunFusion(
	folder: string,
	dataset: Dataset,
	split: Split,
	calls: LongCallOptions & DeviceOptions,
): Promise<void> {
	const path = join(folder, 'model', 'fusion.json');
	if (await isFile(path)) return;
	await recorded(folder, ['model/fusion.json'], () => chooseFusion(folder, path, dataset, split, calls));
}

async function chooseFusion(
	folder: string,
	path: string,
	dataset: Dataset,
	split: Split,
	calls: LongCallOptions & DeviceOptions,
): Promise<void> {
	const recommender = await loadRun(folder, calls);
	try {
		const { options } = await readRunFile(folder);
		const { validation } = await candidatesOf(folder, split, options, calls.signal);
		const count = Math.min(FUSION_USERS, validation.users.length);
		if (count === 0) return;
		const rows = Array.from({ length: count }, (_, i) => Math.floor((i * validation.users.length) / count));
		const width = validation.negatives + 1;
		const histories = rows.map((row) => split.history(validation.users[row]!, 'validation'));
		const candidates = rows.map((row) => validation.candidates.subarray(row * width, (row + 1) * width));
		const flat = Int32Array.from(candidates.flatMap((items) => [...items]));
		const targets = Int32Array.from(rows, (row) => validation.targets[row]!);
		const vectors = await recommender.userVectors(histories, calls.signal);
		const cf = await recommender.parts.cf.scoreCandidates(vectors, flat, width);
		const llm = await recommender.candidateScores(vectors, histories, candidates, 'aligned', {
			signal: calls.signal,
			onProgress: calls.onProgress && ((p) => calls.onProgress?.({ ...p, stage: 'fusion' })),
		});
		const popularity = Float64Array.from(flat, (item) => split.itemCounts[item]!);
		const meanPopularity = split.train.items.length / dataset.numItems;
		const normalisation =
			meanLogSoftmax(llm.mean, targets, width) >= meanLogSoftmax(llm.sum, targets, width) ? 'mean' : 'sum';
		const gate = await fitFusion({
			cf,
			llm: llm[normalisation],
			popularity,
			targets,
			meanPopularity,
			signal: calls.signal,
		});
		await writeJson(path, { normalisation, gate, users: count });
	} finally {
		recommender.dispose();
	}
}

const FUSION_USERS = 2000;

/** Of standardised rows, so that scales do not matter. */
function meanLogSoftmax(scores: Float32Array, targets: Int32Array, width: number): number {
	let total = 0;
	for (let u = 0; u < targets.length; u++) {
		const row = scores.subarray(u * width, (u + 1) * width);
		const mean = row.reduce((a, b) => a + b, 0) / width;
		const deviation = Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / width) || 1;
		const z = Array.from(row, (value) => (value - mean) / deviation);
		total += z[targets[u]!]! - Math.log(z.reduce((a, b) => a + Math.exp(b), 0));
	}
	return total / Math.max(1, targets.length);
}

/** Before anything else runs: gradients through rounded weights would be lost. @throws ERR_ALLMREC_UNSUPPORTED */
function expectTrainable(dtype: LlmDtype): void {
	if (dtype === 'float32' || dtype === 'bfloat16') return;
	throw new ALLMRecError(
		'ERR_ALLMREC_UNSUPPORTED',
		`A run cannot be trained with \`llmDtype\` ${dtype}; stage 2 needs float32 or bfloat16. Recommending, scoring and evaluating may use another (--llm-dtype).`,
	);
}

/** The split of a run's options. @internal */
export function splitOf(
	dataset: Dataset,
	{
		split,
		excludeColdUsers,
		trainUsers,
		seed,
	}: Pick<RunConfig, 'split' | 'excludeColdUsers' | 'trainUsers' | 'seed'>,
	signal: AbortSignal | undefined,
): Promise<Split> {
	const options = { excludeColdUsers, trainUsers, seed };
	const steps =
		split === 'leaveLastOut'
			? leaveLastOutSteps(dataset, options)
			: temporalSplitSteps(dataset, { ...options, ...split.temporal });
	return inTurns(steps, signal);
}

/** The run's candidates: those of its split.json, or drawn now and saved. */
async function candidatesOf(
	folder: string,
	split: Split,
	{ seed, candidatesSeed = seed, negatives }: RunConfig,
	signal: AbortSignal | undefined,
): Promise<{ test: Candidates; validation: Candidates }> {
	const path = join(folder, 'split.json');
	// What stands there and is no file is for the reader to refuse.
	if (!(await stat(path).catch(() => undefined))) {
		const unseen = await inTurns(unseenItems(split.dataset), signal);
		const enough = (u: number) => unseen[u]! >= negatives;
		const drawn: Candidates[] = [];
		for (const phase of ['validation', 'test'] as const) {
			const users = split.users(phase).filter(enough);
			drawn.push(
				await inTurns(sampleSteps(split, { seed: candidatesSeed, negatives, phase, users }), signal),
			);
		}
		await recorded(folder, ['split.json'], () => saveCandidates(path, split, drawn));
	}
	await verifyRun(folder, 'split.json');
	const { candidates } = await loadCandidates(path, split);
	const of = (phase: string) => candidates.find((c) => c.phase === phase);
	const [test, validation] = [of('test'), of('validation')];
	if (!test || !validation)
		throw new ALLMRecError(
			'ERR_ALLMREC_RUN',
			`${path} lacks the candidates of a phase; delete it to draw them again.`,
		);
	return { test, validation };
}

async function claimFolder(
	out: string,
	dataset: Dataset,
	datasetPath: string,
	options: RunConfig,
): Promise<void> {
	const present = await tryReadRunFile(out);
	const { name, numUsers, numItems, numInteractions } = dataset;
	const file = { path: resolve(datasetPath), name, numUsers, numItems, numInteractions };
	if (!present) {
		await writeRunFile(out, { format: 'a-llmrec-run', version: 1, dataset: file, options });
		return;
	}
	const same =
		present.dataset.numUsers === numUsers &&
		present.dataset.numItems === numItems &&
		present.dataset.numInteractions === numInteractions;
	if (same && JSON.stringify(present.options) === JSON.stringify(options)) return;
	throw new ALLMRecError(
		'ERR_ALLMREC_RUN',
		`${out} holds a run of other ${same ? 'options' : 'data'}. Give another --out folder, or the options of its config.json to go on with it.`,
	);
}

function missingStage(folder: string, stage: StageName): ALLMRecError {
	return new ALLMRecError(
		'ERR_ALLMREC_RUN',
		`Stage \`${stage}\` of the run ${folder} has not been trained. Run \`a-llmrec train\` with \`--stages ${stage}\` or with all stages.`,
	);
}
