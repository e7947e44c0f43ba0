import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { SeededRandom } from '../../lib/data/random.js';
import type { Progress } from '../../lib/progress.js';
import {
	isTrained,
	type LoopOptions,
	type Stage,
	type StepsDone,
	trainLoop,
} from '../../lib/training/loop.js';
import { freshPath, rejects } from '../data/folders.js';

const STEPS = 4;

/** One weight with momentum, moved by a random draw at each step; validated by the scores it is given. */
class FakeStage implements Stage {
	readonly name = 'cf';
	readonly stepsPerEpoch = STEPS;
	readonly unit = 'sequences';
	readonly unitsPerEpoch = 4 * STEPS - 1;
	weight = 0;
	#momentum = 0;
	/** Steps done, over all runs. */
	#done = 0;
	/** Steps and draws, in the order they were made. */
	readonly steps: number[] = [];
	readonly draws: number[] = [];
	readonly validatedAfter: number[] = [];
	onStep: (step: number) => void = () => {};
	readonly #scores: (epoch: number) => number;

	constructor(scores: (epoch: number) => number = (epoch) => epoch) {
		this.#scores = scores;
	}

	async run(first: number, count: number, signal?: AbortSignal): Promise<StepsDone> {
		let sum = 0;
		let step = first;
		for (; step < first + count && !signal?.aborted; step++) {
			const draw = new SeededRandom(3, step).uniform();
			this.#momentum = 0.9 * this.#momentum + draw;
			this.weight += this.#momentum;
			this.steps.push(step);
			this.draws.push(draw);
			this.onStep(step);
			sum += step;
		}
		this.#done = step;
		return { steps: step - first, losses: { loss: sum / (step - first) } };
	}

	async validate() {
		const epoch = this.#done / STEPS;
		this.validatedAfter.push(epoch);
		const score = this.#scores(epoch);
		return { score, metrics: { 'NDCG@10': score } };
	}

	async saveWeights(path: string) {
		await writeFile(path, JSON.stringify(this.weight));
	}

	async loadWeights(path: string) {
		this.weight = JSON.parse(await readFile(path, 'utf8'));
	}

