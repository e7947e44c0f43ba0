import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SeededRandom } from '../data/random.js';
import { alignmentQuality } from '../evaluation/alignment-quality.js';
import { evaluateGenres } from '../evaluation/genres.js';
import { metricValues, rankTargets } from '../evaluation/metrics.js';
import { overSmoothing } from '../evaluation/protocol.js';
import { itemPopularity } from '../evaluation/slices.js';
import { atOnce, inTurns } from '../event-loop.js';
import { takeRows } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import type { ALLMRec } from '../recommend/a-llm-rec.js';
import { createPrompts, jointTable } from '../recommend/model-parts.js';
import { projectToPlane } from '../report/projection-2d.js';
import type { Cell } from './cell.js';
import type { Details } from './contestant.js';
import type { CalibrationBin, Example, ItemMap, TrainingCurve } from './results.js';

/** Items of a map at most. */
const MAP_ITEMS = 1000;
const EXAMPLES = 8;
const SAMPLE_STREAM = 72;

/** Losses and metrics of each epoch, as a stage's folder has them; none where it has no log. */
export async function trainingCurves(folder: string, stage: string, model: string): Promise<TrainingCurve[]> {
	const points = (await logOf(folder)).map(({ epoch, losses, metrics }) => ({ epoch, losses, metrics }));
	return points.length > 0 ? [{ stage, model, points }] : [];
}

interface LogEntry {
	epoch: number;
	losses: Record<string, number>;
	metrics: Record<string, number>;
	seconds: number;
}

async function logOf(folder: string): Promise<LogEntry[]> {
	const text = await readFile(join(folder, 'log.jsonl'), 'utf8').catch(() => '');
	return text
		.split('\n')
		.filter((line) => line !== '')
		.map((line) => JSON.parse(line) as LogEntry);
}

export interface DetailSettings {
	/** The run's. */
	folder: string;
	label: string;
	/** With curves, calibration, maps and examples. */
	full: boolean;
	cell: Cell;
	/** By label. */
	scores: ReadonlyMap<string, Float32Array>;
}

/** What a result says of a run beside its ranks. */
export async function recommenderDetails(run: ALLMRec, settings: DetailSettings): Promise<Details> {
	const { folder, label, full, cell, scores } = settings;
	const stages = [
		['cf', 'stage 0'],
		['align', 'stage 1'],
		['project', 'stage 2'],
	] as const;
	const timings: Record<string, number> = {};
	for (const [stage, name] of stages) {
		const last = (await logOf(join(folder, stage))).at(-1);
		if (last) timings[`${label}: ${name}`] = last.seconds;
	}
	const details: Details = { latents: { [label]: await latentMeasures(run, cell) }, timings };
	if (!full) return details;
	const curves = stages.map(([stage, name]) => trainingCurves(join(folder, stage), name, label));
	details.curves = (await Promise.all(curves)).flat();
	details.maps = await itemMaps(run, cell);
	const [aligned, fused] = [scores.get(label), scores.get(`${label} fused`)];
	if (!aligned || !fused) return details;
	const vectors = await run.userVectors(cell.histories);
	const cf = await run.parts.cf.scoreCandidates(vectors, cell.candidates, cell.width);
	details.calibration = gateCalibration(run, cell, { cf, llm: aligned, fused });
	details.examples = await exampleUsers(run, cell, { cf, llm: aligned, fused });
	return details;
}

/** Over-smoothing and how well both latents of an item find each other, of all, warm and cold items. */
async function latentMeasures(run: ALLMRec, { split }: Cell): Promise<Record<string, number>> {
	const { meanCosineE, meanCosineQ, itemReconstruction } = await overSmoothing(run, undefined);
	const { latents } = run.parts;
	const [e, q] = [latents.e, latents.q].map((table) => table.subarray(latents.size));
	const { warm, cold } = itemPopularity(split.itemCounts);
	const items = split.dataset.numItems;
	const quality = (rows?: number[]) =>
		alignmentQuality({ item: e!, text: q!, items, rows: rows && Int32Array.from(rows) });
	const where = (mask: Uint8Array) =>
		Array.from({ length: items }, (_, i) => i).filter((i) => mask[i + 1] === 1);
	const all = await quality();
	const measures: Record<string, number> = {
		'mean cosine of e': meanCosineE,
		'mean cosine of q': meanCosineQ,
		'item reconstruction error': itemReconstruction,
		'cosine of e and q': all.cosine,
		'recall of the text @1': all['itemToText@1'],
		'recall of the text @10': all['itemToText@10'],
	};
	for (const [name, rows] of Object.entries({ warm: where(warm), cold: where(cold) }))
		if (rows.length > 0) measures[`recall of the text @10, ${name}`] = (await quality(rows))['itemToText@10'];
	return measures;
}

