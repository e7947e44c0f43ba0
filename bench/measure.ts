import type { Limits } from './limits.js';
import { Peer, type Program, type Programs, type Settings } from './peer.js';

/** One side of a comparison, ready to run. */
export interface Contender {
	/** Seconds of so many iterations; NaN where a difference of two times was lost in the noise. */
	run(iterations: number): Promise<number>;
	/** A run warms itself up, outside the seconds it gives. */
	warm?: boolean;
	dispose(): void | Promise<void>;
}

export interface PeerCase {
	program: Program;
	/** What tells it from the program's other rows of this case. */
	variant?: string;
	kind: string;
	settings: Settings;
	/** So many threads instead of the row's; left out of rows that have no more. */
	threads?: number;
	/** Units of work in one iteration of the peer. Default: the case's. */
	units?: number;
}

/** What is asked of a case's numbers. */
export interface Goals {
	/** Least of ours / the best peer. */
	ratio?: number;
	/** Least share of the machine's limit. */
	fraction?: number;
	/** In the case's unit: the least rate, or the longest time. */
	value?: number;
	/** Least rate beside another case of the same precision. */
	speedup?: { over: string; least: number };
}

/** One measurement of ours in one precision, beside any number of peers. */
export interface Case {
	name: string;
	dtype: string;
	/** Units of work in one iteration. */
	units: number;
	/** `…/s` rates, where more is better, or `s/…` times, where less is. */
	unit: string;
	/** Least seconds of one iteration by the machine's limits, null where they are unknown. */
	floor?: (limits: Limits) => number | null;
	/** Iterations of one run of ours, where they are not free to choose. */
	iterations?: number;
	/** Or why there is nothing of ours: the row shows the peers alone. */
	open: ((threads: number) => Promise<Contender>) | string;
	peers: readonly PeerCase[];
	goals?: Goals;
}

/** Cases of one model in one precision. Of their peers one process is alive at a time. */
export interface Group {
	name: string;
	/** PyTorch's script in peers/. */
	script: string;
	cases: readonly Case[];
	dispose(): void | Promise<void>;
}

export interface MeasureOptions {
	/** Most rounds of a pair; fewer, but two at least, where they take longer than `budget` seconds. */
	rounds: number;
	budget: number;
	/** Seconds each side runs in a round, if one iteration is not longer. */
	seconds: number;
	/** Processor time instead of the wall clock. */
	processorTime: boolean;
	programs: Programs;
}

/** What a case's sides took, in seconds of one iteration. */
export interface Measured {
	case: Case;
	/** Of every round of every pair. */
	ours: number[];
	peers: MeasuredPeer[];
	problem: string;
}

export interface MeasuredPeer {
	peer: PeerCase;
	/** By round, with ours of the same round beside it where there is one. */
	rounds: { ours: number | null; theirs: number }[];
	problem: string;
}

/**
 * Measures the cases of a group, program after program: ours, the peer, ours, the peer, … What fails is the result's
 * problem.
 */
export async function measureGroup(
	{ script }: Group,
	cases: readonly Case[],
	threads: number,
	options: MeasureOptions,
): Promise<Measured[]> {
	const measured = cases.map(
		(item): Measured => ({
			case: item,
			ours: [],
			peers: item.peers
				.filter((peer) => (peer.threads ?? 0) < threads)
				.map((peer) => ({ peer, rounds: [], problem: '' })),
			problem: typeof item.open === 'string' ? item.open : '',
		}),
	);
	for (const program of new Set(cases.flatMap(({ peers }) => peers.map((peer) => peer.program)))) {
		const command = options.programs[program];
		const process =
			'problem' in command ? command.problem : new Peer(command, script, threads, options.processorTime);
		try {
			for (const result of measured)
				for (const peer of result.peers)
					if (peer.peer.program === program) await measurePair(result, peer, process, threads, options);
		} finally {
			if (typeof process !== 'string') await process.dispose();
		}
	}
	for (const result of measured)
		if (result.ours.length === 0 && result.problem === '') await measureAlone(result, threads, options);
	return measured;
}

async function measurePair(
	result: Measured,
	measured: MeasuredPeer,
	process: Peer | string,
	threads: number,
	options: MeasureOptions,
): Promise<void> {
	if (typeof process === 'string') {
		measured.problem = process;
		return;
	}
	const { kind, settings, variant = '' } = measured.peer;
	const name = `${result.case.name}/${variant}`;
	let [ours, theirs]: (Side | undefined)[] = [];
	try {
		await process.open(name, kind, { ...settings, threads: measured.peer.threads ?? threads });
		theirs = await prepare(
			{ run: (n) => process.run(name, n), dispose: () => process.close(name) },
			undefined,
			options.seconds,
		);
		ours = await openOurs(result, threads, options);
		const peer = theirs;
		await inRounds(options, async () => {
			const own = ours ? await iterate(ours) : null;
			const other = await iterate(peer);
			measured.rounds.push({ ours: own, theirs: other });
			if (own !== null) result.ours.push(own);
		});
	} catch (error) {
		measured.problem = (error as Error).message;
	} finally {
		for (const side of [ours, theirs]) await Promise.resolve(side?.contender.dispose()).catch(() => {});
	}
}

async function measureAlone(result: Measured, threads: number, options: MeasureOptions): Promise<void> {
	const side = await openOurs(result, threads, options);
	if (!side) return;
	try {
		await inRounds(options, async () => {
			result.ours.push(await iterate(side));
		});
	} catch (error) {
		result.problem = `failed: ${(error as Error).message}`;
	} finally {
		await side.contender.dispose();
	}
}

/** Ours, warmed up; what fails is the result's problem, and is not tried beside the next peer. */
async function openOurs(
	result: Measured,
	threads: number,
	options: MeasureOptions,
): Promise<Side | undefined> {
	const { open, iterations } = result.case;
	if (typeof open === 'string' || result.problem !== '') return undefined;
	try {
		return await prepare(await open(threads), iterations, options.seconds);
	} catch (error) {
		result.problem = `failed: ${(error as Error).message}`;
		return undefined;
	}
}

async function inRounds({ rounds, budget }: MeasureOptions, round: () => Promise<void>): Promise<void> {
	const start = performance.now();
	for (let r = 0; r < rounds; r++) {
		await round();
		const spent = (performance.now() - start) / 1000;
		// A second round that would take longer than everything was meant to is not begun either.
		if (spent > (r === 0 ? 2 * budget : budget)) return;
	}
}

interface Side {
	contender: Contender;
	iterations: number;
}

/** Seconds of one iteration. */
async function iterate({ contender, iterations }: Side): Promise<number> {
	return (await contender.run(iterations)) / iterations;
}

/** Warms up and finds how many iterations fill the time. */
async function prepare(contender: Contender, fixed: number | undefined, seconds: number): Promise<Side> {
	if (fixed) {
		if (!contender.warm) await contender.run(fixed);
		return { contender, iterations: fixed };
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
	return { contender, iterations: Math.max(1, Math.round((iterations * seconds) / elapsed)) };
}

/** Of those that are numbers; null when none is. */
export function median(values: readonly number[]): number | null {
	const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b);
	if (sorted.length === 0) return null;
	const middle = sorted.length >> 1;
	return sorted.length % 2 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
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
