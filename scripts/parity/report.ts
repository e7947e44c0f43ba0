import type { Fixture } from './fixture.js';

/** Of tensors computed in float32: worst error ÷ largest expected value. */
export const TOLERANCE = 1e-4;
/** A gradient below this share of the model's largest is zero but for rounding. */
const NOISE = 1e-6;

export interface Row {
	/** What was expected. */
	name: string;
	/** The weight file, or how it was computed. */
	source: string;
	/** max|ours − expected| ÷ max|expected| */
	max?: number;
	/** ‖ours − expected‖ ÷ ‖expected‖ */
	norm?: number;
	/** Of `max`; 0 = exactly. */
	tolerance?: number;
	verdict: 'ok' | 'FAIL' | 'not checked';
	note: string;
}

export interface CompareOptions {
	source?: string;
	tolerance?: number;
	note?: string;
	/** Divide the worst error by this instead of the largest expected value. */
	scale?: number;
}

/** What was compared with a folder's expectations, row by row. */
export class Report {
	readonly rows: Row[] = [];
	readonly #done = new Set<string>();

	constructor(
		readonly folder: string,
		readonly kind: string,
	) {}

	get failures(): Row[] {
		return this.rows.filter(({ verdict }) => verdict === 'FAIL');
	}

	/** The largest error of the rows in float32. */
	get worst(): number {
		return this.rows
			.filter(({ tolerance = 0 }) => tolerance <= TOLERANCE)
			.reduce((worst, { max = 0 }) => (max > worst || Number.isNaN(max) ? max : worst), 0);
	}

	/** Compares two lists of numbers; a tolerance of 0 wants them equal. */
	compare(
		name: string,
		ours: ArrayLike<number>,
		expected: ArrayLike<number>,
		{ source = '', tolerance = TOLERANCE, note = '', scale }: CompareOptions = {},
	): void {
		this.#done.add(name);
		if (ours.length !== expected.length) {
			this.fail(name, `${ours.length} numbers instead of ${expected.length}`, source);
			return;
		}
		if (expected.length === 0) {
			this.fail(name, 'there is nothing to compare', source);
			return;
		}
		const { max, norm } = errors(ours, expected, scale);
		const verdict = max <= tolerance ? 'ok' : 'FAIL';
		this.rows.push({ name, source, max, norm, tolerance, verdict, note });
	}

	/** Compares every `<prefix><name>` with the gradient of that name. */
	async gradients(
		fixture: Fixture,
		prefix: string,
		gradient: (name: string) => Promise<Float32Array>,
		{ source, note = '' }: { source?: string; note?: string } = {},
	): Promise<void> {
		const names = [...fixture.expectedTensors.keys()].filter((name) => name.startsWith(prefix));
		const expected = names.map((name) => fixture.tensor(name).data);
		const largest = Math.max(...expected.map(maximum));
		for (const [i, name] of names.entries()) {
			let ours: Float32Array;
			try {
				ours = await gradient(name.slice(prefix.length));
			} catch (error) {
				this.fail(name, (error as Error).message, source);
				continue;
			}
			if (maximum(expected[i]!) > NOISE * largest) this.compare(name, ours, expected[i]!, { source, note });
			else
				this.compare(name, ours, expected[i]!, {
					source,
					tolerance: NOISE,
					scale: largest,
					note: `zero but for rounding: error ÷ the largest gradient ${largest.toExponential(1)}${note && `; ${note}`}`,
				});
		}
	}

	/** Compares lists of ids, which must be equal. */
	ids(
		name: string,
		ours: readonly ArrayLike<number>[],
		expected: readonly ArrayLike<number>[],
		{ source = '', note = '' }: { source?: string; note?: string } = {},
	): void {
		this.#done.add(name);
		const at = expected.findIndex((row, r) => !equal(row, ours[r] ?? []));
		const good = at < 0 && ours.length === expected.length && expected.length > 0;
		const difference =
			at >= 0
				? `row ${at}: expected ${list(expected[at]!)}, got ${list(ours[at] ?? [])}`
				: `${ours.length} rows instead of ${expected.length}`;
		this.rows.push({
			name,
			source,
			tolerance: 0,
			verdict: good ? 'ok' : 'FAIL',
			note: good
				? `${expected.length} ${expected.length === 1 ? 'row' : 'rows'} equal${note && `; ${note}`}`
				: difference,
		});
	}

