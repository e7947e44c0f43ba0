import { ALLMRecError, invalidArgument } from '../errors.js';
import { type MetricName, metricValues } from '../evaluation/metrics.js';
import { bootstrapMean, type Estimate, holm, pairedBootstrap } from '../evaluation/statistics.js';
import type { Steps } from '../event-loop.js';
import { type ExperimentResult, type ModelFamily, SCENARIO_KINDS } from '../experiment/results.js';

/** Cells that differ in their seed alone, or in the models they evaluate. */
export interface ResultGroup {
	experiment: string;
	dataset: ExperimentResult['dataset'];
	scenario: ExperimentResult['scenario'];
	negatives: number | null;
	/** By seed. */
	cells: ExperimentResult[];
	/** Of models, in the order of their first cell. */
	labels: string[];
	/** The others are compared with it. */
	reference: string;
}

/**
 * @param reference label of the model to compare with; default A-LLMRec, else the first aligned model, else the first
 * @throws ERR_ALLMREC_INVALID_ARGUMENT where two cells are the same, or no group has the reference
 * @returns by experiment, data set and scenario
 */
export function groupResults(results: readonly ExperimentResult[], reference?: string): ResultGroup[] {
	const groups = new Map<string, ExperimentResult[]>();
	for (const result of results) {
		const { experiment, dataset, scenario, negatives } = result;
		const key = JSON.stringify([
			experiment,
			dataset,
			scenario.kind,
			scenario.name,
			scenario.options,
			negatives,
		]);
		groups.set(key, [...(groups.get(key) ?? []), result]);
	}
	if (reference !== undefined && !results.some((result) => Object.hasOwn(result.models, reference)))
		invalidArgument('reference', 'a model of the results', reference);
	const found = [...groups.values()].map((cells) => {
		cells.sort((a, b) => a.seed - b.seed);
		expectOnce(cells);
		const { experiment, dataset, scenario, negatives } = cells[0]!;
		const labels = [...new Set(cells.flatMap((cell) => Object.keys(cell.models)))];
		const group = { experiment, dataset, scenario, negatives, cells, labels, reference: labels[0]! };
		return { ...group, reference: chooseReference(group, reference) };
	});
	return found.sort(inOrder);
}

/** By experiment and data set, the whole before its variants, and `K = 64` before `K = 128`. */
function inOrder(a: ResultGroup, b: ResultGroup): number {
	const names = new Intl.Collator('en', { numeric: true });
	const kind = ({ scenario }: ResultGroup) => SCENARIO_KINDS.indexOf(scenario.kind);
	return (
		names.compare(a.experiment, b.experiment) ||
		names.compare(a.dataset.name, b.dataset.name) ||
		kind(a) - kind(b) ||
		names.compare(a.scenario.name, b.scenario.name) ||
		(a.negatives ?? Number.MAX_SAFE_INTEGER) - (b.negatives ?? Number.MAX_SAFE_INTEGER)
	);
}

function expectOnce(cells: readonly ExperimentResult[]): void {
	const seen = new Map<string, string>();
	for (const { key, seed, models } of cells)
		for (const label of Object.keys(models)) {
			const before = seen.get(`${seed} ${label}`);
			if (before !== undefined)
				throw new ALLMRecError(
					'ERR_ALLMREC_INVALID_ARGUMENT',
					`The results \`${before}\` and \`${key}\` are of the same experiment, data set, scenario, seed and model (${label}); give only one of their folders.`,
				);
			seen.set(`${seed} ${label}`, key);
		}
}

function chooseReference(group: ResultGroup, wanted?: string): string {
	const { labels } = group;
	if (wanted !== undefined && labels.includes(wanted)) return wanted;
	if (labels.includes('A-LLMRec')) return 'A-LLMRec';
	return labels.find((label) => familyOf(group, label) === 'aligned') ?? labels[0]!;
}

export function familyOf({ cells }: ResultGroup, label: string): ModelFamily {
	return cells.find((cell) => Object.hasOwn(cell.models, label))!.models[label]!.family;
}

/** Which rows of a cell count. */
export type Rows = (cell: ExperimentResult) => readonly number[];

/** Seed → user → value of a metric. */
type SeedValues = Map<number, Map<number, number>>;

/** A metric of one model, by seed and user. */
function seedValues(group: ResultGroup, label: string, metric: MetricName, rows: Rows): SeedValues {
	const seeds: SeedValues = new Map();
	for (const cell of group.cells) {
		if (!Object.hasOwn(cell.models, label)) continue;
		const { greater, ties } = cell.models[label]!.ranks;
		const chosen = rows(cell);
		if (chosen.length === 0) continue;
		const values = metricValues(
			{
				greater: Int32Array.from(chosen, (row) => greater[row]!),
				ties: Int32Array.from(chosen, (row) => ties[row]!),
			},
			metric,
		);
		seeds.set(cell.seed, new Map(chosen.map((row, at) => [cell.users[row]!, values[at]!])));
	}
	return seeds;
}

/** Each user's mean over the seeds that have this user. */
function userMeans(seeds: SeedValues): Map<number, number> {
	const sums = new Map<number, { sum: number; count: number }>();
	for (const users of seeds.values())
		for (const [user, value] of users) {
			const before = sums.get(user) ?? { sum: 0, count: 0 };
			sums.set(user, { sum: before.sum + value, count: before.count + 1 });
		}
	return new Map([...sums].map(([user, { sum, count }]) => [user, sum / count]));
}

