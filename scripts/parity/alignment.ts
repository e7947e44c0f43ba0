import type { NativeModel } from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import { encoderConfig } from '../../lib/text/sentence-encoder.js';
import { packTexts } from './encoder.js';
import type { Fixture, Tensor } from './fixture.js';
import type { Report } from './report.js';

const ENCODER = 'sbert.';

export function isAlignment(fixture: Fixture): boolean {
	return fixture.sources.some((source) => {
		const tensors = fixture.tensorsOf(source);
		return tensors.has('mlp.fc1.weight') && tensors.has('mlp2.fc1.weight');
	});
}

/** Stage 1 with the authors' losses, sentence encoder included. */
export async function checkAlignment(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const { addon, engine } = session;
	for (const source of fixture.sources) {
		const weights = fixture.readWeights(source);
		const [jointSize, itemSize] = weights.get('mlp.fc1.weight')!.shape as [number, number];
		const textSize = weights.get('mlp2.fc1.weight')!.shape[1]!;
		const encoder = guard(
			() =>
				new addon.SentenceEncoder(engine, {
					...encoderConfig(fixture.config, fixture.folder),
					dropoutRate: 0,
				}),
		);
		const alignment = guard(
			() =>
				new addon.Alignment(engine, {
					itemSize,
					textSize,
					jointSize,
					activation: 'sigmoid',
					matchingWeight: 1,
					itemReconstructionWeight: fixture.noted(/([\d.]+)\s*\*?\s*rc\b/) ?? 0.5,
					textReconstructionWeight: fixture.noted(/([\d.]+)\s*\*?\s*text_rc\b/) ?? 0.2,
					recommendationWeight: 1,
					referenceCompat: true,
				}),
		);
		await setAll(encoder, weights, ENCODER);
		await setAll(alignment, weights, '');
		const trainer = guard(
			() => new addon.AlignmentTrainer(alignment, encoder, { learningRate: 0, trainEncoder: true, seed: 0 }),
		);
		try {
			const texts = (side: string) => {
				const { offsets, values } = packTexts(
					fixture.inputRows(`${side}_ids`),
					fixture.inputRows(`${side}_mask`),
				);
				return { offsets, values };
			};
			const [positiveTokens, negativeTokens] = [texts('pos'), texts('neg')];
			const options = { source: source.name };
			for (const [name, tokens] of [
				['pos_text', positiveTokens],
				['neg_text', negativeTokens],
			] as const)
				if (fixture.has(name))
					report.compare(name, await encoder.encode(tokens, 2048), fixture.tensor(name).data, options);
			const losses = await trainer.gradients({
				users: fixture.input('log_emb').data,
				positiveItems: fixture.input('pos_emb').data,
				negativeItems: fixture.input('neg_emb').data,
				positiveTokens,
				negativeTokens,
			});
			for (const [name, term] of [
				['bpr', 'recommendation'],
				['matching', 'matching'],
				['rc', 'itemReconstruction'],
				['text_rc', 'textReconstruction'],
				['total', 'loss'],
			] as const)
				if (fixture.has(name))
					report.compare(name, [losses[term]!], fixture.tensor(name).data, { ...options, note: term });
			await report.gradients(
				fixture,
				'grad.',
				(name) =>
					name.startsWith(ENCODER)
						? encoder.getGradient(name.slice(ENCODER.length))
						: alignment.getGradient(name),
				options,
			);
		} finally {
			trainer.dispose();
			alignment.dispose();
			encoder.dispose();
		}
	}
}

/** Gives a model the weights whose names have a prefix. */
async function setAll(
	model: NativeModel,
	weights: ReadonlyMap<string, Tensor>,
	prefix: string,
): Promise<void> {
	for (const { name } of model.parameters()) {
		const tensor = weights.get(prefix + name);
		if (!tensor) throw new Error(`The weights lack ${prefix}${name}.`);
		await model.setParameter(name, tensor.data);
	}
}
