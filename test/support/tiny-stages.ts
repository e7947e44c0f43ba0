import { Alignment, type AlignmentOptions, jointEmbeddings } from '../../lib/alignment/alignment.js';
import { SASRec } from '../../lib/cf/sasrec.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { leaveLastOut, type Split } from '../../lib/data/split.js';
import { Session } from '../../lib/native/session.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import { tinyEncoder } from './tiny-checkpoints.js';
import { CPU, tinyDataset } from './tiny-world.js';

export const D = 16;

/** Data, a briefly trained recommender and an encoder: what stage 1 begins with. */
export interface StageOne {
	session: Session;
	dataset: Dataset;
	split: Split;
	cf: SASRec;
	/** Folder of the sentence encoder. */
	encoder: string;
}

export async function stageOne(dataset: Dataset = tinyDataset()): Promise<StageOne> {
	const session = Session.open(CPU);
	const split = leaveLastOut(dataset);
	const cf = await SASRec.train(
		dataset,
		{ hiddenUnits: D, maxLength: 10, batchSize: 16, epochs: 10, learningRate: 1e-2, dropoutRate: 0.2 },
		{ split, session },
	);
	return { session, dataset, split, cf, encoder: await tinyEncoder() };
}

/** What stage 2 begins with. */
export interface StageTwo extends StageOne {
	alignment: Alignment;
	/** (numItems + 1, d') */
	joint: Float32Array;
}

export async function stageTwo(options: AlignmentOptions = {}): Promise<StageTwo> {
	const one = await stageOne();
	const { session, dataset, split, cf } = one;
	const encoder = await SentenceEncoder.load(one.encoder, { session });
	const alignment = await Alignment.train(
		dataset,
		cf,
		encoder,
		{ jointSize: 8, epochs: 2, learningRate: 1e-2, freezeEncoder: true, ...options },
		{ split, session },
	);
	const joint = jointEmbeddings(await alignment.latents(dataset, cf, encoder), split.itemCounts);
	encoder.dispose();
	return { ...one, alignment, joint };
}
