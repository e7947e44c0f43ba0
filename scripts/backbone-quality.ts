/**
 * Quality of the backbones of stage 0 with their default settings, over seeds:
 *
 *     node dist/scripts/backbone-quality.js DATASET… [--kinds sasrec,gru4rec] [--seeds 3] [--options JSON] [--json FILE]
 *
 * The weights with the best validation NDCG@10 are evaluated on one positive and 19 negatives (the same for all seeds)
 * and on the whole catalogue without the items already seen. Users have their own vectors where a backbone learns such.
 * `--export FILE` writes what `scripts/backbone-quality.py` trains the same models on in PyTorch, and trains nothing.
 */
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { BACKBONES, type BackboneKind, backbones, trainBackbone } from '../lib/cf/backbones.js';
import { Popularity } from '../lib/cf/floors/popularity.js';
import { Dataset } from '../lib/data/dataset.js';
import { sampleCandidates } from '../lib/data/sampling.js';
import { leaveLastOut } from '../lib/data/split.js';
import { metricValues, rankTargets, type TargetRanks } from '../lib/evaluation/metrics.js';
import { bootstrapMean } from '../lib/evaluation/statistics.js';
import { atOnce } from '../lib/event-loop.js';

const { values, positionals } = parseArgs({
	allowPositionals: true,
	options: {
		kinds: { type: 'string', default: BACKBONES.join(',') },
		seeds: { type: 'string', default: '3' },
		options: { type: 'string', default: '{}' },
		export: { type: 'string' },
		json: { type: 'string' },
	},
});
const kinds = values.kinds.split(',') as BackboneKind[];
const options = JSON.parse(values.options) as object;
const results: Record<string, unknown>[] = [];

function say(row: Record<string, string | number | undefined>): void {
	results.push(row);
	const shown = (value: unknown) =>
		typeof value === 'number' && !Number.isInteger(value) ? value.toFixed(4) : String(value);
	console.log(
		Object.entries(row)
			.map(([name, value]) => `${name} ${shown(value)}`)
			.join('  '),
	);
}

const of = (ranks: TargetRanks, metric: 'hit@1' | 'ndcg@10' | 'hit@10') =>
	atOnce(bootstrapMean(metricValues(ranks, metric), { seed: 0 }));

for (const path of positionals) {
	const dataset = await Dataset.open(path);
	const split = leaveLastOut(dataset);
	const test = sampleCandidates(split, { seed: 0 });
	const width = test.negatives + 1;
	const histories = Array.from(test.users, (user) => split.history(user, 'test'));
	const targets = test.users.map((user) => split.test[user]!);
	if (values.export) {
		const users = Array.from({ length: dataset.numUsers }, (_, user) => user);
		const asked = split.users('validation');
		const settings = kinds.map((kind) => [kind, backbones[kind].schema.parse(options)]);
		await writeFile(
			values.export,
			JSON.stringify({
				dataset: dataset.name,
				items: dataset.numItems,
				train: users.map((user) => Array.from(split.history(user, 'validation'))),
				known: users.map((user) => Array.from(dataset.sequence(user))),
				validation: {
					users: Array.from(asked),
					targets: Array.from(asked, (user) => split.validation[user]!),
				},
				test: {
					users: Array.from(test.users),
					histories: histories.map((history) => Array.from(history)),
					candidates: Array.from(test.users, (_, row) =>
						Array.from(test.candidates.subarray(row * width, (row + 1) * width)),
					),
					targets: Array.from(test.targets),
				},
				options: Object.fromEntries(settings),
			}),
		);
		continue;
	}
	const floor = await Popularity.of(split).score({ ...test, histories, width });
	const popularity = atOnce(rankTargets(floor, test.targets));
	const [first, second] = [of(popularity, 'hit@1'), of(popularity, 'ndcg@10')];
	say({ dataset: dataset.name, kind: 'popularity', 'Hit@1': first.value, 'NDCG@10': second.value });
	for (const kind of kinds)
		for (let seed = 0; seed < Number(values.seeds); seed++) {
			const model = await trainBackbone(kind, dataset, { ...options, seed }, { split });
			const users = await model.userVectors(histories, undefined, test.users);
			const scores = await model.scoreCandidates(users, test.candidates, width);
			const drawn = atOnce(rankTargets(scores, test.targets));
			const full = await model.rankTargets(users, targets, histories);
			const hit = of(drawn, 'hit@1');
			say({
				dataset: dataset.name,
				kind,
				seed,
				bestEpoch: model.training?.best?.epoch,
				'Hit@1': hit.value,
				low: hit.low,
				high: hit.high,
				'NDCG@10': of(drawn, 'ndcg@10').value,
				'full HR@10': of(full, 'hit@10').value,
				'full NDCG@10': of(full, 'ndcg@10').value,
				seconds: Math.round(model.training?.seconds ?? 0),
			});
			model.dispose();
		}
}
if (values.json) await writeFile(values.json, `${JSON.stringify(results, null, '\t')}\n`);
