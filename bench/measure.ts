import type { Limits } from './limits.js';
import { Peer, type Settings } from './peer.js';

/** One side of a comparison, ready to run. */
export interface Contender {
	/** Seconds of so many iterations; NaN where a difference of two times was lost in the noise. */
	run(iterations: number): Promise<number>;
	dispose(): void | Promise<void>;
}

export interface PeerCase {
	/** Of the peer's numbers. */
	dtype: string;
	/** What the row is called, when it is not the case's name. */
	name?: string;
	kind: string;
	settings: Settings;
	/** Units of work in one iteration of the peer. Default: the case's. */
	units?: number;
	/** Least of ours / peer; null where nothing is asked. */
	goal: number | null;
	/** In a precision the addon does not compute in: the row shows the peer alone. */
	alone?: boolean;
}

/** One measurement of ours, beside any number of peers. */
export interface Case {
	name: string;
	dtype: string;
	/** Units of work in one iteration. */
	units: number;
	/** `…/s` rates, where more is better, or `s/…` times, where less is. */
	unit: string;
	/** Least seconds of one iteration by the machine's limits, null where they are unknown. */
	floor?: (limits: Limits) => number | null;
	/** Iterations of one run, where they are not free to choose. */
	iterations?: number;
	open(threads: number): Promise<Contender>;
	peers: readonly PeerCase[];
}

/** Cases that share a peer's process and whatever `dispose` frees. */
export interface Group {
	name: string;
	/** The script in peers/. */
	script: string;
	cases: readonly Case[];
	dispose(): void;
}

export interface Row {
	name: string;
	dtype: string;
	threads: number;
	ours: number | null;
	peer: number | null;
	unit: string;
	/** How many times faster than the peer: the median over pairs of neighbouring runs. */
	ratio: number | null;
	limit: number | null;
	/** Share of the limit that ours reaches. */
	fraction: number | null;
	/** Least ratio. */
	goal: number | null;
	met: boolean | null;
	/** Why a number is missing; else empty. */
	note: string;
}

export interface MeasureOptions {
	rounds: number;
	/** Seconds each side runs in a round, if one iteration is not longer. */
	seconds: number;
	/** Processor time instead of the wall clock. */
	processorTime: boolean;
	/** The interpreter, or why there is none. */
	python: { python: string } | { reason: string };
}

/** Measures a case: ours, each peer, ours, each peer, … */
export async function measure(
	item: Case,
	threads: number,
	limits: Limits,
	peer: Peer | string,
	options: MeasureOptions,
): Promise<Row[]> {
	const rate = item.unit.endsWith('/s');
	const floor = item.floor?.(limits) ?? null;
	const shown = (perIteration: number | null, units: number) =>
		perIteration === null ? null : rate ? units / perIteration : perIteration / units;
	const sides: Side[] = [];
	try {
		sides.push(await prepare(await item.open(threads), item.iterations, options.seconds));
		const problems = new Map<PeerCase, string>();
		const opened = new Map<PeerCase, Side>();
		for (const [i, other] of item.peers.entries()) {
			if (typeof peer === 'string') {
				problems.set(other, peer);
				continue;
			}
			try {
				const name = `${item.name}/${i}`;
				await peer.open(name, other.kind, { ...other.settings, threads });
				const contender = { run: (n: number) => peer.run(name, n), dispose: () => peer.close(name) };
				const side = await prepare(contender, item.iterations, options.seconds);
				sides.push(side);
				opened.set(other, side);
			} catch (error) {
				problems.set(other, (error as Error).message);
			}
		}
		for (let round = 0; round < options.rounds; round++)
			for (const side of sides)
				side.times.push((await side.contender.run(side.iterations)) / side.iterations);
		const ours = sides[0]!.times;
		const seconds = median(ours);
		const row = (other: PeerCase | undefined): Row => {
			const theirs = other && opened.get(other)?.times;
			const units = other?.units ?? item.units;
			// Beside a precision we do not compute in, our numbers would say nothing.
			const compared = !other?.alone;
			const ratio =
				theirs && compared ? median(ours.map((t, r) => (item.units * theirs[r]!) / (units * t))) : null;
			const goal = other && compared ? other.goal : null;
			return {
				name: other?.name ?? item.name,
				dtype: other?.dtype ?? item.dtype,
				threads,
				ours: compared ? shown(seconds, item.units) : null,
				peer: theirs ? shown(median(theirs), units) : null,
				unit: item.unit,
				ratio,
				limit: compared ? shown(floor, item.units) : null,
				fraction: compared && floor !== null && seconds !== null ? floor / seconds : null,
				goal,
				met: ratio === null || goal === null ? null : ratio >= goal,
				note: [
					compared ? '' : 'no such kernels of ours yet',
					compared && seconds === null ? 'ours lost in the noise' : '',
					(other && problems.get(other)) ?? '',
				]
					.filter((text) => text !== '')
					.join('; '),
			};
		};
		return item.peers.length > 0 ? item.peers.map(row) : [row(undefined)];
	} finally {
		for (const { contender } of sides) await Promise.resolve(contender.dispose()).catch(() => {});
	}
}

interface Side {
	contender: Contender;
	iterations: number;
	/** Seconds of one iteration, by round. */
	times: number[];
}

/** Warms up and finds how many iterations fill the time. */
async function prepare(contender: Contender, fixed: number | undefined, seconds: number): Promise<Side> {
	if (fixed) {
		await contender.run(fixed);
		return { contender, iterations: fixed, times: [] };
	}
	let iterations = 1;
	let elapsed = await contender.run(1);
	// The first iteration is slower than the others; where it is long, not by much.
	if (!(elapsed >= 2 * seconds)) elapsed = await contender.run(1);
	// One short iteration says little; grow until a tenth of the time is filled.
	while (!(elapsed >= seconds / 10) && iterations < 1 << 16) {
		iterations *= elapsed < seconds / 100 ? 8 : 2;
		elapsed = await contender.run(iterations);
	}
	return { contender, iterations: Math.max(1, Math.round((iterations * seconds) / elapsed)), times: [] };
}

/** Of those that are numbers; null when none is. */
function median(values: readonly number[]): number | null {
	const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
	if (sorted.length === 0) return null;
	const middle = sorted.length >> 1;
	return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Starts a group's peer; a string says why there is none. */
export function startPeer(group: Group, threads: number, options: MeasureOptions): Peer | string {
	return 'reason' in options.python
		? options.python.reason
		: new Peer(options.python.python, group.script, threads, options.processorTime);
}

/** Seconds: the wall clock's, or this process's processor time. */
let now = () => performance.now() / 1000;

/** From here on processor time is measured; ours runs in this process, the peers do the same in theirs. */
export function useProcessorTime(): void {
	now = () => {
		const { user, system } = process.cpuUsage();
		return (user + system) / 1e6;
	};
}

/** Times an action, in seconds. */
export async function time(action: () => unknown): Promise<number> {
	const start = now();
	await action();
	return now() - start;
}

/** `whole` less `part`, where the difference is more than noise. */
export function difference(whole: number, part: number): number {
	return whole > 1.02 * part ? whole - part : Number.NaN;
}

/** A contender that awaits the same step again and again. */
export function repeat(step: () => unknown, dispose: () => void): Contender {
	return {
		run: (iterations) =>
			time(async () => {
				for (let i = 0; i < iterations; i++) await step();
			}),
		dispose,
	};
}

/** Seconds of so much work at a limit in units of 10⁹ per second. */
export function atLimit(work: number, limit: number | null): number | null {
	return limit === null ? null : work / (limit * 1e9);
}
