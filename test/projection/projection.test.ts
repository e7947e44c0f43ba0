import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { leaveLastOut } from '../../lib/data/split.js';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { recommendationTemplate } from '../../lib/llm/prompt-template.js';
import { run } from '../../lib/native/session.js';
import { Projection, type ProjectionOptions } from '../../lib/projection/projection.js';
import { Catalogue } from '../../lib/recommend/catalogue.js';
import { createPrompts } from '../../lib/recommend/model-parts.js';
import { datasetOf } from '../data/datasets.js';
import { fixture, freshPath, rejects } from '../data/folders.js';
import { INTERRUPTED, interrupted } from '../support/interruption.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';
import { D, stageTwo } from '../support/tiny-stages.js';
import { maxDifference, weightsOf } from '../support/weights.js';

const world = (async () => {
	const two = await stageTwo();
	const llm = await CausalLM.load(await tinyLlm({ maxPositions: 256 }), { session: two.session });
	const catalogue = Catalogue.of(two.dataset, two.split.itemCounts);
	return {
		...two,
		llm,
		prompts: await createPrompts(llm, catalogue, recommendationTemplate(), { historyLength: 3 }),
	};
})();

const tiny: ProjectionOptions = {
	candidates: 4,
	batchSize: 8,
	learningRate: 3e-3,
	epochs: 2,
	validationUsers: 10,
};

async function train(
	t: { teardown: (work: () => void) => void },
	options: ProjectionOptions,
	calls: { folder?: string; signal?: AbortSignal; joint?: Float32Array } & object = {},
): Promise<Projection> {
	const { dataset, cf, llm, ...rest } = await world;
	const projection = await Projection.train(dataset, cf, llm, { ...tiny, ...options }, { ...rest, ...calls });
	t.teardown(() => projection.dispose());
	return projection;
}

async function log(
	folder: string,
): Promise<{ losses: Record<string, number>; metrics: Record<string, number> }[]> {
	const text = await readFile(join(folder, 'log.jsonl'), 'utf8');
	return text
		.trim()
		.split('\n')
		.map((line) => JSON.parse(line));
}

function lengths(rows: Float32Array, width: number): number[] {
	return Array.from({ length: rows.length / width }, (_, r) =>
		Math.hypot(...rows.subarray(r * width, (r + 1) * width)),
	);
}

function meanCosine(a: Float32Array, b: Float32Array, width: number): number {
	const [ofA, ofB] = [lengths(a, width), lengths(b, width)];
	let sum = 0;
	for (let i = 0; i < a.length; i++)
		sum += (a[i]! * b[i]!) / (ofA[Math.floor(i / width)]! * ofB[Math.floor(i / width)]!);
	return sum / ofA.length;
}

const mean = (values: readonly number[]) => values.reduce((a, b) => a + b, 0) / values.length;

test.serial('the cross-entropy falls, and the language model stays as it is bit by bit', async (t) => {
	const { llm } = await world;
	const before = await weightsOf(llm.native);
	const folder = freshPath();
	const projection = await train(t, { epochs: 5 }, { folder });
	const epochs = await log(folder);
	const [first, last] = [epochs[0]!, epochs.at(-1)!];
	t.true(
		last.losses.crossEntropy! < first.losses.crossEntropy! - 0.05,
		JSON.stringify([first.losses, last.losses]),
	);
	const validation = 'validation crossEntropy';
	t.true(
		last.metrics[validation]! < first.metrics[validation]!,
		JSON.stringify([first.metrics, last.metrics]),
	);
	t.is(projection.training!.best!.score, -projection.training!.best!.metrics[validation]!);
	t.deepEqual(await weightsOf(llm.native), before);
});

