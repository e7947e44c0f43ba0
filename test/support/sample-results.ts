import { createHash } from 'node:crypto';
import { Alignment } from '../../lib/alignment/alignment.js';
import { SASRec } from '../../lib/cf/sasrec.js';
import { leaveLastOut } from '../../lib/data/split.js';
import type { NativeModel } from '../../lib/native/addon.js';
import { Session } from '../../lib/native/session.js';
import { loadRun } from '../../lib/recommend/run.js';
import { SentenceEncoder } from '../../lib/text/sentence-encoder.js';
import type { Folders } from './endless.js';
import { tinyDataset } from './tiny-world.js';
import { weightsOf } from './weights.js';

/** What training, scoring and generation give, down to the bit. @param threads of the device */
export async function sampleResults({ run, encoder: folder }: Folders, threads: number): Promise<object> {
	const device = { device: 'cpu', threads } as const;
	const dataset = tinyDataset();
	const split = leaveLastOut(dataset);
	const session = Session.open(device);
	const options = { hiddenUnits: 16, maxLength: 10, batchSize: 16, epochs: 3, dropoutRate: 0.2 };
	const cf = await SASRec.train(dataset, options, { session });
	const encoder = await SentenceEncoder.load(folder, { session, maxTokens: 24 });
	const alignment = await Alignment.train(
		dataset,
		cf,
		encoder,
		{ jointSize: 8, batchSize: 16, epochs: 1 },
		{ split, session },
	);
	const model = await loadRun(run, device);
	const histories = [dataset.sequence(0), dataset.sequence(1)].map((items) =>
		Array.from(items, (item) => dataset.items[item]!.id),
	);
	const results = {
		cf: hash(await cf.itemTable()),
		alignment: await hashOf(alignment.native),
		encoder: await hashOf(encoder.native),
		lists: await model.recommend(
			histories.map((history) => ({ history })),
			{ topK: 5, retrieve: 20 },
		),
		scores: await model.parts.llm.scoreCandidates('A user has played', ['one', 'two', 'three']),
		text: await model.parts.llm.generate('A user', { maxNewTokens: 12, doSample: true, seed: 3 }),
	};
	for (const each of [cf, encoder, alignment, model]) each.dispose();
	session.release();
	return results;
}

async function hashOf(model: NativeModel): Promise<string> {
	const weights = await weightsOf(model);
	return Object.keys(weights)
		.sort()
		.map((name) => hash(weights[name]!))
		.join();
}

function hash(values: Float32Array): string {
	return createHash('sha256')
		.update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength))
		.digest('hex')
		.slice(0, 16);
}
