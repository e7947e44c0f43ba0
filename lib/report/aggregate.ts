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

/** Seed → (users of the group) value of a metric; NaN where the seed does not have the user. */
type SeedValues = Map<number, Float64Array>;

/** Users of a group's cells, numbered; by cell, which number the user of each row has. */
interface Numbering {
	users: number;
	numbers: Map<ExperimentResult, Int32Array>;
}

const numberings = new WeakMap<readonly ExperimentResult[], Numbering>();

function numberUsers(cells: readonly ExperimentResult[]): Numbering {
	const known = numberings.get(cells);
	if (known) return known;
	const found = new Map<number, number>();
	const numbers = new Map<ExperimentResult, Int32Array>();
	for (const cell of cells) {
		for (const user of cell.users) if (!found.has(user)) found.set(user, found.size);
		numbers.set(
			cell,
			Int32Array.from(cell.users, (user) => found.get(user)!),
		);
	}
	const numbering = { users: found.size, numbers };
	numberings.set(cells, numbering);
	return numbering;
}

/** A metric of one model, by seed and user. Seeds without any of the rows are left out. */
function* seedValues(group: ResultGroup, label: string, metric: MetricName, rows: Rows): Steps<SeedValues> {
	const seeds: SeedValues = new Map();
	const { users, numbers } = numberUsers(group.cells);
	for (const cell of group.cells) {
		if (!Object.hasOwn(cell.models, label)) continue;
		const { greater, ties } = cell.models[label]!.ranks;
		const chosen = Int32Array.from(rows(cell));
		if (chosen.length === 0) continue;
		const ranks = { greater: chosen.map((row) => greater[row]!), ties: chosen.map((row) => ties[row]!) };
		yield;
		const values = metricValues(ranks, metric);
		const byUser = new Float64Array(users).fill(Number.NaN);
		const numbered = numbers.get(cell)!;
		for (const [at, row] of chosen.entries()) byUser[numbered[row]!] = values[at]!;
		seeds.set(cell.seed, byUser);
		yield;
	}
	return seeds;
}

/** Each user's mean over the seeds that have this user; without the users that none has. */
function userMeans(seeds: readonly Float64Array[]): Float64Array {
	const means = new Float64Array(seeds[0]?.length ?? 0);
	for (let user = 0; user < means.length; user++) {
		let [sum, count] = [0, 0];
		for (const values of seeds) {
			if (Number.isNaN(values[user]!)) continue;
			sum += values[user]!;
			count++;
		}
		means[user] = sum / count;
	}
	return present(means);
}

function present(values: Float64Array): Float64Array {
	return values.filter((value) => !Number.isNaN(value));
}

/** Two models' means of the same users over the same seeds. */
function pairs(a: SeedValues, b: SeedValues): [Float64Array, Float64Array] {
	const common = [...a.keys()].filter((seed) => b.has(seed));
	const among = (from: SeedValues, other: SeedValues) =>
		common.map((seed) => {
			const others = other.get(seed)!;
			return from.get(seed)!.map((value, user) => (Number.isNaN(others[user]!) ? Number.NaN : value));
		});
	return [userMeans(among(a, b)), userMeans(among(b, a))];
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

export const METRIC_NAMES: Record<TableMetric, string> = {
	'hit@1': 'Hit@1',
	'hit@10': 'Hit@10',
	'ndcg@10': 'NDCG@10',
	mrr: 'MRR',
};

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
			const seeds = yield* seedValues(group, label, metric, rows);
			const means = userMeans([...seeds.values()]);
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

/** A fusion against the better of its parts, each by their means of a metric over some rows. */
export interface PartsComparison {
	slice: string;
	metric: TableMetric;
	fused: Aggregate;
	/** The better part, and how far the fusion is above it. */
	part: string;
	difference: number;
	low: number;
	high: number;
	/** By Holm over the slices and metrics of a fusion. */
	adjusted: number;
}

/** Metrics that a fusion is fitted by. */
const FUSION_METRICS = ['hit@1', 'ndcg@10'] as const;

/** Is a fusion as good as the better of its parts in each slice? None where a part is missing. */
export function* compareWithParts(
	group: ResultGroup,
	label: string,
	resamples: number,
): Steps<PartsComparison[]> {
	const cells = group.cells.filter((cell) => Object.hasOwn(cell.models, label));
	const parts = [...new Set(cells.flatMap((cell) => cell.models[label]!.parts ?? []))];
	const compared: PartsComparison[] = [];
	const pValues: number[] = [];
	for (const { name: slice, rows } of slicesOf(group))
		for (const metric of FUSION_METRICS) {
			const seeds = yield* seedValues(group, label, metric, rows);
			let best: { part: string; a: Float64Array; b: Float64Array } | undefined;
			for (const part of parts) {
				const [a, b] = pairs(seeds, yield* seedValues(group, part, metric, rows));
				if (b.length > 0 && (!best || mean(b) > mean(best.b))) best = { part, a, b };
			}
			if (!best) continue;
			const { part, a, b } = best;
			const { pValue, ...rest } = yield* pairedBootstrap(a, b, { resamples });
			const fused = { ...(yield* bootstrapMean(a, { resamples })), users: a.length, seeds: overSeeds(seeds) };
			compared.push({ slice, metric, fused, part, ...rest, adjusted: Number.NaN });
			pValues.push(pValue);
		}
	for (const [at, adjusted] of holm(pValues).entries()) compared[at]!.adjusted = adjusted;
	return compared;
}

function overSeeds(seeds: SeedValues): Aggregate['seeds'] {
	const means = [...seeds.values()].map((values) => mean(present(values)));
	const centre = mean(means);
	const squares = means.reduce((sum, value) => sum + (value - centre) ** 2, 0);
	const deviation = means.length > 1 ? Math.sqrt(squares / (means.length - 1)) : undefined;
	return { count: means.length, mean: centre, deviation };
}

export function mean(values: readonly number[] | Float64Array): number {
	let sum = 0;
	for (const value of values) sum += value;
	return sum / values.length;
}

/** Hit@1 of one model among some rows; undefined without any. */
export function* hit1(
	group: ResultGroup,
	label: string,
	rows: Rows,
	resamples: number,
): Steps<Aggregate | undefined> {
	const seeds = yield* seedValues(group, label, 'hit@1', rows);
	const means = userMeans([...seeds.values()]);
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
