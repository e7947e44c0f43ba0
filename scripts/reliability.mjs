// The tests of docs/reliability.md, one after another, in the short versions that `npm test` runs or in the long ones.
// With --write, the figures they record go into the table of docs/reliability.md.
// Usage: node scripts/reliability.mjs [--long] [--write] [words of a file's name …]
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const page = join(root, 'docs', 'reliability.md');
const long = process.argv.includes('--long');
const write = process.argv.includes('--write');
const words = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const [BEGIN, END] = ['<!-- figures -->', '<!-- /figures -->'];
const SUBJECTS = [
	'Node',
	'Files',
	'Text',
	'Crash safety',
	'Numbers',
	'Memory',
	'Sanitizers',
	'Install',
	'Errors',
];

const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-figures-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
const env = { ...process.env, ALLMREC_FIGURES: folder, ...(long && { ALLMREC_LONG: '1' }) };

const files = words.map((word) => `dist/test/reliability/**/*${word}*`);
const child = spawn('npx', ['ava', '--config', 'ava.reliability.config.js', ...files], {
	cwd: root,
	env,
	stdio: ['inherit', 'pipe', 'inherit'],
});
let output = '';
child.stdout.setEncoding('utf8').on('data', (text) => {
	output += text;
	process.stdout.write(text);
});
const [status] = await once(child, 'close');
const count = (pattern) => [...output.matchAll(pattern)].reduce((sum, [, n]) => sum + Number(n), 0);
const passed = count(/^ *(\d+) tests? passed/gm);
const failed = count(/^ *(\d+) (?:tests?|uncaught exceptions?|unhandled rejections?) failed/gm);
if (write)
	writeTable(readdirSync(folder).map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8'))));
console.log(`reliability: ${passed} passed, ${status === 0 ? failed : Math.max(1, failed)} failed`);
process.exitCode = status === 0 ? 0 : 1;

/** Rows that were measured now replace those of the same promise; the others stay. */
function writeTable(records) {
	const text = readFileSync(page, 'utf8');
	const [before, rest] = text.split(BEGIN);
	const [table, after] = rest.split(END);
	const rows = new Map();
	for (const line of table.split('\n')) {
		const cells = line.split(' | ');
		if (cells.length === 4 && SUBJECTS.includes(cells[0].slice(2))) rows.set(cells[1], line);
	}
	for (const { subject, promise, test, figures } of records) {
		const shown = Object.entries(figures)
			.map(([name, value]) => `${name}: ${value}`)
			.join('; ');
		rows.set(promise, `| ${subject} | ${promise} | \`${test}\` | ${shown}${long ? '' : '; short run'} |`);
	}
	const subject = (line) => SUBJECTS.indexOf(line.slice(2, line.indexOf(' | ')));
	const lines = [...rows.values()].sort((a, b) => subject(a) - subject(b) || a.localeCompare(b));
	const head = '| about | promise | held by | last figures |\n|---|---|---|---|';
	writeFileSync(page, `${before}${BEGIN}\n\n${head}\n${lines.join('\n')}\n\n${END}${after}`);
}
