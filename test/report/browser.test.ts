import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { atOnce } from '../../lib/event-loop.js';
import { renderReport } from '../../lib/report/report.js';
import { freshPath } from '../data/folders.js';
import { BrowserPage, findChromium } from '../support/chromium.js';
import { sampleResults } from '../support/experiment-results.js';

/** The sample's page in a browser; without a browser the test says so. */
async function inBrowser(t: ExecutionContext, look: (page: BrowserPage) => Promise<void>): Promise<void> {
	const chromium = findChromium();
	if (!chromium) {
		t.log('SKIP: no chromium, chromium-browser or google-chrome in PATH');
		t.pass();
		return;
	}
	const folder = freshPath('page');
	await mkdir(folder, { recursive: true });
	const path = join(folder, 'report.html');
	await writeFile(path, atOnce(renderReport(sampleResults(), { resamples: 100 })).page);
	const page = await BrowserPage.open(chromium);
	try {
		await page.resize(1280, 900);
		await page.prefer('light');
		await page.go(pathToFileURL(path).href);
		await look(page);
		t.deepEqual(page.problems, []);
	} finally {
		await page.close();
	}
}

const background = 'getComputedStyle(document.body).backgroundColor';
const overflow = 'document.documentElement.scrollWidth - document.documentElement.clientWidth';
const inFocus = 'document.activeElement.id || document.activeElement.outerHTML.slice(0, 40)';

test.serial('plots are drawn, and nothing fails', (t) =>
	inBrowser(t, async (page) => {
		const boxes = await page.evaluate<{ title: string; width: number; height: number; marks: number }[]>(
			`[...document.querySelectorAll('svg[role=img]')].map((svg) => {
				const { width, height } = svg.getBBox();
				return { title: svg.ariaLabel, width, height, marks: svg.querySelectorAll('path, rect, circle').length };
			})`,
		);
		t.true(boxes.length >= 20, `${boxes.length} plots`);
		for (const { title, width, height, marks } of boxes)
			t.true(width > 100 && height > 50 && marks > 3, `${title}: ${width} × ${height}, ${marks} marks`);
		// What leaves its picture is cut off.
		const outside = await page.evaluate<string[]>(
			`[...document.querySelectorAll('svg[role=img]')].flatMap((svg) => {
				const frame = svg.getBoundingClientRect();
				return [...svg.querySelectorAll('text, path, rect, circle')].filter((mark) => {
					const box = mark.getBoundingClientRect();
					return box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
				}).map((mark) => svg.ariaLabel + ': ' + mark.outerHTML);
			})`,
		);
		t.deepEqual(outside, []);
		t.is(await page.evaluate('document.querySelectorAll("script").length'), 1);
	}),
);

test.serial('the keyboard reaches and works the theme’s button and a table’s head', (t) =>
	inBrowser(t, async (page) => {
		await page.press('Tab');
		t.regex(await page.evaluate<string>(inFocus), /class="skip"/);
		await page.press('Tab');
		t.is(await page.evaluate(inFocus), 'theme');
		t.not(await page.evaluate('getComputedStyle(document.activeElement).outlineStyle'), 'none');
		const light = await page.evaluate(background);
		await page.press('Enter');
		const dark = await page.evaluate(background);
		t.not(dark, light);
		t.is(await page.evaluate('document.getElementById("theme").textContent'), 'Light theme');
		await page.press('Enter');
		t.is(await page.evaluate(background), light);

		const column = (at: number) =>
			page.evaluate<string[]>(
				`[...document.querySelector('#results table.sortable').tBodies[0].rows].map((row) => row.cells[${at}].dataset.value ?? row.cells[${at}].innerText)`,
			);
		const before = (await column(1)).map(Number);
		await page.evaluate(`document.querySelectorAll('#results table.sortable th button')[1].focus()`);
		await page.press('Enter');
		const descending = [...before].sort((a, b) => b - a);
		t.deepEqual((await column(1)).map(Number), descending);
		await page.press('Enter');
		t.deepEqual((await column(1)).map(Number), descending.reverse());
		await page.evaluate(`document.querySelector('#results table.sortable th button').click()`);
		const names = await column(0);
		t.deepEqual(names, [...names].sort());
		await page.evaluate(`document.querySelectorAll('#results table.sortable th button')[6].click()`);
		t.is((await column(6)).at(-1), '', 'the reference has no difference and goes last');
	}),
);

test.serial('the theme follows the system until the button is pressed', (t) =>
	inBrowser(t, async (page) => {
		const light = await page.evaluate(background);
		await page.prefer('dark');
		const dark = await page.evaluate(background);
		t.not(dark, light);
		t.is(await page.evaluate('document.getElementById("theme").textContent'), 'Light theme');
		await page.evaluate('document.getElementById("theme").click()');
		t.is(await page.evaluate(background), light);
		// Text on its background, in both themes (WCAG 2, contrast of at least 4.5).
		for (const theme of ['light', 'dark']) {
			const low = await page.evaluate<string[]>(`(() => {
				document.documentElement.dataset.theme = '${theme}';
				const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
				const light = (color) => rgb(color).slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
				const behind = (element) => { for (; element; element = element.parentElement) { const c = getComputedStyle(element).backgroundColor; if (rgb(c)[3] !== 0) return c; } };
				return [...document.querySelectorAll('p, td, th, a, caption, h2, figcaption, summary, .interval, .up, .down, .tick, .label')].filter((element) => {
					const style = getComputedStyle(element);
					const [a, b] = [light(element.closest('svg') ? style.fill : style.color), light(behind(element))];
					return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
				}).map((element) => element.outerHTML.slice(0, 80));
			})()`);
			t.deepEqual(low, [], theme);
		}
	}),
);

test.serial('narrow windows have no horizontal overflow, and what is wider scrolls by keyboard', (t) =>
	inBrowser(t, async (page) => {
		for (const width of [400, 320, 1024, 1280]) {
			await page.resize(width, 800);
			t.is(await page.evaluate(overflow), 0, `${width}`);
			await page.evaluate('for (const details of document.querySelectorAll("details")) details.open = true');
			t.is(await page.evaluate(overflow), 0, `${width}, all opened`);
		}
		await page.resize(400, 800);
		const stuck = await page.evaluate<string[]>(
			`[...document.querySelectorAll('main *')].filter((element) => element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX === 'auto' && element.tabIndex !== 0).map((element) => element.outerHTML.slice(0, 80))`,
		);
		t.deepEqual(stuck, []);
	}),
);
