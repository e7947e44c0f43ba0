/**
 * Evidence for batch scoring: users a second and peak memory at two sizes of input, and a run that is killed with
 * SIGKILL at random moments and gone on with, whose results have to be the same to the byte.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Command, Option } from 'commander';
import { wholeNumber } from '../lib/cli/arguments.js';
import { formatTable } from '../lib/cli/terminal.js';
import {
	type CatalogueItem,
	LLM_DTYPES,
	type LlmDtype,
	loadRun,
	type ScoreSummary,
	SeededRandom,
	scoreFile,
} from '../lib/index.js';

interface Flags {
	run?: string;
	sizes: number[];
	quick: boolean;
	kills: number;
	by: 'fused' | 'llm' | 'cf';
	retrieve: number;
	llmDtype?: LlmDtype;
	seed: number;
	threads?: number;
}

interface Measurement extends ScoreSummary {
	/** Peak resident memory of the process, in MB. */
	peak: number;
	/** Processor time of scoring, of all threads, in seconds. */
	processorSeconds: number;
}

const self = fileURLToPath(import.meta.url);
const cli = fileURLToPath(new URL('../lib/cli/main.js', import.meta.url));
/** Every so many rows one is bad. */
const BAD_EVERY = 997;
const LONGEST_HISTORY = 20;

const sizes = (text: string) => text.split(',').map(wholeNumber);

const program = new Command('batch-scoring')
	.description('users/s and memory of `a-llmrec score` by the size of its input, and what SIGKILL leaves')
	.option('--run <folder>', 'a trained run (default: the demo is trained now)')
	.option('--sizes <n,…>', 'users', sizes, [10_000, 200_000])
	.option('--quick', '1,000 and 3,000 users: whether it works, not how fast it is', false)
	.option('--kills <n>', 'times the run of the first size is killed', wholeNumber, 3)
	.addOption(
		new Option('--by <score>', '`cf` leaves the language model out')
			.choices(['fused', 'llm', 'cf'])
			.default('fused'),
	)
	.option('--retrieve <n>', 'candidates of a user', wholeNumber, 20)
	.addOption(new Option('--llm-dtype <dtype>', "of the language model's weights").choices(LLM_DTYPES))
	.option('--seed <n>', 'of the users and of the moments of the kills', wholeNumber, 0)
	.option('--threads <n>', 'CPU threads', wholeNumber)
	.option('--measure <files...>', 'run folder, users, out: what a child process does')
	.action(main);

async function main(flags: Flags & { measure?: string[] }): Promise<void> {
	if (flags.measure) return measureHere(flags.measure, flags);
	const work = await mkdtemp(join(tmpdir(), 'a-llmrec-batch-scoring-'));
	try {
		const run = flags.run ?? (await trainDemo(work));
		const counts = flags.quick ? [1000, 3000] : flags.sizes;
		const rows: Measurement[] = [];
		for (const count of counts) {
			const users = join(work, `users-${count}.jsonl`);
			await writeUsers(run, users, count, flags.seed);
			rows.push(await measureApart(run, users, join(work, `lists-${count}.jsonl`), flags));
		}
		print(counts, rows);
		const count = counts[0]!;
		await killAndResume(run, join(work, `users-${count}.jsonl`), join(work, `lists-${count}.jsonl`), flags);
	} finally {
		await rm(work, { recursive: true, force: true });
	}
}

async function trainDemo(work: string): Promise<string> {
	const folder = join(work, 'demo');
	console.error('training the demo …');
	const { code, err } = await finished(start([cli, 'demo', '--out', folder]));
	if (code !== 0) throw new Error(`The demo could not be trained: ${err}`);
	return join(folder, 'run');
}

/** Users of 1 to 20 items of the run's catalogue, a few rows bad. */
async function writeUsers(run: string, path: string, count: number, seed: number): Promise<void> {
	const { items } = JSON.parse(await readFile(join(run, 'model', 'catalogue.json'), 'utf8')) as {
		items: CatalogueItem[];
	};
	const random = new SeededRandom(seed);
	await pipeline(function* () {
		for (let u = 0; u < count; u++) {
			const history = Array.from(
				{ length: 1 + random.int(LONGEST_HISTORY) },
				() => items[1 + random.int(items.length - 1)]!.id,
			);
			if (u % BAD_EVERY === BAD_EVERY - 1) history.push('no such item');
			yield `${JSON.stringify({ user: `u${u}`, history })}\n`;
		}
	}, createWriteStream(path));
}

/** In a process of its own, so that its peak memory is that of one size. */
async function measureApart(run: string, users: string, out: string, flags: Flags): Promise<Measurement> {
	const {
		code,
		out: said,
		err,
	} = await finished(start([self, ...passedOn(flags), '--measure', run, users, out]));
	if (code !== 0) throw new Error(err);
	return JSON.parse(said) as Measurement;
}

