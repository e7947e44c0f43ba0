import type { Steps } from '../event-loop.js';
import type { ExperimentResult, ItemMap, TrainingCurve } from '../experiment/results.js';
import { hit1, type ResultGroup } from './aggregate.js';
import { type Markup, markup } from './markup.js';
import { barPlot, type LineSeries, linePlot, scatterPlot } from './plot.js';
import { longTitle, type Section } from './section.js';

/** First training counts of the bins that targets are put into. */
const BINS = [0, 1, 5, 10, 20, 50, 100, 200, 500, 1000];

/** Hit@1 by the target's popularity: where does each model know its items from? */
export function* popularitySection(groups: readonly ResultGroup[], resamples: number): Steps<Section> {
	const body: Markup[] = [
		markup`<p class="note">Users are binned by the training interactions of their target; bars are 95 % bootstrap intervals over users. Bins without users are left out.</p>`,
	];
	for (const group of groups) {
		const bins = BINS.map((from, at) => {
			const bin = { from, to: BINS[at + 1] ?? null };
			return { ...bin, rows: new Map(group.cells.map((cell) => [cell, rowsIn(bin, cell)])) };
		}).filter(({ rows }) => [...rows.values()].some(({ length }) => length > 0));
		yield;
		const series: LineSeries[] = [];
		for (const label of group.labels) {
			const points = [];
			for (const [x, bin] of bins.entries()) {
				const found = yield* hit1(group, label, (cell) => bin.rows.get(cell)!, resamples);
				if (found) points.push({ x, y: found.value, low: found.low, high: found.high });
			}
			series.push({ name: label, points });
		}
		body.push(
			linePlot({
				title: `Hit@1 by item popularity, ${longTitle(group, groups)}`,
				description: `A line for each of ${series.length} models over ${bins.length} bins of the target's training interactions.`,
				xLabel: 'training interactions of the target',
				yLabel: 'Hit@1',
				categories: bins.map(binName),
				series,
				range: [0, 0.1],
			}),
		);
	}
	return { id: 'popularity', title: 'Popularity', body };
}

interface Bin {
	from: number;
	/** The next bin's first; null without end. */
	to: number | null;
}

function rowsIn({ from, to }: Bin, { targetCounts }: ExperimentResult): number[] {
	const rows: number[] = [];
	for (const [row, count] of targetCounts.entries())
		if (count >= from && (to === null || count < to)) rows.push(row);
	return rows;
}

export function binName({ from, to }: Bin): string {
	if (to === null) return `≥ ${from}`;
	return to - 1 === from ? String(from) : `${from}–${to - 1}`;
}

/** What a part of the page is made of: its cells, by group, that have it. */
export function withPart<K extends keyof ExperimentResult>(
	groups: readonly ResultGroup[],
	part: K,
): { title: string; seed: number; value: NonNullable<ExperimentResult[K]> }[] {
	return groups.flatMap((group) => {
		const cell = group.cells.find((candidate) => {
			const value = candidate[part];
			return value !== undefined && Object.keys(value as object).length > 0;
		});
		if (!cell) return [];
		const title = longTitle(group, groups);
		return [{ title, seed: cell.seed, value: cell[part] as NonNullable<ExperimentResult[K]> }];
	});
}

export function curvesSection(groups: readonly ResultGroup[]): Section | undefined {
	const body = withPart(groups, 'curves').map(
		({ title, seed, value }) => markup`<h3><bdi>${title}</bdi>, seed ${seed}</h3>
${value.flatMap((curve) => [curvePlot(curve, 'losses', title), curvePlot(curve, 'metrics', title)])}`,
	);
	return body.length === 0 ? undefined : { id: 'curves', title: 'Training', body };
}

function curvePlot(
	{ stage, model, points }: TrainingCurve,
	kind: 'losses' | 'metrics',
	title: string,
): Markup | false {
	const names = [...new Set(points.flatMap((point) => Object.keys(point[kind])))];
	if (names.length === 0) return false;
	const series = names.map((name) => ({
		name,
		points: points
			.filter((point) => Object.hasOwn(point[kind], name))
			.map((point) => ({ x: point.epoch, y: point[kind][name]! })),
	}));
	return linePlot({
		title: `${kind === 'losses' ? 'Losses' : 'Validation'} of ${model}, ${stage} (${title})`,
		description: `${names.join(', ')} over ${points.length} epochs.`,
		xLabel: 'epoch',
		yLabel: kind === 'losses' ? 'loss' : 'metric',
		series,
	});
}

export function genresSection(groups: readonly ResultGroup[]): Section | undefined {
	const body = withPart(groups, 'genres').map(({ title, seed, value }) =>
		barPlot({
			title: `Favourite genres, ${title}, seed ${seed}`,
			description: `Horizontal bars with 95 % intervals: ${Object.keys(value).join(', ')}.`,
			xLabel: 'share of the genres named that later items have',
			bars: Object.entries(value).map(([label, { value, low, high }], color) => ({
				label,
				value,
				low,
				high,
				color,
			})),
		}),
	);
	return body.length === 0 ? undefined : { id: 'genres', title: 'Genres', body };
}

/** Points drawn of one map; of larger ones a part at even steps. */
const MAP_POINTS = 1000;
/** Least training interactions of the colours. */
const SHADES = [0, 5, 20, 50, 200];

export function mapsSection(groups: readonly ResultGroup[]): Section | undefined {
	const body = withPart(groups, 'maps').map(
		({ title, seed, value }) =>
			markup`<h3><bdi>${title}</bdi>, seed ${seed}</h3><div class="maps">${value.map(mapPlot)}</div>`,
	);
	if (body.length === 0) return undefined;
	const about = markup`<p class="note">Items in the plane of largest variance of each space, before the alignment (CF, text) and behind it (joint, token space). Only nearness means anything: directions and units differ between the pictures. Crosses are cold items.</p>`;
	return { id: 'maps', title: 'Maps of items', body: [about, ...body] };
}

function mapPlot({ name, points }: ItemMap): Markup {
	const step = Math.max(1, points.length / MAP_POINTS);
	const shown = Array.from(
		{ length: Math.floor(points.length / step) },
		(_, at) => points[Math.floor(at * step)]!,
	);
	const part = shown.length < points.length ? `, ${shown.length} of ${points.length} items` : '';
	const kinds = [
		...SHADES.map((from, at) => ({ kind: `p${at}`, name: binName({ from, to: SHADES[at + 1] ?? null }) })),
		{ kind: 'cold', name: 'cold' },
	];
	const marked = shown.map(({ item, x, y, count, cold }) => ({
		x,
		y,
		label: item,
		kind: cold ? 'cold' : `p${SHADES.filter((from) => count >= from).length - 1}`,
		cells: [count, cold ? 'cold' : ''],
	}));
	const occurring = new Set(marked.map(({ kind }) => kind));
	return scatterPlot({
		title: `${TITLES[name]}${part}`,
		description: `${shown.length} items, of them ${shown.filter(({ cold }) => cold).length} cold, shaded by training interactions.`,
		points: marked,
		kinds: kinds.filter(({ kind }) => occurring.has(kind)),
		heads: ['training interactions', 'cold'],
	});
}

const TITLES: Record<ItemMap['name'], string> = {
	CF: 'CF embeddings',
	text: 'Text embeddings',
	joint: 'Joint embeddings',
	'token space': 'Token space',
};
