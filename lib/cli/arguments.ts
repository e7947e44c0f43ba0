import { type Command, InvalidArgumentError, Option } from 'commander';

export function wholeNumber(text: string): number {
	if (!/^\d+$/.test(text)) throw new InvalidArgumentError('It has to be a whole number.');
	return Number(text);
}

/** `id,id,…`; several options add up. */
export function ids(text: string, before: string[] = []): string[] {
	return [
		...before,
		...text
			.split(',')
			.map((id) => id.trim())
			.filter((id) => id !== ''),
	];
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

/** From 0 to 1. */
export function share(text: string): number {
	const value = Number(text);
	if (text.trim() === '' || !(value >= 0 && value <= 1))
		throw new InvalidArgumentError('It has to be a number from 0 to 1.');
	return value;
}
