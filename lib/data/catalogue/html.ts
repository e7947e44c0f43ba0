import { entities } from './entities.js';

/** Tags that do not separate words: `H<sub>2</sub>O` is one. Every other tag becomes a space. */
const inline =
	/<\/?(?:a|abbr|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var|wbr)(?:\s(?:"[^"]*"|'[^']*'|[^'"<>])*)?\/?>/gi;
const anyTag = /<\/?[a-z](?:"[^"]*"|'[^']*'|[^'"<>])*>/gi;
const tagWithLooseQuotes = /<\/?[a-z][^<>]*>/gi;
/** Where something begins that is not shown: a comment, a script, a style sheet, a document type, a mark of CDATA. */
const hiddenBeginning = /<!--|<(script|style)\b|<!doctype|<!\[CDATA\[|\]\]>/gi;
const entity = /&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z][a-z\d]{1,31}));?/gi;

/** What browsers make of `&#128;` … `&#159;`: the characters of windows-1252. */
const windows1252 = '€\u0081‚ƒ„…†‡ˆ‰Š‹Œ\u008dŽ\u008f\u0090‘’“”•–—˜™š›œ\u009džŸ';

/**
 * Plain text of a title or description as catalogues hold them: comments, scripts and tags removed, entities
 * decoded (also those encoded twice), control characters and runs of white space made one space.
 */
export function cleanText(raw: string): string {
	let text = raw;
	if (text.includes('<')) text = stripTags(text);
	// Catalogues hold `&amp;quot;` and `&lt;br&gt;`: decode until nothing changes, and strip what appears.
	for (let round = 0; round < 3 && text.includes('&'); round++) {
		const decoded = decodeEntities(text);
		if (decoded === text) break;
		text = decoded.includes('<') ? stripTags(decoded) : decoded;
	}
	return text
		.replaceAll(/[\s\p{Cc}\u200b\ufeff\u00ad]+/gu, (run) => (/^\u00ad+$/.test(run) ? '' : ' '))
		.trim();
}

function stripTags(text: string): string {
	return stripHidden(text).replaceAll(inline, '').replaceAll(anyTag, ' ').replaceAll(tagWithLooseQuotes, ' ');
}

/** What is not shown becomes a space; what has no end stays. Linear in the text's length, whatever stands in it. */
function stripHidden(text: string): string {
	const commentEnd = new NextMatch(text, /-->/g);
	const tagEnd = new NextMatch(text, />/g);
	const elementEnd = {
		script: new NextMatch(text, /<\/script\s*>/gi),
		style: new NextMatch(text, /<\/style\s*>/gi),
	};
	let shown = '';
	let kept = 0;
	hiddenBeginning.lastIndex = 0;
	for (let match = hiddenBeginning.exec(text); match !== null; match = hiddenBeginning.exec(text)) {
		const begin = match[0].toLowerCase();
		const behind = hiddenBeginning.lastIndex;
		let end: number | undefined = behind;
		if (begin === '<!--') end = commentEnd.endFrom(behind);
		else if (begin === '<!doctype') end = tagEnd.endFrom(behind);
		else if (match[1] !== undefined) {
			end = tagEnd.endFrom(behind);
			if (end !== undefined) end = elementEnd[match[1].toLowerCase() as 'script' | 'style'].endFrom(end);
		}
		if (end === undefined) continue;
		shown += `${text.slice(kept, match.index)} `;
		kept = end;
		hiddenBeginning.lastIndex = end;
	}
	return shown + text.slice(kept);
}

/** The first match behind places that only move forward: no part of the text is searched twice. */
class NextMatch {
	readonly #text: string;
	readonly #pattern: RegExp;
	#start = -1;
	#end: number | undefined = 0;

	constructor(text: string, pattern: RegExp) {
		this.#text = text;
		this.#pattern = pattern;
	}

	/** Where the first match that begins at `place` or behind it ends. */
	endFrom(place: number): number | undefined {
		if (this.#end !== undefined && this.#start < place) {
			this.#pattern.lastIndex = place;
			const match = this.#pattern.exec(this.#text);
			this.#start = match?.index ?? 0;
			this.#end = match ? this.#pattern.lastIndex : undefined;
		}
		return this.#end;
	}
}

/** Decodes numeric and named entities; an unknown name (`R&D;`) stays as it is. */
export function decodeEntities(text: string): string {
	return text.replaceAll(
		entity,
		(whole: string, decimal: string | undefined, hex: string | undefined, name: string | undefined) => {
			if (name === undefined)
				return character(decimal === undefined ? Number.parseInt(hex!, 16) : Number(decimal)) ?? whole;
			// Without its semicolon a name is only trusted where it cannot be a word: `AT&T`, `salt&pepper`.
			if (!whole.endsWith(';')) return whole;
			return entities.get(name) ?? entities.get(name.toLowerCase()) ?? whole;
		},
	);
}

function character(code: number): string | undefined {
	if (code >= 128 && code <= 159) return windows1252[code - 128];
	if (code === 0 || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return '\ufffd';
	return String.fromCodePoint(code);
}
