import test from 'ava';
import { atOnce } from '../lib/event-loop.js';
import { jsonSteps } from '../lib/json.js';

const parse = (text: string) => atOnce(jsonSteps(Buffer.from(text)));
/** Longer than the pieces that are parsed at once. */
const PAD = ' '.repeat(70_000);

test('long texts are what JSON.parse makes of them', (t) => {
	const items = Array.from({ length: 4000 }, (_, i) => ({
		id: `i${i}`,
		title: `Tîtle "q" \\ ${i} 😀`,
		genres: ['a', 'b,c', '[x', '{'],
		text: i === 77 ? 'long '.repeat(30_000) : 'w '.repeat(i % 40),
	}));
	const value = {
		items,
		counts: items.map((_, i) => i / 3),
		byId: Object.fromEntries(items.map((item) => [item.id, item])),
		empty: [],
		none: {},
		deep: [[[[[[[[[[[[items.slice(0, 1500)]]]]]]]]]]]],
	};
	for (const space of [undefined, 1, '\t']) t.deepEqual(parse(JSON.stringify(value, null, space)), value);
});

for (const text of [
	'[~]',
	'{~}',
	'[1,2~]',
	'[1,~]',
	'[,1~]',
	'[1,,2~]',
	'{"a":1,~}',
	'{"a"~:1}',
	'{"a":~}',
	'[1]]~',
	'[[1]~',
	'["a~',
	'["a\\"~"]',
	'["a\\\\~"]',
	'{1:"~"}',
	'{"__proto__":{"x":"~"},"b":1}',
	'{"a":[1,2,3],"a":"~"}',
	'{"a:\\"":"~"}',
	'"~"',
	'~',
	'',
	'[1~2]',
	'{"a":1 "b":"~"}',
	'{"a" "b":"~"}',
	'[1}~',
	'[{]~}]',
	'["~",]',
	'["~","~"]',
	'["~" "~"]',
	'{"~":1,"b":"~"}',
	'[1,2]~x',
	'[[1,2]~,[3}]',
])
	test(`as JSON.parse: ${JSON.stringify(text)}`, (t) => {
		const long = text.replaceAll('~', PAD);
		let expected: unknown;
		try {
			expected = JSON.parse(long);
		} catch {
			t.throws(() => parse(long), { instanceOf: SyntaxError });
			return;
		}
		t.deepEqual(parse(long), expected);
	});

test('large objects become maps where maps are asked for', (t) => {
	const vocabulary = Object.fromEntries(Array.from({ length: 20_000 }, (_, i) => [`token ${i}`, i]));
	const text = Buffer.from(JSON.stringify({ model: { vocabulary } }));
	const { model } = atOnce(jsonSteps(text, { maps: true })) as { model: { vocabulary: Map<string, number> } };
	t.deepEqual(model.vocabulary, new Map(Object.entries(vocabulary)));
});

test('nesting without end is refused, and soon', (t) => {
	for (const text of ['['.repeat(1e6), '[{"a":'.repeat(2e5)])
		t.throws(() => parse(text), { instanceOf: SyntaxError });
});
