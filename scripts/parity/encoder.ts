import type { NativeSentenceEncoder } from '../../lib/native/addon.js';
import { guard, type Session } from '../../lib/native/session.js';
import { encoderConfig } from '../../lib/text/sentence-encoder.js';
import type { Fixture } from './fixture.js';
import { type Packed, pack, rowsAt } from './packing.js';
import type { Report } from './report.js';
import { compareParameters, readParameters } from './weights.js';

const HALF_TOLERANCE = 2e-2;

export function isEncoder(fixture: Fixture): boolean {
	return fixture.config.model_type !== undefined && (fixture.has('hidden') || fixture.has('pooled'));
}

/** DistilBERT and BERT of transformers, with mean pooling. */
export async function checkEncoder(fixture: Fixture, report: Report, session: Session): Promise<void> {
	const config = { ...encoderConfig(fixture.config, fixture.folder), dropoutRate: 0 };
	const texts = packTexts(fixture.inputRows('ids'), fixture.inputRows('mask'));
	let first: Map<string, Float32Array> | undefined;
	for (const source of fixture.sources) {
		const model = guard(() => new session.addon.SentenceEncoder(session.engine, config));
		try {
			await model.load(source.paths);
			if (first === undefined) {
				first = fixture.sources.length > 1 ? await readParameters(model) : new Map();
				await compareOutputs(fixture, report, model, texts, source.name, undefined);
				await compareGradients(fixture, report, model, texts, source.name);
			} else {
				const half = await compareParameters(report, fixture, source, model, first);
				await compareOutputs(fixture, report, model, texts, source.name, half ? HALF_TOLERANCE : undefined);
			}
		} finally {
			model.dispose();
		}
	}
}

/** Texts whose padding stands at the end: these encoders number positions from the row's start. */
export function packTexts(ids: readonly number[][], mask: readonly number[][]): Packed {
	for (const row of mask)
		if (row.some((bit, i) => bit !== 0 && i > 0 && row[i - 1] === 0))
			throw new Error('A mask has padding before a token, which packed texts cannot have.');
	return pack(ids, mask);
}

async function compareOutputs(
	fixture: Fixture,
	report: Report,
	model: NativeSentenceEncoder,
	texts: Packed,
	source: string,
	tolerance: number | undefined,
): Promise<void> {
	const { offsets, values, places, note } = texts;
	const options = { source, tolerance };
	if (fixture.has('hidden') || fixture.has('cls')) {
		const hidden = await model.hiddenStates({ offsets, values });
		const width = hidden.length / values.length;
		if (fixture.has('hidden'))
			report.compare('hidden', hidden, rowsAt(fixture.tensor('hidden').data, width, places), {
				...options,
				note,
			});
		if (fixture.has('cls'))
			report.compare(
				'cls',
				rowsAt(hidden, width, Array.from(offsets.subarray(0, -1))),
				fixture.tensor('cls').data,
				{ ...options, note: 'the first position of `hidden`' },
			);
	}
	if (!fixture.has('pooled') && !fixture.has('pooled_l2norm')) return;
	const pooled = await model.encode({ offsets, values }, 2048);
	const width = pooled.length / (offsets.length - 1);
	if (fixture.has('pooled')) {
		const expected = fixture.tensor('pooled').data;
		report.compare('pooled', pooled, expected, options);
		const alone = await model.encode({ offsets, values }, 1);
		report.compare('pooled', alone, expected, { ...options, note: 'each text a batch of its own' });
	}
	if (fixture.has('pooled_l2norm'))
		report.compare('pooled_l2norm', normalizeRows(pooled, width), fixture.tensor('pooled_l2norm').data, {
			...options,
			note: '`pooled`, divided by its length here',
		});
}

/** Of Σ pooled · w, and the term c · Σ pooled² that the note may name. */
async function compareGradients(
	fixture: Fixture,
	report: Report,
	model: NativeSentenceEncoder,
	{ offsets, values }: Packed,
	source: string,
): Promise<void> {
	if (!fixture.has('w')) return;
	const squares = fixture.noted(/([\d.]+)\s*\*\s*sum\(pooled\^2\)/) ?? 0;
	const losses = await model.pooledGradients({ offsets, values }, fixture.input('w').data, 2 * squares);
	if (fixture.has('loss')) report.compare('loss', [losses.loss!], fixture.tensor('loss').data, { source });
	await report.gradients(fixture, 'grad.', (name) => model.getGradient(name), { source });
}

function normalizeRows(matrix: Float32Array, width: number): Float32Array {
	return matrix.map((value, i) => {
		const row = matrix.subarray(i - (i % width), i - (i % width) + width);
		return value / Math.max(Math.hypot(...row), 1e-12);
	});
}
