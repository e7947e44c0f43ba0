import { BACKBONE_METADATA } from '../../lib/cf/backbone.js';
import type {
	BackboneConfig,
	NativeBackbone,
	NativeBackboneTrainer,
	Ragged,
} from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import type { Fixture, WeightSource } from './fixture.js';
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

/** Vectors of a backbone; loss, gradients and weights after Adam's steps for each of its losses. */
export async function checkBackbone(fixture: Fixture, report: Report, session: Session): Promise<void> {
	for (const source of fixture.sources) {
		const config = JSON.parse(fixture.metadataOf(source)[BACKBONE_METADATA]!) as BackboneConfig;
		const model = guard(() => new session.addon.Backbone(session.engine, config));
		const check = new BackboneCheck(fixture, report, session, source, config);
		try {
			await (fixture.has('in.users') ? check.interactions(model) : check.sequences(model));
		} finally {
			model.dispose();
		}
	}
}

class BackboneCheck {
	readonly about: About;

	constructor(
		readonly fixture: Fixture,
		readonly report: Report,
		readonly session: Session,
		readonly source: WeightSource,
		readonly config: BackboneConfig,
	) {
		this.about = fixture.config as unknown as About;
	}

	/** One that reads histories: features and vectors before training, then each loss. */
	async sequences(model: NativeBackbone): Promise<void> {
		await model.load(this.source.paths);
		const histories = this.ragged('in');
		this.compare('features', await model.features(histories));
		this.compare('user_vectors', await model.userVectors(histories));
		this.compare('item_table', await model.itemTable());
		// The trainer wants data of its own, which given examples leave unused.
		const unused = { offsets: Int32Array.of(0, 2), values: Int32Array.of(1, 1) };
		for (const loss of Object.keys(this.about.training)) {
			await model.load(this.source.paths);
			await this.training(model, loss, unused, histories, () => Promise.resolve());
		}
	}

	/** One that learns from pairs of a user and an item: the loss, then what follows from the weights. */
	async interactions(model: NativeBackbone): Promise<void> {
		// What follows from the weights is in no file of PyTorch's.
		await model.initialise(0);
		for (const [name, { data }] of this.fixture.readWeights(this.source))
			await model.setParameter(name, data);
		const train = this.ragged('in.train');
		const { numItems } = this.config;
		for (const loss of Object.keys(this.about.training))
			await this.training(model, loss, train, this.ints('in.users'), async (trainer) => {
				await trainer.run(0); // the end of an epoch
				const count = train.offsets.length - 1;
				const users = await model.userVectors(
					train,
					Int32Array.from({ length: count }, (_, u) => u),
				);
				this.compare('after.users', users);
				this.compare('after.items', await model.itemTable());
				const all = Int32Array.from({ length: count * numItems }, (_, i) => 1 + (i % numItems));
				this.compare('after.scores', await model.scoreCandidates(users, all, numItems));
				this.compare('after.folded', await model.userVectors(train));
			});
	}

	async training(
		model: NativeBackbone,
		loss: string,
		train: Ragged,
		examples: Ragged | Int32Array,
		after: (trainer: NativeBackboneTrainer) => Promise<void>,
	): Promise<void> {
		const { fixture, report, session, source } = this;
		const { learningRate, beta1, beta2, eps, steps, training } = this.about;
		const known = { offsets: new Int32Array(train.offsets.length), values: new Int32Array(0) };
		const options = { batchSize: 1 << 20, seed: 0, learningRate, beta1, beta2, eps, ...training[loss] };
		const trainer = guard(() => new session.addon.BackboneTrainer(model, train, known, options));
		try {
			const positives = this.ints('in.positives');
			const negatives = this.ints(`in.${loss}.negatives`);
			const first = await trainer.gradients(examples, positives, negatives);
			this.compare(`${loss}.loss`, Float32Array.of(first.loss!));
			await report.gradients(fixture, `${loss}.grad.`, (name) => model.getGradient(name), {
				source: source.name,
			});
			for (let step = 0; step < steps; step++) await trainer.step(examples, positives, negatives);
			const stepped = `${loss}.adam${steps}.`;
			for (const name of fixture.expectedTensors.keys())
				if (name.startsWith(stepped))
					this.compare(name, await model.getParameter(name.slice(stepped.length)));
			await after(trainer);
		} finally {
			trainer.dispose();
		}
	}

	compare(name: string, ours: Float32Array): void {
		this.report.compare(name, ours, this.fixture.tensor(name).data, { source: this.source.name });
	}

	ints(name: string): Int32Array {
		return Int32Array.from(this.fixture.inputRows(name)[0] ?? []);
	}

	ragged(name: string): Ragged {
		return { offsets: this.ints(`${name}.offsets`), values: this.ints(`${name}.values`) };
	}
}