/** The items in the planes of their largest variance: CF vectors, texts, joint embeddings, soft tokens. */
export async function itemMaps(run: ALLMRec, { split }: Cell): Promise<ItemMap[]> {
	const { cf, latents, projection, joint, coldThreshold } = run.parts;
	const { dataset, itemCounts } = split;
	const { cold } = itemPopularity(itemCounts);
	const rows = sampleItems(itemCounts);
	const table = await inTurns(jointTable(latents, itemCounts, joint, coldThreshold));
	const embedded = takeRows(table, latents.size, rows);
	const spaces: [ItemMap['name'], Float32Array, number][] = [
		['CF', takeRows(await cf.itemTable(), cf.size, rows), cf.size],
		['text', takeRows(latents.q, latents.size, rows), latents.size],
		['joint', embedded, latents.size],
		['token space', await projection.items(embedded), projection.config.tokenSize],
	];
	const maps: ItemMap[] = [];
	for (const [name, data, width] of spaces) {
		const { coordinates } = await inTurns(projectToPlane(data, width));
		maps.push({
			name,
			points: rows.map((item, i) => ({
				item: dataset.items[item]!.title || dataset.items[item]!.id,
				x: coordinates[2 * i]!,
				y: coordinates[2 * i + 1]!,
				count: itemCounts[item]!,
				cold: cold[item] === 1,
			})),
		});
	}
	return maps;
}

/** Items at even distances in the order of their popularity, so that warm and cold ones are there as among all. */
function sampleItems(counts: Int32Array): number[] {
	const items = Array.from({ length: counts.length - 1 }, (_, i) => i + 1);
	items.sort((a, b) => counts[a]! - counts[b]! || a - b);
	const taken = Math.min(MAP_ITEMS, items.length);
	return Array.from({ length: taken }, (_, i) => items[Math.floor((i * items.length) / taken)]!);
}

/** Free answers, and answers confined to the data set's genres, of A-LLMRec and of LLM-Only. */
export async function genreScores(
	run: ALLMRec,
	{ split }: Cell,
	{ label, users, ...calls }: LongCallOptions & { label: string; users: number | undefined },
): Promise<NonNullable<Details['genres']>> {
	const scores: NonNullable<Details['genres']> = {};
	for (const constrained of [false, true]) {
		const found = await evaluateGenres(run, split, { users, constrained, ...calls });
		for (const [model, score] of Object.entries(found))
			scores[`${model === 'A-LLMRec' ? label : model}${constrained ? ', confined to genres' : ''}`] = score;
	}
	return scores;
}

interface Scores {
	cf: Float32Array;
	llm: Float32Array;
	fused: Float32Array;
}

/** Bins of targets by their training interactions: how much CF weighs in the fusion there, and Hit@1 of all three. */
export function gateCalibration(run: ALLMRec, cell: Cell, scores: Scores): CalibrationBin[] {
	const { split, targets, targetItems } = cell;
	const { fusion } = run.parts;
	const hits = (values: Float32Array) => metricValues(atOnce(rankTargets(values, targets)), 'hit@1');
	const [cf, llm, fused] = [hits(scores.cf), hits(scores.llm), hits(scores.fused)];
	const counts = targetItems.map((item) => split.itemCounts[item]!);
	const bins: CalibrationBin[] = [];
	for (const [from, to] of binsOf(counts)) {
		const rows = [...counts.keys()].filter(
			(row) => counts[row]! >= from && (to === null || counts[row]! <= to),
		);
		if (rows.length === 0) continue;
		const mean = (value: (row: number) => number) =>
			rows.reduce((sum, row) => sum + value(row), 0) / rows.length;
		bins.push({
			from,
			to,
			users: rows.length,
			weight: mean((row) => fusion?.weightOf(counts[row]!) ?? 0),
			cf: mean((row) => cf[row]!),
			llm: mean((row) => llm[row]!),
			fused: mean((row) => fused[row]!),
		});
	}
	return bins;
}

