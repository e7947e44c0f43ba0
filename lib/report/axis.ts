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
	[low, high]: readonly [number, number],
	[from, to]: readonly [number, number],
	count = 5,
): Scale {
	const width = high > low ? high - low : Math.max(Math.abs(low), 1) / 2;
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
	if (value !== 0 && (size >= 1e6 || digits > 5)) return value.toExponential(1).replace('-', '−');
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
