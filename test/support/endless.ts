import { Alignment } from '../../lib/alignment/alignment.js';
import { SASRec } from '../../lib/cf/sasrec.js';
import { leaveLastOut } from '../../lib/data/split.js';
import { atOnce } from '../../lib/event-loop.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import { Session } from '../../lib/native/session.js';
import { Projection } from '../../lib/projection/projection.js';
import { createPrompts, jointTable } from '../../lib/recommend/model-parts.js';
import { loadRun } from '../../lib/recommend/run.js';
import type { BatchUser } from '../../lib/recommend/score-all/score-users.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { CPU, tinyDataset } from './tiny-world.js';

/** Folders that endless work needs: a trained tiny run and its checkpoints. */
export interface Folders {
	run: string;
	encoder: string;
	llm: string;
}

const EPOCHS = 1e8;

/**
 * Work that does not end by itself, for tests that end it otherwise. Each calls `begun` when everything is loaded and
 * the work begins.
 */
export const ENDLESS: Record<string, (folders: Folders, begun: () => void) => Promise<unknown>> = {
	async cf(_, begun) {
		const dataset = tinyDataset();
		begun();
		return SASRec.train(
			dataset,
			{ hiddenUnits: 16, maxLength: 10, batchSize: 16, epochs: EPOCHS, validateEvery: 0 },
			CPU,
		);
	},
	async align({ encoder: folder }, begun) {
		const dataset = tinyDataset();
		const session = Session.open(CPU);
		const cf = await SASRec.train(dataset, { hiddenUnits: 16, epochs: 0 }, { session });
		const encoder = await SentenceEncoder.load(folder, { session, maxTokens: 24 });
		begun();
		return Alignment.train(
			dataset,
			cf,
			encoder,
			{ jointSize: 8, batchSize: 8, epochs: EPOCHS, validateEvery: 0 },
			{ split: leaveLastOut(dataset), session },
		);
	},
	async project({ run }, begun) {
		const dataset = tinyDataset();
		const split = leaveLastOut(dataset);
		const { parts, catalogue } = await loadRun(run, CPU);
		const prompts = await createPrompts(parts.llm, catalogue, recommendationTemplate('game'), {
			historyLength: 4,
		});
		begun();
		return Projection.train(
			dataset,
			parts.cf,
			parts.llm,
			{ candidates: 4, batchSize: 8, epochs: EPOCHS, validateEvery: 0 },
			{
				split,
				joint: atOnce(jointTable(parts.latents, split.itemCounts, 'aligned')),
				prompts,
				alignment: parts.alignment,
				session: parts.session,
			},
		);
	},
	async scoreAll({ run }, begun) {
		const model = await loadRun(run, CPU);
		begun();
		for await (const _ of model.scoreAll(users(), { batchSize: 8, retrieve: 20 }));
	},
	async scoreCandidates({ llm: folder }, begun) {
		const llm = await CausalLM.load(folder, CPU);
		begun();
		for (;;) await llm.scoreCandidates('A user has played', ['one', 'two', 'three', 'four'].flatMap(times50));
	},
	async generate({ llm: folder }, begun) {
		const llm = await CausalLM.load(folder, CPU);
		begun();
		for (;;)
			await Promise.all([
				llm.generate(['A user', 'has played'], { maxNewTokens: 100, eosId: -1 }),
				llm.generate('and would', { maxNewTokens: 50, numBeams: 3, eosId: -1 }),
			]);
	},
	async load({ llm: folder, encoder }, begun) {
		begun();
		for (;;) {
			const llm = await CausalLM.load(folder, CPU);
			const texts = await SentenceEncoder.load(encoder, CPU);
			llm.dispose();
			texts.dispose();
		}
	},
};

function* users(): Generator<BatchUser> {
	const ids = tinyDataset()
		.items.slice(1)
		.map(({ id }) => id);
	for (let u = 0; ; u++) yield { user: `u${u}`, history: [0, 3, 5].map((i) => ids[(u + i) % ids.length]!) };
}

function times50(word: string): string[] {
	return Array.from({ length: 50 }, (_, i) => `${word} ${i}`);
}
