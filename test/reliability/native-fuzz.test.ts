import { spawn } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'ava';
import { held, times } from '../support/reliability.js';

test('the fuzzers of the native readers find nothing', async (t) => {
	t.timeout(40 * 60_000, 'compiles the readers with sanitizers');
	const seconds = times(2, 120);
	const child = spawn('node', ['scripts/fuzz.mjs', '--seconds', String(seconds)], {
		stdio: ['ignore', 'pipe', 'inherit'],
	});
	const [output, status] = await Promise.all([
		text(child.stdout),
		new Promise((done) => child.once('close', done)),
	]);
	t.is(status, 0, output);
	const executions = [...output.matchAll(/^fuzz (\S+): (\d+) executions, no finding$/gm)];
	t.deepEqual(
		executions.map(([, name]) => name).sort(),
		['json', 'pickle', 'safetensors', 'token-trie', 'torch', 'weights', 'zip'],
		output,
	);
	// Each replays its corpus at least.
	for (const [, name, count] of executions)
		t.true(Number(count) >= readdirSync(join('native/fuzz/corpus', name!)).length, `${name}: ${count}`);
	const plain = output.includes('plain driver');
	t.log(plain ? 'without clang: seeded mutations only' : 'libFuzzer');
	held('Files', 'Fuzzers of the native readers (ASan and UBSan) find nothing', {
		fuzzer: plain ? 'seeded mutations (no clang here)' : 'libFuzzer, coverage-guided',
		targets: executions.length,
		'seconds each': seconds,
		executions: executions.reduce((sum, [, , count]) => sum + Number(count), 0),
		findings: 0,
	});
});

test('the committed corpus is small', (t) => {
	let total = 0;
	for (const folder of ['corpus', 'regressions'])
		for (const name of readdirSync(join('native/fuzz', folder), { recursive: true, encoding: 'utf8' })) {
			const stat = statSync(join('native/fuzz', folder, name));
			if (!stat.isFile()) continue;
			const { size } = stat;
			t.true(size <= 8192, `${name}: ${size} bytes`);
			total += size;
		}
	t.true(total < 2 ** 20, `${total} bytes`);
});
