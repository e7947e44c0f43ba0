import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../../lib/data/random.js';
import { trainByteLevelBpe, writeByteLevelBpe } from '../../lib/llm/bpe-trainer.js';
import { huggingFaceOptConfig } from '../../lib/llm/opt-config.js';
import { packBatch, packCandidates } from '../../lib/llm/prompt-packing.js';
import { loadLanguageTokenizer } from '../../lib/llm/tokenizer.js';
import type { LlmBatch, NativeOpt, OptConfig, TokenTargets } from '../../lib/native/addon.js';
import { run, Session } from '../../lib/native/session.js';
import type { Tokenizer } from '../../lib/text/tokenizer.js';
import { circuit, EMBED_SIZE, FROZEN, HIDDEN_SIZE, type MarkIds, NUM_HEADS, NUM_LAYERS } from './circuit.js';
import { type MadePrompt, PromptMaker } from './prompts.js';

const VOCABULARY = 2048;
const LEARNING_RATE = 6e-4;
const WARM_UP = 20;

/**
 * Makes the tiny language model: an OPT of 3 layers that learns one thing, to read a list of titles with vectors behind
 * them and to say the title whose vector is most like the user's.
 */
export async function makeLanguageModel(
	folder: string,
	texts: readonly string[],
	steps: number,
): Promise<void> {
	await mkdir(folder, { recursive: true });
	await writeByteLevelBpe(folder, trainByteLevelBpe(texts, { vocabSize: VOCABULARY }));
	const tokenizer = await loadLanguageTokenizer(folder);
	const config: OptConfig = {
		vocabSize: VOCABULARY,
		hiddenSize: HIDDEN_SIZE,
		embedSize: EMBED_SIZE,
		numLayers: NUM_LAYERS,
		numHeads: NUM_HEADS,
		ffnSize: 256,
		maxPositions: 1024,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
	};
	await writeFile(join(folder, 'config.json'), `${JSON.stringify(huggingFaceOptConfig(config), null, 2)}\n`);
	const marks = markIds(tokenizer);
	const session = Session.open();
	const model = new session.addon.Opt(session.engine, config);
	for (const [name, values] of circuit(config, marks, 0)) await run(() => model.setParameter(name, values));
	const trainer = new session.addon.LlmTrainer(model, {
		learningRate: LEARNING_RATE,
		beta2: 0.98,
		clipNorm: 1,
		frozen: [...FROZEN],
	});
	const maker = new PromptMaker(tokenizer, marks, EMBED_SIZE, 1);
	const shapes = new SeededRandom(2, 79);
	const held = [0.7, 0.4].map((cosine) => ({
		cosine,
		prompts: heldOut(new PromptMaker(tokenizer, marks, EMBED_SIZE, 99), 60, cosine),
	}));
	const evaluate = async (step: number) => {
		for (const { cosine, prompts } of held)
			console.log(
				`language model ${step}/${steps}: Hit@1 of 20 at cosine ${cosine}: ${(await hitRate(model, prompts)).toFixed(3)}`,
			);
	};
	await evaluate(0);
	const begun = performance.now();
	let sum = 0;
	for (let step = 1; step <= steps; step++) {
		trainer.setLearningRate(
			LEARNING_RATE *
				Math.min(1, step / WARM_UP) *
				(0.03 + 0.97 * 0.5 * (1 + Math.cos((Math.PI * step) / steps))),
		);
		const full = shapes.uniform() < 0.5;
		const history = full ? 10 : shapes.int(6);
		const candidates = full ? 20 : 2 + shapes.int(13);
		const titleTokens = shapes.uniform() < 0.3 ? 12 : 8;
		const prompts = Array.from({ length: full ? 8 : 16 }, () =>
			maker.prompt({ history, candidates, titleTokens, plain: 0.04, userless: 0.03 }),
		);
		const { batch, soft, targets } = trainingBatch(prompts);
		sum += (await run(() => trainer.step(batch, soft, targets))).loss ?? 0;
		if (step % 100 === 0) {
			const rate = step / ((performance.now() - begun) / 1000);
			console.log(
				`language model ${step}/${steps}: loss ${(sum / 100).toFixed(3)}, ${((steps - step) / rate).toFixed(0)} s left`,
			);
			sum = 0;
		}
		if (step % 200 === 0 || step === steps) await evaluate(step);
	}
	await model.save(join(folder, 'model.safetensors'), { format: 'pt' }, 'F16');
	trainer.dispose();
	model.dispose();
	session.release();
}

