import { formatTable } from '../lib/cli/terminal.js';
import type { Limits } from './limits.js';
import { type Measured, type MeasuredPeer, median } from './measure.js';

/** A goal, and whether this run shows it; `met` is null where what it is about could not be measured. */
export interface GoalResult {
	of: 'ratio' | 'fraction' | 'value' | 'speedup';
	bound: number;
	measured: number | null;
	met: boolean | null;
}

/** A case beside its best peer, or beside another one of them. */
export interface Row {
	name: string;
	dtype: string;
	threads: number;
	/** With its variant; empty where there is none. */
	program: string;
	/** The fastest of the case's peers; the goals stand in this row. */
	best: boolean;
	ours: number | null;
	peer: number | null;
	unit: string;
	/** How many times faster than the peer: the median over pairs of neighbouring runs. */
	ratio: number | null;
	limit: number | null;
	/** Share of the limit that ours reaches. */
	fraction: number | null;
	goals: GoalResult[];
	/** Why a number is missing; else empty. */
	note: string;
}

/** The rows of a group: of each case the best peer's first. */
export function rowsOf(results: readonly Measured[], threads: number, limits: Limits): Row[] {
	const rows = results.flatMap((result) => caseRows(result, threads, limits));
	for (const { case: item } of results) {
		const { speedup } = item.goals ?? {};
		const row = rows.find(({ name, best }) => best && name === item.name);
		const base = rows.find(({ name, best }) => best && name === speedup?.over);
		if (!speedup || !row) continue;
		const over = (value: number | null | undefined, other: number | null | undefined) =>
			value && other ? value / other : null;
		row.goals.push(goal('speedup', speedup.least, over(row.ours, base?.ours)));
		const most = over(row.limit, base?.limit);
		if (most !== null) row.note = joined([row.note, `the limit allows ${most.toFixed(1)}× ${base!.name}`]);
	}
	return rows;
}

function caseRows({ case: item, ours, peers, problem }: Measured, threads: number, limits: Limits): Row[] {
	const rate = item.unit.endsWith('/s');
	const shown = (perIteration: number | null, units: number) =>
		perIteration === null ? null : rate ? units / perIteration : perIteration / units;
	const seconds = median(ours);
	const floor = typeof item.open === 'string' ? null : (item.floor?.(limits) ?? null);
	const lost = ours.length > 0 && seconds === null ? 'ours lost in the noise' : '';
	const row = (measured: MeasuredPeer | undefined): Row => {
		const units = measured?.peer.units ?? item.units;
		const rounds = measured?.rounds ?? [];
		return {
			name: item.name,
			dtype: item.dtype,
			threads,
			program: measured ? [measured.peer.program, measured.peer.variant].filter(Boolean).join(', ') : '',
			best: false,
			ours: shown(seconds, item.units),
			peer: shown(median(rounds.map(({ theirs }) => theirs)), units),
			unit: item.unit,
			ratio: median(
				rounds.map((r) => (r.ours === null ? Number.NaN : (item.units * r.theirs) / (units * r.ours))),
			),
			limit: shown(floor, item.units),
			fraction: floor !== null && seconds !== null ? floor / seconds : null,
			goals: [],
			note: joined([problem, lost, measured?.problem ?? '']),
		};
	};
	const speed = ({ peer }: Row) => (peer === null ? -1 : rate ? peer : 1 / peer);
	const rows = peers.length > 0 ? peers.map(row).sort((a, b) => speed(b) - speed(a)) : [row(undefined)];
	const first = rows[0]!;
	first.best = true;
	const { ratio, fraction, value } = item.goals ?? {};
	// Where there is no peer, or nothing of ours, a ratio is not asked for.
	const compared = item.peers.length > 0 && typeof item.open !== 'string';
	if (ratio !== undefined && compared) first.goals.push(goal('ratio', ratio, first.ratio));
	if (fraction !== undefined) first.goals.push(goal('fraction', fraction, first.fraction));
	if (value !== undefined) first.goals.push(goal('value', value, first.ours, rate));
	return rows;
}

