import { guard, type Session } from '../../lib/native/session.js';
import type { Fixture } from './fixture.js';
import type { Report } from './report.js';

export function isGru(fixture: Fixture): boolean {
	return fixture.sources.some((source) => fixture.tensorsOf(source).has('weight_ih_l0'));
}

/** torch.nn.GRU, batch first: outputs and the gradients of Σ y·w1 + Σ hn·w2. */
export async function checkGru(fixture: Fixture, report: Report, session: Session): Promise<void> {
	for (const source of fixture.sources) {
		const tensors = fixture.tensorsOf(source);
		const shape = (name: string) => tensors.get(name)!.shape as [number, number];
		let numLayers = 0;
		while (tensors.has(`weight_ih_l${numLayers}`)) numLayers++;
		const [, inputSize] = shape('weight_ih_l0');
		const [, hiddenSize] = shape('weight_hh_l0');
		const model = guard(() => new session.addon.Gru(session.engine, { inputSize, hiddenSize, numLayers }));
		try {
			await model.load(source.paths);
			const x = fixture.input('x');
			const [batch, steps] = x.shape as [number, number];
			const h0 = fixture.has('h0')
				? fixture.input('h0').data
				: new Float32Array(numLayers * batch * hiddenSize);
			const zeros = (name: string, length: number) =>
				fixture.has(name) ? fixture.input(name).data : new Float32Array(length);
			const out = await model.forwardBackward(
				x.data,
				h0,
				batch,
				steps,
				zeros('w1', batch * steps * hiddenSize),
				zeros('w2', numLayers * batch * hiddenSize),
			);
			for (const [name, ours] of [
				['y', out.y],
				['hn', out.hn],
				['grad_x', out.gradX],
				['grad_h0', out.gradH0],
			] as const)
				if (fixture.has(name)) report.compare(name, ours, fixture.tensor(name).data, { source: source.name });
			await report.gradients(fixture, 'grad.', (name) => model.getGradient(name), { source: source.name });
		} finally {
			model.dispose();
		}
	}
}
