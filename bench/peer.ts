import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** bench/ in the checkout, seen from dist/bench/. */
export const sourceFolder = fileURLToPath(new URL('../../bench/', import.meta.url));

/** What a case's settings may hold. */
export type Settings = Record<string, string | number | boolean | readonly number[]>;

export type Program = 'PyTorch' | 'onnxruntime' | 'node-llama-cpp';

/** How a program's peer is started: an interpreter, or a script of ours with the package it loads. */
export type Command = { python: string } | { script: string; entry: string };

/** Where each program is and in what version, or why it is not there. */
export type Programs = Record<Program, (Command & { version: string }) | { problem: string }>;

/** The packages, their entry points, and the scripts in peers/ that drive them. */
const packages = {
	onnxruntime: { name: 'onnxruntime-node', script: 'onnxruntime' },
	'node-llama-cpp': { name: 'node-llama-cpp', script: 'llama' },
} as const;

/**
 * Looks for every peer: an interpreter with PyTorch, and packages beside the working directory, in `folder` (default:
 * ALLMREC_BENCH_PEERS) and in NODE_PATH.
 */
export function findPrograms(options: { python?: string; folder?: string }): Programs {
	return {
		PyTorch: findPython(options.python),
		onnxruntime: findPackage('onnxruntime', options.folder),
		'node-llama-cpp': findPackage('node-llama-cpp', options.folder),
	};
}

/** No program at all, for the same reason. */
export function noPrograms(problem: string): Programs {
	return { PyTorch: { problem }, onnxruntime: { problem }, 'node-llama-cpp': { problem } };
}

/** The first interpreter that has PyTorch. */
function findPython(wanted?: string): Programs['PyTorch'] {
	const candidates = wanted ? [wanted] : ['python3', 'python'];
	const script =
		'import torch\nv="PyTorch "+torch.__version__\ntry:\n import transformers; v+=", transformers "+transformers.__version__\nexcept ImportError: pass\nprint(v)';
	for (const python of candidates) {
		const { status, stdout } = spawnSync(python, ['-c', script], { encoding: 'utf8' });
		if (status === 0) return { python, version: stdout.trim() };
	}
	return { problem: `no PyTorch in ${candidates.join(' or ')}` };
}

function findPackage(program: keyof typeof packages, folder = process.env.ALLMREC_BENCH_PEERS) {
	const { name, script } = packages[program];
	const beside = [...(folder ? [resolve(folder)] : []), process.cwd()].flatMap(
		(path) => createRequire(join(path, 'index.js')).resolve.paths(name) ?? [],
	);
	const named = (process.env.NODE_PATH ?? '').split(delimiter).filter((path) => path !== '');
	for (const modules of [...beside, ...named]) {
		const description = join(modules, name, 'package.json');
		if (!existsSync(description)) continue;
		const { main, version } = JSON.parse(readFileSync(description, 'utf8')) as Record<string, string>;
		return { script, entry: join(modules, name, main!), version: `${name} ${version}` };
	}
	return { problem: `no ${name} (--peers names a folder that has it)` };
}

/** A long-lived process that times its own cases; see peers/protocol.py and peers/protocol.ts. */
export class Peer {
	readonly #process: ChildProcessWithoutNullStreams;
	readonly #ending: Promise<void>;
	readonly #waiting: { resolve: (answer: Answer) => void; reject: (error: Error) => void }[] = [];
	#errors = '';
	#ended = false;

	/** script: PyTorch's in peers/; the other programs have one for all cases. */
	constructor(command: Command, script: string, threads: number, processorTime: boolean) {
		const clock = processorTime ? 'processor' : 'wall';
		const [file, args] =
			'python' in command
				? [command.python, ['-u', `${sourceFolder}peers/${script}.py`, clock]]
				: [
						process.execPath,
						[fileURLToPath(new URL(`peers/${command.script}.js`, import.meta.url)), clock, command.entry],
					];
		this.#process = spawn(file, args, {
			env: { ...process.env, OMP_NUM_THREADS: String(threads), PYTHONDONTWRITEBYTECODE: '1' },
		});
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
		this.#ending = new Promise((ended) => {
			this.#process.on('error', (error) => {
				end(error.message);
				ended();
			});
			this.#process.on('close', () => {
				end(this.#lastWords());
				ended();
			});
		});
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

	/** Ends the process; its memory is free when this resolves. */
	async dispose(): Promise<void> {
		this.#process.kill();
		await this.#ending;
	}

	async #ask(request: object): Promise<Answer> {
		if (this.#ended) throw new Error(this.#lastWords());
		const answer = await new Promise<Answer>((resolve, reject) => {
			this.#waiting.push({ resolve, reject });
			this.#process.stdin.write(`${JSON.stringify(request)}\n`);
		});
		if (answer.error) throw new Error(answer.error);
		return answer;
	}

	#lastWords(): string {
		return this.#errors.trim().split('\n').at(-1) || 'the peer ended';
	}
}

interface Answer {
	seconds?: number;
	error?: string;
}
