// Stage 0 alone: a sequential recommender without any language model.
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Dataset, generateWorld, leaveLastOut, SASRec, writeWorldCsv } from 'a-llmrec';

const folder = await mkdtemp(join(tmpdir(), 'a-llmrec-example-'));
const log = await writeWorldCsv(folder, generateWorld({ seed: 3 }));
const dataset = await Dataset.prepare({
	format: 'csv',
	interactions: [log.interactions],
	items: [log.items],
	kCore: 2,
	out: join(folder, 'dataset'),
});
const split = leaveLastOut(dataset);
const model = await SASRec.train(dataset, { epochs: 100, loss: 'softmax' }, { split });
const histories = [dataset.sequence(0), dataset.sequence(1)];
const { items } = await model.retrieve(await model.userVectors(histories), histories, 5);
for (const [user, history] of histories.entries()) {
	const best = Array.from(items.subarray(user * 5, user * 5 + 5), (item) => dataset.items[item].title);
	console.log(`${dataset.userIds[user]} (${history.length} games): ${best.join(', ')}`);
}
model.dispose();