	async saveOptimizer(path: string) {
		await writeFile(path, JSON.stringify([this.#momentum, this.#done]));
	}

	async loadOptimizer(path: string) {
		[this.#momentum, this.#done] = JSON.parse(await readFile(path, 'utf8'));
	}
}

const train = (stage: Stage, options: Partial<LoopOptions> = {}, fingerprint = 'a') =>
	trainLoop(stage, { epochs: 5, checkpointSeconds: 0, ...options }, fingerprint);

async function readLog(folder: string): Promise<Record<string, unknown>[]> {
	const text = await readFile(join(folder, 'log.jsonl'), 'utf8');
	return text
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line));
}

test('every step is run once, in order, and every epoch is validated', async (t) => {
	const stage = new FakeStage();
	const result = await train(stage);
	t.deepEqual(
		stage.steps,
		Array.from({ length: 20 }, (_, step) => step),
	);
	t.deepEqual(stage.validatedAfter, [1, 2, 3, 4, 5]);
	t.like(result, { steps: 20, epochs: 5, stoppedEarly: false });
	t.deepEqual(result.best, { score: 5, epoch: 5, metrics: { 'NDCG@10': 5 } });
	t.deepEqual(result.losses, { loss: 17.5 }); // the mean of the last epoch's steps, 16 … 19
	t.true(result.seconds > 0);
});

test('validation comes every so many epochs, and after the last', async (t) => {
	const stage = new FakeStage();
	await train(stage, { validateEvery: 2 });
	t.deepEqual(stage.validatedAfter, [2, 4, 5]);
	const never = new FakeStage();
	const result = await train(never, { validateEvery: 0, folder: freshPath() });
	t.deepEqual(never.validatedAfter, []);
	t.is(result.best, undefined);
	t.is(never.steps.length, 20);
});

test('no epochs train nothing', async (t) => {
	const stage = new FakeStage();
	const folder = freshPath();
	t.like(await train(stage, { epochs: 0, folder }), { steps: 0, epochs: 0, stoppedEarly: false });
	t.deepEqual(stage.steps, []);
	t.true(await isTrained(folder, 'a'));
});

test('training stops after `patience` validations without a better score', async (t) => {
	const scores = [0, 1, 3, 2, 3, 9];
	const stage = new FakeStage((epoch) => scores[epoch]!);
	stage.onStep = () => {
		const until = performance.now() + 1;
		while (performance.now() < until); // so that there is time to tell
	};
	const result = await train(stage, { patience: 2 });
	t.like(result, { steps: 16, epochs: 4, stoppedEarly: true }); // 3 is not better than 3
	t.is(result.best!.epoch, 2);
	t.true(result.seconds > 0.01, `${result.seconds}`);
});

test('the best weights are restored, with a folder and without', async (t) => {
	const scores = (epoch: number) => [0, 1, 3, 2, 2, 2][epoch]!;
	const best = new FakeStage();
	await train(best, { epochs: 2 });

	const folder = freshPath();
	const stage = new FakeStage(scores);
	await train(stage, { folder });
	t.is(stage.weight, best.weight);
	t.deepEqual((await readdir(folder)).sort(), ['final', 'log.jsonl', 'state.json']);
	t.is(JSON.parse(await readFile(join(folder, 'final/model.safetensors'), 'utf8')), best.weight);

	const unkept = new FakeStage(scores);
	await train(unkept);
	t.is(unkept.weight, best.weight);
});

test('a finished training is loaded, not repeated', async (t) => {
	const folder = freshPath();
	const first = new FakeStage((epoch) => -epoch);
	const before = await train(first, { folder, patience: 3 });
	t.true(await isTrained(folder, 'a'));
	t.false(await isTrained(folder, 'b'));
	t.false(await isTrained(freshPath(), 'a'));
	for (let again = 0; again < 2; again++) {
		const stage = new FakeStage();
		const after = await train(stage, { folder, patience: 3 });
		t.deepEqual(stage.steps, []);
		t.is(stage.weight, first.weight);
		t.deepEqual(after, before);
	}
	t.is((await readLog(folder)).length, 4);
});

test('a resumed training equals one that was never stopped, wherever it was stopped', async (t) => {
	const scores = (epoch: number) => [0, 2, 5, 3, 6, 1][epoch]!;
	const whole = new FakeStage(scores);
	const result = await train(whole, { folder: freshPath() });
	for (const stop of [0, 1, 3, 4, 10, 18]) {
		const folder = freshPath();
		const reason = new Error(`stopped at step ${stop}`);
		const controller = new AbortController();
		const first = new FakeStage(scores);
		first.onStep = (step) => {
			if (step === stop) controller.abort(reason);
		};
		t.is(await t.throwsAsync(train(first, { folder, signal: controller.signal })), reason);
		const second = new FakeStage(scores);
		const resumed = await train(second, { folder });
		const kept = whole.steps.length - second.steps.length;
		t.is(kept, stop + 1, 'all steps up to the abort');
		t.deepEqual([...first.steps.slice(0, kept), ...second.steps], whole.steps);
		t.deepEqual([...first.draws.slice(0, kept), ...second.draws], whole.draws);
		t.is(second.weight, whole.weight);
		t.deepEqual({ best: resumed.best, steps: resumed.steps }, { best: result.best, steps: result.steps });
		t.true(Math.abs(resumed.losses.loss! - result.losses.loss!) < 1e-9); // the whole last epoch's, too
	}
});

test('a training that was interrupted several times comes to the same end', async (t) => {
	const whole = new FakeStage();
	await train(whole);
	const folder = freshPath();
	let stage = new FakeStage();
	for (let rounds = 0; rounds < 7; rounds++) {
		const controller = new AbortController();
		stage = new FakeStage();
		let steps = 0;
		stage.onStep = () => {
			if (++steps === 3) controller.abort();
		};
		try {
			await train(stage, { folder, signal: controller.signal });
			break;
		} catch {}
	}
	t.is(stage.weight, whole.weight);
});

test('an abort while an epoch is ended, by its last validation too, changes nothing of the end', async (t) => {
	const scores = (epoch: number) => [0, 3, 5, 4, 4, 9][epoch]!;
	const whole = new FakeStage(scores);
	const expected = await train(whole, { folder: freshPath(), patience: 2 });
	t.true(expected.stoppedEarly);
	for (const epoch of [1, 2, 3, 4]) {
		const folder = freshPath();
		const controller = new AbortController();
		const first = new FakeStage(scores);
		const validate = first.validate.bind(first);
		first.validate = async () => {
			const result = await validate();
			if (result.metrics['NDCG@10'] === scores(epoch) && first.validatedAfter.at(-1) === epoch)
				controller.abort(new Error('enough'));
			return result;
		};
		await train(first, { folder, patience: 2, signal: controller.signal }).catch(() => {});
		const second = new FakeStage(scores);
		const result = await train(second, { folder, patience: 2 });
		t.is(second.weight, whole.weight, `aborted in epoch ${epoch}`);
		t.like(result, { steps: 16, stoppedEarly: true, best: expected.best });
		t.is((await readLog(folder)).length, 4);
	}
});

test('only the latest checkpoint is kept, and the last names no optimizer', async (t) => {
	const folder = freshPath();
	const controller = new AbortController();
	const stage = new FakeStage();
	stage.onStep = (step) => {
		if (step === 9) controller.abort();
	};
	await t.throwsAsync(train(stage, { folder, signal: controller.signal }), { any: true });
	const checkpoints = (await readdir(folder)).filter((name) => name.startsWith('checkpoint-'));
	const { checkpoint, step } = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
	t.deepEqual(checkpoints, [checkpoint]);
	t.is(checkpoint, `checkpoint-${step}`);
	await train(new FakeStage(), { folder });
	t.deepEqual((await readdir(folder)).sort(), ['final', 'log.jsonl', 'state.json']);
	t.deepEqual(await readdir(join(folder, 'final')), ['model.safetensors']);
});

test('a folder of other data or options is an error', async (t) => {
	const folder = freshPath();
	await train(new FakeStage(), { folder }, 'a');
	const stage = new FakeStage();
	await rejects(t, () => train(stage, { folder }, 'b'), 'ERR_ALLMREC_RUN', /other data or options/);
	t.deepEqual(stage.steps, []);
});

test('a damaged state is an error that tells what to delete', async (t) => {
	const folder = freshPath();
	await train(new FakeStage(), { folder });
	for (const text of ['', '{"version": 1', 'null', '[]', '{"version": 2, "step": 3}', '{"version":1}']) {
		await writeFile(join(folder, 'state.json'), text);
		const error = await rejects(t, () => train(new FakeStage(), { folder }), 'ERR_ALLMREC_RUN', /delete/);
		t.true(error.message.includes(folder));
	}
});

test('an aborted signal stops it before the first step', async (t) => {
	const stage = new FakeStage();
	const reason = new Error('not now');
	t.is(await t.throwsAsync(train(stage, { signal: AbortSignal.abort(reason) })), reason);
	t.deepEqual(stage.steps, []);
});

test('an error of the stage is passed on, and the training resumes before it', async (t) => {
	const folder = freshPath();
	const failing = new FakeStage();
	failing.onStep = (step) => {
		if (step === 6) throw new Error('disk full');
	};
	await t.throwsAsync(train(failing, { folder }), { message: 'disk full' });
	const whole = new FakeStage();
	await train(whole);
	const resumed = new FakeStage();
	await train(resumed, { folder });
	t.is(resumed.weight, whole.weight);
	t.true(resumed.steps[0]! > 0);
});

test('the log has a line for each epoch with its losses and metrics', async (t) => {
	const folder = freshPath();
	await train(new FakeStage(), { folder, validateEvery: 2, epochs: 3 });
	const lines = await readLog(folder);
	t.deepEqual(
		lines.map(({ stage, epoch, step, losses, metrics }) => ({ stage, epoch, step, losses, metrics })),
		[
			{ stage: 'cf', epoch: 1, step: 4, losses: { loss: 1.5 }, metrics: {} },
			{ stage: 'cf', epoch: 2, step: 8, losses: { loss: 5.5 }, metrics: { 'NDCG@10': 2 } },
			{ stage: 'cf', epoch: 3, step: 12, losses: { loss: 9.5 }, metrics: { 'NDCG@10': 3 } },
		],
	);
});

test('progress counts to the end, names losses and metrics, and comes about ten times a second', async (t) => {
	const stage = new FakeStage();
	const run = stage.run.bind(stage);
	stage.run = async (first, count) => {
		await sleep(5 * count);
		return run(first, count);
	};
	const reports: Progress[] = [];
	const begun = performance.now();
	await train(stage, { epochs: 15, onProgress: (progress) => reports.push(progress) });
	const seconds = (performance.now() - begun) / 1000;
	t.true(reports.length >= 2);
	t.true(reports.length <= 10 * seconds + 2, `${reports.length} reports in ${seconds.toFixed(2)} s`);
	for (const [i, { done, total, stage, unit }] of reports.entries()) {
		t.deepEqual({ stage, unit, total }, { stage: 'cf', unit: 'sequences', total: 225 });
		t.true(done >= (reports[i - 1]?.done ?? 0));
	}
	const last = reports.at(-1)!;
	t.is(last.done, 225);
	t.is(last.secondsLeft, 0);
	t.deepEqual(last.metrics, { epoch: 15, loss: 57.5, 'best NDCG@10': 15 });
});

test('without a folder nothing is left behind', async (t) => {
	const stage = new FakeStage();
	const written: string[] = [];
	const save = stage.saveWeights.bind(stage);
	stage.saveWeights = async (path) => {
		written.push(dirname(path));
		await save(path);
	};
	stage.saveOptimizer = async () => t.fail();
	await train(stage);
	t.true(written.length > 0);
	t.false(written.some((folder) => existsSync(folder)));
	t.false(existsSync('state.json'));
});
