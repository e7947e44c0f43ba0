import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { optConfig } from '../../lib/llm/opt-config.js';
import type {
	NativeGeneratedSequence,
	NativeGenerationRequest,
	NativeGenerator,
} from '../../lib/native/addon.js';
import { ragged, Session } from '../../lib/native/session.js';
import { CPU } from '../support/tiny-world.js';

/** Written by scripts/make-generation-fixtures.py. */
interface Expected {
	new_tokens: number;
	models: {
		name: string;
		prompts: number[][];
		answers: number[][];
		cases: {
			options: {
				eos_token_id: number;
				repetition_penalty?: number;
				num_beams?: number;
				num_return_sequences?: number;
				length_penalty?: number;
				early_stopping?: boolean | 'never';
			};
			confined: boolean;
			/** By prompt and returned sequence. */
			ids: number[][][];
			scores: (number | null)[][];
		}[];
	}[];
}

const expected: Expected = JSON.parse(await readFile('test/llm/fixtures/generation.json', 'utf8'));

/** All requests together, in the order they were made. */
async function answers(
	generator: NativeGenerator,
	requests: readonly NativeGenerationRequest[],
): Promise<NativeGeneratedSequence[][]> {
	const numbers = requests.map((request) => generator.submit(request));
	const results = new Map<number, NativeGeneratedSequence[]>();
	while (results.size < requests.length) {
		const { finished } = await generator.advance();
		for (const { request, sequences } of finished) results.set(request, sequences);
	}
	return numbers.map((number) => results.get(number)!);
}

for (const { name, prompts, answers: titles, cases } of expected.models)
	for (const slots of [5, 64])
		test(`ids and scores of ${name} are transformers', with ${slots} slots`, async (t) => {
			const folder = join('test/parity/fixtures', name);
			const config = optConfig(JSON.parse(await readFile(join(folder, 'config.json'), 'utf8')), folder);
			const session = Session.open(CPU);
			const model = new session.addon.Opt(session.engine, config);
			await model.load([join(folder, 'model.safetensors')]);
			const generator = new session.addon.Generator(model, { slots });
			const trie = new session.addon.TokenTrie(session.engine);
			await trie.build(ragged(titles), 2);
			const reasons = new Set<string>();
			// All cases and prompts in one queue: greedy, beams and tries share the batches.
			const requests = cases.flatMap(({ options, confined }) =>
				prompts.map((prompt): NativeGenerationRequest => {
					const beams = options.num_beams ?? 1;
					const early = options.early_stopping ?? false;
					return {
						ids: Int32Array.from(prompt),
						soft: new Float32Array(0),
						seen: Int32Array.from(prompt),
						maxNewTokens: expected.new_tokens,
						eosId: options.eos_token_id,
						repetitionPenalty: options.repetition_penalty ?? 1,
						sequences: options.num_return_sequences ?? 1,
						stream: false,
						logProbs: true,
						...(confined ? { trie } : {}),
						...(beams > 1
							? {
									beam: {
										beams,
										lengthPenalty: options.length_penalty ?? 1,
										earlyStopping: early === 'never' ? 'never' : early ? 'yes' : 'no',
									},
								}
							: {}),
					};
				}),
			);
			const results = await answers(generator, requests);
			for (const [c, { options, confined, ids, scores }] of cases.entries())
				for (const [p] of prompts.entries()) {
					const got = results[c * prompts.length + p]!;
					const what = `${JSON.stringify(options)}, ${confined ? 'trie, ' : ''}prompt ${p}`;
					t.deepEqual(
						got.map((sequence) => [...sequence.ids]),
						ids[p],
						what,
					);
					for (const [s, sequence] of got.entries()) {
						reasons.add(sequence.reason);
						if (confined) t.deepEqual([...titles[sequence.entry]!, 2], [...sequence.ids]);
						const score = scores[p]![s];
						if (score === null || score === undefined) continue;
						// A score sums up to 12 float32 log-probabilities of some units: 1e-5 is a hundred roundings.
						t.true(Math.abs(sequence.score - score) < 1e-5 * (1 + Math.abs(score)), what);
					}
				}
			t.deepEqual([...reasons].sort(), ['eos', 'length']);
			generator.dispose();
			model.dispose();
			session.release();
		});
