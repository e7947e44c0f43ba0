// No leak: what a process has that scores and generates on and on does not grow.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { held, LONG, times } from '../support/reliability.js';

const CHILD = fileURLToPath(new URL('memory-soak-child.js', import.meta.url));
const MB = 1e6;
/**
 * MB a minute that are taken for none. Ten minutes tell 0.1 MB a minute from zero. In the ten seconds that the short
 * version looks at, code that V8 still compiles and what the allocators settle at are a megabyte or two; five are a
 * leak, of some 5 kB a call.
 */
const BOUND = LONG ? 1 : 30;

interface Sample {
	second: number;
	rss: number;
	heap: number;
	external: number;
	inUse: number;
}

/** MB a minute by least squares, with its standard error. */
function slope(
	samples: readonly Sample[],
	of: (sample: Sample) => number,
): { perMinute: number; error: number } {
	const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;
	const x = samples.map(({ second }) => second / 60);
	const y = samples.map((sample) => of(sample) / MB);
	const [mx, my] = [mean(x), mean(y)];
	const sxx = x.reduce((sum, v) => sum + (v - mx) ** 2, 0);
	const perMinute = x.reduce((sum, v, i) => sum + (v - mx) * (y[i]! - my), 0) / sxx;
	const rest = y.reduce((sum, v, i) => sum + (v - my - perMinute * (x[i]! - mx)) ** 2, 0);
	return { perMinute, error: Math.sqrt(rest / Math.max(1, x.length - 2) / sxx) };
}

test.serial('scoring and generating on and on takes no more memory', async (t) => {
	const seconds = times(20, 600);
	const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', CHILD, String(seconds)], {
		maxBuffer: 2 ** 26,
	});
	const { calls, samples } = JSON.parse(stdout.trim().split('\n').at(-1)!) as {
		calls: number;
		samples: Sample[];
	};
	const late = samples.filter(({ second }) => second > seconds / 2);
	t.true(late.length >= 10, `${late.length} samples`);
	const resident = slope(late, ({ rss }) => rss);
	const heap = slope(late, ({ heap: used, external }) => used + external);
	t.log(
		`${calls} calls; resident ${resident.perMinute.toFixed(2)} ± ${resident.error.toFixed(2)} MB/min, heap ${heap.perMinute.toFixed(2)} ± ${heap.error.toFixed(2)} MB/min`,
	);
	for (const { perMinute, error } of [resident, heap])
		t.true(perMinute - 2 * error < BOUND && perMinute < BOUND, `${perMinute} ± ${error}`);
	// A call that was left may still hold memory when it is measured; with none, the device holds the models alone.
	const least = (of: readonly Sample[]) => Math.min(...of.map(({ inUse }) => inUse));
	t.is(least(late), least(samples.filter(({ second }) => second <= seconds / 2)));
	held('Memory', 'Scoring and generating on and on, with errors and aborted calls, takes no more memory', {
		minutes: (seconds / 60).toFixed(1),
		calls,
		'resident, MB/min': `${resident.perMinute.toFixed(2)} ± ${resident.error.toFixed(2)}`,
		'JavaScript heap, MB/min': `${heap.perMinute.toFixed(2)} ± ${heap.error.toFixed(2)}`,
		'resident at the end, MB': (late.at(-1)!.rss / MB).toFixed(0),
	});
});
