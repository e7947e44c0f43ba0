import { readdir, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SeededRandom } from '../data/random.js';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { copyFileAtomic, writeFileAtomic } from '../files/atomic.js';
import { writeFolder } from '../files/pending-folder.js';
import { expectKnown } from '../known-options.js';
import type { LlmDtype } from '../native/addon.js';
import { type DeviceOptions, run } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import { readModelConfig } from '../text/checkpoint.js';
import { CONFIGURATION_FILES, resolveCheckpoint } from '../text/hub.js';
import { CausalLM } from './causal-lm.js';
import { openOptCheckpoint } from './opt-checkpoint.js';
import { storedDtype, storedField } from './opt-config.js';
import { QUANTIZATION_TEXT } from './quantization-text.js';

/** A dtype that a checkpoint can be stored in for the next start. */
export type StoredDtype = Exclude<LlmDtype, 'float32'>;

export const STORED_DTYPES: readonly StoredDtype[] = ['bfloat16', 'float16', 'int8', 'int4'];

export interface QuantizeOptions extends DeviceOptions, LongCallOptions {
	dtype: StoredDtype;
	/** Folder to write. */
	out: string;
	/** Replace a folder that was written by this function before. Default false. */
	force?: boolean | undefined;
}

export interface QuantizeResult {
	folder: string;
	dtype: StoredDtype;
	/** Bytes of the weight files. */
	bytesBefore: number;
	bytesAfter: number;
	/** Loading and writing. */
	seconds: number;
}

/**
 * Writes a language model's checkpoint with its weights in another dtype: a folder that {@link CausalLM.load} reads
 * without converting anything. The source's files are read block by block and the new one is written tensor by tensor,
 * so that only the quantised weights are in memory. The folder appears whole or not at all.
 *
 * `model.safetensors` holds float tensors in their dtype; a matrix of int8 is an I8 tensor (rows, cols) with its F32
 * scales (rows) as `<name>.scales`, one of int4 a U8 tensor (rows, cols / 2) of nibbles with F16 scales
 * (rows, cols / 32). `config.json` is the source's with a field that names the dtype.
 *
 * @param source folder or Hub id
 * @throws ERR_ALLMREC_INVALID_ARGUMENT for an unknown dtype or an `out` that exists, without `force` or of
 * another make; ERR_ALLMREC_WRITE, ERR_ALLMREC_LOCKED while another call or process writes `out`; what `CausalLM.load`
 * throws
 */
export async function quantizeCheckpoint(source: string, options: QuantizeOptions): Promise<QuantizeResult> {
	expectKnown('quantizeCheckpoint', options);
	const { dtype, out, force = false, signal, onProgress, ...device } = options;
	if (!STORED_DTYPES.includes(dtype)) invalidArgument('dtype', `one of ${STORED_DTYPES.join(', ')}`, dtype);
	const target = resolve(out);
	const folder = await resolveCheckpoint(source, { signal, onProgress });
	if (resolve(folder) === target) invalidArgument('out', 'another folder than the checkpoint itself', out);
	await expectReplaceable(target, force);
	const { json, files, stored } = await openOptCheckpoint(folder, { dtype });
	if (stored) invalidArgument('source', `an original checkpoint, not one stored in ${stored}`, source);
	const begun = performance.now();
	const replaceable = (path: string) => expectReplaceable(path, force);
	await writeFolder(out, `The checkpoint ${out}`, replaceable, async (partial) => {
		const llm = await CausalLM.load(folder, { dtype, signal, onProgress, ...device });
		try {
			const weights = join(partial, 'model.safetensors');
			await run((cancel) => llm.native.save(weights, { format: 'pt' }, 'stored', cancel), signal);
			// A vocabulary cut to what the weights hold is what the new folder holds.
			const config = { ...json, vocab_size: llm.config.vocabSize, ...storedField(dtype) };
			await writeFileAtomic(join(partial, 'config.json'), [`${JSON.stringify(config, null, 2)}\n`]);
		} finally {
			llm.dispose();
		}
		const present = new Set(await readdir(folder));
		for (const name of CONFIGURATION_FILES)
			if (name !== 'config.json' && present.has(name))
				await copyFileAtomic(join(folder, name), join(partial, name));
	});
	const sizes = await Promise.all(files.map(async (file) => (await stat(file)).size));
	return {
		folder: out,
		dtype,
		bytesBefore: sizes.reduce((a, b) => a + b, 0),
		bytesAfter: (await stat(join(target, 'model.safetensors'))).size,
		seconds: (performance.now() - begun) / 1000,
	};
}

