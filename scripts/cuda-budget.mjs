// Compiles every CUDA file for three generations of cards and holds each kernel's registers, stack, spills and static
// shared memory against native/cuda/budget.json: a change that costs occupancy shows without a card. Needs nvcc, not a
// GPU. Results are kept in build-cuda-budget by the content of the file and its headers.
// Usage: node scripts/cuda-budget.mjs [--update] [--jobs N] [part of a file's name …]
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const folder = join(root, 'native', 'cuda');
const cache = join(root, 'build-cuda-budget');
const budgetFile = join(folder, 'budget.json');
const CARDS = ['80', '90', '100'];
const FLAGS = [
	'-std=c++17',
	'-O3',
	'-DALLMREC_VERSION="budget"',
	'-Xcudafe',
	'--diag_suppress=177',
	'-Xptxas',
	'-v,-warn-spills,-warn-lmem-usage',
	// One translation for all, as in the library that is shipped.
	`-gencode=arch=compute_80,code=[${CARDS.map((card) => `sm_${card}`).join(',')}]`,
];
/** Registers that another version of nvcc may take more. */
const OTHER_VERSION = 8;

async function main() {
	const options = parse(process.argv.slice(2));
	const version = nvccVersion();
	const files = readdirSync(folder)
		.filter((file) => file.endsWith('.cu'))
		.filter((file) => options.names.length === 0 || options.names.some((name) => file.includes(name)))
		.sort();
	if (files.length === 0) stop('No CUDA file has such a name.');
	const measured = await measure(files, version, options.jobs);
	const budget = existsSync(budgetFile)
		? JSON.parse(readFileSync(budgetFile, 'utf8'))
		: { nvcc: version, kernels: {} };
	const problems = compare(measured, budget, files, version);
	if (options.update) return update(measured, budget, files, version);
	for (const problem of problems) console.log(problem);
	const kernels = Object.keys(measured);
	const wrong = new Set(problems.map((problem) => problem.split(' on ')[0]));
	console.log(
		`cuda budget: ${kernels.length} kernels on ${CARDS.map((c) => `sm_${c}`).join(', ')}, nvcc ${version}`,
	);
	console.log(`${kernels.filter((kernel) => !wrong.has(kernel)).length} passed, ${wrong.size} failed`);
	process.exitCode = problems.length > 0 ? 1 : 0;
}

function parse(args) {
	const options = { update: false, jobs: 1, names: [] };
	for (let i = 0; i < args.length; i++) {
		if (args[i] === '--update') options.update = true;
		else if (args[i] === '--jobs') options.jobs = Math.max(1, Number(args[++i]) || 1);
		else if (args[i].startsWith('--'))
			stop('Usage: node scripts/cuda-budget.mjs [--update] [--jobs N] [file …]');
		else options.names.push(args[i]);
	}
	return options;
}

function nvccVersion() {
	const { stdout, error } = spawnSync('nvcc', ['--version'], { encoding: 'utf8' });
	if (error)
		stop(`nvcc was not found (${error.message}); the CUDA toolkit's bin folder must be on the PATH.`);
	return /release ([\d.]+)/.exec(stdout)?.[1] ?? 'unknown';
}

/** Kernel → card → what it takes. */
async function measure(files, version, jobs) {
	mkdirSync(cache, { recursive: true });
	const headers = [
		folder,
		join(root, 'native', 'cpp', 'backend'),
		join(root, 'native', 'cpp', 'core'),
	].flatMap((place) =>
		readdirSync(place)
			.filter((file) => file.endsWith('.h'))
			.map((file) => readFileSync(join(place, file))),
	);
	const waiting = [...files];
	const result = {};
	const work = async () => {
		for (let file = waiting.shift(); file; file = waiting.shift()) {
			const hash = createHash('sha256').update(version + FLAGS.join(' ') + file);
			for (const content of [readFileSync(join(folder, file)), ...headers]) hash.update(content);
			const kept = join(cache, `${basename(file, '.cu')}-${hash.digest('hex').slice(0, 16)}.json`);
			if (!existsSync(kept)) writeFileSync(kept, JSON.stringify(read(file, await compile(file))));
			Object.assign(result, JSON.parse(readFileSync(kept, 'utf8')));
		}
	};
	await Promise.all(Array.from({ length: jobs }, work));
	return result;
}

/** What ptxas says. */
function compile(file) {
	const args = [...FLAGS, '-I', join(root, 'native', 'cpp'), '-I', folder];
	args.push('-c', join(folder, file), '-o', join(cache, `${basename(file, '.cu')}.o`));
	const child = spawn('nvcc', args, { stdio: ['ignore', 'ignore', 'pipe'] });
	let text = '';
	child.stderr.setEncoding('utf8').on('data', (part) => {
		text += part;
	});
	return new Promise((done) => {
		child.on('close', (code) => (code === 0 ? done(text) : stop(`nvcc cannot compile ${file}:\n${text}`)));
	});
}

