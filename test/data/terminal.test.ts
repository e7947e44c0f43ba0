import test from 'ava';
import { duration, formatTable, progressPrinter } from '../../lib/cli/terminal.js';

test('a table aligns numbers to the right', (t) => {
	t.is(
		formatTable(
			[
				['SASRec', 0.5432, '1,000'],
				['A', 10, '–'],
			],
			{ head: ['model', 'hit', 'users'] },
		),
		['model      hit  users', '──────  ──────  ─────', 'SASRec  0.5432  1,000', 'A           10      –'].join(
			'\n',
		),
	);
	t.is(
		formatTable(
			[
				['a', 'text'],
				['bb', '1'],
			],
			{ indent: 2 },
		),
		'  a   text\n  bb  1',
	);
	t.is(formatTable([]), '');
});

test('durations', (t) => {
	t.deepEqual([5, 65, 3909, -1].map(duration), ['0:05', '1:05', '1:05:09', '0:00']);
});

test('without a terminal progress is a few plain lines', (t) => {
	const lines: string[] = [];
	const stream = { isTTY: false, write: (line: string) => lines.push(line) };
	const { onProgress, stop } = progressPrinter(stream as unknown as NodeJS.WriteStream);
	for (let done = 0; done < 1000; done++)
		onProgress({
			stage: 'cf',
			done,
			total: 1000,
			unit: 'steps',
			rate: 12.5,
			secondsLeft: 80,
			metrics: { loss: 0.25 },
		});
	stop();
	t.deepEqual(lines, ['cf: 0/1,000 steps 13 steps/s · 1:20 left · loss 0.2500\n']);
});
