import type { RecFormerLoadOptions, RecFormerTrainOptions } from './baselines/recformer.js';
import type { BackboneLoadOptions, BackboneTrainOptions } from './cf/backbone.js';
import type { SASRecLoadOptions } from './cf/sasrec.js';
import type { OpenOptions } from './data/dataset.js';
import { rejectUnknownOptions } from './data/options.js';
import type { EvaluateModelsOptions, EvaluateRanksOptions } from './evaluation/evaluation.js';
import type { EvaluateGenresOptions } from './evaluation/genres.js';
import type { EvaluateRunOptions } from './evaluation/protocol.js';
import type { RunExperimentOptions } from './experiment/runner.js';
import type { CausalLMOptions, ScoreCandidatesOptions } from './llm/causal-lm.js';
import type { GenerateOptions } from './llm/generation.js';
import type { LanguageModelMemoryOptions } from './llm/memory.js';
import type { QuantizationErrorOptions, QuantizeOptions } from './llm/quantization.js';
import type { DeviceOptions } from './native/session.js';
import type { LongCallOptions } from './progress.js';
import type { RecommendOptions } from './recommend/a-llm-rec.js';
import type { ExplainOptions } from './recommend/explain.js';
import type { FusionValidation } from './recommend/fusion.js';
import type { ListOptions } from './recommend/lists.js';
import type { LoadRunOptions, TrainRunOptions } from './recommend/run.js';
import type { BatchOptions } from './recommend/score-all/pipeline.js';
import type { ScoreFileOptions } from './recommend/score-all/score-file.js';
import type { ScoreAllOptions } from './recommend/score-all/score-users.js';
import type { UserFileOptions } from './recommend/score-all/user-files.js';
import type { WriteReportOptions } from './report/report.js';
import type { ResolveCheckpointOptions } from './text/hub.js';
import type { SentenceEncoderOptions } from './text/sentence-encoder.js';

type Names<T> = Record<keyof T, true>;

const call: Names<LongCallOptions> = { signal: true, onProgress: true };
const device: Names<DeviceOptions> = {
	device: true,
	threads: true,
	cudaLibrary: true,
	cublasLt: true,
	profile: true,
};
const list: Names<ListOptions> = { topK: true, retrieve: true, coldShare: true, by: true };
const batch: Names<BatchOptions> = { batchSize: true, tokensPerBatch: true };
const userFile: Names<UserFileOptions> = { inputFormat: true, listSeparator: true };
const evaluation = {
	reference: true,
	tests: true,
	seed: true,
	resamples: true,
	models: true,
	slices: true,
} as const;

