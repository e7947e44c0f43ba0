#!/usr/bin/env node
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { Command, CommanderError } from 'commander';
import { Interrupted } from './interrupt.js';
import { printableError, printableLines } from './printable.js';

/** A verb of the command: one file of this folder, loaded when the command starts. */
interface Verb {
	register(program: Command): void;
}

/** In the order of the help text. A new verb is one line here and one file that exports `register(program)`. */
const verbs: readonly (() => Promise<Verb>)[] = [
	() => import('./prepare.js'),
	() => import('./train.js'),
	() => import('./evaluate.js'),
	() => import('./experiment.js'),
	() => import('./report.js'),
	() => import('./recommend.js'),
	() => import('./explain.js'),
	() => import('./score.js'),
	() => import('./quantize.js'),
	() => import('./inspect.js'),
	() => import('./demo.js'),
];

/** Exit codes: 0 done, 1 the work failed, 2 the command line is wrong, 130 or 143 interrupted by Ctrl-C or SIGTERM. */
async function main(argv: readonly string[]): Promise<number> {
	const program = new Command('a-llmrec')
		.description('Recommend with a frozen language model (A-LLMRec).')
		.version(packageVersion(), '-v, --version')
		.option('--debug', 'print the stack and the cause of an error')
		.showSuggestionAfterError(true)
		.showHelpAfterError('(add --help for the options)')
		.exitOverride();
	for (const load of verbs) (await load()).register(program);
	// Sub-commands do not inherit what was set before they were made.
	for (const command of program.commands) {
		command.copyInheritedSettings(program);
		nameMisspelledOptionsFirst(command, argv);
	}
	try {
		await program.parseAsync(argv);
		return 0;
	} catch (error) {
		if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
		return report(error, program.opts().debug === true);
	}
}

/** A required option that was misspelled is there, under another name: saying that it is missing would help little. */
function nameMisspelledOptionsFirst(command: Command, argv: readonly string[]): void {
	const checks = command as unknown as Record<
		'missingMandatoryOptionValue' | 'unknownOption',
		(what: unknown) => void
	>;
	const missing = checks.missingMandatoryOptionValue.bind(command);
	checks.missingMandatoryOptionValue = (option) => {
		const known = new Set(command.options.flatMap(({ long, short }) => [long, short]));
		const flags = argv.filter((argument) => /^--?[a-z]/.test(argument)).map((flag) => flag.split('=')[0]!);
		const unknown = flags.find((flag) => !known.has(flag) && !['--debug', '--help', '-h'].includes(flag));
		if (unknown) checks.unknownOption(unknown);
		missing(option);
	};
}

function report(error: unknown, debug: boolean): number {
	if (error instanceof Interrupted) {
		console.error('interrupted');
		return 128 + constants.signals[error.signal];
	}
	const { code, message } = error instanceof Error ? (error as NodeJS.ErrnoException) : {};
	const text = printableLines(message ?? String(error));
	console.error(code ? `error ${code}: ${text}` : `error: ${text}`);
	if (debug || !code) console.error(printableError(error));
	return 1;
}

/** From package.json, two folders above the compiled file's `lib/`. */
function packageVersion(): string {
	const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
	return JSON.parse(text).version;
}

// Nobody may be there to read the progress any more, or its log's disk be full: no reason to stop working.
process.stderr.on('error', () => {});
// Results that cannot be written are; but a reader that has had enough, like `head`, is not told of it.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
	if (error.code !== 'EPIPE')
		console.error(`error ERR_ALLMREC_WRITE: The standard output cannot be written: ${error.message}`);
	process.exit(1);
});
process.exitCode = await main(process.argv);
