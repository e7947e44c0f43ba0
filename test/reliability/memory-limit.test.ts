// Out of memory is an error with numbers, and what is smaller still works in the same process.
import { execFile } from 'node:child_process';
import { mkdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { Session } from '../../lib/native/session.js';
import { freshPath } from '../data/folders.js';
import { held, LONG } from '../support/reliability.js';
import { tinyEncoder, tinyLlm } from '../support/tiny-checkpoints.js';

const CHILD = fileURLToPath(new URL('memory-limit-child.js', import.meta.url));

type Outcomes = Record<
	string,
	{ refused?: { code: string; message: string }; right: boolean; inUse: number }
>;

test.serial('a process under a memory limit says what it lacks and goes on', async (t) => {
	if (process.platform !== 'linux') {
		t.log('SKIP: limits are set by prlimit, which is Linux alone');
		t.pass();
		return;
	}
	const folder = freshPath('limit');
	await mkdir(folder, { recursive: true });
	const large = {
		hiddenSize: 256,
		embedSize: 256,
		numLayers: 8,
		numHeads: 4,
		ffnSize: 1024,
		maxPositions: 512,
	};
	await rename(await tinyLlm({ ...large, vocabSize: 8000 }), join(folder, 'llm'));
	await rename(await tinyLlm(), join(folder, 'small'));
	await rename(await tinyEncoder({ hiddenSize: 64, intermediateSize: 256 }), join(folder, 'encoder'));
	const sizes = LONG ? [16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 1024] : [32, 96];
	const refusals: Record<string, number> = {};
	let tried = 0;
	for (const size of sizes) {
		const { stdout } = await promisify(execFile)(process.execPath, [CHILD, folder, String(size)]);
		for (const [task, { refused, right, inUse }] of Object.entries(JSON.parse(stdout) as Outcomes)) {
			tried++;
			t.true(right, `${task} under ${size} MB: the small call gave something else, or weights have changed`);
			if (!refused) continue;
			refusals[task] = (refusals[task] ?? 0) + 1;
			t.is(refused.code, 'ERR_ALLMREC_OUT_OF_MEMORY', `${task} under ${size} MB: ${refused.message}`);
			t.regex(
				refused.message,
				/Out of memory.*(\d+(\.\d+)? [kMG]B|\d+ bytes).*resident.*its limits are .* of data \(RLIMIT_DATA\)/s,
			);
			// The trainer's arena keeps what its small step took.
			t.true(inUse < 8 * 2 ** 20, `${task} under ${size} MB still holds ${inUse} bytes`);
		}
	}
	// The smallest limit refuses every task.
	t.deepEqual(Object.keys(refusals).sort(), ['encode', 'generate', 'load', 'score', 'train']);
	held(
		'Memory',
		'Under a memory limit calls fail with the numbers, and smaller ones in the same process are right',
		{
			limits: sizes.length,
			'large calls': tried,
			refused: Object.values(refusals).reduce((a, b) => a + b, 0),
			'wrong or broken after': 0,
		},
	);
});

test.serial('a model larger than all there is is refused with the numbers', (t) => {
	const session = Session.open({ device: 'cpu', threads: 1 });
	const config = {
		vocabSize: 50_272,
		hiddenSize: 65_536,
		embedSize: 65_536,
		numLayers: 96,
		numHeads: 64,
		ffnSize: 262_144,
		maxPositions: 2048,
		normBefore: true,
		finalNorm: true,
		activation: 'relu',
	} as const;
	t.throws(() => new session.addon.Opt(session.engine, config), {
		code: 'ERR_ALLMREC_OUT_OF_MEMORY',
		message:
			/^Out of memory: \d+\.\d+ GB are not to be had for weights\. .* resident.*its limits are .* in the machine/,
	});
	session.release();
});