test.serial(
	'parts of a step add up to its loss and gradients, and to nothing left of an earlier step',
	async (t) => {
		const { llm, session } = await world;
		const width = 6;
		const native = new session.addon.Projector(session.engine, {
			kind: 'mlp',
			userSize: width,
			jointSize: width,
			tokenSize: llm.tokenSize,
		});
		await native.initialise(3, 1);
		const trainer = new session.addon.ProjectionTrainer(native, llm.native, {
			learningRate: 1e-3,
			beta1: 0.9,
			beta2: 0.98,
			seed: 0,
		});
		t.teardown(() => {
			trainer.dispose();
			native.dispose();
		});
		// Three prompts of different lengths, each with a user, an item and other numbers of targets.
		const lengths = [5, 9, 7];
		const targetsOf = [1, 4, 2];
		const vectors = (first: number, count: number) =>
			Float32Array.from({ length: count * width }, (_, i) => Math.sin(first * width + i));
		const part = (prompts: readonly number[]) => {
			const offsets = [0];
			const [ids, rows, tokens]: [number[], number[], number[]] = [[], [], []];
			for (const [s, p] of prompts.entries()) {
				const begin = offsets.at(-1)!;
				for (let i = 0; i < lengths[p]!; i++) ids.push(10 + ((7 * i + 3 * p) % 20));
				ids[begin] = -s - 1;
				ids[begin + 2] = -prompts.length - s - 1;
				for (let i = lengths[p]! - targetsOf[p]!; i < lengths[p]!; i++) {
					rows.push(begin + i);
					tokens.push(5 + i);
				}
				offsets.push(ids.length);
			}
			const rowsOf = (kind: number) => {
				const out = new Float32Array(prompts.length * width);
				for (const [s, p] of prompts.entries()) out.set(vectors(2 * p + kind, 1), s * width);
				return out;
			};
			return [
				{ ids: Int32Array.from(ids), offsets: Int32Array.from(offsets) },
				{ users: rowsOf(0), items: rowsOf(1) },
				{ rows: Int32Array.from(rows), tokens: Int32Array.from(tokens) },
			] as const;
		};
		const gradients = async () => {
			const all: Record<string, Float32Array> = {};
			for (const { name } of native.parameters()) all[name] = await native.getGradient(name);
			return all;
		};
		const total = targetsOf.reduce((a, b) => a + b);
		const whole = await trainer.gradients(...part([0, 1, 2]));
		const expected = await gradients();
		let loss = 0;
		for (const p of [0, 1, 2]) loss += (await trainer.accumulate(...part([p]), total)).loss!;
		t.true(Math.abs(loss - whole.loss!) < 1e-6 * Math.abs(whole.loss!), `${loss} ${whole.loss}`);
		for (const [name, values] of Object.entries(await gradients())) {
			const largest = Math.max(...expected[name]!.map(Math.abs));
			t.true(largest > 0, name);
			t.true(maxDifference(values, expected[name]!) < 1e-5 * largest, name);
		}
		// A step takes what was accumulated; what is accumulated and never taken is not left to others.
		await trainer.step(...part([0]), total);
		await trainer.gradients(...part([0, 1, 2]));
		const afterStep = await gradients();
		await trainer.accumulate(...part([0, 1]), total);
		await trainer.gradients(...part([0, 1, 2]));
		t.deepEqual(await gradients(), afterStep);
		await rejects(
			t,
			() => run(() => trainer.accumulate(...part([0, 1]), 2)),
			'ERR_ALLMREC_INVALID_ARGUMENT',
			/totalTargets/,
		);
	},
);

test.serial('a batch in parts learns what the whole batch does', async (t) => {
	const [whole, parts] = [
		await train(t, { epochs: 1, projector: 'linear' }),
		await train(t, { epochs: 1, projector: 'linear', microBatchSize: 3 }),
	];
	const [one, other] = [whole, parts].map(({ training }) => training!.best!.score) as [number, number];
	t.true(Math.abs(one - other) < 1e-4 * Math.abs(one), `${one} ${other}`);
});

test.serial('every kind of projector learns, all of its weights', async (t) => {
	for (const projector of ['mlp', 'linear'] as const) {
		const [before, after] = [
			await train(t, { projector, epochs: 0 }),
			await train(t, { projector, epochs: 1 }),
		];
		const initial = await weightsOf(before.native);
		for (const [name, values] of Object.entries(await weightsOf(after.native)))
			t.notDeepEqual(values, initial[name], name);
	}
});

