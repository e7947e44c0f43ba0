import { type Command, InvalidArgumentError, Option } from 'commander';
import { ENCODER_DTYPES, type EncoderDtype, LLM_DTYPES, type LlmDtype } from '../index.js';

export function wholeNumber(text: string): number {
	if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It has to be a whole number.');
	return Number(text);
}

/** `id,id,…`, or a JSON array for ids with commas or spaces of their own; several options add up. */
export function ids(text: string, before: string[] = []): string[] {
	if (text.startsWith('[')) {
		const list = parsed(text);
		if (Array.isArray(list) && list.every((id) => typeof id === 'string')) return [...before, ...list];
	}
	return [
		...before,
		...text
			.split(',')
			.map((id) => id.trim())
			.filter((id) => id !== ''),
	];
}

function parsed(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return undefined; // an id may begin with a bracket
	}
}

/** `--device` and `--threads`. */
export function deviceOptions(command: Command): Command {
	return command
		.addOption(
			new Option('--device <device>', 'where to compute').choices(['auto', 'cpu', 'cuda']).default('auto'),
		)
		.option('--threads <n>', 'CPU threads (default: as many as the process may use)', wholeNumber);
}

export interface DeviceFlags {
	device: 'auto' | 'cpu' | 'cuda';
	threads?: number;
}

/** Those, `--llm-dtype` and `--encoder-dtype`: of verbs that load a run's models. */
export function modelOptions(command: Command): Command {
	return deviceOptions(command)
		.addOption(
			new Option('--llm-dtype <dtype>', "of the language model's weights (default: the run's)").choices(
				LLM_DTYPES,
			),
		)
		.addOption(
			new Option('--encoder-dtype <dtype>', "the sentence encoder computes in (default: the run's)").choices(
				ENCODER_DTYPES,
			),
		);
}

export interface ModelFlags extends DeviceFlags {
	llmDtype?: LlmDtype;
	encoderDtype?: EncoderDtype;
}

/** From 0 to 1. */
export function share(text: string): number {
	const value = Number(text);
	if (text.trim() === '' || !(value >= 0 && value <= 1))
		throw new InvalidArgumentError('It has to be a number from 0 to 1.');
	return value;
}
