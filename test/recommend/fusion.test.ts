import test from 'ava';
import { type MetricName, metricValues, rankTargets } from '../../lib/evaluation/metrics.js';
import { Random } from '../../lib/evaluation/random.js';
import { itemSlices } from '../../lib/evaluation/slices.js';
import { pairedBootstrap } from '../../lib/evaluation/statistics.js';
import { atOnce } from '../../lib/event-loop.js';
import { FusionGate, fitFusion } from '../../lib/recommend/fusion.js';

const candidates = 20;

interface WorldOptions {
	/** How far CF lifts the target of an item it knows well, in deviations of its noise. */
	cfGain: number;
	/** Interactions at which CF knows half of that; 0 where it knows all items alike. */
	half: number;
	/** How much CF prefers an item per e-fold of popularity. */
	popularityBias: number;
	llmGain: number;
	/** Noise that both share, 0 … 1. */
	shared: number;
}

const usual: WorldOptions = { cfGain: 3.2, half: 6, popularityBias: 0.35, llmGain: 2.4, shared: 0.2 };

/** Targets follow popularity, the other 19 are uniform; CF is strong on warm items and blind on cold ones. */
function world(users: number, seed: number, options: WorldOptions = usual) {
	const random = new Random(seed);
	const items = 3000;
	const counts = Int32Array.from({ length: items + 1 }, (_, item) =>
		item ? Math.floor(4000 / (item + 5) ** 0.9) : 0,
	);
	const cumulative = new Float64Array(items + 1);
	for (let item = 1; item <= items; item++) cumulative[item] = cumulative[item - 1]! + counts[item]! + 0.5;
	const popular = () => {
		const place = random.uniform() * cumulative[items]!;
		let [low, high] = [1, items];
		while (low < high) {
			const middle = (low + high) >> 1;
			if (cumulative[middle]! < place) low = middle + 1;
			else high = middle;
		}
		return low;
	};
	const cf = new Float32Array(users * candidates);
	const llm = new Float32Array(users * candidates);
	const popularity = new Int32Array(users * candidates);
	const targets = Int32Array.from({ length: users }, () => Math.floor(candidates * random.uniform()));
	const targetItems = new Int32Array(users);
	const own = Math.sqrt(1 - options.shared ** 2);
	for (let at = 0; at < cf.length; at++) {
		const user = Math.floor(at / candidates);
		const isTarget = at % candidates === targets[user] ? 1 : 0;
		const item = isTarget ? popular() : 1 + Math.floor(items * random.uniform());
		if (isTarget) targetItems[user] = item;
		const pop = counts[item]!;
		const known = options.half === 0 ? 1 : pop / (pop + options.half);
		const common = options.shared * random.normal();
		popularity[at] = pop;
		cf[at] =
			options.cfGain * known * isTarget +
			options.popularityBias * Math.log1p(pop) +
			common +
			own * random.normal();
		llm[at] = 5 * (options.llmGain * isTarget + common + own * random.normal()) - 40;
	}
	const meanPopularity = counts.reduce((sum, count) => sum + count, 0) / items;
	const slices = itemSlices(counts, targetItems).filter(({ name }) => name !== 'neverSeen');
	return { cf, llm, popularity, targets, meanPopularity, slices };
}

type World = ReturnType<typeof world>;

/** The fused model against the better single one, per slice and metric. */
function compare(gate: FusionGate, { cf, llm, popularity, targets, slices }: World) {
	const fused = gate.fuse(cf, llm, popularity, candidates);
	return slices.flatMap(({ name, mask }) =>
		(['hit@1', 'ndcg@10'] as MetricName[]).map((metric) => {
			const [mixed, byCf, byLlm] = [fused, cf, llm].map((scores) =>
				metricValues(atOnce(rankTargets(scores, targets)), metric).filter((_, user) => mask[user] === 1),
			) as [Float64Array, Float64Array, Float64Array];
			const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
			const better = sum(byCf) > sum(byLlm) ? byCf : byLlm;
			return { name: `${name} ${metric}`, slice: name, ...atOnce(pairedBootstrap(mixed, better)) };
		}),
	);
}

