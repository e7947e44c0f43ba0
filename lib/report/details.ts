import type { Example, ExperimentResult } from '../experiment/results.js';
import { mean, type ResultGroup } from './aggregate.js';
import { decimal, figure } from './axis.js';
import { type Markup, markup, shortened } from './markup.js';
import { barPlot } from './plot.js';
import { longTitle, type Section } from './section.js';

/** Examples shown of one group. */
const EXAMPLES = 12;

export function examplesSection(groups: readonly ResultGroup[]): Section | undefined {
	const body = groups.flatMap((group) => {
		const cell = group.cells.find(({ examples = [] }) => examples.length > 0);
		if (!cell) return [];
		const shown = cell.examples!.slice(0, EXAMPLES);
		return [
			markup`<h3><bdi>${longTitle(group, groups)}</bdi>, seed ${cell.seed}</h3>${shown.map(exampleUser)}`,
		];
	});
	return body.length === 0 ? undefined : { id: 'examples', title: 'Example users', body };
}

function exampleUser({ user, history, prompt, list, explanation, tokens }: Example): Markup {
	const score = (value: number | null) => (value === null ? '–' : decimal(value, 3));
	const rows = list.map(
		({ title, score: total, cf, llm, fused, isTarget }, at) =>
			markup`<tr${isTarget && markup` class="target"`}><td class="text" data-value="${at + 1}">${at + 1}</td><th scope="row" class="wrap"><bdi>${title}</bdi>${isTarget && markup` <b>target</b>`}</th>${[total, cf, llm, fused].map((value) => markup`<td data-value="${value}">${score(value)}</td>`)}</tr>`,
	);
	return markup`<section class="example"><h4>User <bdi>${user}</bdi></h4>
<p class="note">History, oldest first:</p><ol class="history">${history.map((title) => markup`<li><bdi>${title}</bdi></li>`)}</ol>
<div class="scroll" tabindex="0" role="region" aria-label="List of user ${user}"><table class="sortable"><caption>Recommended, best first</caption>
<thead><tr><th scope="col">#</th><th scope="col" class="text">title</th><th scope="col">score</th><th scope="col">CF</th><th scope="col">LLM</th><th scope="col">fused</th></tr></thead><tbody>${rows}</tbody></table></div>
<details><summary>Prompt</summary><pre><bdi>${prompt}</bdi></pre></details>
${explanation && explanation.length > 0 && explanationPlots(user, explanation)}${tokens && tokens.length > 0 && nearestTokens(user, tokens)}</section>
`;
}

function nearestTokens(user: string, parts: NonNullable<Example['tokens']>): Markup {
	const rows = parts.map(
		({ part, nearest }) =>
			markup`<tr><th scope="row" class="wrap"><bdi>${part}</bdi></th><td class="text wrap">${nearest.map(({ token, similarity }) => markup`<code>${token}</code> ${decimal(similarity, 2)} `)}</td></tr>`,
	);
	return markup`<details><summary>Nearest tokens</summary><div class="scroll" tabindex="0" role="region" aria-label="Nearest tokens of user ${user}"><table><caption>Tokens nearest to what the language model is given, by cosine</caption>
<thead><tr><th scope="col" class="text">part</th><th scope="col" class="text">tokens</th></tr></thead><tbody>${rows}</tbody></table></div></details>`;
}

function explanationPlots(user: string, parts: NonNullable<Example['explanation']>): Markup[] {
	const plot = (title: string, description: string, field: 'leaveOneOut' | 'gradientTimesInput') =>
		barPlot({
			title: `${title}, user ${user}`,
			description: `${description} for each of ${parts.length} parts of the prompt.`,
			xLabel: 'what the part adds to the first item’s log-likelihood',
			bars: parts.map((part) => ({ label: part.part, value: part[field] })),
		});
	return [
		plot(
			'Explanation by leaving parts out',
			'Log-likelihood of the first item less that without the part,',
			'leaveOneOut',
		),
		plot('Explanation by gradient × input', 'Gradient times input,', 'gradientTimesInput'),
	];
}

