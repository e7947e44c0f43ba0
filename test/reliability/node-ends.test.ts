import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { ENDLESS, type Folders } from '../support/endless.js';
import { held, LONG, times } from '../support/reliability.js';
import { tinyRun } from '../support/tiny-run.js';

const program = fileURLToPath(new URL('./children/ending.js', import.meta.url));
const WORKS = Object.keys(ENDLESS);
/** Milliseconds a process may take in all, far beyond what it needs: it must not hang. */
const LONGEST = 60_000;
const random = new SeededRandom(Date.now() % 2 ** 31);

let folders: Folders;

test.before(async () => {
	const { folder, options } = await tinyRun();
	folders = { run: folder, encoder: String(options.textEncoder), llm: String(options.llm) };
});

interface End {
	code: number | null;
	signal: NodeJS.Signals | null;
	out: string;
	err: string;
	milliseconds: number;
}

function ended(way: string, work: string, delays: readonly number[]): Promise<End> {
	const child = spawn(
		process.execPath,
		[program, way, work, JSON.stringify(folders), delays.map(String).join(',')],
		{ stdio: ['ignore', 'pipe', 'pipe'], timeout: LONGEST * delays.length, killSignal: 'SIGKILL' },
	);
	const begun = performance.now();
	let [out, err] = ['', ''];
	child.stdout.on('data', (data) => {
		out += data;
	});
	child.stderr.on('data', (data) => {
		err += data;
	});
	return new Promise((resolve) =>
		child.on('close', (code, signal) =>
			resolve({ code, signal, out, err, milliseconds: performance.now() - begun }),
		),
	);
}

/** Random moments, some of them at once. */
function moments(count: number): number[] {
	return Array.from({ length: count }, (_, i) => (i % 4 === 3 ? 0 : random.int(250)));
}

for (const way of ['terminate', 'worker-exit'])
	test(`a worker that ends (${way}) in the middle of its work`, async (t) => {
		const each = times(1, 10);
		// The short run takes half of the works for each way.
		const works = WORKS.filter((_, i) => LONG || i % 2 === (way === 'terminate' ? 0 : 1));
		let slowest = 0;
		for (const work of works) {
			const delays = moments(each);
			const { code, signal, out, err } = await ended(way, work, delays);
			t.deepEqual(
				{ work, code, signal, err },
				{ work, code: 0, signal: null, err: '' },
				`after ${delays} ms`,
			);
			slowest = Math.max(slowest, Number(out));
		}
		t.true(slowest < 5000, `${slowest} ms`);
		held(
			'Node',
			way === 'terminate'
				? '`worker.terminate()` in the middle of training, scoring, generation and loading ends the worker and nothing else'
				: '`process.exit()` in a worker in the middle of its work ends the worker and nothing else',
			{ kinds: works.length, ends: works.length * each, 'slowest end, ms': slowest },
		);
	});

const WAYS = {
	exit: { code: 7, err: /^$/ },
	'exit-both': { code: 7, err: /^$/ },
	throw: { code: 1, err: /Error: on purpose/ },
	reject: { code: 1, err: /Error: on purpose/ },
};

test('a process that ends in the middle of its work ends as it was told to', async (t) => {
	const each = times(1, 5);
	let ends = 0;
	for (const [w, [way, expected]] of Object.entries(WAYS).entries())
		for (const [i, work] of WORKS.entries()) {
			// The short run takes every work and every way, not every pair.
			if (each === 1 && i % 4 !== w && (way !== 'exit' || i % 2 === 0)) continue;
			for (const after of moments(each)) {
				const { code, signal, err } = await ended(way, work, [after]);
				t.deepEqual(
					{ code, signal },
					{ code: expected.code, signal: null },
					`${way} ${work} ${after} ms: ${err}`,
				);
				t.regex(err, expected.err);
				t.notRegex(err, /terminate called|Abort|Segmentation|FATAL|pure virtual/i);
				ends++;
			}
		}
	held(
		'Node',
		'`process.exit()` and an uncaught error in the middle of work end the process with their code',
		{
			kinds: WORKS.length,
			ends,
			crashes: 0,
		},
	);
});
