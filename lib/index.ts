export {
	Alignment,
	type AlignmentOptions,
	type ItemLatents,
	type JointOptions,
	jointEmbeddings,
} from './alignment/alignment.js';
export { MlpLlm, type MlpLlmTrainOptions } from './baselines/mlp-llm.js';
export {
	RecFormer,
	type RecFormerLoadOptions,
	type RecFormerTraining,
	type RecFormerTrainOptions,
} from './baselines/recformer.js';
export type { RecFormerOptions } from './baselines/recformer-options.js';
export type { BaselineRequest } from './baselines/request.js';
export { TALLRec, type TALLRecOptions, type TALLRecTrainOptions } from './baselines/tallrec.js';
export { Backbone, type BackboneLoadOptions, type BackboneTrainOptions } from './cf/backbone.js';
export {
	BACKBONES,
	type BackboneKind,
	type BackboneOptions,
	loadBackbone,
	trainBackbone,
} from './cf/backbones.js';
export type { BPRMFOptions } from './cf/bpr-mf.js';
export type { CollaborativeModel } from './cf/collaborative-model.js';
export { ItemKnn, type ItemKnnOptions } from './cf/floors/item-knn.js';
export { Popularity } from './cf/floors/popularity.js';
export type { GRU4RecOptions } from './cf/gru4rec.js';
export type { LightGCNOptions } from './cf/light-gcn.js';
export type { NCFOptions } from './cf/ncf.js';
export type { NeuMFOptions } from './cf/neu-mf.js';
export type { NextItNetOptions } from './cf/next-it-net.js';
export { SASRec, type SASRecOptions, type SASRecTrainOptions } from './cf/sasrec.js';
export {
	type CatalogueItem,
	Dataset,
	type LogFormat,
	type PrepareOptions,
	prepare,
	type Sequences,
} from './data/dataset.js';
export {
	demoLexicon,
	generateWorld,
	inventLexicon,
	type Lexicon,
	type World,
	type WorldOptions,
	writeWorldCsv,
} from './data/demo-world.js';
export {
	type Candidates,
	loadCandidates,
	SeededRandom,
	sampleCandidates,
	saveCandidates,
} from './data/sampling.js';
export { leaveLastOut, type Phase, type Split, temporalSplit } from './data/split.js';
export { type PreparationSummary, summaryRows } from './data/summary.js';
export { type AddonInfo, addonInfo, type Device, listDevices } from './devices.js';
export { ALLMRecError, ERROR_CODES, type ErrorCode } from './errors.js';
export { type EvaluationResult, evaluateModels, evaluateRanks } from './evaluation/evaluation.js';
export { formatEvaluation } from './evaluation/format.js';
export {
	type EvaluateGenresOptions,
	evaluateGenres,
	type GenreEvaluation,
	type GenreScore,
} from './evaluation/genres.js';
export {
	type EvaluateRunOptions,
	evaluateRun,
	MODEL_NAMES,
	type RunEvaluation,
} from './evaluation/protocol.js';
export { type ExperimentFile, parseExperiment, readExperiment } from './experiment/experiment-file.js';
export {
	type ExperimentResult,
	readResult,
	readResults,
	type ScenarioKind,
	writeResult,
} from './experiment/results.js';
export {
	type ExperimentSummary,
	type RunExperimentOptions,
	runExperiment,
} from './experiment/runner.js';
export {
	type CandidateLikelihoods,
	CausalLM,
	type CausalLMOptions,
	type ScoreCandidatesOptions,
} from './llm/causal-lm.js';
export type {
	FinishReason,
	GeneratedPiece,
	GeneratedText,
	GenerateOptions,
	Generation,
	TokenPrompt,
} from './llm/generation.js';
export {
	type LanguageModelMemory,
	type LanguageModelMemoryOptions,
	languageModelMemory,
	type MemoryUse,
} from './llm/memory.js';
export { LLM_DTYPES } from './llm/opt-config.js';
export {
	genreTemplate,
	type PromptTemplate,
	type PromptWords,
	recommendationTemplate,
	referenceTemplate,
} from './llm/prompt-template.js';
export {
	type QuantizationError,
	type QuantizationErrorOptions,
	type QuantizeOptions,
	type QuantizeResult,
	quantizationError,
	quantizeCheckpoint,
	STORED_DTYPES,
	type StoredDtype,
} from './llm/quantization.js';
export { TokenTrie } from './llm/token-trie.js';
export type { LlmDtype } from './native/addon.js';
export type { DeviceOptions } from './native/session.js';
export type { LongCallOptions, Progress } from './progress.js';
export { Projection, type ProjectionOptions } from './projection/projection.js';
export { ALLMRec, type RecommendOptions, type UserRequest } from './recommend/a-llm-rec.js';
export { Catalogue, type NewItem } from './recommend/catalogue.js';
export { EMBEDDED_ENCODER, EMBEDDED_LLM, resolveEmbedded } from './recommend/embedded.js';
export type { ExplainedPart, ExplainOptions, Explanation, NearToken } from './recommend/explain.js';
export { FusionGate, fitFusion } from './recommend/fusion.js';
export type { ListOptions, Recommendation } from './recommend/lists.js';
export {
	type LoadRunOptions,
	loadRun,
	openRunDataset,
	STAGES,
	type StageName,
	type TrainRunOptions,
	trainRun,
} from './recommend/run.js';
export { type RunFile, type RunOptions, readRunFile } from './recommend/run-config.js';
export { type ScoreFileOptions, type ScoreSummary, scoreFile } from './recommend/score-all/score-file.js';
export type { BatchUser, ScoreAllOptions, ScoredUser } from './recommend/score-all/score-users.js';
export { type PlaneProjection, projectToPlane } from './report/projection-2d.js';
export {
	type ReportOptions,
	type ReportSummary,
	type WriteReportOptions,
	writeReport,
} from './report/report.js';
export { resolveCheckpoint } from './text/hub.js';
export {
	ENCODER_DTYPES,
	type EncoderDtype,
	SentenceEncoder,
	type SentenceEncoderOptions,
} from './text/sentence-encoder.js';
