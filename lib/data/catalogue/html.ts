import { entities } from './entities.js';

/** Tags that do not separate words: `H<sub>2</sub>O` is one. Every other tag becomes a space. */
const inline =
	/<\/?(?:a|abbr|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|mark|q|s|samp|small|span|strike|strong|sub|sup|tt|u|var|wbr)(?:\s(?:"[^"]*"|'[^']*'|[^'"<>])*)?\/?>/gi;
const anyTag = /<\/?[a-z](?:"[^"]*"|'[^']*'|[^'"<>])*>/gi;
const tagWithLooseQuotes = /<\/?[a-z][^<>]*>/gi;
const hidden = /<!--.*?-->|<(script|style)\b[^>]*>.*?<\/\1\s*>|<!doctype[^>]*>|<!\[CDATA\[|\]\]>/gis;
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
	return text
		.replaceAll(hidden, ' ')
		.replaceAll(inline, '')
		.replaceAll(anyTag, ' ')
		.replaceAll(tagWithLooseQuotes, ' ');
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