export interface QuantizationErrorOptions extends DeviceOptions, LongCallOptions {
	/** What is compared with float32: a dtype of the source, or a folder that `quantizeCheckpoint` wrote. */
	dtype?: LlmDtype | undefined;
	quantized?: string | undefined;
	/** For the perplexity. Default: an English passage of about 1,200 words. */
	text?: string | undefined;
	/** Tokens of one window of the text. Default 512, or the model's positions if fewer. */
	window?: number | undefined;
	/** Random prompts whose candidates are ranked. Default 32. */
	prompts?: number | undefined;
	/** Random continuations of each. Default 20. */
	candidates?: number | undefined;
	/** Default 0. */
	seed?: number | undefined;
}

/** How far a quantised language model is from itself in float32. */
export interface QuantizationError {
	/** Of the text: exp of the mean negative log-likelihood of its tokens. */
	perplexity: { float32: number; quantized: number };
	/** Tokens it is a mean over. */
	tokens: number;
	/** Kendall's τ-b of the candidates' order, averaged over the prompts; 1 = the same order. */
	kendallTau: number;
	/** Share of prompts whose best candidate is the same. */
	sameTop: number;
	prompts: number;
	candidates: number;
}

const PROMPT_TOKENS = 48;
const CANDIDATE_TOKENS = 8;

/**
 * Measures what quantisation costs: the perplexity of a text, and whether candidates are ranked as in float32. Prompts
 * and candidates are random tokens of the model's own vocabulary. The two models are loaded one after the other, never
 * both at once.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT for a text of fewer than two tokens or counts out of range; what
 * `CausalLM.load` throws
 */
export async function quantizationError(
	source: string,
	options: QuantizationErrorOptions = {},
): Promise<QuantizationError> {
	expectKnown('quantizationError', options);
	const { dtype, quantized, text = QUANTIZATION_TEXT, window = 512, seed = 0, ...rest } = options;
	const { prompts = 32, candidates = 20, signal, onProgress, ...device } = rest;
	if ((dtype === undefined) === (quantized === undefined))
		throw new ALLMRecError('ERR_ALLMREC_INVALID_ARGUMENT', 'Give either `dtype` or `quantized`, not both.');
	for (const [name, value, least] of [
		['window', window, 2],
		['prompts', prompts, 1],
		['candidates', candidates, 2],
	] as const)
		if (!Number.isInteger(value) || value < least)
			invalidArgument(name, `a whole number of at least ${least}`, value);
	const measure = async (from: string, as: LlmDtype | undefined): Promise<Measured> => {
		const llm = await CausalLM.load(from, { ...device, signal, onProgress, dtype: as });
		try {
			return {
				...(await textLogLikelihood(llm, text, window, signal)),
				scores: await candidateScores(llm, { prompts, candidates, seed }, signal),
			};
		} finally {
			llm.dispose();
		}
	};
	const exact = await measure(source, 'float32');
	const rounded = await measure(quantized ?? source, dtype);
	return {
		perplexity: { float32: Math.exp(-exact.mean), quantized: Math.exp(-rounded.mean) },
		tokens: exact.tokens,
		...agreement(exact.scores, rounded.scores),
		prompts,
		candidates,
	};
}

interface Measured {
	/** log p of a token. */
	mean: number;
	tokens: number;
	/** One row per prompt. */
	scores: Float64Array[];
}

/** Windows that share one token, so that every token but the first is predicted once. */
async function textLogLikelihood(
	llm: CausalLM,
	text: string,
	window: number,
	signal: AbortSignal | undefined,
): Promise<{ mean: number; tokens: number }> {
	const ids = llm.tokenizer.encodeWithSpecials(text);
	const size = Math.min(window, llm.maxPositions);
	let sum = 0;
	let tokens = 0;
	for (let at = 0; at + 1 < ids.length; at += size - 1) {
		const own = Int32Array.from(ids.slice(at, at + size));
		const rows = Int32Array.from({ length: own.length - 1 }, (_, row) => row);
		const batch = { ids: own, offsets: Int32Array.of(0, own.length) };
		const logProbs = await llm.logProbs(batch, new Float32Array(0), rows, rows, own.slice(1), signal);
		sum += logProbs.reduce((a, b) => a + b, 0);
		tokens += rows.length;
	}
	if (tokens === 0) invalidArgument('text', 'a text of at least two tokens', text);
	return { mean: sum / tokens, tokens };
}