/** Over-smoothing and quality of the alignment: mean over seeds. */
export function latentsSection(groups: readonly ResultGroup[]): Section | undefined {
	const body = groups.flatMap((group) => {
		const cells = group.cells.filter(({ latents }) => latents && Object.keys(latents).length > 0);
		if (cells.length === 0) return [];
		const variants = distinct(cells.map(({ latents }) => latents!));
		const names = distinct(cells.flatMap(({ latents }) => Object.values(latents!)));
		const rows = variants.map((variant) => [
			variant,
			...names.map((name) =>
				meanOf(
					cells.map(({ latents }) => (Object.hasOwn(latents!, variant) ? latents![variant] : undefined)),
					name,
				),
			),
		]);
		return [table(`Measures of the latents, ${longTitle(group, groups)}`, ['variant', ...names], rows)];
	});
	if (body.length === 0) return undefined;
	const about = markup`<p class="note">Over-smoothed latents are all alike: their mean cosine nears 1. Reconstruction errors tell what the joint embedding has lost. Means over seeds.</p>`;
	return { id: 'latents', title: 'Latents', body: [about, ...body] };
}

export function timingsSection(groups: readonly ResultGroup[]): Section {
	const body = groups.map((group) => {
		const stages = distinct(group.cells.map(({ timings = {} }) => timings)).map((name) => [
			name,
			'stage',
			meanOf(
				group.cells.map(({ timings }) => timings),
				name,
			),
		]);
		const models = group.labels.map((label) => {
			const cells = group.cells.filter((cell) => Object.hasOwn(cell.models, label));
			const seconds = mean(cells.map((cell) => cell.models[label]!.seconds));
			const users = mean(cells.map((cell) => cell.users.length));
			return [label, `scoring ${Math.round(users)} users`, seconds];
		});
		return table(`Seconds, ${longTitle(group, groups)}`, ['what', 'of', 'seconds'], [...stages, ...models]);
	});
	const about = markup`<p class="note">Wall-clock seconds on the machine that ran the experiment, means over seeds; work for other models may be shared.</p>`;
	return { id: 'timings', title: 'Timings', body: [about, ...body] };
}

/** What was run and with what. */
export function provenanceSection(groups: readonly ResultGroup[]): Section {
	const row = (group: ResultGroup, cell: ExperimentResult) =>
		markup`<tr><th scope="row"><code>${cell.key}</code></th><td class="text"><bdi>${longTitle(group, groups)}</bdi></td><td>${cell.seed}</td><td>${decimal(cell.users.length, 0)}</td><td class="wrap"><code>${shortened(JSON.stringify(cell.scenario.options), 200)}</code></td><td class="wrap">${cell.command && markup`<code>${cell.command}</code>`}</td></tr>`;
	const body = markup`<div class="scroll" tabindex="0" role="region" aria-label="Table: results"><table class="sortable"><caption>One file for each row</caption>
<thead><tr>${['result', 'group', 'seed', 'users', 'options', 'command'].map((name, at) => markup`<th scope="col"${![2, 3].includes(at) && markup` class="text"`}>${name}</th>`)}</tr></thead>
<tbody>${groups.flatMap((group) => group.cells.map((cell) => row(group, cell)))}</tbody></table></div>`;
	return { id: 'provenance', title: 'What was run', body };
}

function table(
	title: string,
	head: readonly string[],
	rows: readonly (readonly (string | number | undefined)[])[],
): Markup {
	const cell = (value: string | number | undefined) =>
		typeof value === 'string'
			? markup`<td class="text"><bdi>${value}</bdi></td>`
			: markup`<td data-value="${value}">${value === undefined ? '–' : figure(value)}</td>`;
	return markup`<div class="scroll" tabindex="0" role="region" aria-label="Table: ${title}"><table class="sortable"><caption><bdi>${title}</bdi></caption>
<thead><tr>${head.map((name, at) => markup`<th scope="col"${typeof rows[0]?.[at] === 'string' && markup` class="text"`}><bdi>${name}</bdi></th>`)}</tr></thead>
<tbody>${rows.map(([name, ...cells]) => markup`<tr><th scope="row"><bdi>${name}</bdi></th>${cells.map(cell)}</tr>`)}</tbody></table></div>
`;
}

function distinct(records: readonly object[]): string[] {
	return [...new Set(records.flatMap((record) => Object.keys(record)))];
}

function meanOf(records: readonly (Record<string, number> | undefined)[], name: string): number | undefined {
	const values = records.flatMap((record) => (record && Object.hasOwn(record, name) ? record[name]! : []));
	return values.length === 0 ? undefined : mean(values);
}