function goal(of: GoalResult['of'], bound: number, measured: number | null, least = true): GoalResult {
	return {
		of,
		bound,
		measured,
		met: measured === null ? null : least ? measured >= bound : measured <= bound,
	};
}

export function limitRows(limits: ReadonlyMap<number, Limits>): Row[] {
	return [...limits].flatMap(([threads, measured]) => {
		const row = (name: string, dtype: string, unit: string, limit: number | null): Row => ({
			name,
			dtype,
			threads,
			program: '',
			best: true,
			ours: null,
			peer: null,
			unit,
			ratio: null,
			limit,
			fraction: null,
			goals: [],
			note: '',
		});
		return [
			row('limit: multiply-adds', 'float32', 'GFLOP/s', measured.gigaflops),
			row('limit: dot products', 'bfloat16', 'GFLOP/s', measured.bfloat16Gigaflops),
			row('limit: dot products', 'int8', 'GFLOP/s', measured.int8Gigaflops),
			row('limit: memory read', '', 'GB/s', measured.readGigabytes),
			row('limit: memory copy', '', 'GB/s', measured.copyGigabytes),
		];
	});
}

export function table(rows: readonly Row[]): string {
	const cells = rows.map((row) => [
		// What the best peer's row says of ours is not said again.
		row.best ? row.name : '',
		row.best ? row.dtype : '',
		row.best ? row.threads : '',
		row.best ? number(row.ours) : '',
		row.best ? row.unit : '',
		row.best ? number(row.limit) : '',
		row.best ? percent(row.fraction) : '',
		row.program,
		number(row.peer),
		times(row.ratio),
		row.goals.map((item) => goalText(row, item)).join(', '),
		row.goals.map(({ met }) => (met === null ? '–' : met ? 'yes' : 'no')).join(', '),
		row.note,
	]);
	const head = [
		'',
		'dtype',
		'threads',
		'ours',
		'unit',
		'limit',
		'of it',
		'peer, the best first',
		'theirs',
		'ratio',
		'goal',
		'met',
		'',
	];
	return formatTable(cells, { head });
}

/** How often ours is ahead of the best peer, how many goals are met, and which rows fall short. */
export function summary(rows: readonly Row[]): string {
	const compared = rows.filter(({ best, ratio }) => best && ratio !== null);
	const behind = compared.filter(({ ratio }) => ratio! < 1);
	const goals = rows.flatMap((row) => row.goals).filter(({ met }) => met !== null);
	return [
		`Ahead of the best peer in ${compared.length - behind.length} of ${compared.length} rows; ${goals.filter(({ met }) => met).length} of ${goals.length} goals met.`,
		...behind.map((row) => `  ${verdict(row)}`),
	].join('\n');
}

/** Which peer of a case is the best, and whether ours is ahead of it. */
export function verdict({ name, dtype, threads, ours, peer, unit, ratio, program }: Row): string {
	const what = `${[name, dtype, `${threads} ${threads === 1 ? 'thread' : 'threads'}`].join(', ')}: ours ${number(ours)} ${unit}`;
	if (peer === null) return what;
	const which = `the best peer, ${program}, ${number(peer)}`;
	if (ratio === null) return `${what}; ${which}`;
	return `${what}, ${times(ratio)} ${which}: ${ratio >= 1 ? 'ahead' : 'behind'}`;
}

function goalText({ unit }: Row, { of, bound }: GoalResult): string {
	if (of === 'fraction') return `≥ ${percent(bound)}`;
	if (of === 'value') return `${unit.endsWith('/s') ? '≥' : '≤'} ${number(bound)}`;
	return of === 'speedup' ? `≥ ${times(bound)} batch 1` : `≥ ${times(bound)}`;
}

function joined(notes: readonly string[]): string {
	return notes.filter((text) => text !== '').join('; ');
}

function times(value: number | null): string {
	return value === null ? '–' : `${value.toFixed(2)}×`;
}

function percent(value: number | null): string {
	return value === null ? '–' : `${(100 * value).toFixed(0)} %`;
}

function number(value: number | null): string {
	if (value === null) return '–';
	return value >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