/** Mean log p of each candidate's tokens behind its prompt, one packed sequence a prompt. */
async function candidateScores(
	llm: CausalLM,
	{ prompts, candidates, seed }: { prompts: number; candidates: number; seed: number },
	signal: AbortSignal | undefined,
): Promise<Float64Array[]> {
	const random = new SeededRandom(seed);
	const vocabulary = Math.min(llm.tokenizer.vocabSize, llm.config.vocabSize);
	// The first four are OPT's special tokens.
	const draw = (count: number) => Array.from({ length: count }, () => 4 + random.int(vocabulary - 4));
	const length = Math.min(CANDIDATE_TOKENS, Math.floor(llm.maxPositions / 2));
	const prefix = Math.min(PROMPT_TOKENS, llm.maxPositions - length);
	const total = prefix + candidates * length;
	const begin = (t: number) => (t < prefix ? 0 : prefix + Math.floor((t - prefix) / length) * length);
	const of = (value: (t: number) => number) => Int32Array.from({ length: total }, (_, t) => value(t));
	const batch = {
		offsets: Int32Array.of(0, total),
		positions: of((t) => (t < prefix ? t : prefix + ((t - prefix) % length))),
		prefix: of((t) => (t < prefix ? 0 : prefix)),
		ownBegin: of(begin),
	};
	const rows = Int32Array.from({ length: total - prefix + 1 }, (_, i) => prefix - 1 + i);
	// A candidate's first token follows the prompt's last, every other the one before it.
	const pairRows = Int32Array.from({ length: candidates * length }, (_, i) => (i % length === 0 ? 0 : i));
	const scores: Float64Array[] = [];
	for (let p = 0; p < prompts; p++) {
		const ids = Int32Array.from([llm.tokenizer.bosId ?? 2, ...draw(total - 1)]);
		const targets = ids.slice(prefix);
		const logProbs = await llm.logProbs(
			{ ...batch, ids },
			new Float32Array(0),
			rows,
			pairRows,
			targets,
			signal,
		);
		scores.push(
			Float64Array.from(
				{ length: candidates },
				(_, c) => logProbs.subarray(c * length, (c + 1) * length).reduce((a, b) => a + b, 0) / length,
			),
		);
	}
	return scores;
}

/** @internal */
export function agreement(
	a: readonly ArrayLike<number>[],
	b: readonly ArrayLike<number>[],
): { kendallTau: number; sameTop: number } {
	let tau = 0;
	let same = 0;
	for (const [i, row] of a.entries()) {
		tau += kendallTau(row, b[i]!);
		if (top(row) === top(b[i]!)) same++;
	}
	return { kendallTau: tau / a.length, sameTop: same / a.length };
}

function top(row: ArrayLike<number>): number {
	let best = 0;
	for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
	return best;
}

/** Kendall's τ-b (Kendall, 1945): ties count half; 1 where both are tied throughout. */
function kendallTau(a: ArrayLike<number>, b: ArrayLike<number>): number {
	let [balance, untiedA, untiedB] = [0, 0, 0];
	for (let i = 0; i < a.length; i++)
		for (let j = 0; j < i; j++) {
			const [x, y] = [Math.sign(a[i]! - a[j]!), Math.sign(b[i]! - b[j]!)];
			balance += x * y;
			untiedA += Math.abs(x);
			untiedB += Math.abs(y);
		}
	return untiedA === 0 && untiedB === 0 ? 1 : balance / (Math.sqrt(untiedA * untiedB) || 1);
}

/** Nothing is replaced that could not be made again. */
async function expectReplaceable(target: string, force: boolean): Promise<void> {
	if (!(await stat(target).catch(() => undefined))) return;
	const own = await readModelConfig(target).then(
		(json) => storedDtype(json, target) !== undefined,
		() => false,
	);
	if (own && force) return;
	throw new ALLMRecError(
		'ERR_ALLMREC_INVALID_ARGUMENT',
		own
			? `${target} exists already; give another folder, or force (--force) to replace it.`
			: `${target} exists and was not written by quantize; give another folder.`,
	);
}
