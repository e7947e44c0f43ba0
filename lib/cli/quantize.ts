import { type Command, Option } from 'commander';
import { readText } from '../files/read.js';
import {
	quantizationError,
	quantizeCheckpoint,
	resolveEmbedded,
	STORED_DTYPES,
	type StoredDtype,
} from '../index.js';
import { type DeviceFlags, deviceOptions, wholeNumber } from './arguments.js';
import { interruptible } from './interrupt.js';
import { formatBytes, formatTable } from './terminal.js';

interface Flags extends DeviceFlags {
	dtype: StoredDtype;
	out: string;
	text?: string;
	prompts: number;
	force?: boolean;
	error: boolean;
	json?: boolean;
}

export function register(program: Command): void {
	deviceOptions(
		program
			.command('quantize')
			.description('store a language model in another dtype, and measure what that costs')
			.argument('<checkpoint>', 'folder or Hub id of an OPT')
			.addOption(new Option('--dtype <dtype>', 'of the weights').choices(STORED_DTYPES).makeOptionMandatory())
			.requiredOption('--out <folder>', 'folder to write; `--llm` takes it')
			.option('--force', 'replace a folder that quantize wrote before')
			.option('--text <file>', 'UTF-8 text for the perplexity (default: an English passage)')
			.option('--prompts <n>', 'random prompts whose candidates are ranked', wholeNumber, 32)
			.option('--no-error', 'leave the measurement out')
			.option('--json', 'print JSON'),
	).action(run);
}

async function run(checkpoint: string, flags: Flags): Promise<void> {
	const { dtype, out, text: path, prompts, force, error: measured, json, device, threads } = flags;
	const text = path === undefined ? undefined : await readText(path);
	const { result, error } = await interruptible(async (signal, onProgress) => {
		const calls = { device, threads, signal, onProgress };
		const source = resolveEmbedded(checkpoint);
		const result = await quantizeCheckpoint(source, { dtype, out, force, ...calls });
		const error = measured
			? await quantizationError(source, { quantized: out, text, prompts, ...calls })
			: undefined;
		return { result, error };
	});
	if (json) {
		console.log(JSON.stringify({ ...result, ...(error ? { error } : {}) }));
		return;
	}
	const rows: string[][] = [
		['weights', `${formatBytes(result.bytesBefore)} → ${formatBytes(result.bytesAfter)} (${dtype})`],
		['time', `${result.seconds.toFixed(1)} s`],
	];
	if (error) {
		const { perplexity, tokens, kendallTau, sameTop } = error;
		rows.push(
			[
				'perplexity',
				`${perplexity.float32.toFixed(3)} in float32, ${perplexity.quantized.toFixed(3)} in ${dtype}, over ${tokens} tokens`,
			],
			[
				'candidates',
				`Kendall's tau ${kendallTau.toFixed(3)}, the same best in ${(100 * sameTop).toFixed(1)} % of ${error.prompts} prompts × ${error.candidates}`,
			],
		);
	}
	console.log(formatTable(rows));
	console.log(`checkpoint in ${out}`);
}
