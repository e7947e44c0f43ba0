import type {
	NativeRecFormer,
	NativeRecFormerTrainer,
	RecFormerBatch,
	RecFormerConfig,
} from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import type { Fixture } from './fixture.js';
import type { Report } from './report.js';

const METADATA = 'a-llmrec.recformer';

/** What a folder of scripts/make-recformer-fixtures.py says of its training. */
interface About {
	learningRate: number;
	beta1: number;
	beta2: number;
	eps: number;
	steps: number;
	temperature: number;
}

export function isRecFormer(fixture: Fixture): boolean {
	return fixture.sources.some((source) => METADATA in fixture.metadataOf(source));
}

/** States and vectors; loss, gradients and weights after Adam's steps, with items given and items of the same step. */
export async function checkRecFormer(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const { steps, ...options } = fixture.config as unknown as About;
	const source = fixture.sources[0]!;
	const config = JSON.parse(fixture.metadataOf(source)[METADATA]!) as RecFormerConfig;
	const compare = (name: string, ours: ArrayLike<number>) =>
		report.compare(name, ours, fixture.tensor(name).data, { source: source.name });
	const [histories, texts] = [readTexts(fixture, 'histories'), readTexts(fixture, 'texts')];
	const [targets, pairs] = [readInts(fixture, 'in.targets'), readInts(fixture, 'in.pairs')];
	const model = guard(() => new session.addon.RecFormer(session.engine, config));

	/** From the first weights; gives the loss of the first step. */
	const trained = async (
		name: string,
		before: (trainer: NativeRecFormerTrainer) => Promise<void>,
		step: (trainer: NativeRecFormerTrainer) => Promise<{ loss?: number }>,
	) => {
		await model.load(source.paths);
		const trainer = guard(() => new session.addon.RecFormerTrainer(model, { ...options, seed: 0 }));
		try {
			await before(trainer);
			const { loss } = await step(trainer);
			compare(`${name}.loss`, [loss!]);
			for (let done = 1; done < steps; done++) await step(trainer);
			await compareWeights(`${name}.adam${steps}.`, model, fixture, compare);
		} finally {
			trainer.dispose();
		}
	};

	try {
		await model.load(source.paths);
		compare('hidden_states', await model.hiddenStates(histories));
		compare('vectors', await model.vectors(histories));
		await trained(
			'ranking',
			async (trainer) => {
				await trainer.setItems(fixture.input('in.items').data);
				const { ndcg } = await trainer.evaluate(histories, targets);
				compare('ndcg', [ndcg!]);
				await trainer.gradients(histories, targets);
				await report.gradients(fixture, 'ranking.grad.', (name) => model.getGradient(name), {
					source: source.name,
				});
			},
			(trainer) => trainer.step(histories, targets),
		);
		await trained(
			'contrast',
			() => Promise.resolve(),
			(trainer) => trainer.contrast(texts, pairs),
		);
	} finally {
		model.dispose();
	}
}

async function compareWeights(
	prefix: string,
	model: NativeRecFormer,
	fixture: Fixture,
	compare: (name: string, ours: Float32Array) => void,
): Promise<void> {
	for (const name of fixture.expectedTensors.keys())
		if (name.startsWith(prefix)) compare(name, await model.getParameter(name.slice(prefix.length)));
}

function readTexts(fixture: Fixture, name: string): RecFormerBatch {
	const part = (which: string) => readInts(fixture, `in.${name}.${which}`);
	return {
		texts: { offsets: part('offsets'), values: part('ids') },
		types: part('types'),
		items: part('items'),
	};
}

function readInts(fixture: Fixture, name: string): Int32Array {
	return Int32Array.from(fixture.inputRows(name)[0] ?? []);
}
