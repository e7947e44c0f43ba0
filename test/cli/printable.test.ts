import test from 'ava';
import { ids } from '../../lib/cli/arguments.js';
import { displayWidth, fit, printable, printableJson, printableLines } from '../../lib/cli/printable.js';
import { formatTable } from '../../lib/cli/terminal.js';
import { HOSTILE, HUGE } from '../support/hostile-text.js';

const OBEYED = /[\p{Cc}\p{Cs}\u2028-\u202e\u2060-\u206f\ufeff]/u;

test('text of data is one line that a terminal does not obey', (t) => {
	for (const text of [...HOSTILE, ...Object.values(HUGE)]) t.notRegex(printable(text), OBEYED);
	t.is(printable('a\x1b[31mb\r\nc\x7f\x9b\u202ed'), 'a␛[31mb␍␊c␡<U+009B><U+202E>d');
	t.is(printable('\ud800x👨‍👩‍👧 שלום'), '<U+D800>x👨‍👩‍👧 שלום');
	t.is(printable(`a${'\u0301'.repeat(1000)}b`), `a${'\u0301'.repeat(8)}b`);
	t.is(printableLines('one\nerror ERR: two\x07'), 'one\n  error ERR: two␇');
});

test('JSON parses to what it was', (t) => {
	const value = [...HOSTILE, ...Object.values(HUGE)];
	const json = printableJson(value);
	t.deepEqual(JSON.parse(json), value);
	t.notRegex(json, OBEYED);
});

test('columns are counted as a terminal shows them', (t) => {
	const widths: [string, number][] = [
		['abc', 3],
		['語語', 4],
		['ｆｕ', 4],
		['e\u0301', 1],
		['👨‍👩‍👧', 2],
		['🏳️‍🌈', 2],
		['\u200d', 0],
		['שלום', 4],
		['', 0],
	];
	for (const [text, width] of widths) t.is(displayWidth(text), width, text);
	t.is(fit('abcdef', 6), 'abcdef');
	t.is(fit('abcdefg', 6), 'abcde…');
	t.is(fit('語語語語', 6), '語語…');
	for (const text of [...HOSTILE, ...Object.values(HUGE)])
		t.true(displayWidth(fit(printable(text), 60)) <= 60);
});

test('no cell breaks its row', (t) => {
	const texts = [...HOSTILE, ...Object.values(HUGE).map((text) => fit(printable(text), 60))];
	const lines = formatTable(
		texts.map((text) => [text, 'end']),
		{ head: ['text', 'end'] },
	).split('\n');
	t.is(lines.length, texts.length + 2);
	const width = displayWidth(lines[0]!);
	t.true(lines.slice(2).every((line) => displayWidth(line) === width && line.endsWith('  end')));
});

test('ids of an option: between commas, or a JSON array', (t) => {
	t.deepEqual(ids('a, b,,c'), ['a', 'b', 'c']);
	t.deepEqual(ids('["a,b"," c"]', ['x']), ['x', 'a,b', ' c']);
	t.deepEqual(ids('[SEP],[1'), ['[SEP]', '[1']);
	t.deepEqual(ids('[1,2]'), ['[1', '2]']);
});
