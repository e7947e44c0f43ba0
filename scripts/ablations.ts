/**
 * The paper's ablations on the demo's data, one table:
 *
 *     npm run ablations -- [--out FOLDER] [--seed N] [--json FILE]
 *
 * All variants share the data set, the split, the candidates and SASRec.
 */
import { cp, mkdir, mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { formatTable } from '../lib/cli/terminal.js';
import {
	Dataset,
	evaluateRun,
	generateWorld,
	loadRun,
	MODEL_NAMES,
	openRunDataset,
	type RunOptions,
	trainRun,
	writeWorldCsv,
} from '../lib/index.js';

const variants: [string, RunOptions][] = [
	['full', {}],
	['without L_matching', { alignment: { matching: 0 } }],
	['without both reconstructions', { alignment: { alpha: 0, beta: 0 } }],
	['without L_rec', { alignment: { recommendation: 0 } }],
	['frozen sentence encoder', { alignment: { freezeEncoder: true } }],
	['without user vector', { withoutUser: true }],
	['random joint embeddings', { joint: 'random' }],
];

const { values } = parseArgs({
	options: { out: { type: 'string' }, seed: { type: 'string', default: '0' }, json: { type: 'string' } },
});
const folder = values.out ?? (await mkdtemp(join(tmpdir(), 'a-llmrec-ablations-')));
const seed = Number(values.seed);
await mkdir(folder, { recursive: true });
const log = await writeWorldCsv(folder, generateWorld({ seed }));
const datasetPath = join(folder, 'dataset');
const dataset = await Dataset.prepare({
	format: 'csv',
	interactions: [log.interactions],
	items: [log.items],
	kCore: 1,
	name: 'demo',
	out: datasetPath,
});
const results: Record<string, string | number>[] = [];
const trained = new Map<string, string>();
for (const [name, options] of variants) {
	const out = join(folder, name.replaceAll(' ', '-'));
	const all = { seed, words: 'game' as const, ...options };
	// Stages that a variant leaves alone are taken from the full run; each resumes from its own state.
	const full = trained.get('full');
	if (full) {
		await cp(join(full, 'cf'), join(out, 'cf'), { recursive: true });
		if (!options.alignment) await cp(join(full, 'align'), join(out, 'align'), { recursive: true });
	}
	await trainRun(dataset, { out, datasetPath, options: all });
	trained.set(name, out);
	const { split, test } = await openRunDataset(out, datasetPath);
	const model = await loadRun(out);
	const { candidates, latents } = await evaluateRun(model, split, test, { fullUsers: 0 });
	model.dispose();
	const hit = (which: keyof typeof MODEL_NAMES, slice: string) =>
		candidates.models[MODEL_NAMES[which]]!.slices[slice]!.metrics['hit@1']?.value ?? Number.NaN;
	const row = {
		variant: name,
		'e overall': hit('aligned', 'overall'),
		'e warm': hit('aligned', 'warm'),
		'e cold': hit('aligned', 'cold'),
		'q overall': hit('text', 'overall'),
		'q cold': hit('text', 'cold'),
		'q never seen': hit('text', 'neverSeen'),
		'cosine of e': latents.meanCosineE,
		'cosine of q': latents.meanCosineQ,
		'item reconstruction': latents.itemReconstruction,
	};
	results.push(row);
	console.error(`${name}: Hit@1 ${row['e overall'].toFixed(3)}`);
}
console.log(
	formatTable(
		results.map((row) =>
			Object.values(row).map((value) => (typeof value === 'number' ? value.toFixed(3) : value)),
		),
		{ head: Object.keys(results[0]!) },
	),
);
if (values.json) await writeFile(values.json, `${JSON.stringify(results, null, '\t')}\n`);
