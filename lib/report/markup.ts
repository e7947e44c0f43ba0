/** HTML or SVG that is ready to be written; only this file makes it. */
export class Markup {
	constructor(readonly text: string) {}
}

/** What stands in a template: text is escaped, markup is not, lists are joined, and what is not there is left out. */
export type Content = Markup | string | number | null | undefined | false | readonly Content[];

/** A template whose values are data: no title can open or close an element or an attribute's value. */
export function markup(strings: TemplateStringsArray, ...values: Content[]): Markup {
	let text = strings[0]!;
	for (const [at, value] of values.entries()) text += render(value) + strings[at + 1]!;
	return new Markup(text);
}

function render(value: Content): string {
	if (value === null || value === undefined || value === false) return '';
	if (value instanceof Markup) return value.text;
	if (typeof value === 'object') return value.map(render).join('');
	return escapeText(String(value));
}

const ENTITIES: Record<string, string> = {
	'&': '&amp;',
	'<': '&lt;',
	'>': '&gt;',
	'"': '&quot;',
	"'": '&#39;',
};

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const FORBIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/g;

/** For element content and quoted attribute values. Control characters, which HTML forbids, are replaced. */
export function escapeText(text: string): string {
	return text.replace(FORBIDDEN, '\ufffd').replace(/[&<>"']/g, (character) => ENTITIES[character]!);
}

/** An element whose content is not markup: our own style sheet and script, and nothing else. */
export function rawElement(name: 'style' | 'script', content: string): Markup {
	return new Markup(`<${name}>${content}</${name}>`);
}

/** At most `length` characters, an ellipsis included. */
export function shortened(text: string, length: number): string {
	const characters = Array.from(text);
	return characters.length <= length ? text : `${characters.slice(0, length - 1).join('')}…`;
}
