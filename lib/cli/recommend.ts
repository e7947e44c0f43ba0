import { type Command, Option } from 'commander';
import { loadRun, type Recommendation } from '../index.js';
import { ids, type ModelFlags, modelOptions, wholeNumber } from './arguments.js';
import { interruptible } from './interrupt.js';
import { fit, printable, printableJson } from './printable.js';
import { formatTable } from './terminal.js';

interface Flags extends ModelFlags {
	history: string[];
	candidates?: string[];
	topK: number;
	by: 'fused' | 'llm' | 'cf';
	retrieve: number;
	json?: boolean;
	llm?: string;
	genres?: boolean;
}

export function register(program: Command): void {
	modelOptions(
		program
			.command('recommend')
			.description('recommend to one user')
			.argument('<run>', 'run folder')
			.requiredOption(
				'--history <id,...>',
				"the user's item ids, oldest first; a JSON array where ids hold commas",
				ids,
			)
			.option('--candidates <id,...>', 'rank these items only (default: the best of the catalogue)', ids)
			.option('--top-k <n>', 'length of the list', wholeNumber, 10)
			.option('--retrieve <n>', 'candidates taken from the catalogue', wholeNumber, 20)
			.addOption(
				new Option('--by <score>', 'what the list is ordered by')
					.choices(['fused', 'llm', 'cf'])
					.default('fused'),
			)
			.option('--genres', "also generate the user's favourite genres")
			.option('--json', 'print JSON')
			.option('--llm <folder|id>', 'the language model, where it has moved'),
	).action(run);
}

async function run(folder: string, flags: Flags): Promise<void> {
	const {
		history,
		candidates,
		topK,
		by,
		retrieve,
		json,
		llm,
		genres,
		llmDtype,
		encoderDtype,
		device,
		threads,
	} = flags;
	const { list, text } = await interruptible(async (signal, onProgress) => {
		const model = await loadRun(folder, { llm, llmDtype, encoderDtype, device, threads, signal, onProgress });
		try {
			const [list] = await model.recommend([{ history, candidates }], { topK, by, retrieve, signal });
			const text = genres ? await model.generate({ history }, { signal }) : undefined;
			return { list: list!, text };
		} finally {
			model.dispose();
		}
	});
	if (json)
		console.log(printableJson({ recommendations: list, ...(text === undefined ? {} : { genres: text }) }));
	else {
		console.log(formatTable(list.map(row), { head: ['#', 'item', 'title', 'score', 'CF', 'LLM'] }));
		if (text !== undefined) console.log(`favourite genres: ${printable(text)}`);
	}
}

function row({ rank, id, title, score, cf, llm }: Recommendation): (string | number)[] {
	return [
		rank,
		fit(printable(id), 40),
		fit(printable(title), 60),
		score.toFixed(3),
		cf.toFixed(3),
		llm.toFixed(3),
	];
}
