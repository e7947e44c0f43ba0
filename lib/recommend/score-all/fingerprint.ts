import { createHash, type Hash } from 'node:crypto';
import { blocks, inTurns, type Steps } from '../../event-loop.js';
import type { ALLMRec } from '../a-llm-rec.js';

/** Items of the probe's history and candidates. */
const PROBE = 12;

/**
 * A hash of what decides a recommender's scores: its catalogue, tables and settings, and what its models make of a
 * probe, so that other weights, another language model, or a device that rounds differently tell.
 */
export async function fingerprint(model: ALLMRec): Promise<string> {
	const { cf, latents, template, historyLength, coldThreshold, joint, withoutUser, fusion, normalisation } =
		model.parts;
	const { catalogue } = model;
	const hash = createHash('sha256');
	const settings = { template, historyLength, coldThreshold, joint, withoutUser, fusion, normalisation };
	hash.update(JSON.stringify(settings));
	await inTurns(
		blocks(catalogue.size, 256, (from, to) => {
			for (let item = Math.max(1, from); item < to; item++) {
				const { id, title } = catalogue.item(item);
				hash.update(`${JSON.stringify([id, title, catalogue.trainingCounts[item]])}\n`);
			}
		}),
	);
	for (const table of [await cf.itemTable(), latents.e, latents.q]) await inTurns(add(hash, bytes(table)));
	const items = Int32Array.from({ length: Math.min(PROBE, cf.numItems) }, (_, i) => i + 1);
	if (items.length > 0) {
		const vectors = await model.userVectors([items]);
		const { sum } = await model.candidateScores(vectors, [items], [items], 'aligned');
		hash.update(bytes(vectors)).update(bytes(sum));
	}
	return hash.digest('hex');
}

function add(hash: Hash, table: Uint8Array): Steps<void> {
	return blocks(table.length, 1 << 20, (from, to) => hash.update(table.subarray(from, to)));
}

function bytes({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array {
	return new Uint8Array(buffer, byteOffset, byteLength);
}