/** Two models' means of the same users over the same seeds. */
function pairs(a: SeedValues, b: SeedValues): [Float64Array, Float64Array] {
	const common = (from: SeedValues, other: SeedValues): SeedValues =>
		new Map(
			[...from]
				.filter(([seed]) => other.has(seed))
				.map(([seed, users]) => [seed, new Map([...users].filter(([user]) => other.get(seed)!.has(user)))]),
		);
	const first = userMeans(common(a, b));
	const second = userMeans(common(b, a));
	const users = [...first.keys()];
	return [
		Float64Array.from(users, (user) => first.get(user)!),
		Float64Array.from(users, (user) => second.get(user)!),
	];
}

/** A metric of one model over users and seeds. */
export interface Aggregate extends Estimate {
	/** Over users, each the mean of its seeds. */
	users: number;
	/** Mean of the seeds' means, and their standard deviation (n − 1); undefined of a single seed. */
	seeds: { count: number; mean: number; deviation: number | undefined };
}

/** Less than the reference's, in units of the metric; `adjusted` by Holm over the models of the table. */
export interface Comparison {
	difference: number;
	pValue: number;
	adjusted: number;
}

export interface TableRow {
	label: string;
	family: ModelFamily;
	metrics: Record<TableMetric, Aggregate>;
	/** Not of the reference itself, nor where no user is common. */
	comparisons?: Record<TableMetric, Comparison>;
}

/** What tables show, with intervals and tests. */
export const TABLE_METRICS = ['hit@1', 'hit@10', 'ndcg@10', 'mrr'] as const;
export type TableMetric = (typeof TABLE_METRICS)[number];

/** Level of the marks, after Holm's adjustment. */
export const LEVEL = 0.05;

/** Models without users among the rows are left out. */
export function* aggregateTable(group: ResultGroup, rows: Rows, resamples: number): Steps<TableRow[]> {
	const options = { resamples };
	const reference: Partial<Record<TableMetric, SeedValues>> = {};
	const table: TableRow[] = [];
	for (const label of [group.reference, ...group.labels.filter((label) => label !== group.reference)]) {
		const metrics = {} as Record<TableMetric, Aggregate>;
		const comparisons = {} as Record<TableMetric, Comparison>;
		for (const metric of TABLE_METRICS) {
			const seeds = seedValues(group, label, metric, rows);
			const means = Float64Array.from(userMeans(seeds).values());
			if (means.length === 0) break;
			const estimate = yield* bootstrapMean(means, options);
			metrics[metric] = { ...estimate, users: means.length, seeds: overSeeds(seeds) };
			if (label === group.reference) reference[metric] = seeds;
			else if (reference[metric]) {
				const [a, b] = pairs(seeds, reference[metric]);
				if (a.length > 0) {
					const { difference, pValue } = yield* pairedBootstrap(a, b, options);
					comparisons[metric] = { difference, pValue, adjusted: Number.NaN };
				}
			}
		}
		if (Object.keys(metrics).length === 0) continue;
		const row: TableRow = { label, family: familyOf(group, label), metrics };
		table.push(Object.keys(comparisons).length === 0 ? row : { ...row, comparisons });
	}
	adjust(table);
	return table.sort((a, b) => group.labels.indexOf(a.label) - group.labels.indexOf(b.label));
}

function adjust(table: readonly TableRow[]): void {
	const compared = table.flatMap(({ comparisons }) => comparisons ?? []);
	for (const metric of TABLE_METRICS)
		for (const [at, adjusted] of holm(compared.map((row) => row[metric].pValue)).entries())
			compared[at]![metric].adjusted = adjusted;
}

function overSeeds(seeds: SeedValues): Aggregate['seeds'] {
	const means = [...seeds.values()].map((users) => mean([...users.values()]));
	const centre = mean(means);
	const squares = means.reduce((sum, value) => sum + (value - centre) ** 2, 0);
	const deviation = means.length > 1 ? Math.sqrt(squares / (means.length - 1)) : undefined;
	return { count: means.length, mean: centre, deviation };
}

export function mean(values: readonly number[]): number {
	return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Hit@1 of one model among some rows; undefined without any. */
export function* hit1(
	group: ResultGroup,
	label: string,
	rows: Rows,
	resamples: number,
): Steps<Aggregate | undefined> {
	const seeds = seedValues(group, label, 'hit@1', rows);
	const means = Float64Array.from(userMeans(seeds).values());
	if (means.length === 0) return undefined;
	const estimate = yield* bootstrapMean(means, { resamples });
	return { ...estimate, users: means.length, seeds: overSeeds(seeds) };
}

/** Every evaluated user. */
export const everyRow: Rows = (cell) => cell.users.map((_, row) => row);

/** Slices of all cells, `overall` first, with how they are described. */
export function slicesOf({ cells }: ResultGroup): { name: string; description: string; rows: Rows }[] {
	const found = new Map([['overall', 'every evaluated user']]);
	for (const cell of cells)
		for (const [name, { description, rows }] of Object.entries(cell.slices))
			if (rows.length > 0 && !found.has(name)) found.set(name, description);
	return [...found].map(([name, description]) => ({
		name,
		description,
		rows: (cell) => {
			if (Object.hasOwn(cell.slices, name)) return cell.slices[name]!.rows;
			return name === 'overall' ? everyRow(cell) : [];
		},
	}));
}
