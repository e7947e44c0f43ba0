import { shortened } from './markup.js';

/** Maps a domain to a range of the picture, with round ticks. */
export interface Scale {
	(value: number): number;
	ticks: number[];
	/** Digits behind the point that tell the ticks apart. */
	digits: number;
}

/**
 * A linear scale that begins and ends at ticks.
 *
 * @param domain smallest and largest value that is shown
 * @param range their places in the picture
 * @param count ticks wanted, about
 */
export function linearScale(
	domain: readonly [number, number],
	[from, to]: readonly [number, number],
	count = 5,
): Scale {
	// A single value stands in the middle, and so do values that rounding alone tells apart.
	const size = Math.max(Math.abs(domain[0]), Math.abs(domain[1]), 1e-100);
	const around = domain[1] - domain[0] > 1e-12 * size ? 0 : Math.abs(domain[0]) / 4 || 0.5;
	const [low, high] = [domain[0] - around, domain[1] + around];
	const width = high - low;
	const rough = width / count;
	const power = 10 ** Math.floor(Math.log10(rough));
	const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
	const first = Math.floor(low / step + 1e-9);
	const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
	const ticks = Array.from({ length: last - first + 1 }, (_, at) => (first + at) * step);
	const place = (value: number) => from + ((value / step - first) / (last - first)) * (to - from);
	return Object.assign(place, { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) });
}

/** A tick's label: as many digits as its neighbours need, and short however large or small the numbers are. */
export function tickLabel(value: number, digits: number): string {
	const size = Math.abs(value);
	if (value === 0) return digits > 5 ? '0' : decimal(0, digits);
	if (size >= 1e6 || digits > 5) return value.toExponential(1).replaceAll('-', '−');
	return decimal(value, digits);
}

/** With a real minus sign, and thousands apart. */
export function decimal(value: number, digits: number): string {
	const [whole, fraction] = Math.abs(value).toFixed(digits).split('.') as [string, string?];
	const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ' ');
	const text = fraction === undefined ? grouped : `${grouped}.${fraction}`;
	return value < 0 && Number(text.replaceAll(' ', '')) !== 0 ? `−${text}` : text;
}

/** Four significant digits. */
export function figure(value: number): string {
	const size = Math.abs(value);
	if (value === 0) return '0';
	if (size >= 1e7 || size < 1e-4) return value.toExponential(2).replaceAll('-', '−');
	if (Number.isInteger(value)) return decimal(value, 0);
	return decimal(value, Math.max(0, 3 - Math.floor(Math.log10(size))));
}

/** As much of a label as `width` units hold at a font size of 12, by what characters take at most. */
export function fitted(label: string, width: number): string {
	const sizes = Array.from(label, (character) => {
		if (character >= '\u2e80') return 13;
		return /[A-Z@%&WMmw—]/.test(character) ? 10.5 : 7.5;
	});
	let taken = 0;
	const over = sizes.findIndex((size) => {
		taken += size;
		return taken > width;
	});
	return over < 0 ? label : shortened(label, over);
}
