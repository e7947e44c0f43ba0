// From rows of one's own to recommendations. The rows here come from the generator; yours come from a table.
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Dataset, generateWorld, loadRun, trainRun, writeWorldCsv } from 'a-llmrec';

const folder = await mkdtemp(join(tmpdir(), 'a-llmrec-example-'));
const log = await writeWorldCsv(folder, generateWorld({ seed: 7, numUsers: 200, numItems: 120 }));
const datasetPath = join(folder, 'dataset');
const dataset = await Dataset.prepare({
	format: 'csv',
	interactions: [log.interactions],
	items: [log.items],
	kCore: 1,
	out: datasetPath,
});
let stage = '';
await trainRun(dataset, {
	out: join(folder, 'run'),
	datasetPath,
	options: { words: 'game', cf: { epochs: 60 }, projection: { epochs: 1 } },
	onProgress: (progress) => {
		if (progress.stage !== stage) console.log(progress.stage);
		stage = progress.stage;
	},
});

const recommender = await loadRun(join(folder, 'run'));
const history = Array.from(dataset.sequence(0), (item) => dataset.items[item].id);
await recommender.addItem({
	id: 'new-1',
	title: 'Harbour of Dragons',
	description: 'Cast spells and duel sorcerers.',
});
const [list] = await recommender.recommend([{ history }], { topK: 5, coldShare: 0.2 });
console.table(
	list.map(({ rank, id, title, score }) => ({ rank, id, title, score: Number(score.toFixed(3)) })),
);
recommender.dispose();
