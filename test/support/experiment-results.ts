import { SeededRandom } from '../../lib/data/random.js';
import type { ExperimentResult, ScenarioKind } from '../../lib/experiment/results.js';

/** A title that would take a page apart if it were not escaped. */
export const HOSTILE_TITLE = `</script><script>throw new Error("title")</script><b>Bold</b> & "quoted" 'too'`;

interface SampleOptions {
	seed?: number;
	users?: number;
	dataset?: string;
	kind?: ScenarioKind;
	name?: string;
	/** Without what a result may leave out. */
	bare?: boolean;
	/** Added to every model's skill. */
	lift?: number;
}

/** Skill with popular and with rare targets. */
const MODELS: Record<string, [ExperimentResult['models'][string]['family'], number, number]> = {
	Popularity: ['floor', 0.35, 0.02],
	SASRec: ['cf', 0.68, 0.12],
	'LLM-Only': ['llm', 0.08, 0.07],
	'A-LLMRec': ['aligned', 0.64, 0.5],
	Fused: ['fused', 0.7, 0.48],
};

/** A small result with plausible numbers; the same for the same options. */
export function sampleResult(options: SampleOptions = {}): ExperimentResult {
	const {
		seed = 0,
		users = 240,
		dataset = 'Luxury_Beauty',
		kind = 'overall',
		bare = false,
		lift = 0,
	} = options;
	const { name = kind } = options;
	const random = new SeededRandom(1000 + seed);
	const targetCounts = Array.from({ length: users }, () => Math.floor(300 * random.uniform() ** 4));
	const rows = (holds: (count: number) => boolean) =>
		targetCounts.flatMap((count, row) => (holds(count) ? [row] : []));
	const models = Object.entries(MODELS).map(([label, [family, warm, cold]]) => {
		const ranks = { greater: [] as number[], ties: [] as number[] };
		for (const count of targetCounts) {
			const skill = cold + (warm - cold) * (count / (count + 12)) + lift;
			const hit = random.uniform() < skill;
			ranks.greater.push(hit ? 0 : 1 + Math.floor(19 * random.uniform() ** 2));
			ranks.ties.push(family === 'floor' && !hit ? 1 : 0);
		}
		const parts = family === 'fused' && !bare ? { parts: ['SASRec', 'A-LLMRec'] } : {};
		return [label, { family, ranks, seconds: 2 + 40 * random.uniform(), ...parts }] as const;
	});
	const result: ExperimentResult = {
		format: 'a-llmrec-result',
		version: 1,
		key: `${dataset}-${kind}-${name}-${seed}`.replace(/[^\w.-]+/g, '-'),
		experiment: 'sample',
		dataset: { name: dataset, numUsers: 9930, numItems: 6141, numInteractions: 63953 },
		scenario: { kind, name, options: kind === 'fewShot' ? { K: 128 } : {} },
		seed,
		users: Array.from({ length: users }, (_, user) => 3 * user + 1),
		targetCounts,
		negatives: 19,
		slices: {
			overall: { description: 'every evaluated user', rows: rows(() => true) },
			warm: { description: 'target among the top 35 % of items', rows: rows((count) => count >= 20) },
			cold: { description: 'target among the bottom 35 % of items', rows: rows((count) => count <= 3) },
		},
		models: Object.fromEntries(models),
	};
	return bare ? result : { ...result, ...parts(random, seed) };
}

function parts(random: SeededRandom, seed: number): Partial<ExperimentResult> {
	const titles = [
		HOSTILE_TITLE,
		'Rose Water Toner',
		'Argan Oil, 50 ml',
		'Cedar Soap',
		'檜のバスソルト',
		'שמן זית',
	];
	const points = Array.from({ length: 90 }, (_, at) => {
		const cluster = at % 3;
		return {
			item: `${titles[at % titles.length]} ${at}`,
			x: cluster * 2 + random.normal(),
			y: cluster - random.normal() * 0.6,
			count: Math.floor(300 * random.uniform() ** 3),
			cold: at % 7 === 0,
		};
	});
	const epochs = Array.from({ length: 10 }, (_, epoch) => epoch + 1);
	return {
		curves: [
			{
				stage: 'align',
				model: 'A-LLMRec',
				points: epochs.map((epoch) => ({
					epoch,
					losses: { matching: 0.4 / epoch + 0.02, 'item-recon': 0.9 / epoch, rec: 1.2 / Math.sqrt(epoch) },
					metrics: { 'NDCG@10': 0.7 - 0.5 / epoch },
				})),
			},
		],
		calibration: [
			[0, 4, 0.05, 0.12, 0.49, 0.49],
			[5, 19, 0.3, 0.35, 0.55, 0.56],
			[20, 99, 0.62, 0.55, 0.6, 0.64],
			[100, null, 0.9, 0.68, 0.63, 0.7],
		].map(([from, to, weight, cf, llm, fused]) => ({
			from: from!,
			to: to!,
			users: 60,
			weight: weight!,
			cf: cf!,
			llm: llm!,
			fused: fused!,
		})) as ExperimentResult['calibration'],
		latents: {
			full: { 'mean cosine of e': 0.31, 'reconstruction error': 0.021 + seed / 1000 },
			'no reconstruction': { 'mean cosine of e': 0.93, 'reconstruction error': 0.4 },
		},
		maps: (['CF', 'text', 'joint', 'token space'] as const).map((name, at) => ({
			name,
			points: points.map((point) => ({ ...point, x: point.x * (1 - at / 6), y: point.y * (1 + at / 3) })),
		})),
		examples: [
			{
				user: 'A1<b>7',
				history: titles.slice(1, 5),
				prompt: `[User] is a user representation. This user has bought "${HOSTILE_TITLE}"[History] in the previous.`,
				list: titles.map((title, at) => ({
					title,
					score: 0.25 - at / 2,
					cf: 3 - at,
					llm: at === 5 ? null : 0.5 - at / 3,
					fused: 1 / (at + 1),
					isTarget: at === 1,
				})),
				explanation: [
					{ part: 'user vector', leaveOneOut: 0.42, gradientTimesInput: 0.38 },
					{ part: titles[0]!, leaveOneOut: -0.11, gradientTimesInput: -0.05 },
					{ part: titles[1]!, leaveOneOut: 0.73, gradientTimesInput: 0.61 },
				],
				tokens: [{ part: titles[0]!, nearest: [{ token: HOSTILE_TITLE, similarity: 0.4321 }] }],
			},
		],
		genres: {
			'A-LLMRec': { value: 0.41, low: 0.36, high: 0.46, users: 200 },
			'LLM-Only': { value: 0.22, low: 0.18, high: 0.27, users: 200 },
		},
		timings: { cf: 31.5, align: 120.25, project: 844 },
		command: 'a-llmrec experiment sample.json --out out',
	};
}

/** Cells of two seeds, a few-shot scenario, ablations, and a data set that no paper knows. */
export function sampleResults(): ExperimentResult[] {
	return [
		sampleResult(),
		sampleResult({ seed: 1 }),
		sampleResult({ kind: 'fewShot', name: 'K = 128', bare: true, lift: -0.1 }),
		sampleResult({ kind: 'ablation', name: 'no matching', bare: true, lift: -0.04 }),
		sampleResult({ kind: 'ablation', name: 'no joint embedding', bare: true, lift: -0.12 }),
		sampleResult({ dataset: 'Demo <world>', bare: true }),
	];
}