const worlds: [string, WorldOptions][] = [
	['CF strong on warm, blind on cold', usual],
	['CF without popularity bias', { ...usual, popularityBias: 0, cfGain: 3.4 }],
	['a weak LLM', { ...usual, llmGain: 1.2 }],
	['a strong LLM', { ...usual, llmGain: 3.4, cfGain: 2 }],
	['CF knows all items alike', { ...usual, half: 0, popularityBias: 0, cfGain: 2.5 }],
];
for (const [name, options] of worlds) {
	test(`fused beats both overall and is no worse in any slice: ${name}`, async (t) => {
		const gate = await fitFusion(world(1000, 50, options));
		for (const { name: compared, slice, difference, low, high } of compare(gate, world(4000, 51, options))) {
			t.true(high >= 0, `${compared}: ${difference} [${low}, ${high}]`);
			if (slice === 'overall') t.true(low > 0, `${compared}: ${difference} [${low}, ${high}]`);
		}
	});
}

test('a few hundred validation users are enough not to do harm', async (t) => {
	let significantlyWorse = 0;
	for (let round = 0; round < 4; round++) {
		const gate = await fitFusion(world(250, 200 + round));
		const compared = compare(gate, world(2500, 300 + round));
		significantlyWorse += compared.filter(({ high }) => high < 0).length;
		t.true(compared.every(({ slice, low }) => slice !== 'overall' || low > 0));
	}
	t.true(significantlyWorse <= 1, `${significantlyWorse} of 24`);
});

test('a useless model is left out', async (t) => {
	const withoutCf = await fitFusion(world(600, 7, { ...usual, cfGain: 0, popularityBias: 0 }));
	t.is(withoutCf.params.weight, 0);
	const withoutLlm = await fitFusion(world(600, 7, { ...usual, half: 0, llmGain: 0 }));
	t.like(withoutLlm.params, { weight: 1, halfPoint: 0 });
});

test('a constant mix is preferred to a gate that brings nothing', async (t) => {
	const gate = await fitFusion(world(1000, 50, { ...usual, half: 0, popularityBias: 0, cfGain: 2.5 }));
	t.is(gate.params.halfPoint, 0);
	t.true(gate.params.weight > 0.3 && gate.params.weight < 0.7);
});

test('the same data give the same gate, which lives on as JSON', async (t) => {
	const data = world(400, 3);
	const gate = await fitFusion(data);
	t.deepEqual((await fitFusion(data)).params, gate.params);
	const again = FusionGate.fromJSON(JSON.parse(JSON.stringify(gate)));
	t.deepEqual(again.params, gate.params);
	t.deepEqual(
		again.fuse(data.cf, data.llm, data.popularity, candidates),
		gate.fuse(data.cf, data.llm, data.popularity, candidates),
	);
});

test('slices and mean popularity have defaults, users have a limit', async (t) => {
	const { cf, llm, popularity, targets, meanPopularity } = world(800, 4);
	const gate = await fitFusion({ cf, llm, popularity, targets, maxUsers: 300 });
	t.true(Math.abs(gate.params.meanPopularity / meanPopularity - 1) < 0.15);
	t.true(gate.params.weight > 0 && gate.params.halfPoint > 0);
});