test.serial('a linear map that is shared gives an item the soft token of its reconstruction', async (t) => {
	const { alignment, joint } = await world;
	const options = { projector: 'linear', initialisation: 'shared', epochs: 0 } as const;
	for (const initialScale of [1, 2.5]) {
		const projection = await train(t, { ...options, initialScale });
		const items = await projection.items(joint);
		const decoded = await projection.users(await alignment.decodeItems(joint));
		t.true(maxDifference(items, decoded) < 1e-5, `${maxDifference(items, decoded)}`);
	}
});

test.serial(
	'a shared MLP is the same map up to its activation, in the length of token embeddings',
	async (t) => {
		const { alignment, joint, llm, cf, split } = await world;
		const width = llm.tokenSize;
		const options = { initialisation: 'shared', epochs: 0 } as const;
		const projection = await train(t, options);
		const weights = await weightsOf(projection.native);
		const decoded = await alignment.decodeItems(joint);
		const affine = (name: string, input: Float32Array, size: number) =>
			Array.from({ length: (input.length / size) * width }, (_, at) => {
				const [row, h] = [Math.floor(at / width), at % width];
				let sum = weights[`${name}.bias`]![h]!;
				for (let c = 0; c < size; c++)
					sum += weights[`${name}.weight`]![h * size + c]! * input[row * size + c]!;
				return sum;
			});
		t.true(maxDifference(affine('item_emb_proj.0', joint, 8), affine('log_emb_proj.0', decoded, D)) < 1e-5);
		for (const name of ['1.weight', '1.bias', '3.weight', '3.bias'])
			t.deepEqual(weights[`item_emb_proj.${name}`], weights[`log_emb_proj.${name}`], name);

		// Without the padding, whose soft token may be zero.
		const cosine = async (p: Projection) =>
			meanCosine((await p.items(joint)).subarray(width), (await p.users(decoded)).subarray(width), width);
		const near = await cosine(projection);
		const far = await cosine(await train(t, { epochs: 0 }));
		t.true(near > 0.9, `${near}`);
		t.true(Math.abs(far) < 0.5, `${far}`);

		const users = split.users('validation');
		const vectors = await cf.userVectors(Array.from(users, (user) => split.history(user, 'validation')));
		const table = await llm.native.getParameter('model.decoder.embed_tokens.weight');
		const expected = mean(lengths(table, width));
		t.true(Math.abs(mean(lengths(await projection.users(vectors), width)) / expected - 1) < 1e-3);
		const double = await train(t, { ...options, initialScale: 2 });
		t.true(Math.abs(mean(lengths(await double.users(vectors), width)) / expected - 2) < 1e-3);
	},
);

test.serial('a shared map has its length from training users where none has a validation item', async (t) => {
	const { dataset, cf, llm, alignment, prompts, session, joint } = await world;
	const pairs = datasetOf(
		Array.from({ length: 20 }, (_, user) => [1 + user, 21 + user]),
		dataset.numItems,
	);
	const projection = await Projection.train(
		pairs,
		cf,
		llm,
		{ ...tiny, initialisation: 'shared', epochs: 1 },
		{ split: leaveLastOut(pairs), joint, prompts, alignment, session },
	);
	t.teardown(() => projection.dispose());
	const tokens = await projection.users(await cf.userVectors([[3], [5, 6]]));
	const table = await llm.native.getParameter('model.decoder.embed_tokens.weight');
	const ratio = mean(lengths(tokens, llm.tokenSize)) / mean(lengths(table, llm.tokenSize));
	t.true(ratio > 0.3 && ratio < 3, `${ratio} times as long as token embeddings`);
});

test.serial('`initialScale` multiplies the last layers of the usual initialisation', async (t) => {
	const { joint } = await world;
	const [one, three] = [await train(t, { epochs: 0 }), await train(t, { epochs: 0, initialScale: 3 })];
	const expected = (await one.items(joint)).map((x) => 3 * x);
	t.true(maxDifference(await three.items(joint), expected) < 1e-4);
});

