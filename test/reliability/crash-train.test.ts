import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import { freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { type CrashWorld, crashWorld, runHashes } from '../support/crash-world.js';
import { buildFaultyDisk, FaultyDisk } from '../support/faulty-disk.js';
import { killedInPart, nextPart, PARTS, type Part } from '../support/killing.js';
import { held, LONG, times } from '../support/reliability.js';
import { hashes, tinyRunOptions } from '../support/tiny-run.js';

/** Stages long enough to be killed in their middle several times. */
const world = tinyRunOptions().then(({ cf, alignment, projection }) =>
	crashWorld(
		LONG
			? {
					cf: { ...cf, epochs: 40 },
					alignment: { ...alignment, epochs: 12, patience: 12 },
					projection: { ...projection, epochs: 8, patience: 8 },
				}
			: {},
	),
);

/** Ends a training that was killed, and compares it with the one that never was. */
async function expectSame(t: ExecutionContext, { train, expected, run }: CrashWorld, out: string) {
	const { code, err } = await command(train(out));
	t.is(code, 0, err);
	t.deepEqual(await runHashes(out), expected);
	const left = Object.keys(await hashes(out)).filter((name) =>
		/\.tmp-|\.lock$|checkpoint-|best-|\.part$/.test(name),
	);
	t.deepEqual(left, [], 'nothing is left over');
	for (const stage of ['cf', 'align', 'project'])
		t.deepEqual(await logOf(join(out, stage)), await logOf(join(run, stage)), `${stage}: every epoch once`);
}

/** What the log says but for the time it took; losses to the digits that a different cutting of sums leaves. */
async function logOf(stage: string) {
	const text = await readFile(join(stage, 'log.jsonl'), 'utf8');
	return text
		.trimEnd()
		.split('\n')
		.map((line) => {
			const { seconds: _, losses, ...rest } = JSON.parse(line);
			const rounded = Object.entries(losses as Record<string, number>).map(([name, value]) => [
				name,
				value.toPrecision(10),
			]);
			return { ...rest, losses: Object.fromEntries(rounded) };
		});
}

test('kill -9 at random moments of every stage, again and again', async (t) => {
	const trained = await world;
	const random = new SeededRandom(Date.now());
	const wanted = times(1, 20);
	const kills: Record<Part | 'behind', number> = { cf: 0, align: 0, project: 0, fusion: 0, behind: 0 };
	let trainings = 0;
	while (PARTS.some((part) => kills[part] < wanted)) {
		const out = freshPath('run');
		trainings++;
		for (;;) {
			const part = nextPart(out);
			if (!part) break;
			if (kills[part] >= wanted && random.uniform() < 0.7) {
				// Enough of this one: on to the next part, and killed where that begins.
				const following = PARTS[PARTS.indexOf(part) + 1];
				if (!following || PARTS.slice(PARTS.indexOf(following)).every((each) => kills[each] >= wanted)) break;
			}
			const target = kills[part] < wanted ? part : (PARTS.find((each) => kills[each] < wanted) ?? part);
			const seconds = trained.seconds[target] ?? 0.5;
			const where = await killedInPart(trained.train(out), out, target, 1000 * seconds * random.uniform());
			if (where === 'ended') break;
			kills[where ?? 'behind']++;
		}
		await expectSame(t, trained, out);
	}
	t.log(`kills: ${JSON.stringify(kills)} in ${trainings} trainings`);
	held('Crash safety', 'A training killed at any moment goes on to the same weights, bit for bit.', {
		...Object.fromEntries(Object.entries(kills).map(([part, count]) => [`kills in ${part}`, count])),
		trainings,
		'trainings that differ': 0,
	});
});

test('kill -9 in the middle of what is written: files, folders, renamings', async (t) => {
	const { missing } = buildFaultyDisk();
	if (missing) {
		t.log(`SKIP: ${missing}`);
		t.pass();
		return;
	}
	const trained = await world;
	const random = new SeededRandom(Date.now(), 1);
	const wanted = times(4, 40);
	const places = new Set<string>();
	let kills = 0;
	let trainings = 0;
	while (kills < wanted) {
		const out = freshPath('run');
		trainings++;
		for (;;) {
			const disk = new FaultyDisk([out]);
			disk.fail('KILL', 1 + random.int(400));
			const { code, err } = await command(trained.train(out), undefined, disk.env);
			if (code === 0) break;
			t.is(code, null, err);
			kills++;
			places.add(disk.failedPath.slice(out.length).replace(/\.tmp-[0-9a-f-]+|-\d+/g, ''));
		}
		await expectSame(t, trained, out);
	}
	t.log(`${kills} kills in ${trainings} trainings at ${[...places].sort().join(', ')}`);
	held('Crash safety', 'A training killed in the middle of writing a file loses nothing that was written.', {
		kills,
		'different files': places.size,
		trainings,
		'trainings that differ': 0,
	});
});
