import { decimal, figure, fitted, linearScale, type Scale, tickLabel } from './axis.js';
import { type Content, type Markup, markup, shortened } from './markup.js';

// Plots are static SVG: a description and numbers in, markup out. Colours are classes, so that a theme changes them;
// series differ by the shape of their points too. Below each plot its numbers stand as a table.

/** What every plot needs. */
export interface PlotText {
	title: string;
	/** What is seen, in words: for who does not see it. */
	description: string;
	xLabel?: string;
	yLabel?: string;
}

/** A value, and the ends of its interval where there is one. */
export interface PlotPoint {
	x: number;
	y: number;
	low?: number | undefined;
	high?: number | undefined;
}

export interface LineSeries {
	name: string;
	points: readonly PlotPoint[];
	/** Drawn dashed: of another kind than the others. */
	dashed?: boolean;
}

export interface LinePlot extends PlotText {
	series: readonly LineSeries[];
	/** Names of the places 0, 1, …; default: x is a number. */
	categories?: readonly string[];
	/** What the y axis has to show at least. Default: what there is. */
	range?: readonly [number, number];
}

export interface Bar {
	label: string;
	value: number;
	low?: number | undefined;
	high?: number | undefined;
	/** Index of a colour. Default 0. */
	color?: number;
}

export interface BarPlot extends PlotText {
	bars: readonly Bar[];
}

export interface ScatterPoint {
	x: number;
	y: number;
	label: string;
	/** Class of the point: `cold`, or `p0` … `p4` by popularity. */
	kind: string;
	/** More cells of its row in the table. */
	cells: readonly (string | number)[];
}

export interface ScatterPlot extends PlotText {
	points: readonly ScatterPoint[];
	/** Names of the kinds that occur. */
	kinds: readonly { kind: string; name: string }[];
	/** Heads of `cells`. */
	heads: readonly string[];
}

/** Colours there are; further series take them again, with other shapes. */
export const COLORS = 8;
const WIDTH = 640;
const SHAPES = [
	(x: number, y: number) => markup`<circle cx="${px(x)}" cy="${px(y)}" r="3.6"/>`,
	(x: number, y: number) => markup`<rect x="${px(x - 3.3)}" y="${px(y - 3.3)}" width="6.6" height="6.6"/>`,
	(x: number, y: number) => path(`M${px(x)} ${px(y - 4.6)}l4.4 7.8h-8.8z`),
	(x: number, y: number) => path(`M${px(x)} ${px(y - 4.8)}l4.8 4.8-4.8 4.8-4.8-4.8z`),
	(x: number, y: number) => path(`M${px(x)} ${px(y + 4.6)}l4.4-7.8h-8.8z`),
];

/** Lines with points and error bars, over numbers or categories. */
export function linePlot(plot: LinePlot): Markup {
	const { series, categories, range } = plot;
	const height = 340;
	const [left, right, top, bottom] = [62, WIDTH - 16, 14, height - 54];
	const points = series.flatMap((line) => line.points);
	const ys = [...points.flatMap(({ y, low, high }) => [y, low ?? y, high ?? y]), ...(range ?? [])];
	const y = linearScale(extent(ys), [bottom, top]);
	const x = categories
		? categoryScale(categories.length, left, right)
		: linearScale(extent(points.map((point) => point.x)), [left + 6, right - 6], 8);
	const lines = series.map((line, at) => {
		const places = line.points.map((point) => `${px(x(point.x))} ${px(y(point.y))}`);
		return markup`<g class="s${at % COLORS}">
<path class="line${line.dashed && ' dashed'}" d="M${places.join('L')}"/>
${line.points.map((point) => errorBar(x(point.x), point, y))}
${line.points.map((point) => markup`<g>${tip(`${line.name}: ${figure(point.y)}`)}${shape(at, x(point.x), y(point.y))}</g>`)}
</g>`;
	});
	const every = categories ? Math.ceil(categories.length / 12) : 1;
	const labels = categories?.map((name, at) => at % every === 0 && xTick(x(at), bottom, shortened(name, 12)));
	const drawing = markup`${yAxis(y, left, right)}
${labels ?? x.ticks.map((tick) => xTick(x(tick), bottom, tickLabel(tick, x.digits)))}
<path class="axis" d="M${left} ${bottom}H${right}"/>
${axisLabels(plot, (left + right) / 2, height - 10, (top + bottom) / 2)}${lines}`;
	const legend = series.map(
		({ name, dashed }, at) =>
			markup`<li><svg class="swatch s${at % COLORS}" viewBox="0 0 26 12" aria-hidden="true"><path class="line${dashed && ' dashed'}" d="M1 6H25"/>${shape(at, 13, 6)}</svg> <bdi>${name}</bdi></li>`,
	);
	const head = [plot.xLabel ?? '', ...series.map(({ name }) => name)];
	return figureOf(plot, height, drawing, legend, head, lineRows(plot));
}

