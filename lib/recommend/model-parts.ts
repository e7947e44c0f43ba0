import { join } from 'node:path';
import type { Alignment, ItemLatents } from '../alignment/alignment.js';
import { jointEmbeddings } from '../alignment/alignment.js';
import { ALLMRecError } from '../errors.js';
import type { CausalLM } from '../llm/causal-lm.js';
import { PromptBuilder, type PromptBuilderOptions } from '../llm/prompt.js';
import type { PromptTemplate } from '../llm/prompt-template.js';
import { TitleStore } from '../llm/title-store.js';
import { guard, type Session } from '../native/session.js';
import type { LongCallOptions } from '../progress.js';
import type { Catalogue } from './catalogue.js';

/** How items are given to the language model. */
export type JointSource =
	/** e_i where an item has interactions, q_i where it has not. */
	| 'aligned'
	/** q_i for all: the paper's A-LLMRec (SBERT). */
	| 'text'
	/** Ablation: fixed random vectors. */
	| 'random';

/** The joint embedding of every item (size, d') by source. */
export function jointTable(
	latents: ItemLatents,
	trainingCounts: ArrayLike<number>,
	source: JointSource,
	coldThreshold = 1,
): Float32Array {
	if (source === 'random') return randomTable(latents);
	return jointEmbeddings(latents, trainingCounts, {
		coldThreshold: source === 'text' ? Number.POSITIVE_INFINITY : coldThreshold,
	});
}

/** Normal numbers with each column's mean and deviation of e, so that only the meaning is gone. */
function randomTable({ size, e }: ItemLatents): Float32Array {
	const rows = e.length / size;
	const table = new Float32Array(e.length);
	let state = 0x2545f491;
	const uniform = () => {
		state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
		return (state + 0.5) / 2 ** 32;
	};
	for (let c = 0; c < size; c++) {
		let sum = 0;
		let square = 0;
		for (let r = 1; r < rows; r++) {
			const value = e[r * size + c]!;
			sum += value;
			square += value * value;
		}
		const mean = sum / Math.max(1, rows - 1);
		const deviation = Math.sqrt(Math.max(0, square / Math.max(1, rows - 1) - mean * mean));
		for (let r = 1; r < rows; r++)
			table[r * size + c] =
				mean + deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
	}
	return table;
}

/** A prompt builder over a catalogue's titles. */
export async function createPrompts(
	llm: CausalLM,
	catalogue: Catalogue,
	template: PromptTemplate,
	options: Omit<PromptBuilderOptions, 'maxPositions'> = {},
	calls: LongCallOptions = {},
): Promise<PromptBuilder> {
	const titles = await TitleStore.create(
		llm.tokenizer,
		catalogue.items.map(({ title }) => title),
		template,
		calls,
	);
	return new PromptBuilder(titles, { ...options, maxPositions: llm.maxPositions });
}

/** Both latents as one safetensors file. */
export function saveLatents(session: Session, folder: string, { size, e, q }: ItemLatents): void {
	const shape = [e.length / size, size];
	guard(() =>
		session.addon.writeSafetensors(
			join(folder, LATENTS),
			[
				{ name: 'e', dtype: 'F32', shape, data: e },
				{ name: 'q', dtype: 'F32', shape, data: q },
			],
			{},
		),
	);
}

/** @param items entries of the catalogue, the padding item included */
export function loadLatents(
	session: Session,
	folder: string,
	alignment: Alignment,
	items: number,
): ItemLatents {
	const path = join(folder, LATENTS);
	const file = guard(() => session.addon.openTensorFile(path));
	try {
		const size = alignment.config.jointSize;
		const e = guard(() => file.readFloat32('e'));
		const q = guard(() => file.readFloat32('q'));
		if (e.length !== items * size || e.length !== q.length)
			throw new ALLMRecError(
				'ERR_ALLMREC_CHECKPOINT',
				`${path} does not fit the catalogue and the alignment network beside it.`,
			);
		if (!e.every(Number.isFinite) || !q.every(Number.isFinite))
			throw new ALLMRecError('ERR_ALLMREC_NUMERIC', `${path} holds numbers that are not finite.`);
		return { size, e, q };
	} finally {
		file.close();
	}
}

const LATENTS = 'latents.safetensors';