/** 0, then 1, 2–3, 4–7 … up to the largest count. */
function binsOf(counts: Int32Array): [number, number | null][] {
	const largest = counts.reduce((a, b) => Math.max(a, b), 0);
	const bins: [number, number | null][] = [[0, 0]];
	for (let from = 1; from <= largest; from *= 2) bins.push([from, from * 2 > largest ? null : from * 2 - 1]);
	return bins;
}

/** Users drawn alike among those whose target came first and those whose did not, of warm and of cold targets. */
export async function exampleUsers(run: ALLMRec, cell: Cell, scores: Scores): Promise<Example[]> {
	const { llm, catalogue, template, historyLength, withoutUser, joint } = run.parts;
	const prompts = await createPrompts(llm, catalogue, template, {
		historyLength,
		withoutUser,
		withoutItemSlots: joint === 'none',
	});
	const title = (item: number) => catalogue.items[item]!.title;
	const ids = (items: Int32Array) => Array.from(items, (item) => catalogue.items[item]!.id);
	const examples: Example[] = [];
	for (const row of exampleRows(cell, scores.fused)) {
		const { width, split, users, histories, targets } = cell;
		const candidates = cell.candidates.subarray(row * width, (row + 1) * width);
		const value = (values: Float32Array, c: number) => values[row * width + c]!;
		const list = Array.from(candidates, (item, c) => ({
			title: title(item),
			at: c,
			score: value(scores.fused, c),
			cf: value(scores.cf, c),
			llm: value(scores.llm, c),
			fused: value(scores.fused, c),
			isTarget: c === targets[row],
		}));
		list.sort((a, b) => b.score - a.score);
		const history = Array.from(histories[row]!).slice(-historyLength);
		const built = prompts.build({ history, candidates });
		let prompt = '';
		let text: number[] = [];
		const flush = () => {
			prompt += llm.tokenizer.decode(text);
			text = [];
		};
		for (const id of built.ids) {
			if (id >= 0) {
				text.push(id);
				continue;
			}
			flush();
			prompt += `[${SLOT_NAMES[built.slots[-id - 1]!.kind]}]`;
		}
		flush();
		const user = split.dataset.userIds[users[row]!]!;
		const best = ids(candidates)[list[0]!.at]!;
		const { parts, tokens } = await run.explain(
			{ history: ids(histories[row]!), candidates: ids(candidates) },
			{ item: best },
		);
		examples.push({
			user,
			history: history.map(title),
			prompt,
			list: list.map(({ at: _, ...entry }) => entry),
			explanation: parts.flatMap(({ leaveOneOut, gradientTimesInput, ...part }) =>
				gradientTimesInput === null ? [] : [{ part: nameOf(part), leaveOneOut, gradientTimesInput }],
			),
			tokens: tokens.map(({ nearest, ...part }) => ({
				part: nameOf(part),
				nearest: nearest.map(({ text, similarity }) => ({ token: text, similarity })),
			})),
		});
	}
	return examples;
}

function nameOf({ part, title }: { part: string; title?: string | undefined }): string {
	return part === 'user' ? 'the user vector' : (title ?? part);
}

const SLOT_NAMES = { user: 'User', history: 'History', candidate: 'Candidate' } as const;

function exampleRows({ split, targets, targetItems }: Cell, scores: Float32Array): number[] {
	const { cold } = itemPopularity(split.itemCounts);
	const { greater } = atOnce(rankTargets(scores, targets));
	const rows = Array.from(targets.keys());
	new SeededRandom(0, SAMPLE_STREAM).shuffle(rows);
	const groups = [0, 1, 2, 3].map((group) =>
		rows.filter((row) => 2 * cold[targetItems[row]!]! + (greater[row] === 0 ? 1 : 0) === group),
	);
	const chosen: number[] = [];
	for (let round = 0; chosen.length < Math.min(EXAMPLES, rows.length); round++)
		for (const group of groups)
			if (group[round] !== undefined && chosen.length < EXAMPLES) chosen.push(group[round]!);
	return chosen;
}