async function measureHere(files: string[], { threads, by, retrieve, llmDtype }: Flags): Promise<void> {
	const [run, users, out] = files as [string, string, string];
	const model = await loadRun(run, { device: 'cpu', threads, llmDtype });
	const before = process.cpuUsage();
	const summary = await scoreFile(model, { users, out, by, retrieve, topK: Math.min(10, retrieve) });
	const { user, system } = process.cpuUsage(before);
	model.dispose();
	const peak = process.resourceUsage().maxRSS / 1024;
	console.log(JSON.stringify({ ...summary, peak, processorSeconds: (user + system) / 1e6 }));
}

function print(counts: readonly number[], rows: readonly Measurement[]): void {
	const cells = rows.map(({ users, rejected, usersPerSecond, processorSeconds, peak }, i) => [
		counts[i]!.toLocaleString('en-US'),
		users.toLocaleString('en-US'),
		Object.values(rejected).reduce((a, b) => a + b, 0),
		usersPerSecond.toFixed(1),
		(counts[i]! / processorSeconds).toFixed(1),
		peak.toFixed(0),
	]);
	const head = ['rows', 'lists', 'rejected', 'users/s', 'users/processor second', 'peak MB'];
	console.log(formatTable(cells, { head }));
	const [first, last] = [rows[0]!, rows.at(-1)!];
	const ratio = (a: number, b: number) => (a / b).toFixed(3);
	const processor = (counts.at(-1)! * first.processorSeconds) / (counts[0]! * last.processorSeconds);
	console.log(
		`the last to the first: users/s ${ratio(last.usersPerSecond, first.usersPerSecond)}, per processor second ${processor.toFixed(3)}, peak memory ${ratio(last.peak, first.peak)}; load ${loadavg()[0]!.toFixed(1)}`,
	);
}

async function killAndResume(run: string, users: string, expected: string, flags: Flags): Promise<void> {
	const { kills, seed } = flags;
	const out = `${expected}.killed.jsonl`;
	const topK = String(Math.min(10, flags.retrieve));
	const args = [cli, 'score', run, '--users', users, '--out', out, '--device', 'cpu', '--top-k', topK];
	args.push(...passedOn(flags));
	const { size } = await stat(expected);
	const random = new SeededRandom(seed, 1);
	for (let kill = 0; kill < kills; kill++) {
		// Anywhere in its share of the run.
		const at = Math.floor((size * (kill + random.uniform())) / (kills + 1));
		const child = start(args);
		const end = finished(child);
		while (child.exitCode === null && (await sizeOf(`${out}.part`)) <= at) await sleep(5);
		child.kill('SIGKILL');
		const { code, err } = await end;
		if (code !== null) throw new Error(`The run ended before it could be killed. ${err}`);
		const state = existsSync(`${out}.state.json`)
			? (JSON.parse(await readFile(`${out}.state.json`, 'utf8')) as { position: { rows: number } })
			: { position: { rows: 0 } };
		console.log(`killed behind ${at} of ${size} bytes; goes on from row ${state.position.rows}`);
	}
	const { code, out: said, err } = await finished(start(args));
	if (code !== 0) throw new Error(err);
	console.log(said.split('\n')[0]);
	for (const [name, one, other] of [
		['results', expected, out],
		['rejects', `${expected}.rejects.jsonl`, `${out}.rejects.jsonl`],
	] as const) {
		const same = (await hash(one)) === (await hash(other));
		console.log(`${name}: ${same ? 'identical' : 'DIFFERENT'}`);
		if (!same) process.exitCode = 1;
	}
}

function passedOn({ threads, by, retrieve, llmDtype }: Flags): string[] {
	const flags = { '--by': by, '--retrieve': retrieve, '--threads': threads, '--llm-dtype': llmDtype };
	return Object.entries(flags).flatMap(([name, value]) => (value === undefined ? [] : [name, String(value)]));
}

function start(args: string[]): ChildProcess {
	return spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
}

function finished(child: ChildProcess): Promise<{ code: number | null; out: string; err: string }> {
	let [out, err] = ['', ''];
	child.stdout!.on('data', (data) => {
		out += data;
	});
	child.stderr!.on('data', (data) => {
		err += data;
	});
	return new Promise((resolve) => child.on('close', (code) => resolve({ code, out, err })));
}

async function sizeOf(path: string): Promise<number> {
	return (await stat(path).catch(() => undefined))?.size ?? 0;
}

async function hash(path: string): Promise<string> {
	if (!existsSync(path)) return 'none';
	const sum = createHash('sha256');
	await pipeline(createReadStream(path), sum);
	return sum.digest('hex');
}

await program.parseAsync();
