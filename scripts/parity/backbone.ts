import { BACKBONE_METADATA } from '../../lib/cf/backbone.js';
import type { BackboneConfig } from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import type { Fixture } from './fixture.js';
import type { Report } from './report.js';

/** What a folder of scripts/make-backbone-fixtures.py says of its training. */
interface About {
	learningRate: number;
	beta1: number;
	beta2: number;
	eps: number;
	steps: number;
	/** The trainer's options by the name of a loss. */
	training: Record<string, Record<string, number | string>>;
}

export function isBackbone(fixture: Fixture): boolean {
	return fixture.sources.some((source) => BACKBONE_METADATA in fixture.metadataOf(source));
}

/** Vectors and scores of a backbone; loss, gradients and weights after Adam's steps for each of its losses. */
export async function checkBackbone(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const ints = (name: string) => Int32Array.from(fixture.inputRows(name)[0] ?? []);
	const about = fixture.config as unknown as About;
	for (const source of fixture.sources) {
		const config = JSON.parse(fixture.metadataOf(source)[BACKBONE_METADATA]!) as BackboneConfig;
		const model = guard(() => new session.addon.Backbone(session.engine, config));
		try {
			await model.load(source.paths);
			const histories = { offsets: ints('in.offsets'), values: ints('in.values') };
			const users = fixture.has('in.users') ? ints('in.users') : undefined;
			const compare = (name: string, ours: Float32Array) =>
				report.compare(name, ours, fixture.tensor(name).data, { source: source.name });
			if (fixture.has('features')) compare('features', await model.features(histories));
			const vectors = await model.userVectors(histories, users);
			compare('user_vectors', vectors);
			compare('item_table', await model.itemTable());
			const count = histories.offsets.length - 1;
			if (fixture.has('scores')) {
				const all = Int32Array.from({ length: count * config.numItems }, (_, i) => 1 + (i % config.numItems));
				compare('scores', await model.scoreCandidates(vectors, all, config.numItems));
			}
			const positives = ints('in.positives');
			for (const [loss, options] of Object.entries(about.training)) {
				await model.load(source.paths);
				const { learningRate, beta1, beta2, eps } = about;
				// The trainer wants data of its own, which given examples leave unused.
				const unused = { offsets: Int32Array.of(0, 2), values: Int32Array.of(1, 1) };
				const known = { offsets: Int32Array.of(0, 0), values: new Int32Array(0) };
				const trainer = guard(
					() =>
						new session.addon.BackboneTrainer(model, unused, known, {
							batchSize: 1,
							seed: 0,
							learningRate,
							beta1,
							beta2,
							eps,
							...options,
						}),
				);
				try {
					const negatives = ints(`in.${loss}.negatives`);
					const examples = users ?? histories;
					const { loss: ours } = await trainer.gradients(examples, positives, negatives);
					compare(`${loss}.loss`, Float32Array.of(ours!));
					await report.gradients(fixture, `${loss}.grad.`, (name) => model.getGradient(name), {
						source: source.name,
					});
					for (let step = 0; step < about.steps; step++) await trainer.step(examples, positives, negatives);
					const stepped = `${loss}.adam${about.steps}.`;
					for (const name of fixture.expectedTensors.keys())
						if (name.startsWith(stepped)) compare(name, await model.getParameter(name.slice(stepped.length)));
				} finally {
					trainer.dispose();
				}
			}
		} finally {
			model.dispose();
		}
	}
}
