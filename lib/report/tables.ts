import type { Steps } from '../event-loop.js';
import {
	type Aggregate,
	aggregateTable,
	type Comparison,
	LEVEL,
	METRIC_NAMES,
	type ResultGroup,
	slicesOf,
	TABLE_METRICS,
	type TableRow,
} from './aggregate.js';
import { decimal } from './axis.js';
import { type Markup, markup } from './markup.js';
import { PAPER, PAPER_TABLES, paperDataset, paperHit1 } from './paper.js';
import { barPlot, COLORS } from './plot.js';
import { longTitle, type Section } from './section.js';

/** A plot of each group and a table of each of its slices. */
export function* resultsSection(groups: readonly ResultGroup[], resamples: number): Steps<Section> {
	const body: Markup[] = [
		markup`<p class="note">A value is the mean over users, each user being the mean of the seeds. In brackets: 95 % bootstrap interval over users. <span class="up">▲</span> and <span class="down">▼</span>: significantly above or below the reference, which is set in heavier type (paired bootstrap over users, Holm’s adjustment over the models of a table, p &lt; ${LEVEL}). <em>Over seeds</em> is the mean of the seeds’ means with their standard deviation; Δ is the difference to the reference. Best values are <b class="best">bold</b>. <span class="theirs">Slanted</span> figures are not ours but those of the paper, ${PAPER}.</p>`,
	];
	for (const group of groups) {
		const title = longTitle(group, groups);
		body.push(markup`<h3><bdi>${title}</bdi></h3>`);
		for (const { name, description, rows } of slicesOf(group)) {
			const table = yield* aggregateTable(group, rows, resamples);
			if (table.length === 0) continue;
			if (name === 'overall') body.push(overview(group, title, table));
			body.push(sliceTable(group, title, name, description, table));
		}
	}
	return { id: 'results', title: 'Results', body };
}

function overview(group: ResultGroup, title: string, table: readonly TableRow[]): Markup {
	return barPlot({
		title: `Hit@1, ${title}`,
		description: `Horizontal bars of ${table.length} models with 95 % intervals, from ${decimal(Math.min(...table.map(({ metrics }) => metrics['hit@1'].value)), 3)} to ${decimal(Math.max(...table.map(({ metrics }) => metrics['hit@1'].value)), 3)}.`,
		xLabel: 'Hit@1',
		bars: table.map(({ label, metrics }) => {
			const { value, low, high } = metrics['hit@1'];
			return { label, value, low, high, color: group.labels.indexOf(label) % COLORS };
		}),
	});
}

function sliceTable(
	group: ResultGroup,
	title: string,
	slice: string,
	description: string,
	table: readonly TableRow[],
): Markup {
	const { dataset, scenario, negatives, reference } = group;
	const users = Math.max(...table.map(({ metrics }) => metrics.mrr.users));
	const seeds = Math.max(...table.map(({ metrics }) => metrics.mrr.seeds.count));
	const published = table.map(({ label }) =>
		paperHit1({ dataset: dataset.name, scenario: scenario.kind, slice, negatives, model: label }),
	);
	const anyPublished = published.some((value) => value !== undefined);
	const best = Object.fromEntries(
		TABLE_METRICS.map((metric) => [metric, Math.max(...table.map(({ metrics }) => metrics[metric].value))]),
	);
	const rows = table.map(({ label, family, metrics, comparisons }, at) => {
		const { mean, deviation, count } = metrics['hit@1'].seeds;
		const cells = TABLE_METRICS.map((metric) =>
			metricCell(metrics[metric], comparisons?.[metric], metrics[metric].value === best[metric]),
		);
		const theirs = published[at];
		return markup`<tr${label === reference && markup` class="reference"`}><th scope="row"><bdi>${label}</bdi> <span class="family">${family}</span></th>${cells}
<td data-value="${mean}">${decimal(mean, 4)}${deviation === undefined ? markup` <span class="interval">one seed</span>` : markup` ± ${decimal(deviation, 4)} <span class="interval">${count} seeds</span>`}</td>
${comparisonCell(comparisons?.['hit@1'])}
${anyPublished && markup`<td class="theirs" data-value="${theirs}">${theirs === undefined ? '' : decimal(theirs, 4)}</td>`}</tr>`;
	});
	const against = negatives === null ? 'the whole catalogue' : `${negatives} negatives`;
	return markup`<div class="scroll" tabindex="0" role="region" aria-label="Table: ${title}, ${slice}"><table class="sortable">
<caption><b><bdi>${slice}</bdi></b>: <bdi>${description}</bdi>; ${users} users, ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}, target against ${against}; reference <bdi>${reference}</bdi></caption>
<thead><tr><th scope="col">model</th>${TABLE_METRICS.map((metric) => markup`<th scope="col">${METRIC_NAMES[metric]}</th>`)}<th scope="col">over seeds</th><th scope="col">Δ Hit@1</th>${anyPublished && markup`<th scope="col">paper’s</th>`}</tr></thead>
<tbody>${rows}</tbody></table></div>
`;
}