test.serial(
	'a training that is interrupted and called again ends with the same weights bit by bit',
	async (t) => {
		for (const options of [{ items: 'all' }, { initialisation: 'shared', clipNorm: 1 }] as const) {
			const whole = await train(t, options, { folder: freshPath() });
			const expected = await weightsOf(whole.native);
			const folder = freshPath();
			const error = await interrupted(
				(calls) => train(t, options, { folder, ...calls }),
				({ stage, done, total }) => stage === 'project' && done > 0.6 * total!,
			);
			t.is(error, INTERRUPTED);
			const { step, done } = JSON.parse(await readFile(join(folder, 'state.json'), 'utf8'));
			t.true(!done && step > 0 && step < whole.training!.steps, `stopped at step ${step}`);
			const resumed = await train(t, options, { folder });
			t.deepEqual(await weightsOf(resumed.native), expected);
			t.deepEqual(resumed.training!.best, whole.training!.best);
			t.deepEqual(await weightsOf((await train(t, options, { folder })).native), expected);
		}
	},
);

test.serial("`items: 'all'` trains on another item of each user in every epoch", async (t) => {
	const options = { batchSize: 1000, learningRate: 1e-30, validateEvery: 0 };
	const losses = async (items: 'last' | 'all') => {
		const folder = freshPath();
		await train(t, { ...options, items, epochs: 2 }, { folder });
		return (await log(folder)).map(({ losses }) => losses.crossEntropy!);
	};
	const [all, last] = [await losses('all'), await losses('last')];
	// Nothing is learnt: what differs between epochs is what is asked. `last` asks for the same titles among others.
	t.true(Math.abs(all[0]! - all[1]!) > 1e-4);
	t.not(all[0], last[0]);
});

test.serial('a saved projector is loaded with its configuration and projects alike', async (t) => {
	const { session, joint, cf } = await world;
	const projection = await train(t, { epochs: 1, projector: 'linear' });
	const path = await fixture('projector.safetensors', '');
	await projection.save(path);
	const loaded = await Projection.load(path, session);
	t.teardown(() => loaded.dispose());
	t.deepEqual(loaded.config, projection.config);
	t.deepEqual(await loaded.items(joint), await projection.items(joint));
	t.is((await loaded.items(new Float32Array(0))).length, 0);
	const other = await fixture('cf.safetensors', '');
	await cf.save(other);
	await rejects(t, () => Projection.load(other, session), 'ERR_ALLMREC_CHECKPOINT', /no projector/);
	await rejects(t, () => Projection.load('/no/such/file', session), 'ERR_ALLMREC_FILE_NOT_FOUND');
});

test.serial('an abort rejects with the reason of the signal', async (t) => {
	const reason = new Error('enough');
	await t.throwsAsync(train(t, {}, { signal: AbortSignal.abort(reason) }), { is: reason });
	const controller = new AbortController();
	setTimeout(() => controller.abort(reason), 50);
	await t.throwsAsync(train(t, { epochs: 1e6, validateEvery: 0 }, { signal: controller.signal }), {
		is: reason,
	});
});

test.serial('options that cannot be, other joint embeddings, and prompts that do not fit', async (t) => {
	const { dataset, cf, prompts, ...rest } = await world;
	const code = 'ERR_ALLMREC_INVALID_ARGUMENT';
	await rejects(t, () => train(t, { projektor: 'mlp' } as object), code, /did you mean `projector`\?/);
	await rejects(t, () => train(t, { candidates: 1 }), code, /`candidates`/);
	await rejects(t, () => train(t, { candidates: 51 }), 'ERR_ALLMREC_EMPTY_DATASET', /50 other items/);

	const folder = freshPath();
	await train(t, { epochs: 0 }, { folder });
	const joint = rest.joint.map((x) => x + 1);
	await rejects(
		t,
		() => train(t, { epochs: 0 }, { folder, joint }),
		'ERR_ALLMREC_RUN',
		/other data or options/,
	);

	const short = await CausalLM.load(await tinyLlm({ maxPositions: 60 }), { session: rest.session });
	t.teardown(() => short.dispose());
	const catalogue = Catalogue.of(dataset, rest.split.itemCounts);
	const own = await createPrompts(short, catalogue, recommendationTemplate());
	await rejects(
		t,
		() => Projection.train(dataset, cf, short, { ...tiny, candidates: 20 }, { ...rest, prompts: own }),
		'ERR_ALLMREC_PROMPT_TOO_LONG',
	);
});
