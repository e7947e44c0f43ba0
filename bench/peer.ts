import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** bench/ in the checkout, seen from dist/bench/. */
export const sourceFolder = fileURLToPath(new URL('../../bench/', import.meta.url));

/** What a case's settings may hold. */
export type Settings = Record<string, string | number | boolean | readonly number[]>;

/** The first interpreter that has PyTorch, with the versions it names, or why there is none. */
export function findPython(wanted?: string): { python: string; versions: string } | { reason: string } {
	const candidates = wanted ? [wanted] : ['python3', 'python'];
	const script =
		'import torch\nv="torch "+torch.__version__\ntry:\n import transformers; v+=", transformers "+transformers.__version__\nexcept ImportError: pass\nprint(v)';
	for (const python of candidates) {
		const { status, stdout } = spawnSync(python, ['-c', script], { encoding: 'utf8' });
		if (status === 0) return { python, versions: stdout.trim() };
	}
	return { reason: `no PyTorch in ${candidates.join(' or ')}` };
}

/** A long-lived Python process that times its own cases; see peers/protocol.py. */
export class Peer {
	readonly #process: ChildProcessWithoutNullStreams;
	readonly #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void }[] = [];
	#errors = '';
	#ended = false;

	constructor(python: string, script: string, threads: number, processorTime: boolean) {
		this.#process = spawn(
			python,
			['-u', `${sourceFolder}peers/${script}.py`, processorTime ? 'processor' : 'wall'],
			{
				env: { ...process.env, OMP_NUM_THREADS: String(threads), PYTHONDONTWRITEBYTECODE: '1' },
			},
		);
		createInterface({ input: this.#process.stdout }).on('line', (line) => {
			this.#waiting.shift()?.resolve(JSON.parse(line) as Answer);
		});
		this.#process.stderr.on('data', (chunk: Buffer) => {
			this.#errors = (this.#errors + chunk.toString()).slice(-2000);
		});
		this.#process.stdin.on('error', () => {});
		const end = (why: string) => {
			this.#ended = true;
			for (const { reject } of this.#waiting.splice(0)) reject(new Error(why));
		};
		this.#process.on('error', (error) => end(error.message));
		this.#process.on('close', () => end(this.#errors.trim().split('\n').at(-1) || 'the peer ended'));
	}

	async open(name: string, kind: string, settings: Settings): Promise<void> {
		await this.#ask({ do: 'open', case: name, kind, settings });
	}

	/** Seconds of so many iterations. */
	async run(name: string, iterations: number): Promise<number> {
		return (await this.#ask({ do: 'run', case: name, iterations })).seconds!;
	}

	async close(name: string): Promise<void> {
		await this.#ask({ do: 'close', case: name });
	}

	dispose(): void {
		this.#process.kill();
	}

	async #ask(request: object): Promise<Answer> {
		if (this.#ended) throw new Error(this.#errors.trim().split('\n').at(-1) || 'the peer ended');
		const answer = await new Promise<Answer>((resolve, reject) => {
			this.#waiting.push({ resolve, reject });
			this.#process.stdin.write(`${JSON.stringify(request)}\n`);
		});
		if (answer.error) throw new Error(answer.error);
		return answer;
	}
}

interface Answer {
	seconds?: number;
	error?: string;
}
