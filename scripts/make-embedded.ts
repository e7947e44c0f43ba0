/**
 * Makes the embedded checkpoints, assets/tiny-encoder and assets/tiny-opt, with this project's own engine:
 *
 *     node dist/scripts/make-embedded.js [--encoder] [--llm] [--out FOLDER] [--steps N]
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { corpus } from './embedded/corpus.js';
import { makeEncoder } from './embedded/encoder.js';
import { makeLanguageModel } from './embedded/language-model.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
const { values } = parseArgs({
	options: {
		encoder: { type: 'boolean', default: false },
		llm: { type: 'boolean', default: false },
		out: { type: 'string', default: join(root, 'assets') },
		steps: { type: 'string' },
	},
});
const both = !values.encoder && !values.llm;
const texts = await corpus(root, 60);
const begun = performance.now();
if (values.encoder || both)
	await makeEncoder(join(values.out, 'tiny-encoder'), texts, Number(values.steps ?? 300));
if (values.llm || both)
	await makeLanguageModel(join(values.out, 'tiny-opt'), texts, Number(values.steps ?? 2000));
console.log(`made in ${((performance.now() - begun) / 1000).toFixed(0)} s`);
