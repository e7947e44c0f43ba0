import test from 'ava';
import { fixture, freshPath } from '../data/folders.js';
import { command } from '../support/command.js';
import { tinyLlm } from '../support/tiny-checkpoints.js';

const CPU = ['--device', 'cpu', '--threads', '1'];

test('quantize writes a checkpoint and reports its error; inspect tells its memory', async (t) => {
	const source = await tinyLlm({ maxPositions: 256 });
	const out = freshPath('quantized');
	const text = await fixture('text.txt', 'This user has bought the quiet lamp and the green kettle.');
	const quantize = (...more: string[]) =>
		command(['quantize', source, '--dtype', 'int8', '--out', out, '--prompts', '4', ...more, ...CPU]);
	const first = await quantize('--text', text);
	t.is(first.code, 0, first.err);
	t.regex(first.out, /weights +[\d.]+ KiB → [\d.]+ KiB \(int8\)/);
	t.regex(first.out, /perplexity +[\d.]+ in float32, [\d.]+ in int8, over \d+ tokens/);
	t.regex(first.out, /Kendall's tau 0\.\d+, the same best in [\d.]+ % of 4 prompts × 20/);

	const again = await quantize();
	t.is(again.code, 1);
	t.regex(again.err, /^error ERR_ALLMREC_INVALID_ARGUMENT: .*--force/m);
	const forced = await quantize('--force', '--no-error', '--json');
	t.is(forced.code, 0, forced.err);
	t.like(JSON.parse(forced.out), { folder: out, dtype: 'int8' });
	t.is(JSON.parse(forced.out).error, undefined);

	const inspected = await command(['inspect', out, '--tokens', '100', '--batch', '2', '--threads', '1']);
	t.is(inspected.code, 0, inspected.err);
	t.regex(inspected.out, /million parameters/);
	t.regex(inspected.out, /^int8 +weights +cache +arena +work +peak$/m);
	t.regex(inspected.out, /^scoring 100 packed tokens +[\d.]+ KiB/m);
	t.regex(inspected.out, /^continuing 2 prompts +/m);

	const missing = await command([
		'quantize',
		source,
		'--dtype',
		'int8',
		'--out',
		freshPath('x'),
		'--text',
		'/no/text',
	]);
	t.is(missing.code, 1);
	t.regex(missing.err, /^error ERR_ALLMREC_FILE_NOT_FOUND: The file \/no\/text/m);
	t.is((await command(['quantize', source, '--out', out])).code, 2);
	t.is((await command(['quantize', source, '--dtype', 'float32', '--out', out])).code, 2);
});
