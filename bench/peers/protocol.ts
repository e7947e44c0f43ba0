/** The line protocol of protocol.py, for peers that run in Node. */
import { createInterface } from 'node:readline';
import type { Settings } from '../peer.js';

/** One iteration of a case, and how it gives its memory back. */
export interface Work {
	step(): Promise<unknown>;
	/** Undoes what `step` leaves behind, outside the measured seconds. */
	reset?(): Promise<unknown>;
	dispose(): Promise<unknown>;
}

/** The module the peer measures, from the entry point named on the command line. */
export function loadPackage(): Promise<unknown> {
	return import(process.argv[3]!);
}

/** Serves requests until the standard input ends; the name of a kind leads to what makes one iteration. */
export async function serve(kinds: Record<string, (settings: Settings) => Promise<Work>>): Promise<void> {
	const processorTime = process.argv[2] === 'processor';
	const now = () => {
		if (!processorTime) return performance.now() / 1000;
		const { user, system } = process.cpuUsage();
		return (user + system) / 1e6;
	};
	// What a library prints must not be taken for an answer.
	const answer = process.stdout.write.bind(process.stdout);
	process.stdout.write = process.stderr.write.bind(process.stderr);
	const cases = new Map<string, Work>();
	const handle = async (request: Request) => {
		const { case: name } = request;
		if (request.do === 'open') {
			cases.set(name, await kinds[request.kind!]!(request.settings!));
			return { ok: true };
		}
		const work = cases.get(name);
		if (request.do === 'close') {
			cases.delete(name);
			await work?.dispose();
			return { ok: true };
		}
		let seconds = 0;
		for (let i = 0; i < request.iterations!; i++) {
			const start = now();
			await work!.step();
			seconds += now() - start;
			await work!.reset?.();
		}
		return { seconds };
	};
	for await (const line of createInterface({ input: process.stdin })) {
		let result: object;
		try {
			result = await handle(JSON.parse(line) as Request);
		} catch (error) {
			// Answered, so that one failing case does not end the others.
			result = { error: String(error).split('\n')[0] };
		}
		answer(`${JSON.stringify(result)}\n`);
	}
}

interface Request {
	do: 'open' | 'run' | 'close';
	case: string;
	kind?: string;
	settings?: Settings;
	iterations?: number;
}