/** @throws when the vocabulary lacks one of them as a single token */
export function markIds(tokenizer: Tokenizer): MarkIds {
	const one = (text: string) => {
		const ids = tokenizer.encodeText(text);
		if (ids.length !== 1) throw new Error(`The vocabulary has no single token for ${JSON.stringify(text)}.`);
		return ids[0]!;
	};
	const openers = [one(' "'), one(',"')];
	const plain = one('"');
	const closers = Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(
		(id) => id !== plain && !openers.includes(id) && (tokenizer.tokenOf(id) ?? '').endsWith('"'),
	);
	return { openers, closers: [plain, ...closers], set: one(' set'), eos: tokenizer.eosId! };
}

/** Packed prompts with their answers; a title's first token counts twice, being what has to be found. */
function trainingBatch(prompts: readonly MadePrompt[]): {
	batch: LlmBatch;
	soft: Float32Array;
	targets: TokenTargets;
} {
	const ids: number[] = [];
	const positions: number[] = [];
	const offsets = [0];
	const soft: Float64Array[] = [];
	const rows: number[] = [];
	const tokens: number[] = [];
	for (const prompt of prompts) {
		const answer = prompt.answers[prompt.target]!;
		const start = ids.length;
		for (const id of prompt.ids) ids.push(id < 0 ? id - soft.length : id);
		soft.push(...prompt.soft);
		ids.push(...answer.slice(0, -1));
		for (let p = 0; p < ids.length - start; p++) positions.push(prompt.positions[p]!);
		for (const [i, token] of answer.entries())
			for (let times = i === 1 ? 2 : 1; times > 0; times--) {
				rows.push(start + prompt.ids.length - 1 + i);
				tokens.push(token);
			}
		offsets.push(ids.length);
	}
	return {
		batch: {
			ids: Int32Array.from(ids),
			offsets: Int32Array.from(offsets),
			positions: Int32Array.from(positions),
		},
		soft: Float32Array.from(soft.flatMap((vector) => [...vector])),
		targets: { rows: Int32Array.from(rows), tokens: Int32Array.from(tokens) },
	};
}

function heldOut(maker: PromptMaker, count: number, cosine: number): MadePrompt[] {
	return Array.from({ length: count }, () =>
		maker.prompt({ history: 10, candidates: 20, titleTokens: 8, cosine, jumps: false }),
	);
}

/** Share of prompts whose target has the highest log-likelihood of all candidates. */
async function hitRate(model: NativeOpt, prompts: readonly MadePrompt[]): Promise<number> {
	let hits = 0;
	for (const prompt of prompts) {
		const answers = prompt.answers.map((answer) => Int32Array.from(answer));
		const packed = packBatch([
			packCandidates(
				{ ids: Int32Array.from(prompt.ids), slots: prompt.soft.map(() => ({ kind: 'user' as const })) },
				answers,
			),
		]);
		const soft = Float32Array.from(prompt.soft.flatMap((vector) => [...vector]));
		const { offsets, ids, positions, prefix, ownBegin, logitRows, pairRows, rowTargets, rowCandidate } =
			packed;
		const logProbs = await run(() =>
			model.logProbs({ ids, offsets, positions, prefix, ownBegin }, soft, logitRows, pairRows, rowTargets),
		);
		const scores = new Float64Array(answers.length);
		for (const [pair, candidate] of rowCandidate.entries()) scores[candidate]! += logProbs[pair]!;
		hits += scores.indexOf(Math.max(...scores)) === prompt.target ? 1 : 0;
	}
	return hits / prompts.length;
}
