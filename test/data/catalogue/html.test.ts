import test from 'ava';
import { cleanText, decodeEntities } from '../../../lib/data/catalogue/html.js';
import { itemText } from '../../../lib/data/catalogue/item-text.js';

const cases: [string, string, string][] = [
	['plain text stays', 'A plain title (2018)', 'A plain title (2018)'],
	['white space collapses', '  a\t b\r\n\u00a0c ', 'a b c'],
	['block tags separate', '<p>one</p><p>two<br/>three</p>', 'one two three'],
	['inline tags do not', 'H<sub>2</sub>O, <b>b</b>old', 'H2O, bold'],
	['nested lists', '<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>', 'a b c'],
	['attributes with >', '<a href="x>y" title=\'>\'>link</a>', 'link'],
	['loose quotes', '<p class="x>text', 'text'],
	['comments and scripts', 'a<!-- <b> -->b<script>var x = "<p>";</script><STYLE>p{}</STYLE>c', 'a b c'],
	['named entities', 'Caf&eacute; &amp; bar &ndash; &quot;x&quot; &hellip;', 'Café & bar – "x" …'],
	['numeric entities', 'it&#39;s &#x2019; &#8482; &#146;', "it's ’ ™ ’"],
	['encoded twice', 'Tom &amp;amp; Jerry&amp;#39;s &amp;quot;hit&amp;quot;', 'Tom & Jerry\'s "hit"'],
	['encoded tags', '&lt;br&gt;one &lt;i&gt;two&lt;/i&gt;', 'one two'],
	['less-than signs stay', '5 < 7 &lt; 9 and <3', '5 < 7 < 9 and <3'],
	['ampersands in words', 'R&D at AT&T; Q&A, &unknown;', 'R&D at AT&T; Q&A, &unknown;'],
	['capital names', '&NBSP;A&EACUTE;&Eacute;', 'AéÉ'],
	['missing and invalid characters', 'a&#0;b&#xD800;', 'a\ufffdb\ufffd'],
	['control and soft characters', 'a\u0000b zero\u200bwidth soft\u00adhyphen', 'a b zero width softhyphen'],
	['non-breaking space', 'a&nbsp;&nbsp;b', 'a b'],
	['astral characters', '&#128512;&#x1F3B2;', '😀🎲'],
];

for (const [name, raw, expected] of cases)
	test(`clean text: ${name}`, (t) => {
		t.is(cleanText(raw), expected);
		t.is(cleanText(cleanText(raw)), expected, 'cleaning twice changes nothing');
	});

test('every name of HTML 4 is known', (t) => {
	const some =
		'nbsp iexcl reg yuml fnof Alpha omega bull euro trade larr hArr forall sdot loz diams OElig permil zwj'.split(
			' ',
		);
	for (const name of some) t.not(decodeEntities(`&${name};`), `&${name};`, name);
	t.is(decodeEntities('&reg;&yuml;&times;&Oslash;&frac12;'), '®ÿ×Ø½');
	t.is(decodeEntities('&ensp;|&bsol;|&grave;|&apos;'), "\u2002|\\|`|'");
});

test('a long text without closing tags takes no time', (t) => {
	const started = performance.now();
	cleanText('<a "'.repeat(5000));
	t.true(performance.now() - started < 5000);
});

test('item text: gaps are filled', (t) => {
	const amazon = { descriptionIsJson: true, genreLayout: 'json' } as const;
	const raw = { id: 'B01', title: null, description: null, genres: null, brand: null };
	t.deepEqual(itemText(raw, amazon), {
		title: 'B01',
		description: '',
		genres: [],
		hasTitle: false,
		hasDescription: false,
	});
	t.is(itemText({ ...raw, brand: 'Acme &amp; Co' }, amazon).description, 'Acme & Co');
	const full = itemText(
		{
			...raw,
			title: '<b>T</b>',
			description: '["<p>a</p>","",["b"]]',
			genres: '[["G","H &amp; I"],["G"]]',
			brand: 'x',
		},
		amazon,
	);
	t.deepEqual(full, {
		title: 'T',
		description: 'a b',
		genres: ['G', 'H & I'],
		hasTitle: true,
		hasDescription: true,
	});
	t.is(itemText({ ...raw, description: '"one"' }, amazon).description, 'one');
});

test('item text: genres are split by the layout', (t) => {
	const genres = (text: string, genreLayout: 'words' | 'separated') =>
		itemText(
			{ id: 'x', title: null, description: null, genres: text, brand: null },
			{ descriptionIsJson: false, genreLayout },
		).genres;
	t.deepEqual(genres("Animation Children's Comedy", 'words'), ['Animation', "Children's", 'Comedy']);
	t.deepEqual(genres('Sci-Fi|Film Noir', 'words'), ['Sci-Fi', 'Film Noir']);
	t.deepEqual(genres('Sci-Fi, Film Noir', 'separated'), ['Sci-Fi', 'Film Noir']);
	t.deepEqual(genres(`['Toys & Games', "Men's", 'It\\'s']`, 'separated'), ['Toys & Games', "Men's", "It's"]);
	t.deepEqual(genres('["a","b"]', 'separated'), ['a', 'b']);
	t.deepEqual(genres('', 'words'), []);
});
