import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

const run = promisify(execFile);
const lib = fileURLToPath(new URL('../../lib/index.js', import.meta.url));
const world = fileURLToPath(new URL('../support/tiny-world.js', import.meta.url));

/** Trains a small recommender in a process of its own, then does what `end` says; gives its standard error. */
async function train(end: string, { variable = '', options = '' } = {}): Promise<string> {
	const script = `
		import { SASRec } from ${JSON.stringify(lib)};
		import { datasetOfWorld, tinyWorld } from ${JSON.stringify(world)};
		const dataset = datasetOfWorld(tinyWorld());
		const model = await SASRec.train(dataset, { hiddenUnits: 16, maxLength: 8, epochs: 2 }, { device: 'cpu', threads: 1, ${options} });
		${end}`;
	const env: NodeJS.ProcessEnv = { ...process.env };
	delete env.ALLMREC_PROFILE;
	if (variable) env.ALLMREC_PROFILE = variable;
	return (await run(process.execPath, ['--input-type=module', '-e', script], { env })).stderr;
}

interface ProfileLine {
	calls: number;
	milliseconds: number;
	wallPercent: number;
	gigaflops: number;
	gigabytes: number;
	limitPercent: number;
	bound: string;
}

/** The table's lines by op. */
function parse(text: string): Map<string, ProfileLine> {
	const lines = text.split('\n');
	const head = lines.findIndex((line) => line.startsWith('op '));
	const end = lines.findIndex((line) => line.startsWith('wall clock '));
	return new Map(
		lines.slice(head + 1, end).map((line) => {
			const [op, ...cells] = line.trim().split(/\s{2,}|(?<=\d) /);
			const [calls, milliseconds, wallPercent, gigaflops, gigabytes, limitPercent] = cells.map(Number);
			return [
				op!,
				{ calls, milliseconds, wallPercent, gigaflops, gigabytes, limitPercent, bound: cells.at(-1)! },
			] as [string, ProfileLine];
		}),
	);
}

for (const [what, end] of [
	['the model is disposed of', 'model.dispose();'],
	['the process ends with the model alive', ''],
	['process.exit() is called', 'process.exit(0);'],
] as const)
	test(`ALLMREC_PROFILE prints every op's calls, time, work and share of the limit when ${what}`, async (t) => {
		const text = await train(end, { variable: '1' });
		t.regex(text, /^a-llmrec profile: cpu, .+, 1 threads$/m);
		t.regex(
			text,
			/^limits: float32 [\d.e+]+, half [\d.e+]+, int8 [\d.e+]+ GFLOP\/s, memory [\d.e+]+ GB\/s$/m,
		);
		const rows = parse(text);
		for (const op of ['gemm', 'attention', 'attention_backward', 'layer_norm', 'adam', 'embedding']) {
			const row = rows.get(op)!;
			t.true(row.calls > 0 && Number.isInteger(row.calls), `${op}: ${JSON.stringify(row)}`);
			for (const value of [row.milliseconds, row.wallPercent, row.gigaflops, row.gigabytes, row.limitPercent])
				t.true(value >= 0 && Number.isFinite(value), `${op}: ${JSON.stringify(row)}`);
			t.true(row.bound === 'arithmetic' || row.bound === 'memory');
		}
		const all = rows.get('all ops')!;
		const ops = [...rows.values()].filter((row) => row !== all);
		t.is(
			all.calls,
			ops.reduce((sum, { calls }) => sum + calls, 0),
		);
		t.true(all.wallPercent > 0 && all.wallPercent <= 100.1);
		t.true(rows.get('gemm')!.gigaflops > 0);
	});

test('the device option `profile` does without the variable, and nothing is printed unasked', async (t) => {
	t.regex(await train('model.dispose();', { options: 'profile: true' }), /^gemm +\d+ /m);
	t.notRegex(await train('model.dispose();'), /profile/);
	t.notRegex(await train('model.dispose();', { variable: '0' }), /profile/);
	t.notRegex(await train('', { variable: '1', options: 'profile: false' }), /profile/);
});
