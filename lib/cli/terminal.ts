import cliProgress from 'cli-progress';
import type { Progress } from '../progress.js';
import { displayWidth, printable } from './printable.js';

export interface ProgressPrinter {
	onProgress: (progress: Progress) => void;
	/** Ends the bar; further reports start another. */
	stop: () => void;
}

/** Between two lines of progress where there is no terminal, in milliseconds. */
const quietInterval = 5000;

/**
 * Shows progress on the error stream, so that the output stream holds results only: a bar on a terminal, elsewhere
 * a plain line when the stage or its message changes and at most every five seconds.
 */
export function progressPrinter(stream: NodeJS.WriteStream = process.stderr): ProgressPrinter {
	return stream.isTTY ? barPrinter(stream) : linePrinter(stream);
}

function barPrinter(stream: NodeJS.WriteStream): ProgressPrinter {
	let bar: cliProgress.SingleBar | undefined;
	let stage = '';
	const stop = () => {
		bar?.stop();
		bar = undefined;
	};
	return {
		onProgress(progress) {
			if (bar && progress.stage !== stage) stop();
			stage = progress.stage;
			const payload = { text: describe(progress) };
			if (!bar) {
				bar = new cliProgress.SingleBar(
					{
						stream,
						format: '{stage} {bar} {percentage} % {text}',
						hideCursor: true,
						etaBuffer: 20,
						barsize: 28,
					},
					cliProgress.Presets.shades_classic,
				);
				bar.start(progress.total ?? 1, 0, { stage, ...payload });
			}
			bar.setTotal(progress.total ?? Math.max(progress.done, 1));
			bar.update(progress.done, payload);
		},
		stop,
	};
}

function linePrinter(stream: NodeJS.WriteStream): ProgressPrinter {
	let printedAt = Number.NEGATIVE_INFINITY;
	let printed = '';
	return {
		onProgress(progress) {
			const headline = `${progress.stage}: ${progress.message ?? ''}`;
			const now = Date.now();
			if (headline === printed && now - printedAt < quietInterval) return;
			// Even changing messages are held back to a few lines a second.
			if (now - printedAt < 200 && progress.done !== progress.total) return;
			printed = headline;
			printedAt = now;
			const amount = progress.total ? ` ${trim(progress.done)}/${trim(progress.total)} ${progress.unit}` : '';
			stream.write(`${progress.stage}:${amount} ${describe(progress)}\n`);
		},
		stop() {},
	};
}

function describe({ message, rate, unit, secondsLeft, metrics }: Progress): string {
	const parts = [printable(message ?? '')];
	if (rate !== undefined) parts.push(`${trim(rate)} ${unit}/s`);
	if (secondsLeft !== undefined && Number.isFinite(secondsLeft)) parts.push(`${duration(secondsLeft)} left`);
	for (const [name, value] of Object.entries(metrics ?? {})) parts.push(`${name} ${value.toPrecision(4)}`);
	return parts.filter((part) => part !== '').join(' · ');
}

/** `1:05:09`, or `5:09` below an hour. */
export function duration(seconds: number): string {
	const whole = Math.max(0, Math.round(seconds));
	const two = (n: number) => String(n).padStart(2, '0');
	const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
	return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

function trim(n: number): string {
	return Number.isInteger(n) ? n.toLocaleString('en-US') : n.toFixed(n < 10 ? 1 : 0);
}

/** `1.23 GiB`. */
export function formatBytes(bytes: number): string {
	if (bytes < 2 ** 20) return `${(bytes / 2 ** 10).toFixed(1)} KiB`;
	return bytes < 2 ** 30 ? `${(bytes / 2 ** 20).toFixed(1)} MiB` : `${(bytes / 2 ** 30).toFixed(2)} GiB`;
}

export interface TableOptions {
	/** Heads of the columns. Default: none. */
	head?: readonly string[];
	/** Spaces before each line. Default: 0. */
	indent?: number;
}

const numeric = /^[−+-]?[\d.,]+(?:[eE][+-]?\d+)?(?:\s?[%×xsMGkKB]{1,2})?$/;

/** A text table; columns whose cells are all numbers are aligned to the right. Cells may be data: see {@link printable}. */
export function formatTable(
	rows: readonly (readonly (string | number)[])[],
	{ head, indent = 0 }: TableOptions = {},
): string {
	const cells = rows.map((row) => row.map((cell) => printable(String(cell))));
	const lines = head ? [[...head], ...cells] : cells;
	const columns = Math.max(0, ...lines.map((row) => row.length));
	const widths = Array.from({ length: columns }, (_, c) =>
		lines.reduce((most, row) => Math.max(most, displayWidth(row[c] ?? '')), 0),
	);
	const right = widths.map((_, c) =>
		cells.every((row) => ['', '–', '-', undefined].includes(row[c]) || numeric.test(row[c]!)),
	);
	const print = (row: readonly string[]) =>
		' '.repeat(indent) +
		widths
			.map((width, c) => {
				const cell = row[c] ?? '';
				const blanks = ' '.repeat(width - displayWidth(cell));
				return right[c] ? blanks + cell : cell + blanks;
			})
			.join('  ')
			.trimEnd();
	const printed = lines.map(print);
	if (head) printed.splice(1, 0, ' '.repeat(indent) + widths.map((width) => '─'.repeat(width)).join('  '));
	return printed.join('\n');
}
