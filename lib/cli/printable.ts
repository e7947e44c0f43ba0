import { inspect } from 'node:util';

/** What a terminal obeys or a reader cannot see: controls, separators of lines, bidirectional controls, and the like. */
const OBEYED =
	/[\p{Cc}\u00ad\u061c\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}\p{Cs}]/gu;
/** More marks on a letter than any language has would run over the lines above and below. */
const STACKED_MARKS = /(\p{M}{8})\p{M}+/gu;
const WITHOUT_WIDTH = /^[\p{M}\p{Cf}\p{Default_Ignorable_Code_Point}]+$/u;
/** East Asian Wide and Fullwidth, in the ranges that titles use, and what is shown as an emoji. */
const WIDE =
	/[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97c\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6\u{16fe0}-\u{18cff}\u{1aff0}-\u{1b2ff}\u{20000}-\u{3fffd}\p{Emoji_Presentation}]|\ufe0f/u;

const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' });

/**
 * Text of data as one line that does nothing to a terminal: controls are shown (`␛`, `<U+202E>`), so that a title can
 * neither move the cursor, nor begin a line, nor turn the direction of what stands beside it.
 */
export function printable(text: string): string {
	return text.replace(OBEYED, (c) => shown(c.codePointAt(0)!)).replace(STACKED_MARKS, '$1');
}

function shown(code: number): string {
	// C0 controls and DEL have pictures of their own.
	if (code < 0x20) return String.fromCharCode(0x2400 + code);
	return code === 0x7f ? '\u2421' : `<U+${code.toString(16).toUpperCase().padStart(4, '0')}>`;
}

/** The same of a text of several lines, such as an error's: lines after the first are set in, so none can pose as one. */
export function printableLines(text: string): string {
	const lines = text.split('\n').map(printable);
	return lines.map((line, i) => (i === 0 ? line : `  ${line}`)).join('\n');
}

/** An error with its stack and cause. */
export function printableError(error: unknown): string {
	return printableLines(inspect(error));
}

/** JSON on one line, in which what a terminal obeys is escaped: what it parses to is the same. */
export function printableJson(value: unknown): string {
	return JSON.stringify(value).replace(
		/[\x7f-\x9f\u00ad\u061c\u180e\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g,
		(c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
	);
}

/** Columns of a terminal that a line takes. */
export function displayWidth(line: string): number {
	if (/^[ -~]*$/.test(line)) return line.length;
	let width = 0;
	for (const { segment } of graphemes.segment(line)) width += graphemeWidth(segment);
	return width;
}

/** The beginning of a line that fits into so many columns, with an ellipsis where something is left out. */
export function fit(line: string, columns: number): string {
	// Nothing behind this can be shown, and long texts take their time.
	const head = line.length > 64 * columns ? line.slice(0, 64 * columns) : line;
	let width = 0;
	let end = 0;
	for (const { segment, index } of graphemes.segment(head)) {
		width += graphemeWidth(segment);
		if (width > columns) return `${head.slice(0, end)}…`;
		if (width < columns) end = index + segment.length;
	}
	return head.length < line.length ? `${head.slice(0, end)}…` : line;
}

function graphemeWidth(grapheme: string): number {
	if (WITHOUT_WIDTH.test(grapheme)) return 0;
	return WIDE.test(grapheme) ? 2 : 1;
}
