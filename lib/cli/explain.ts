import type { Command } from 'commander';
import { type Explanation, loadRun } from '../index.js';
import { ids, type ModelFlags, modelOptions, wholeNumber } from './arguments.js';
import { interruptible } from './interrupt.js';
import { printable } from './printable.js';
import { formatTable } from './terminal.js';

interface Flags extends ModelFlags {
	history: string[];
	candidates?: string[];
	item?: string;
	nearest: number;
	llm?: string;
	json?: boolean;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('explain')
			.description("say what each part of a user's history did for an item's score")
			.argument('<run>', 'run folder')
			.requiredOption(
				'--history <ids>',
				'item ids, oldest first, comma-separated or a JSON array; may be repeated',
				ids,
			)
			.option('--item <id>', 'item whose score is explained (default: the best one)')
			.option('--candidates <ids>', 'items shown in the prompt (default: retrieved)', ids)
			.option('--nearest <n>', 'nearest tokens of the vocabulary; 0 leaves them out', wholeNumber, 8)
			.option('--llm <folder|id>', 'the language model, where it has moved')
			.option('--json', 'print JSON'),
	).action(run);
}

async function run(folder: string, flags: Flags): Promise<void> {
	const { history, candidates, item, nearest, json, llm, llmDtype, encoderDtype, device, threads } = flags;
	const explanation = await interruptible(async (signal, onProgress) => {
		const models = { llm, llmDtype, encoderDtype, device, threads };
		const recommender = await loadRun(folder, { ...models, signal, onProgress });
		try {
			return await recommender.explain({ history, candidates }, { item, nearest, signal });
		} finally {
			recommender.dispose();
		}
	});
	if (json) console.log(JSON.stringify(explanation, null, '\t'));
	else print(explanation);
}

const BAR = 16;

function print({ title, item, score, parts, tokens }: Explanation): void {
	console.log(`${printable(title)} (${printable(item)}): ${score.toFixed(4)}`);
	const largest = Math.max(...parts.map(({ leaveOneOut }) => Math.abs(leaveOneOut)), Number.MIN_VALUE);
	const rows = parts.map(({ part, title, leaveOneOut, gradientTimesInput }) => [
		part === 'user' ? 'the user vector' : printable(title ?? ''),
		signed(leaveOneOut),
		(leaveOneOut < 0 ? '-' : '+').repeat(Math.round((BAR * Math.abs(leaveOneOut)) / largest)),
		gradientTimesInput === null ? '' : signed(gradientTimesInput),
	]);
	console.log(formatTable(rows, { head: ['part', 'left out', '', 'gradient x input'] }));
	if (tokens.length === 0) return;
	const named = tokens.map(({ part, title, nearest }) => [
		part === 'user' ? 'the user vector' : printable(title ?? ''),
		nearest
			.map(({ text, similarity }) => `${printable(JSON.stringify(text))} ${similarity.toFixed(2)}`)
			.join('  '),
	]);
	console.log(formatTable(named, { head: ['given to the language model', 'nearest tokens'] }));
}

function signed(value: number): string {
	return `${value < 0 ? '' : '+'}${value.toFixed(4)}`;
}
