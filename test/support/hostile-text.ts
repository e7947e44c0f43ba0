import { SeededRandom } from '../../lib/data/random.js';

/** Short texts that are something else to a tokenizer, a prompt, a file format, a terminal or JavaScript. */
export const HOSTILE: readonly string[] = [
	// Special tokens of the checkpoints, of this library's names for slots, and of our test tokenizers.
	...['</s>', '<s>', '<pad>', '<unk>', '<mask>', '[CLS]', '[SEP]', '[PAD]', '[UNK]', '[MASK]', '[unused0]'],
	...['<|endoftext|>', '[UserRep]', '[HistoryEmb]', '[CandidateEmb]', '[User]', '[History]', '[Candidate]'],
	...['"][', '|', '§§', '</s></s>', '<s>[CLS]</s>[SEP]'],
	// What stands between titles in prompts, and what templates are filled with.
	...['"', '",', '", "', ' "', '"[CandidateEmb],"Other"', '{past}', '{noun} {verb}', '{title}', '$&', '$1'],
	...['. The recommendation is', ' in the previous.', ' nothing yet', 'Title: x, Description: y'],
	// Stand-ins of byte-level BPE, pieces of WordPiece.
	...['Ġ', 'Ċ', 'Ġthe', 'ĊĊ', '##ing', '##', 'Â', '▁'],
	// Quotes, ends of lines, controls.
	...[
		"'",
		'`',
		'“”',
		'‘’',
		'«»',
		'""',
		'\\"',
		"it's we'll don't",
		'\n',
		'\r',
		'\r\n',
		'\u2028',
		'\u2029',
		'\t',
	],
	...['\0', '\x07', '\x08', '\x1b[31m', '\x1b]0;title\x07', '\x1b[2J\x1b[H', '\x7f', '\x85', '\x9b31m'],
	// Directions, joiners, marks, planes, halves of characters.
	...[
		'\u202eabc',
		'\u202a\u202c',
		'\u2066x\u2069',
		'\u200f',
		'\u200e',
		'\u200d',
		'\u200b',
		'\u2060',
		'\ufeff',
	],
	...[
		'\u00ad',
		'e\u0301',
		`a${'\u0301'.repeat(40)}`,
		'שלום',
		'مرحبا',
		'語',
		'ｆｕｌｌ',
		'\u{20bb7}',
		'\u{10ffff}',
	],
	...['👨‍👩‍👧', '🏳️‍🌈', '\u{e0041}', '\ud800', '\udc00', '\udc00\ud800', 'x\ud83d', 'İıſ', 'ΣΑΣ', '\ufffd'],
	// Nothing.
	...['', ' ', '   ', '\u00a0', '\u3000', '\u3164', '\u200b\u200d'],
	// Syntax of files and languages, and names that JavaScript knows.
	...[
		',',
		';',
		'|',
		'a,b',
		'"a","b"',
		'=1+1',
		'+1',
		'-1',
		'@SUM(A1)',
		'{"user":"x"}',
		'[1,2]',
		'["x"]',
		'null',
	],
	...[
		'<b>bold</b>',
		'<script>alert(1)</script>',
		'&lt;/s&gt;',
		'&amp;#0;',
		'<!--',
		'**x**',
		'| a | b |',
		'```',
	],
	...[
		'__proto__',
		'constructor',
		'toString',
		'hasOwnProperty',
		'NaN',
		'undefined',
		"'; DROP TABLE items; --",
	],
	...['\\', '\\n', '\\u0000', '%s%n', '../../etc/passwd', 'x'.repeat(300)],
];

/** Long ones: 100 kB of one letter, of text, of marks, of nothing, of what never ends. */
export const HUGE: Readonly<Record<string, string>> = {
	'one letter': 'a'.repeat(100_000),
	'one ideograph': '語'.repeat(33_000),
	words: 'the game of the long night '.repeat(3_800),
	'marks on one letter': `a${'\u0301\u0316'.repeat(50_000)}`,
	'white space': ' \t\u00a0'.repeat(33_000),
	punctuation: '"\',.'.repeat(25_000),
	'special tokens': '</s>[CLS][CandidateEmb]'.repeat(4_400),
	comments: '<!--'.repeat(25_000),
	scripts: '<script'.repeat(14_000),
	'document types': '<!doctype'.repeat(11_000),
	tags: '<a "\''.repeat(20_000),
	entities: '&amp;'.repeat(20_000),
	escapes: "\\'".repeat(50_000),
};

/** Texts of one to eight hostile pieces, in the order of a seed. */
export function* hostileTexts(count: number, seed: number): Generator<string> {
	const random = new SeededRandom(seed);
	for (let i = 0; i < count; i++) {
		let text = '';
		for (let pieces = 1 + random.int(8); pieces > 0; pieces--) text += HOSTILE[random.int(HOSTILE.length)]!;
		yield text;
	}
}

/** As UTF-8 has it: lone surrogates are U+FFFD. */
export function wellFormed(text: string): string {
	return Buffer.from(text).toString();
}