function lineRows({ series, categories }: LinePlot): (string | number)[][] {
	const places = [...new Set(series.flatMap((line) => line.points.map((point) => point.x)))];
	return places
		.sort((a, b) => a - b)
		.map((place) => [
			categories?.[place] ?? figure(place),
			...series.map((line) => {
				const point = line.points.find(({ x }) => x === place);
				return point ? interval(point.y, point) : '–';
			}),
		]);
}

/** Horizontal bars from zero, with error bars. */
export function barPlot(plot: BarPlot): Markup {
	const { bars } = plot;
	const [left, right, top, step] = [196, WIDTH - 66, 8, 26];
	const bottom = top + bars.length * step + 4;
	const height = bottom + (plot.xLabel ? 46 : 28);
	const values = bars.flatMap(({ value, low, high }) => [value, low ?? value, high ?? value]);
	const x = linearScale(extent([0, ...values]), [left, right]);
	const drawn = bars.map(({ label, value, low, high, color = 0 }, at) => {
		const middle = top + at * step + step / 2;
		const [from, to] = [Math.min(x(0), x(value)), Math.max(x(0), x(value))];
		const end = Math.max(to, high === undefined ? to : x(high));
		return markup`<g class="s${color % COLORS}">${tip(`${label}: ${interval(value, { low, high })}`)}
<text class="tick" x="${left - 8}" y="${px(middle + 4)}" text-anchor="end">${fitted(label, left - 12)}</text>
<rect class="bar" x="${px(from)}" y="${px(middle - 8)}" width="${px(Math.max(to - from, 0.5))}" height="16" rx="2"/>
${low !== undefined && high !== undefined && path(`M${px(x(low))} ${middle}H${px(x(high))}M${px(x(low))} ${middle - 4}v8M${px(x(high))} ${middle - 4}v8`, 'error')}
<text class="value" x="${px(end + 6)}" y="${px(middle + 4)}">${low === undefined ? figure(value) : decimal(value, 3)}</text></g>`;
	});
	const ticks = x.ticks.map(
		(tick) =>
			markup`<path class="grid" d="M${px(x(tick))} ${top}V${bottom}"/>${xTick(x(tick), bottom, tickLabel(tick, x.digits))}`,
	);
	const drawing = markup`${ticks}${drawn}<path class="axis" d="M${px(x(0))} ${top}V${bottom}"/>
${axisLabels({ xLabel: plot.xLabel }, (left + right) / 2, height - 8, 0)}`;
	const rows = bars.map((bar) => [bar.label, interval(bar.value, bar)]);
	return figureOf(plot, height, drawing, [], ['', plot.xLabel ?? 'value'], rows);
}

/** Points without axes' figures: of a projection only nearness means something. */
export function scatterPlot(plot: ScatterPlot): Markup {
	const { points, kinds, heads } = plot;
	const size = 400;
	const [xLow, xHigh] = extent(points.map((point) => point.x));
	const [yLow, yHigh] = extent(points.map((point) => point.y));
	const spread = Math.max(xHigh - xLow, yHigh - yLow) || 1;
	const place = (value: number, low: number, high: number) =>
		size / 2 + ((value - (low + high) / 2) / spread) * (size - 32);
	const order = kinds.map(({ kind }) => kind);
	const drawn = [...points]
		.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))
		.map(({ x, y, kind, label }) => {
			const [cx, cy] = [px(place(x, xLow, xHigh)), px(size - place(y, yLow, yHigh))];
			const mark =
				kind === 'cold'
					? path(`M${cx} ${cy}m-3.6 0h7.2m-3.6-3.6v7.2`)
					: markup`<circle cx="${cx}" cy="${cy}" r="3.2"/>`;
			return markup`<g class="point ${kind}">${tip(label)}${mark}</g>`;
		});
	const drawing = markup`<rect class="frame" x="0.5" y="0.5" width="${size - 1}" height="${size - 1}" rx="6"/>${drawn}`;
	const legend = kinds.map(
		({ kind, name }) =>
			markup`<li><svg class="swatch point ${kind}" viewBox="0 0 12 12" aria-hidden="true">${kind === 'cold' ? path('M2 6h8M6 2v8') : markup`<circle cx="6" cy="6" r="4"/>`}</svg> ${name}</li>`,
	);
	const rows = points.map(({ label, x, y, cells }) => [
		shortened(label, 80),
		decimal(x, 3),
		decimal(y, 3),
		...cells,
	]);
	return figureOf(plot, size, drawing, legend, ['item', 'x', 'y', ...heads], rows, size);
}

