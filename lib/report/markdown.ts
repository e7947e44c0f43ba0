import type { Steps } from '../event-loop.js';
import {
	aggregateTable,
	type Comparison,
	compareWithParts,
	familyOf,
	groupResults,
	LEVEL,
	METRIC_NAMES,
	mean,
	type ResultGroup,
	slicesOf,
	TABLE_METRICS,
} from './aggregate.js';
import { decimal, figure } from './axis.js';
import { PAPER, paperHit1 } from './paper.js';
import type { ReportOptions } from './report.js';
import { groupTitle } from './section.js';

/**
 * The tables of a report in Markdown: figures over users and seeds, and nothing of single users or items, so that they
 * may be published where the data may not.
 */
export function* renderTables(
	results: Parameters<typeof groupResults>[0],
	{ title, reference, resamples = 2000 }: ReportOptions = {},
): Steps<string> {
	const groups = groupResults(results, reference);
	const experiments = [...new Set(groups.map(({ experiment }) => experiment))];
	const parts = [
		`# ${title ?? `Results of ${experiments.join(', ')}`}`,
		`Means over users, each user being the mean of the seeds, with 95 % bootstrap intervals over users. ▲ and ▼: significantly above or below the reference (paired bootstrap, Holm over the models of a table, p < ${LEVEL}). *Over seeds*: mean and standard deviation of the seeds’ Hit@1. *Paper’s*: not ours but ${PAPER}.`,
	];
	for (const group of groups) {
		parts.push(`## ${experiments.length > 1 ? `${group.experiment}: ` : ''}${groupTitle(group)}`);
		if (group.scenario.kind === 'genres') {
			parts.push(genresTable(group));
			continue;
		}
		for (const { name, description, rows } of slicesOf(group)) {
			const table = yield* sliceTable(group, name, rows, resamples);
			if (table !== undefined) parts.push(`**${name}**: ${description}; ${table.about}`, table.text);
		}
		for (const label of group.labels) {
			if (familyOf(group, label) !== 'fused') continue;
			const text = yield* partsTable(group, label, resamples);
			if (text !== undefined) parts.push(`**${label}** against the better of its parts`, text);
		}
		parts.push(...latentsTable(group));
	}
	return `${parts.join('\n\n')}\n`;
}

function* sliceTable(
	group: ResultGroup,
	slice: string,
	rows: Parameters<typeof aggregateTable>[1],
	resamples: number,
): Steps<{ about: string; text: string } | undefined> {
	const table = yield* aggregateTable(group, rows, resamples);
	if (table.length === 0) return undefined;
	const { dataset, scenario, negatives, reference } = group;
	const published = table.map(({ label }) =>
		paperHit1({ dataset: dataset.name, scenario: scenario.kind, slice, negatives, model: label }),
	);
	const anyPublished = published.some((value) => value !== undefined);
	const users = Math.max(...table.map(({ metrics }) => metrics.mrr.users));
	const seeds = Math.max(...table.map(({ metrics }) => metrics.mrr.seeds.count));
	const lines = table.map(({ label, metrics, comparisons }, at) => {
		const { mean, deviation } = metrics['hit@1'].seeds;
		return [
			label === reference ? `**${label}**` : label,
			...TABLE_METRICS.map((metric) => {
				const { value, low, high } = metrics[metric];
				const interval = metric === 'hit@1' ? ` [${decimal(low, 3)}, ${decimal(high, 3)}]` : '';
				return `${decimal(value, 3)}${mark(comparisons?.[metric])}${interval}`;
			}),
			deviation === undefined ? decimal(mean, 3) : `${decimal(mean, 3)} ± ${decimal(deviation, 3)}`,
			...(anyPublished ? [published[at] === undefined ? '' : decimal(published[at], 4)] : []),
		];
	});
	const head = ['model', ...TABLE_METRICS.map((metric) => METRIC_NAMES[metric]), 'over seeds'];
	const against = negatives === null ? 'the whole catalogue' : `${negatives} negatives`;
	return {
		about: `${users} users, ${seeds} ${seeds === 1 ? 'seed' : 'seeds'}, target against ${against}`,
		text: markdownTable(anyPublished ? [...head, 'paper’s'] : head, lines),
	};
}

function mark(comparison: Comparison | undefined): string {
	if (!comparison || !(comparison.adjusted < LEVEL)) return '';
	return comparison.difference > 0 ? ' ▲' : ' ▼';
}

function* partsTable(group: ResultGroup, label: string, resamples: number): Steps<string | undefined> {
	const compared = yield* compareWithParts(group, label, resamples);
	if (compared.length === 0) return undefined;
	return markdownTable(
		['slice', 'metric', 'fused', 'better part', 'its value', 'difference'],
		compared.map(({ slice, metric, fused, part, difference, low, high, adjusted }) => [
			slice,
			METRIC_NAMES[metric],
			decimal(fused.value, 3),
			part,
			decimal(fused.value - difference, 3),
			`${decimal(difference, 3)}${mark({ difference, pValue: adjusted, adjusted })} [${decimal(low, 3)}, ${decimal(high, 3)}]`,
		]),
	);
}

/** Over the seeds; intervals are those of the first. */
function genresTable({ cells }: ResultGroup): string {
	const labels = [...new Set(cells.flatMap(({ genres = {} }) => Object.keys(genres)))];
	return markdownTable(
		['model', 'share of the genres named that later items have', 'over seeds', 'users'],
		labels.map((label) => {
			const found = cells.flatMap(({ genres }) => genres?.[label] ?? []);
			const [first] = found;
			const { value, low, high, users } = first!;
			return [
				label,
				`${decimal(value, 3)} [${decimal(low, 3)}, ${decimal(high, 3)}]`,
				decimal(mean(found.map((score) => score.value)), 3),
				String(users),
			];
		}),
	);
}

function latentsTable({ cells }: ResultGroup): string[] {
	const all = cells.map(({ latents = {} }) => latents);
	const variants = [...new Set(all.flatMap((latents) => Object.keys(latents)))];
	if (variants.length === 0) return [];
	const of = (variant: string) => all.map((latents) => latents[variant] ?? {});
	const names = [
		...new Set(variants.flatMap((variant) => of(variant).flatMap((measures) => Object.keys(measures)))),
	];
	const lines = variants.map((variant) => [
		variant,
		...names.map((name) => {
			const values = of(variant).flatMap((measures) => measures[name] ?? []);
			return values.length === 0 ? '' : figure(mean(values));
		}),
	]);
	return ['**Latents**, means over seeds', markdownTable(['variant', ...names], lines)];
}

function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
	const line = (cells: readonly string[]) =>
		`| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
	return [
		line(head),
		`|${head.map((_, at) => (at === 0 ? '---' : '--:')).join('|')}|`,
		...rows.map(line),
	].join('\n');
}
