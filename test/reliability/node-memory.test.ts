import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { held, times } from '../support/reliability.js';

const execute = promisify(execFile);
const program = fileURLToPath(new URL('./children/cycles.js', import.meta.url));

async function cycles(way: string, kind: string, count: number): Promise<string> {
	const flags = way === 'forget' ? [] : ['--expose-gc', '--max-semi-space-size=1'];
	const { stdout } = await execute(process.execPath, [...flags, program, way, kind, String(count)], {
		timeout: 3_600_000,
		// One arena: what threads keep of their own for reuse is no leak.
		env: { ...process.env, MALLOC_ARENA_MAX: '1' },
	});
	return stdout.trim();
}

/**
 * What the resident memory may grow by in all cycles after the warm-up. A cycle takes from a quarter of a megabyte up, so
 * what every cycle keeps shows, and in the long run a kilobyte of it. Disposed of at once, it is the ups and downs of V8
 * and malloc; dropped, up to fifty megabytes live at a time, between which what is left has to find room. That nothing
 * of the device is in use after each part the child looks at itself.
 */
const NOISE = { dispose: 8 << 20, drop: 64 << 20 };

for (const [way, promise] of [
	['dispose', 'Creating, using and disposing of native objects, over and over, takes no memory'],
	['drop', 'Native objects that are dropped without `dispose()` are collected, also while jobs run'],
] as const)
	test(promise, async (t) => {
		const count = times(120, way === 'dispose' ? 10_000 : 2000);
		const kinds = (await cycles(way, 'kinds', 0)).split(',');
		let worst = 0;
		for (const kind of kinds) {
			const growth = Number(await cycles(way, kind, count));
			t.log(`${kind}: ${(growth / 2 ** 20).toFixed(2)} MB in ${count} cycles`);
			t.true(growth < NOISE[way], `${kind}: ${growth} bytes in ${count} cycles`);
			worst = Math.max(worst, growth);
		}
		held('Node', promise, {
			kinds: kinds.length,
			'cycles of each': count,
			'most growth, MB': (worst / 2 ** 20).toFixed(2),
		});
	});

test('models that are forgotten are collected although nobody asks for it', async (t) => {
	// A cycle's model takes 8 MB with its gradients: uncollected they would be 4 GB.
	const count = times(500, 5000);
	const most = Number(await cycles('forget', 'alignment', count));
	t.true(most < 1 << 30, `${most} bytes`);
	held('Node', 'The garbage collector knows what a forgotten model weighs', {
		models: count,
		'most resident, MB': Math.round(most / 2 ** 20),
	});
});