	/** Compares texts or other plain values, which must be equal. */
	equal(name: string, ours: unknown, expected: unknown, { source = '', note = '' } = {}): void {
		this.#done.add(name);
		const [got, wanted] = [JSON.stringify(ours), JSON.stringify(expected)];
		const good = got === wanted;
		this.rows.push({
			name,
			source,
			tolerance: 0,
			verdict: good ? 'ok' : 'FAIL',
			note: good ? note : `expected ${shorten(wanted)}, got ${shorten(got ?? 'nothing')}`,
		});
	}

	fail(name: string, note: string, source = ''): void {
		this.#done.add(name);
		this.rows.push({ name, source, verdict: 'FAIL', note });
	}

	/** An expectation that is left out on purpose. */
	skip(name: string, note: string): void {
		this.#done.add(name);
		this.rows.push({ name, source: '', verdict: 'not checked', note });
	}

	/** Every tensor and key of the folder that nothing was compared with counts as a failure. */
	finish(fixture: Fixture): void {
		const json = Object.keys(fixture.expected).filter((key) => !DESCRIPTIVE.has(key));
		for (const name of [...fixture.expectedTensors.keys(), ...json])
			if (!this.#done.has(name) && !fixture.inputs.has(name))
				this.fail(name, 'expected, but nothing was compared with it');
	}
}

/** Keys of `expected.json` that say how the folder was made, or are inputs. */
const DESCRIPTIVE = new Set([
	'versions',
	'version',
	'note',
	'seed',
	'args',
	'user_num',
	'item_num',
	'strings',
	'eos_id',
]);

function errors(ours: ArrayLike<number>, expected: ArrayLike<number>, scale?: number) {
	let [max, largest, squares, expectedSquares] = [0, 0, 0, 0];
	for (let i = 0; i < expected.length; i++) {
		const difference = Math.abs(ours[i]! - expected[i]!);
		if (difference > max || Number.isNaN(difference)) max = difference;
		largest = Math.max(largest, Math.abs(expected[i]!));
		squares += difference * difference;
		expectedSquares += expected[i]! * expected[i]!;
	}
	return {
		max: ratio(max, scale ?? largest),
		norm: ratio(
			Math.sqrt(squares),
			scale === undefined ? Math.sqrt(expectedSquares) : scale * Math.sqrt(expected.length),
		),
	};
}

function ratio(error: number, scale: number): number {
	return error === 0 ? 0 : error / scale;
}

export function maximum(values: ArrayLike<number>): number {
	let largest = 0;
	for (let i = 0; i < values.length; i++) largest = Math.max(largest, Math.abs(values[i]!));
	return largest;
}

function equal(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
	if (a.length !== b.length) return false;
	for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
	return true;
}

function list(ids: ArrayLike<number>): string {
	return `[${shorten(Array.from(ids).join(' '))}]`;
}

function shorten(text: string): string {
	return text.length > 160 ? `${text.slice(0, 160)}…` : text;
}

/** A folder's rows as a table. */
export function formatReport(report: Report, { failuresOnly = false } = {}): string {
	const rows = failuresOnly ? report.rows.filter(({ verdict }) => verdict !== 'ok') : report.rows;
	const cells = rows.map((row) => [
		row.name,
		row.source,
		row.max === undefined ? '' : row.max.toExponential(2),
		row.norm === undefined ? '' : row.norm.toExponential(2),
		row.tolerance === undefined ? '' : row.tolerance === 0 ? 'exact' : row.tolerance.toExponential(0),
		row.verdict,
		row.note,
	]);
	const heads = ['expected', 'from', 'max error', 'norm error', 'tolerance', '', ''];
	const widths = heads.map((head, c) => Math.max(head.length, ...cells.map((row) => row[c]!.length)));
	const line = (row: string[]) =>
		`  ${row.map((cell, c) => (c >= 2 && c <= 4 ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!))).join('  ')}`.trimEnd();
	const { failures, worst } = report;
	const skipped = report.rows.filter(({ verdict }) => verdict === 'not checked').length;
	const verdict = failures.length === 0 ? 'ok' : `${failures.length} FAILED`;
	return [
		`${report.folder} (${report.kind})`,
		...(cells.length === 0 ? [] : [line(heads), ...cells.map(line)]),
		`  ${report.rows.length} rows, worst error ${worst.toExponential(2)}${skipped ? `, ${skipped} left out with a reason` : ''}: ${verdict}`,
		'',
	].join('\n');
}