function figureOf(
	{ title, description }: PlotText,
	height: number,
	drawing: Markup,
	legend: readonly Markup[],
	head: readonly string[],
	rows: readonly (readonly (string | number)[])[],
	width = WIDTH,
): Markup {
	return markup`<figure class="plot${width < WIDTH && ' square'}">
<figcaption><bdi>${title}</bdi></figcaption>
<div class="scroll" tabindex="0" role="region" aria-label="Plot: ${title}">
<svg class="drawing" viewBox="0 0 ${width} ${height}" role="img" aria-label="${title}. ${description}"><title>${title}</title><desc>${description}</desc>
${drawing}</svg></div>
${legend.length > 0 && markup`<ul class="legend">${legend}</ul>`}
<details><summary>Numbers of this plot</summary>
<div class="scroll" tabindex="0" role="region" aria-label="Numbers: ${title}"><table><thead><tr>${head.map((name) => markup`<th scope="col"><bdi>${name}</bdi></th>`)}</tr></thead>
<tbody>${rows.map(([name, ...cells]) => markup`<tr><th scope="row"><bdi>${name}</bdi></th>${cells.map((cell) => markup`<td>${cell}</td>`)}</tr>`)}</tbody></table></div></details>
</figure>
`;
}

/** `0.512 [0.498, 0.527]`. */
export function interval(
	value: number,
	{ low, high }: { low?: number | undefined; high?: number | undefined },
): string {
	if (low === undefined || high === undefined) return figure(value);
	return `${decimal(value, 3)} [${decimal(low, 3)}, ${decimal(high, 3)}]`;
}

function yAxis(y: Scale, left: number, right: number): Content {
	return y.ticks.map(
		(tick) => markup`<path class="grid" d="M${left} ${px(y(tick))}H${right}"/>
<text class="tick" x="${left - 8}" y="${px(y(tick) + 4)}" text-anchor="end">${tickLabel(tick, y.digits)}</text>`,
	);
}

function xTick(x: number, bottom: number, label: string): Markup {
	return markup`<text class="tick" x="${px(x)}" y="${bottom + 18}" text-anchor="middle">${label}</text>`;
}

function axisLabels(
	{ xLabel, yLabel }: { xLabel?: string | undefined; yLabel?: string | undefined },
	x: number,
	below: number,
	y: number,
): Content {
	return [
		xLabel && markup`<text class="label" x="${px(x)}" y="${below}" text-anchor="middle">${xLabel}</text>`,
		yLabel &&
			markup`<text class="label" transform="translate(14 ${px(y)}) rotate(-90)" text-anchor="middle">${yLabel}</text>`,
	];
}

function errorBar(x: number, { low, high }: PlotPoint, y: Scale): Content {
	if (low === undefined || high === undefined) return false;
	const [top, bottom] = [px(y(high)), px(y(low))];
	return path(`M${px(x)} ${top}V${bottom}M${px(x - 3)} ${top}h6M${px(x - 3)} ${bottom}h6`, 'error');
}

function shape(at: number, x: number, y: number): Markup {
	return SHAPES[(at + Math.floor(at / COLORS)) % SHAPES.length]!(x, y);
}

/** What a pointer that rests is shown. */
function tip(text: string): Markup {
	return markup`<title>${text}</title>`;
}

function path(d: string, name?: string): Markup {
	return markup`<path${name && markup` class="${name}"`} d="${d}"/>`;
}

function categoryScale(count: number, left: number, right: number): Scale {
	const place = (at: number) => left + ((at + 0.5) / count) * (right - left);
	return Object.assign(place, { ticks: [], digits: 0 });
}

function extent(values: readonly number[]): [number, number] {
	let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
	for (const value of values) {
		low = Math.min(low, value);
		high = Math.max(high, value);
	}
	return low > high ? [0, 1] : [low, high];
}

/** A place in the picture, to a hundredth. */
function px(value: number): number {
	return Math.round(value * 100) / 100;
}
