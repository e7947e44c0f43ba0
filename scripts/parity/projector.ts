import type { NativeProjector } from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import type { Fixture, Tensor, WeightSource } from './fixture.js';
import type { Report } from './report.js';

const SIDES = [
	{ prefix: 'log_emb_proj.', file: /log/i, y: 'y1' },
	{ prefix: 'item_emb_proj.', file: /item/i, y: 'y2' },
] as const;

export function isProjector(fixture: Fixture): boolean {
	return fixture.sources.some((source) =>
		[...fixture.tensorsOf(source).keys()].some((name) => name.startsWith(SIDES[0].prefix)),
	);
}

/** Stage 2's projections: of a file with both, and of the authors' two files with one each, which do not name it. */
export async function checkProjector(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const named = fixture.sources.filter((source) => sideOf(fixture, source) === undefined);
	const apart = fixture.sources.filter((source) => sideOf(fixture, source) !== undefined);
	const weights = new Map(named.flatMap((source) => [...fixture.readWeights(source)]));
	const model = projectorFor(weights, session);
	try {
		for (const { name } of model.parameters()) await model.setParameter(name, weights.get(name)!.data);
		const source = named.map(({ name }) => name).join(', ');
		const options = { source };
		const [x1, x2] = [fixture.input('x1').data, fixture.input('x2').data];
		report.compare('y1', await model.users(x1), fixture.tensor('y1').data, options);
		report.compare('y2', await model.items(x2), fixture.tensor('y2').data, options);
		if (fixture.has('w1') && fixture.has('w2')) {
			const gradients = await model.gradients(x1, fixture.input('w1').data, x2, fixture.input('w2').data);
			report.compare('gx1', gradients.x, fixture.tensor('gx1').data, options);
			report.compare('gx2', gradients.e, fixture.tensor('gx2').data, options);
			await report.gradients(fixture, 'grad.', (name) => model.getGradient(name), options);
		}
		for (const file of apart) {
			const side = sideOf(fixture, file)!;
			const tensors = fixture.readWeights(file);
			let wrong: string | null = null;
			for (const { name } of model.parameters()) {
				if (!name.startsWith(side.prefix)) continue;
				const tensor = tensors.get(name.slice(side.prefix.length));
				if (!tensor) throw new Error(`${file.name} lacks ${name.slice(side.prefix.length)}.`);
				if (!tensor.data.every((value, i) => Object.is(value, weights.get(name)!.data[i]))) wrong ??= name;
				await model.setParameter(name, tensor.data);
			}
			report.equal('weights', wrong, null, { source: file.name, note: `${side.prefix}* as in ${source}` });
			const ours = side.y === 'y1' ? await model.users(x1) : await model.items(x2);
			report.compare(side.y, ours, fixture.tensor(side.y).data, { source: file.name });
		}
	} finally {
		model.dispose();
	}
}

/** The projection a file holds alone, or undefined where its tensors carry the projections' names. */
function sideOf(fixture: Fixture, source: WeightSource): (typeof SIDES)[number] | undefined {
	const tensors = fixture.tensorsOf(source);
	if (!tensors.has('0.weight') && !tensors.has('weight')) return undefined;
	const side = SIDES.find(({ file }) => file.test(source.name));
	if (!side) throw new Error(`${source.name} does not say whether it is log_emb_proj or item_emb_proj.`);
	return side;
}

function projectorFor(weights: ReadonlyMap<string, Tensor>, session: Session): NativeProjector {
	const kind = weights.has(`${SIDES[0].prefix}0.weight`) ? 'mlp' : 'linear';
	const [user, item] = SIDES.map(
		({ prefix }) =>
			weights.get(`${prefix}${kind === 'mlp' ? '0.weight' : 'weight'}`)!.shape as [number, number],
	);
	return guard(
		() =>
			new session.addon.Projector(session.engine, {
				kind,
				userSize: user![1],
				jointSize: item![1],
				tokenSize: user![0],
			}),
	);
}
