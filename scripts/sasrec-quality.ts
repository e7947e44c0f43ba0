/**
 * SASRec's quality with the reference's settings, over seeds:
 *
 *     node dist/scripts/sasrec-quality.js DATASET… [--seeds 3] [--epochs 200] [--json FILE]
 *
 * Every seed trains all epochs; the weights with the best validation NDCG@10 are evaluated, on one positive and 19
 * negatives (the same for all seeds) and on the whole catalogue without the items already seen.
 */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { SASRec } from '../lib/cf/sasrec.js';
import { Dataset } from '../lib/data/dataset.js';
import { sampleCandidates } from '../lib/data/sampling.js';
import { leaveLastOut } from '../lib/data/split.js';
import { metricValues, rankTargets } from '../lib/evaluation/metrics.js';
import { bootstrapMean } from '../lib/evaluation/statistics.js';
import { atOnce } from '../lib/event-loop.js';

const { values, positionals } = parseArgs({
	allowPositionals: true,
	options: {
		seeds: { type: 'string', default: '3' },
		epochs: { type: 'string', default: '200' },
		json: { type: 'string' },
	},
});
const results: Record<string, unknown>[] = [];
for (const path of positionals) {
	const dataset = await Dataset.open(path);
	const split = leaveLastOut(dataset);
	const test = sampleCandidates(split, { seed: 0 });
	const histories = Array.from(test.users, (user) => split.history(user, 'test'));
	const targets = test.users.map((user) => split.test[user]!);
	for (let seed = 0; seed < Number(values.seeds); seed++) {
		const model = await SASRec.train(
			dataset,
			{ seed, epochs: Number(values.epochs), patience: Number(values.epochs) },
			{ split },
		);
		const users = await model.userVectors(histories);
		const drawn = atOnce(
			rankTargets(await model.scoreCandidates(users, test.candidates, test.negatives + 1), test.targets),
		);
		const full = await model.rankTargets(users, targets, histories);
		const of = (ranks: typeof drawn, metric: 'hit@1' | 'ndcg@10' | 'hit@10') =>
			atOnce(bootstrapMean(metricValues(ranks, metric), { seed: 0 }));
		const hit = of(drawn, 'hit@1');
		const row = {
			dataset: dataset.name,
			seed,
			users: test.users.length,
			bestEpoch: model.training?.best?.epoch,
			seconds: Math.round(model.training?.seconds ?? 0),
			'Hit@1 (1+19)': hit.value,
			low: hit.low,
			high: hit.high,
			'NDCG@10 (1+19)': of(drawn, 'ndcg@10').value,
			'full HR@10': of(full, 'hit@10').value,
			'full NDCG@10': of(full, 'ndcg@10').value,
		};
		results.push(row);
		console.log(
			Object.entries(row)
				.map(
					([name, value]) =>
						`${name} ${typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(3) : value}`,
				)
				.join('  '),
		);
		model.dispose();
	}
}
if (values.json) await writeFile(values.json, `${JSON.stringify(results, null, '\t')}\n`);