function metricCell(
	{ value, low, high }: Aggregate,
	comparison: Comparison | undefined,
	best: boolean,
): Markup {
	return markup`<td data-value="${value}"${best && markup` class="best"`}>${decimal(value, 4)}${mark(comparison)} <span class="interval">[${decimal(low, 3)}, ${decimal(high, 3)}]</span></td>`;
}

function mark(comparison: Comparison | undefined): Markup {
	if (!comparison || !(comparison.adjusted < LEVEL)) return markup`<span class="mark"></span>`;
	return comparison.difference > 0
		? markup`<span class="mark up" title="significantly above the reference">▲</span>`
		: markup`<span class="mark down" title="significantly below the reference">▼</span>`;
}

function comparisonCell(comparison: Comparison | undefined): Markup {
	if (!comparison) return markup`<td data-value=""></td>`;
	const { difference, adjusted } = comparison;
	const p = adjusted < 0.0005 ? 'p < 0.001' : `p = ${decimal(adjusted, 3)}`;
	return markup`<td data-value="${difference}">${difference > 0 && '+'}${decimal(difference, 4)} <span class="interval">${p}</span></td>`;
}

/** Variants of one experiment against each other: ablations, sweeps, shuffles, few-shot sizes. */
export function* variantsSection(
	groups: readonly ResultGroup[],
	resamples: number,
): Steps<Section | undefined> {
	const families = new Map<string, ResultGroup[]>();
	for (const group of groups) {
		const key = JSON.stringify([group.experiment, group.dataset.name, group.scenario.kind, group.negatives]);
		families.set(key, [...(families.get(key) ?? []), group]);
	}
	const body: Markup[] = [];
	for (const variants of families.values()) {
		if (variants.length < 2) continue;
		const [{ experiment, dataset, scenario, negatives, reference }] = variants as [ResultGroup];
		const whole = groups.filter(
			(group) =>
				group.scenario.kind === 'overall' &&
				group.experiment === experiment &&
				group.dataset.name === dataset.name &&
				group.negatives === negatives,
		);
		const bars = [];
		for (const group of scenario.kind === 'overall' ? variants : [...whole, ...variants]) {
			const rows = slicesOf(group)[0]!.rows;
			const row = (yield* aggregateTable({ ...group, labels: [group.reference] }, rows, resamples))[0];
			if (row)
				bars.push({
					label: group.scenario.name,
					color: whole.includes(group) ? 3 : 0,
					...row.metrics['hit@1'],
				});
		}
		const models = new Set(variants.map((group) => group.reference));
		body.push(
			barPlot({
				title: `Hit@1 of ${models.size === 1 ? reference : 'the reference'} by variant, ${dataset.name}, ${scenario.kind}`,
				description: `Horizontal bars of ${bars.length} variants with 95 % intervals.`,
				xLabel: 'Hit@1',
				bars,
			}),
		);
	}
	return body.length === 0 ? undefined : { id: 'variants', title: 'Variants', body };
}

/** All published figures, whether ours stand beside them or not. */
export function paperSection(groups: readonly ResultGroup[]): Section {
	const matched = [...new Set(groups.map(({ dataset }) => dataset.name))].filter(paperDataset);
	const about =
		matched.length > 0
			? markup`Of these data sets the paper’s Hit@1 also stands beside ours: <bdi>${matched.join(', ')}</bdi>.`
			: 'No data set of this page is one of the paper’s, so none of these figures can be compared with ours.';
	const tables = PAPER_TABLES.map(
		({
			title,
			columns,
			rows,
			source,
		}) => markup`<div class="scroll" tabindex="0" role="region" aria-label="Table: ${title}"><table class="published">
<caption><b>${title}</b>; theirs: ${source}</caption><thead><tr><th scope="col"></th>${columns.map((name) => markup`<th scope="col">${name}</th>`)}</tr></thead>
<tbody>${rows.map(({ name, values }) => markup`<tr><th scope="row">${name}</th>${values.map((value) => markup`<td class="theirs">${value ?? '–'}</td>`)}</tr>`)}</tbody></table></div>
`,
	);
	const body = [
		markup`<p class="note">Not measured here: Hit@1 with 1 target and 19 negatives as published in ${PAPER}, unless a table says otherwise. The paper’s protocol looks for the answer in generated text; ours ranks candidates by likelihood. ${about}</p>`,
		...tables,
	];
	return { id: 'paper', title: 'The paper’s figures', body };
}