/** The options of each public call that takes an object of them; the compiler misses none. */
const KNOWN = {
	open: { signal: true } satisfies Names<OpenOptions>,
	trainBackbone: {
		...call,
		...device,
		split: true,
		folder: true,
		checkpointSeconds: true,
		session: true,
	} satisfies Names<BackboneTrainOptions>,
	trainRecFormer: {
		...call,
		...device,
		split: true,
		folder: true,
		checkpointSeconds: true,
		session: true,
	} satisfies Names<RecFormerTrainOptions>,
	loadRecFormer: { ...device, signal: true, session: true } satisfies Names<RecFormerLoadOptions>,
	loadBackbone: { ...device, signal: true, session: true } satisfies Names<BackboneLoadOptions>,
	loadSASRec: {
		...device,
		normFirst: true,
		numHeads: true,
		signal: true,
		session: true,
	} satisfies Names<SASRecLoadOptions>,
	trainRun: {
		...call,
		...device,
		out: true,
		datasetPath: true,
		checkpointSeconds: true,
		stages: true,
		options: true,
	} satisfies Names<TrainRunOptions>,
	loadRun: {
		...call,
		...device,
		llm: true,
		llmDtype: true,
		encoderDtype: true,
	} satisfies Names<LoadRunOptions>,
	explain: { item: true, nearest: true, signal: true } satisfies Names<ExplainOptions>,
	recommend: { ...call, ...list } satisfies Names<RecommendOptions>,
	scoreAll: { ...call, ...list, ...batch, ...userFile } satisfies Names<ScoreAllOptions>,
	scoreFile: {
		...call,
		...list,
		...batch,
		...userFile,
		users: true,
		out: true,
		outputFormat: true,
		rejects: true,
		restart: true,
	} satisfies Names<ScoreFileOptions>,
	evaluateModels: {
		...call,
		...evaluation,
		users: true,
		candidates: true,
		targets: true,
		trainingCounts: true,
	} satisfies Names<EvaluateModelsOptions>,
	evaluateRanks: { ...call, ...evaluation } satisfies Names<EvaluateRanksOptions>,
	evaluateRun: {
		...call,
		users: true,
		fullUsers: true,
		rerank: true,
		seed: true,
	} satisfies Names<EvaluateRunOptions>,
	evaluateGenres: {
		...call,
		genres: true,
		users: true,
		constrained: true,
		maxNewTokens: true,
		repetitionPenalty: true,
		seed: true,
		resamples: true,
	} satisfies Names<EvaluateGenresOptions>,
	fitFusion: {
		cf: true,
		llm: true,
		popularity: true,
		targets: true,
		meanPopularity: true,
		slices: true,
		maxUsers: true,
		signal: true,
	} satisfies Names<FusionValidation>,
	causalLM: {
		...call,
		...device,
		dtype: true,
		otherwise: true,
		generationSlots: true,
		adapter: true,
		mergeAdapter: true,
		session: true,
	} satisfies Names<CausalLMOptions>,
	scoreCandidates: { soft: true, tokensPerBatch: true, signal: true } satisfies Names<ScoreCandidatesOptions>,
	generate: {
		maxNewTokens: true,
		repetitionPenalty: true,
		eosId: true,
		stop: true,
		trie: true,
		numBeams: true,
		lengthPenalty: true,
		earlyStopping: true,
		doSample: true,
		temperature: true,
		topK: true,
		topP: true,
		seed: true,
		numReturnSequences: true,
		signal: true,
		onAbort: true,
	} satisfies Names<GenerateOptions>,
	languageModelMemory: {
		dtype: true,
		tokens: true,
		rows: true,
		batch: true,
		context: true,
		onCpu: true,
		threads: true,
	} satisfies Names<LanguageModelMemoryOptions>,
	quantizeCheckpoint: {
		...call,
		...device,
		dtype: true,
		out: true,
		force: true,
	} satisfies Names<QuantizeOptions>,
	quantizationError: {
		...call,
		...device,
		dtype: true,
		quantized: true,
		text: true,
		window: true,
		seed: true,
		prompts: true,
		candidates: true,
	} satisfies Names<QuantizationErrorOptions>,
	sentenceEncoder: {
		...call,
		...device,
		maxTokens: true,
		dropoutRate: true,
		dtype: true,
		session: true,
	} satisfies Names<SentenceEncoderOptions>,
	longCall: call,
	runExperiment: {
		...call,
		...device,
		out: true,
		jobs: true,
		checkpointSeconds: true,
		command: true,
	} satisfies Names<RunExperimentOptions>,
	writeReport: {
		...call,
		folders: true,
		out: true,
		tables: true,
		title: true,
		reference: true,
		resamples: true,
	} satisfies Names<WriteReportOptions>,
	resolveCheckpoint: {
		...call,
		files: true,
		weights: true,
		revision: true,
		cacheDir: true,
		offline: true,
		endpoint: true,
		accessToken: true,
		fetch: true,
		attempts: true,
	} satisfies Names<ResolveCheckpointOptions>,
};

/** A misspelling does not pass unseen. @throws ERR_ALLMREC_INVALID_ARGUMENT with the nearest known name */
export function expectKnown(call: keyof typeof KNOWN, options: object): void {
	rejectUnknownOptions(options, KNOWN[call] as never);
}