// One user, three candidates: z(llm) = (√1.5, 0, −√1.5); CF has never seen the first, z(cf) of the others = (−1, 1).
const root = Math.sqrt(1.5);
const cf = Float32Array.of(1, 2, 3);
const llm = Float32Array.of(-10, -20, -30);
const popularity = Int32Array.of(0, 4, 12);
const special: [string, [weight: number, halfPoint: number, steepness: number], number[]][] = [
	['CF alone, of what it has seen', [1, 0, 1], [root, -1, 1]],
	['the LLM alone', [0, 1, 1], [root, 0, -root]],
	['a constant mix', [0.75, 0, 2], [root, -0.75, 0.75 - root / 4]],
	['the popularity gate, 0 and 4/8 and 12/16', [1, 1, 1], [root, -0.5, 0.75 - root / 4]],
	['half of it', [0.5, 1, 1], [root, -0.25, 0.375 - 0.625 * root]],
	['steeper, 144/(144 + 16)', [1, 1, 2], [root, -0.5, 0.9 - root / 10]],
	['half open at 12', [1, 3, 1], [root, -0.25, 0.5 - root / 2]],
];
for (const [name, [weight, halfPoint, steepness], expected] of special) {
	test(`special case: ${name}`, (t) => {
		const gate = new FusionGate({ weight, halfPoint, steepness, meanPopularity: 4 });
		for (const [at, value] of gate.fuse(cf, llm, popularity).entries())
			t.true(Math.abs(value - expected[at]!) < 1e-6, `${at}: ${value}`);
	});
}

test('a constant row leaves the choice to the other model, two give zeros', (t) => {
	const gate = new FusionGate({ weight: 1, halfPoint: 1, steepness: 1, meanPopularity: 4 });
	const flat = new Float32Array(3).fill(0.1);
	const onlyLlm = gate.fuse(flat, llm, popularity);
	const onlyCf = gate.fuse(cf, flat, popularity);
	for (const [at, value] of [root, 0, -root].entries()) t.true(Math.abs(onlyLlm[at]! - value) < 1e-6);
	for (const [at, value] of [0, -1, 1].entries()) t.true(Math.abs(onlyCf[at]! - value) < 1e-6);
	t.deepEqual([...gate.fuse(flat, flat, popularity)], [0, 0, 0]);
	t.deepEqual([...gate.fuse(cf.subarray(0, 1), llm.subarray(0, 1), [3])], [0]);
	t.is(gate.fuse(cf.subarray(0, 0), llm.subarray(0, 0), []).length, 0);
});

test('wrong arguments', async (t) => {
	const invalid = { code: 'ERR_ALLMREC_INVALID_ARGUMENT' };
	const params = { weight: 1, halfPoint: 1, steepness: 1, meanPopularity: 4 };
	for (const wrong of [{ weight: 1.1 }, { halfPoint: -1 }, { steepness: 0 }, { meanPopularity: Number.NaN }])
		t.throws(() => new FusionGate({ ...params, ...wrong }), invalid);
	const gate = new FusionGate(params);
	t.throws(() => gate.fuse(cf, llm.subarray(1), popularity), invalid);
	t.throws(() => gate.fuse(cf, llm, popularity, 2), invalid);
	t.throws(() => gate.fuse(cf, llm, [1, 2]), invalid);
	t.throws(() => gate.fuse(cf, llm, [1, 2, -1]), invalid);
	const numeric = { code: 'ERR_ALLMREC_NUMERIC' };
	t.throws(() => gate.fuse(Float32Array.of(1, Number.NaN, 2), llm, popularity), numeric);
	t.throws(() => gate.fuse(cf, Float32Array.of(1, Number.NEGATIVE_INFINITY, 2), popularity), numeric);
	const format = { code: 'ERR_ALLMREC_FILE_FORMAT' };
	for (const json of [null, {}, { ...gate.toJSON(), version: 2 }])
		t.throws(() => FusionGate.fromJSON(json), format);
	t.throws(() => FusionGate.fromJSON({ kind: 'popularity-gate', version: 1 }), invalid);
	const none = {
		cf: new Float32Array(0),
		llm: new Float32Array(0),
		popularity: [],
		targets: new Int32Array(0),
	};
	await t.throwsAsync(fitFusion(none), invalid);
	await t.throwsAsync(
		fitFusion({ ...world(20, 1), slices: [{ name: 'few', mask: new Uint8Array(3) }] }),
		invalid,
	);
	await t.throwsAsync(fitFusion({ ...world(20, 1), signal: AbortSignal.abort(new Error('enough')) }), {
		message: 'enough',
	});
});
