import type { EvaluationResult, TestedMetric } from './evaluation.js';

export interface FormatEvaluationOptions {
	/** Slices to print, in this order; default every slice that has users. */
	slices?: readonly string[] | undefined;
}

const columns: { title: string; metric: TestedMetric; interval: boolean }[] = [
	{ title: 'Hit@1', metric: 'hit@1', interval: true },
	{ title: 'NDCG@10', metric: 'ndcg@10', interval: false },
	{ title: 'MRR', metric: 'mrr', interval: false },
];

/** Fewer cannot differ significantly, however they differ, and their bootstrap intervals mean nothing. */
const fewestUsers = 6;

/** Level of the marks, after Holm's adjustment. */
const level = 0.05;

/**
 * A text table per slice, models as rows. `▲` and `▼` mark a mean significantly above or below the reference's: paired
 * bootstrap, p < 0.05 after Holm over the models of the slice.
 */
export function formatEvaluation(result: EvaluationResult, options: FormatEvaluationOptions = {}): string {
	const { protocol, reference } = result;
	const slices =
		options.slices ?? Object.keys(result.slices).filter((name) => result.slices[name]!.users > 0);
	const against = protocol.negatives === null ? 'the whole catalogue' : `${protocol.negatives} negatives`;
	const lines = [
		`${protocol.users} users, the target against ${against}, seed ${protocol.seed}. In brackets: ` +
			`${protocol.confidence * 100} % bootstrap interval. ▲ ▼: differs from ${reference} (paired bootstrap, Holm, p < ${level}).`,
	];
	for (const slice of slices) {
		const about = result.slices[slice];
		if (!about) continue;
		lines.push(
			'',
			`${slice} (${about.users} user${about.users === 1 ? '' : 's'}${about.users < fewestUsers ? ', not enough for intervals and tests' : ''}): ${about.description}`,
		);
		const rows = Object.keys(result.models).map((model) => [
			model === reference ? `${model} (reference)` : model,
			...columns.map((column) => cell(result, slice, model, column)),
		]);
		lines.push(...alignColumns([['model', ...columns.map(({ title }) => title)], ...rows]));
	}
	return `${lines.join('\n')}\n`;
}

function cell(
	result: EvaluationResult,
	slice: string,
	model: string,
	{ metric, interval }: (typeof columns)[number],
): string {
	const estimate = result.models[model]!.slices[slice]?.metrics[metric];
	if (!estimate) return '–';
	const range =
		interval && result.slices[slice]!.users >= fewestUsers
			? ` [${estimate.low.toFixed(4)}, ${estimate.high.toFixed(4)}]`
			: '';
	return `${estimate.value.toFixed(4)}${range}${mark(result, slice, model, metric)}`;
}

function mark(result: EvaluationResult, slice: string, model: string, metric: TestedMetric): string {
	const test = result.tests.find(
		(candidate) =>
			candidate.slice === slice && candidate.model === model && candidate.reference === result.reference,
	);
	if (!test || test.differences[metric].adjusted >= level) return '';
	return test.differences[metric].difference > 0 ? ' ▲' : ' ▼';
}

function alignColumns(rows: string[][]): string[] {
	const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
	return rows.map((row) =>
		row
			.map((text, column) => text.padEnd(widths[column]!))
			.join('  ')
			.trimEnd(),
	);
}
