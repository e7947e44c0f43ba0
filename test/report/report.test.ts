import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { atOnce } from '../../lib/event-loop.js';
import { writeReport, writeResult } from '../../lib/index.js';
import { aggregateTable, compareWithParts, everyRow, groupResults } from '../../lib/report/aggregate.js';
import { decimal, linearScale } from '../../lib/report/axis.js';
import { paperHit1 } from '../../lib/report/paper.js';
import { renderReport } from '../../lib/report/report.js';
import { freshPath, rejects } from '../data/folders.js';
import { command } from '../support/command.js';
import { HOSTILE_TITLE, sampleResult, sampleResults } from '../support/experiment-results.js';

const quick = { resamples: 200 };
const render = (results = sampleResults()) => atOnce(renderReport(results, quick));

test('every section and plot is there', (t) => {
	const { page, sections } = render();
	t.deepEqual(sections, [
		'Results',
		'Variants',
		'Popularity',
		'Genres',
		'Fusion',
		'Latents',
		'Maps of items',
		'Training',
		'Example users',
		'Timings',
		'The paper’s figures',
		'What was run',
	]);
	const plots = [...page.matchAll(/<figcaption><bdi>(.*?)<\/bdi>/g)].map(([, title]) => title!);
	for (const title of [
		'Hit@1, Luxury_Beauty, overall',
		'Hit@1 of A-LLMRec by variant, Luxury_Beauty, ablation',
		'Hit@1 by item popularity, Luxury_Beauty, overall',
		'Favourite genres, Luxury_Beauty, overall, seed 0',
		'Calibration of the fusion gate, Luxury_Beauty, overall, seed 0',
		'CF embeddings',
		'Text embeddings',
		'Joint embeddings',
		'Token space',
		'Losses of A-LLMRec, align (Luxury_Beauty, overall)',
		'Validation of A-LLMRec, align (Luxury_Beauty, overall)',
		'Explanation by leaving parts out, user A1&lt;b&gt;7',
		'Explanation by gradient × input, user A1&lt;b&gt;7',
	])
		t.true(plots.includes(title), title);
	const drawings = page.match(
		/<svg class="drawing"[^>]*role="img" aria-label="[^"]+"><title>[^<]+<\/title><desc>[^<]+<\/desc>/g,
	);
	t.is(drawings?.length, plots.length);
	t.is(page.match(/<summary>Numbers of this plot<\/summary>/g)?.length, plots.length);
	t.false(/NaN|undefined|\[object|Infinity/.test(page.replace(/<script>.*<\/script>/s, '')));
	t.is(new Set(page.match(/ id="[^"]+"/g)).size, page.match(/ id="[^"]+"/g)!.length, 'ids are unique');
});

test('a fusion is compared with the better of its parts in each slice', (t) => {
	const cell = sampleResult({ users: 400 });
	const { SASRec, 'A-LLMRec': aligned, Fused } = cell.models;
	const rows = (name: string) => cell.slices[name]!.rows;
	const hit = (model: typeof Fused, row: number) =>
		model!.ranks.greater[row] === 0 ? 1 / (1 + model!.ranks.ties[row]!) : 0;
	const mean = (model: typeof Fused, slice: string) =>
		rows(slice).reduce((sum, row) => sum + hit(model, row), 0) / rows(slice).length;
	// Among cold targets it is what CF is, far below the language model; elsewhere what the language model is.
	for (const row of aligned!.ranks.greater.keys())
		for (const field of ['greater', 'ties'] as const)
			Fused!.ranks[field][row] = (cell.targetCounts[row]! <= 3 ? SASRec : aligned)!.ranks[field][row]!;
	const [group] = groupResults([cell]);
	const compared = atOnce(compareWithParts(group!, 'Fused', 500));
	t.deepEqual([...new Set(compared.map(({ slice }) => slice))], ['overall', 'warm', 'cold']);
	for (const slice of ['overall', 'warm', 'cold']) {
		const found = compared.find((line) => line.slice === slice && line.metric === 'hit@1')!;
		const better = mean(SASRec, slice) > mean(aligned, slice) ? SASRec : aligned;
		t.is(found.part, better === SASRec ? 'SASRec' : 'A-LLMRec');
		t.true(Math.abs(found.difference - (mean(Fused, slice) - mean(better, slice))) < 1e-12);
		t.true(found.low <= found.difference && found.difference <= found.high);
		t.is(found.adjusted < 0.05, slice !== 'warm', `${slice}: ${found.adjusted}`);
	}
	const { page } = atOnce(renderReport([cell], { resamples: 2000 }));
	t.regex(page, /<b><bdi>Fused<\/bdi><\/b> against its parts/);
	t.regex(page, /title="significantly below the better part"/);
	delete Fused!.parts;
	t.deepEqual(atOnce(compareWithParts(groupResults([cell])[0]!, 'Fused', 500)), []);
});

test('tables in Markdown: the numbers of the page, and nothing of single users and items', async (t) => {
	const folder = freshPath('experiment');
	for (const result of sampleResults()) await writeResult(folder, result);
	const [out, tables] = [join(folder, 'report.html'), join(folder, 'tables.md')];
	await writeReport({ folders: [folder], out, tables, ...quick });
	const text = await readFile(tables, 'utf8');
	const page = await readFile(out, 'utf8');
	t.false(/NaN|undefined|\[object|Infinity/.test(text));
	const rows = text.split('\n').filter((line) => line.startsWith('| **A-LLMRec** |'));
	t.true(rows.length > 3);
	for (const row of rows) {
		const hit1 = row.split('|')[2]!.match(/0\.\d{3}/)![0];
		t.true(
			[...page.matchAll(/data-value="(0\.\d+)"/g)].some(([, value]) => Number(value).toFixed(3) === hit1),
			hit1,
		);
	}
	const columns = (line: string) => line.split('|').length;
	const lines = text.split('\n');
	for (const [at, line] of lines.entries())
		if (line.startsWith('|') && lines[at - 1]!.startsWith('|')) t.is(columns(line), columns(lines[at - 1]!));
	for (const { examples = [], maps = [] } of sampleResults()) {
		for (const { user, history } of examples)
			for (const name of [user, ...history]) t.false(text.includes(name), name);
		for (const { points } of maps) for (const { item } of points) t.false(text.includes(item), item);
	}
	t.regex(text, /\| paper’s \|/);
	t.regex(text, /\*\*Fused\*\* against the better of its parts/);
});

test('the page needs nothing else', (t) => {
	const { page } = render();
	t.false(/(?:src|href)="(?!#)/.test(page));
	t.false(/url\(|@import|https?:/.test(page));
	t.false(/ style="| on\w+="/.test(page), 'its policy would not let them act');
});

test('titles are data', (t) => {
	const { page } = render();
	t.is(page.match(/<script/g)?.length, 1);
	t.is(page.match(/<\/script>/g)?.length, 1);
	t.false(page.includes('<b>Bold'));
	t.false(page.includes('Demo <world>'));
	t.true(page.includes('Demo &lt;world&gt;'));
	t.true(page.includes('&lt;/script&gt;&lt;script&gt;throw new Error(&quot;title&quot;)'));
	t.true(page.split(HOSTILE_TITLE.slice(0, 9)).length === 2, 'the page’s own end of its script alone');
	const hostile = sampleResult();
	hostile.dataset.name = '"><img src=x>';
	hostile.scenario.name = 'a\u0000\u0007b';
	hostile.models = { '<i>': hostile.models.SASRec!, __proto__x: hostile.models.Fused! };
	const other = render([hostile]).page;
	for (const text of ['<img', '<i>', '\u0000', '\u0007']) t.false(other.includes(text), JSON.stringify(text));
	t.true(other.includes('&lt;i&gt;'));
});

test('numbers in the tables are those computed from the users', (t) => {
	const [first, second] = [sampleResult(), sampleResult({ seed: 1 })];
	const { page } = render([first, second]);
	for (const label of Object.keys(first.models)) {
		// By the definition, not by the code under test: a tied target has its share of the place.
		const hits = [first, second].map(({ models }) => {
			const { greater, ties } = models[label]!.ranks;
			return greater.map((above, user) => (above === 0 ? 1 / (ties[user]! + 1) : 0));
		});
		const means = hits.map((values) => values.reduce((a, b) => a + b, 0) / values.length);
		const mean = (means[0]! + means[1]!) / 2;
		const deviation = Math.abs(means[0]! - means[1]!) / Math.SQRT2;
		const row = page.match(
			new RegExp(`<tr[^>]*><th scope="row"><bdi>${label}</bdi> <span class="family">.*?</tr>`, 's'),
		)![0];
		const cells = [...row.matchAll(/<td[^>]*>(.*?)<\/td>/gs)].map(([, cell]) =>
			cell!.replace(/<[^>]+>/g, ' '),
		);
		t.true(cells[0]!.startsWith(mean.toFixed(4)), `${label}: ${cells[0]} for ${mean}`);
		t.true(cells[4]!.startsWith(`${mean.toFixed(4)} ± ${deviation.toFixed(4)}`), cells[4]);
		const [low, high] = /\[([\d.]+), ([\d.]+)\]/.exec(cells[0]!)!.slice(1).map(Number) as [number, number];
		// Of 240 users the interval is about ± 1.96 standard errors of the users' means.
		const users = first.users.map((_, user) => (hits[0]![user]! + hits[1]![user]!) / 2);
		const variance = users.reduce((sum, value) => sum + (value - mean) ** 2, 0) / users.length;
		const half = 1.96 * Math.sqrt(variance / users.length);
		t.true(Math.abs((high - low) / 2 - half) < 0.25 * half, `${label}: ${low} … ${high}, expected ± ${half}`);
		t.true(low <= mean && mean <= high);
	}
	const reference = page.match(/<tr class="reference"><th scope="row"><bdi>([^<]+)/)!;
	t.is(reference[1], 'A-LLMRec');
	const bold = [
		...page.matchAll(/<tr[^>]*><th scope="row"><bdi>([^<]+)<\/bdi>[^\n]*?<\/th><td[^>]*class="best"/g),
	];
	t.is(bold[0]![1], 'Fused');
});

test('seeds are paired by user, and users that one seed alone has count too', (t) => {
	const make = (seed: number, users: number[], a: number[], b: number[]) => {
		const ranks = (greater: number[]) => ({ greater, ties: greater.map(() => 0) });
		return {
			...sampleResult({ seed, bare: true }),
			users,
			targetCounts: users,
			slices: {},
			models: {
				a: { family: 'aligned' as const, ranks: ranks(a), seconds: 1 },
				b: { family: 'cf' as const, ranks: ranks(b), seconds: 1 },
			},
		};
	};
	const cells = [make(0, [1, 2, 3], [0, 0, 1], [0, 1, 1]), make(1, [3, 2, 9], [0, 1, 1], [1, 1, 0])];
	const [group] = groupResults(cells);
	const [a, b] = atOnce(aggregateTable(group!, everyRow, 100));
	// a: user 1 → 1, 2 → ½, 3 → ½, 9 → 0; b: user 1 → 1, 2 → 0, 3 → 0, 9 → 1
	t.is(a!.metrics['hit@1'].value, 0.5);
	t.is(b!.metrics['hit@1'].value, 0.5);
	t.is(a!.metrics['hit@1'].users, 4);
	t.is(a!.metrics['hit@1'].seeds.mean, (2 / 3 + 1 / 3) / 2);
	t.is(a!.comparisons, undefined);
	t.is(b!.comparisons!['hit@1'].difference, 0);
	const [c, d] = atOnce(aggregateTable(groupResults(cells, 'b')[0]!, ({ users }) => [users.indexOf(2)], 100));
	t.is(c!.comparisons!['hit@1'].difference, 0.5);
	t.is(d!.comparisons, undefined);
});

test('marks stand where a difference is significant after Holm, and nowhere else', (t) => {
	const { page } = render([sampleResult({ users: 400 })]);
	const [group] = groupResults([sampleResult({ users: 400 })]);
	const table = atOnce(aggregateTable(group!, everyRow, quick.resamples));
	for (const { label, comparisons } of table) {
		const row = page.match(
			new RegExp(`<tr[^>]*><th scope="row"><bdi>${label}</bdi> <span class="family">.*?</tr>`, 's'),
		)![0];
		const cell = row.match(/<td.*?<\/td>/s)![0];
		const { adjusted = 1, difference = 0 } = comparisons?.['hit@1'] ?? {};
		t.is(cell.includes('▲'), adjusted < 0.05 && difference > 0, label);
		t.is(cell.includes('▼'), adjusted < 0.05 && difference < 0, label);
	}
	t.true(table.find(({ label }) => label === 'LLM-Only')!.comparisons!['hit@1'].adjusted < 0.05);
});

test('what a result leaves out has no section', (t) => {
	const { sections, page } = render([sampleResult({ bare: true, dataset: 'Demo' })]);
	t.deepEqual(sections, ['Results', 'Popularity', 'Timings', 'The paper’s figures', 'What was run']);
	for (const id of ['genres', 'calibration', 'latents', 'maps', 'curves', 'examples', 'variants'])
		t.false(page.includes(`"${id}"`) || page.includes(`#${id}"`), id);
	t.false(page.includes('paper’s</th>'));
});

test('the paper’s figures stand beside ours where the data set is the same, and are marked', (t) => {
	const ours = {
		dataset: 'Luxury_Beauty',
		scenario: 'overall',
		slice: 'overall',
		negatives: 19,
		model: 'SASRec',
	};
	t.is(paperHit1(ours), 0.5298);
	t.is(paperHit1({ ...ours, slice: 'cold', model: 'A-LLMRec (e)' }), 0.5605);
	t.is(paperHit1({ ...ours, slice: 'cold', model: 'A-LLMRec (q)' }), 0.5591);
	t.is(paperHit1({ ...ours, negatives: null }), undefined);
	t.is(paperHit1({ ...ours, negatives: 99 }), undefined);
	t.is(paperHit1({ ...ours, scenario: 'fewShot' }), undefined);
	t.is(paperHit1({ ...ours, dataset: 'All_Beauty' }), undefined);
	t.is(paperHit1({ ...ours, model: 'Popularity' }), undefined);
	const { page } = render([sampleResult()]);
	t.true(page.includes('<td class="theirs" data-value="0.5809">0.5809</td>'));
});

test('numbers of any size are drawn', (t) => {
	for (const sizes of [
		[-1e100, 1e100],
		[0, 5e-324],
		[1e15, 1e15 + 0.125],
		[-3e-9, -3e-9],
		[0, 0],
	] as const) {
		const result = sampleResult();
		const point = { item: 'x', count: 1, cold: false };
		result.maps = [{ name: 'CF', points: sizes.map((x, at) => ({ ...point, x, y: sizes[1 - at]! })) }];
		result.curves![0]!.points = sizes.map((loss, epoch) => ({ epoch, losses: { loss }, metrics: {} }));
		result.latents = { full: { size: sizes[0] } };
		result.examples![0]!.explanation = sizes.map((leaveOneOut) => ({
			part: 'x',
			leaveOneOut,
			gradientTimesInput: leaveOneOut,
		}));
		const { page } = render([result]);
		t.false(/NaN|Infinity/.test(page.replace(/<script>.*<\/script>/s, '')), String(sizes));
	}
});

test('groups come by data set and scenario, the whole first, numbers by size', (t) => {
	const cells = [
		sampleResult({ kind: 'fewShot', name: 'K = 128', bare: true }),
		sampleResult({ kind: 'ablation', name: 'no matching', bare: true }),
		sampleResult({ kind: 'fewShot', name: 'K = 64', bare: true }),
		sampleResult({ dataset: 'Aa', bare: true }),
		sampleResult({ seed: 1, bare: true }),
		sampleResult({ bare: true }),
	];
	const groups = groupResults(cells);
	t.deepEqual(
		groups.map(({ dataset, scenario }) => `${dataset.name} ${scenario.name}`),
		['Aa', ...Array(4).fill('Luxury_Beauty')].map(
			(name, at) => `${name} ${['overall', 'overall', 'K = 64', 'K = 128', 'no matching'][at]}`,
		),
	);
	t.deepEqual(
		groups[1]!.cells.map(({ seed }) => seed),
		[0, 1],
	);
	const { page } = render(cells);
	const few = page.slice(page.indexOf('A-LLMRec by variant, Luxury_Beauty, fewShot'));
	const labels = [...few.slice(0, few.indexOf('</figure>')).matchAll(/text-anchor="end">([^<]+)/g)];
	t.deepEqual(
		labels.map(([, label]) => label),
		['overall', 'K = 64', 'K = 128'],
	);
});

test('the same cell twice is refused, as is a reference nobody knows', async (t) => {
	const again = { ...sampleResult(), key: 'again' };
	await rejects(
		t,
		async () => groupResults([sampleResult(), again]),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/`again`/,
	);
	await rejects(
		t,
		async () => groupResults(sampleResults(), 'Oracle'),
		'ERR_ALLMREC_INVALID_ARGUMENT',
		/Oracle/,
	);
});

test('the command writes the page of several folders', async (t) => {
	const [one, two, out] = [freshPath('one'), freshPath('two'), join(freshPath('page'), 'report.html')];
	await writeResult(one, sampleResult());
	await writeResult(two, sampleResult({ seed: 1 }));
	const done = await command([
		'report',
		one,
		two,
		'--out',
		out,
		'--resamples',
		'100',
		'--title',
		'A <title>',
	]);
	t.is(done.code, 0, done.err);
	t.regex(done.out, /report\.html: 2 results, 11 sections, /);
	const page = await readFile(out, 'utf8');
	t.true(page.includes('<title>A &lt;title&gt;</title>'));
	const missing = await command(['report', freshPath('nothing')]);
	t.is(missing.code, 1);
	t.regex(missing.err, /ERR_ALLMREC_FILE_NOT_FOUND.*results/);
	await rejects(t, () => writeReport({ folders: [], out }), 'ERR_ALLMREC_INVALID_ARGUMENT', /folders/);
});

test('scales have round ticks around all values', (t) => {
	for (const [low, high, ticks] of [
		[0, 0.83, [0, 0.2, 0.4, 0.6, 0.8, 1]],
		[1, 10, [0, 2, 4, 6, 8, 10]],
		[-0.11, 0.73, [-0.2, 0, 0.2, 0.4, 0.6, 0.8]],
		[5, 5, [3.5, 4, 4.5, 5, 5.5, 6, 6.5]],
	] as const) {
		const scale = linearScale([low, high], [0, 100]);
		t.deepEqual(
			scale.ticks.map((tick) => Number(tick.toFixed(9))),
			ticks,
		);
		t.is(scale(scale.ticks[0]!), 0);
		t.is(Math.round(scale(scale.ticks.at(-1)!)), 100);
	}
	t.is(decimal(-1234567.891, 2), '−1 234 567.89');
	t.is(decimal(-0.0001, 2), '0.00');
});
