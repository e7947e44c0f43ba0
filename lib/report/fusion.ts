import type { Steps } from '../event-loop.js';
import type { CalibrationBin } from '../experiment/results.js';
import {
	compareWithParts,
	familyOf,
	LEVEL,
	METRIC_NAMES,
	type PartsComparison,
	type ResultGroup,
} from './aggregate.js';
import { decimal } from './axis.js';
import { binName, withPart } from './figures.js';
import { type Markup, markup } from './markup.js';
import { linePlot } from './plot.js';
import { longTitle, type Section } from './section.js';

/** Is a fusion worth its two models, and how does it weigh them? */
export function* fusionSection(
	groups: readonly ResultGroup[],
	resamples: number,
): Steps<Section | undefined> {
	const tables: Markup[] = [];
	for (const group of groups)
		for (const label of group.labels) {
			if (familyOf(group, label) !== 'fused') continue;
			const compared = yield* compareWithParts(group, label, resamples);
			if (compared.length > 0) tables.push(partsTable(label, longTitle(group, groups), compared));
		}
	const plots = withPart(groups, 'calibration').map(({ title, seed, value }) =>
		calibrationPlot(title, seed, value),
	);
	if (tables.length + plots.length === 0) return undefined;
	const against = markup`<p class="note">A fusion against the better of the two models it is made of, in each slice: the one that is better there, and how far the fusion is above it, with a 95 % interval (paired bootstrap over users). <span class="up">▲</span> and <span class="down">▼</span>: significantly above or below (Holm’s adjustment over the lines of a table, p &lt; ${LEVEL}).</p>`;
	const gate = markup`<p class="note">The gate gives CF more weight the more often an item was seen in training. It is well set where the fused line keeps to the better of the two others.</p>`;
	const body = [tables.length > 0 && [against, ...tables], plots.length > 0 && [gate, ...plots]];
	return { id: 'calibration', title: 'Fusion', body: body.flatMap((part) => part || []) };
}

function partsTable(label: string, title: string, compared: readonly PartsComparison[]): Markup {
	const row = ({ slice, metric, fused, part, difference, low, high, adjusted }: PartsComparison) =>
		markup`<tr><th scope="row"><bdi>${slice}</bdi></th><td class="text">${METRIC_NAMES[metric]}</td><td data-value="${fused.value}">${decimal(fused.value, 4)}</td><td class="text"><bdi>${part}</bdi></td><td data-value="${fused.value - difference}">${decimal(fused.value - difference, 4)}</td><td data-value="${difference}">${difference > 0 && '+'}${decimal(difference, 4)}${fusionMark(difference, adjusted)} <span class="interval">[${decimal(low, 3)}, ${decimal(high, 3)}]</span></td><td>${fused.users}</td></tr>`;
	return markup`<div class="scroll" tabindex="0" role="region" aria-label="Table: ${label} against its parts, ${title}"><table class="sortable"><caption><b><bdi>${label}</bdi></b> against its parts, <bdi>${title}</bdi></caption>
<thead><tr><th scope="col">slice</th><th scope="col" class="text">metric</th><th scope="col">fused</th><th scope="col" class="text">better part</th><th scope="col">its value</th><th scope="col">Δ</th><th scope="col">users</th></tr></thead>
<tbody>${compared.map(row)}</tbody></table></div>
`;
}

function fusionMark(difference: number, adjusted: number): Markup {
	if (!(adjusted < LEVEL)) return markup`<span class="mark"></span>`;
	return difference > 0
		? markup`<span class="mark up" title="significantly above the better part">▲</span>`
		: markup`<span class="mark down" title="significantly below the better part">▼</span>`;
}

function calibrationPlot(title: string, seed: number, bins: readonly CalibrationBin[]): Markup {
	const line = (name: string, field: 'weight' | 'cf' | 'llm' | 'fused') => ({
		name,
		dashed: field === 'weight',
		points: bins.map((bin, x) => ({ x, y: bin[field] })),
	});
	return linePlot({
		title: `Calibration of the fusion gate, ${title}, seed ${seed}`,
		description: `Weight of CF and Hit@1 of CF, language model and fusion over ${bins.length} bins of popularity.`,
		xLabel: 'training interactions of the target',
		yLabel: 'Hit@1, weight',
		categories: bins.map(({ from, to }) => binName({ from, to: to === null ? null : to + 1 })),
		series: [
			line('CF', 'cf'),
			line('language model', 'llm'),
			line('fused', 'fused'),
			line('weight of CF', 'weight'),
		],
		range: [0, 1],
	});
}