function read(file, text) {
	const rows = [];
	for (const line of text.split('\n')) {
		const entry = /Compiling entry function '([^']+)' for 'sm_(\d+)a?'/.exec(line);
		if (entry) rows.push({ symbol: entry[1], card: entry[2], registers: 0, stack: 0, spills: 0, shared: 0 });
		const row = rows.at(-1);
		if (!row) continue;
		const frame = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
		if (frame) Object.assign(row, { stack: Number(frame[1]), spills: Number(frame[2]) + Number(frame[3]) });
		const used = /Used (\d+) registers/.exec(line);
		if (used)
			Object.assign(row, {
				registers: Number(used[1]),
				shared: Number(/(\d+) bytes smem/.exec(line)?.[1] ?? 0),
			});
	}
	const names = demangle(rows.map((row) => row.symbol));
	const kernels = {};
	for (const [i, { card, registers, stack, spills, shared }] of rows.entries()) {
		const name = `${file}: ${names[i]}`;
		kernels[name] ??= {};
		kernels[name][`sm_${card}`] = { registers, stack, spills, shared };
	}
	return kernels;
}

/** `softmax_kernel<float, 4>`: without the namespace, the result and the parameters. */
function demangle(symbols) {
	const { stdout, error } = spawnSync('c++filt', [], { input: symbols.join('\n'), encoding: 'utf8' });
	if (error) stop(`c++filt was not found (${error.message}); it comes with binutils.`);
	return stdout
		.trimEnd()
		.split('\n')
		.map((name) => {
			const plain = name
				.replace(/^void /, '')
				.replaceAll('(anonymous namespace)::', '')
				.replaceAll('allmrec::cuda::', '')
				// Literals of template arguments: (int)4 → 4.
				.replace(/\((?:unsigned )?(?:int|bool|long)\)/g, '');
			let depth = 0;
			for (let i = 0; i < plain.length; i++) {
				if (plain[i] === '<') depth++;
				if (plain[i] === '>') depth--;
				if (plain[i] === '(' && depth === 0) return plain.slice(0, i);
			}
			return plain;
		});
}

function compare(measured, budget, files, version) {
	const problems = [];
	const slack = budget.nvcc === version ? 0 : OTHER_VERSION;
	for (const [kernel, cards] of Object.entries(measured)) {
		const allowed = budget.kernels[kernel];
		if (!allowed && !Object.values(cards).some((row) => row.spills > 0)) {
			problems.push(`${kernel} on every card: is not in native/cuda/budget.json; --update writes it`);
			continue;
		}
		for (const [card, row] of Object.entries(cards)) {
			const least = allowed?.[card];
			const say = (what) => problems.push(`${kernel} on ${card}: ${what}`);
			if (row.spills > (least?.spills ?? 0))
				say(`spills ${row.spills} bytes, the budget has ${least?.spills ?? 0}`);
			if (!least) continue;
			if (row.registers > least.registers + slack)
				say(`takes ${row.registers} registers, the budget has ${least.registers}`);
			if (row.stack > least.stack) say(`takes ${row.stack} bytes of stack, the budget has ${least.stack}`);
			if (row.shared > least.shared)
				say(`takes ${row.shared} bytes of shared memory, the budget has ${least.shared}`);
		}
	}
	for (const kernel of Object.keys(budget.kernels))
		if (files.includes(kernel.split(':')[0]) && !measured[kernel])
			problems.push(`${kernel} on every card: is in the budget, but no longer in the source`);
	return problems;
}

/** Files that were not compiled keep their rows, spills that were accepted keep their reason. */
function update(measured, budget, files, version) {
	const kernels = {};
	for (const [kernel, cards] of Object.entries(budget.kernels))
		if (!files.includes(kernel.split(':')[0]) && existsSync(join(folder, kernel.split(':')[0])))
			kernels[kernel] = cards;
	for (const [kernel, cards] of Object.entries(measured)) {
		const why = budget.kernels[kernel]?.why;
		kernels[kernel] = why ? { ...cards, why } : cards;
	}
	const spilling = Object.entries(kernels).filter(
		([, cards]) => !cards.why && Object.values(cards).some((row) => row.spills > 0),
	);
	const rows = Object.entries(kernels)
		.sort(([a], [b]) => (a < b ? -1 : 1))
		.map(([kernel, cards]) => {
			const parts = Object.entries(cards).map(([card, row]) => `${JSON.stringify(card)}: ${flat(row)}`);
			return `\t\t${JSON.stringify(kernel)}: {\n\t\t\t${parts.join(',\n\t\t\t')}\n\t\t}`;
		});
	writeFileSync(
		budgetFile,
		`{\n\t"nvcc": ${JSON.stringify(version)},\n\t"kernels": {\n${rows.join(',\n')}\n\t}\n}\n`,
	);
	console.log(`${rows.length} kernels written to native/cuda/budget.json`);
	for (const [kernel] of spilling)
		console.log(`${kernel} spills: mend it, or add a "why" beside its figures`);
	process.exitCode = spilling.length > 0 ? 1 : 0;
}

/** `{ "registers": 40, "stack": 0 }` on one line, as the formatter writes it. */
function flat(row) {
	if (typeof row === 'string') return JSON.stringify(row);
	return `{ ${Object.entries(row)
		.map(([key, value]) => `${JSON.stringify(key)}: ${value}`)
		.join(', ')} }`;
}

function stop(message) {
	console.error(message);
	process.exit(1);
}

await main();
