const LIGHT = `
color-scheme:light;--paper:#fdfcfa;--raised:#fff;--ink:#22262b;--soft:#5b6470;--rule:#e2dfd8;--accent:#1f5f8b;--best:#eaf3ea;
--theirs:#7a5b12;--theirs-paper:#fbf4e2;--up:#1d7044;--down:#ab3428;
--s0:#1f6fb2;--s1:#c8562a;--s2:#2e8b57;--s3:#8a4fa8;--s4:#a87a00;--s5:#c03a6b;--s6:#0f8a93;--s7:#6b6f76;
--p0:#b9d3ea;--p1:#86b1d8;--p2:#4f8bc1;--p3:#27659f;--p4:#0d3f70;--cold:#d1581f`;

const DARK = `
color-scheme:dark;--paper:#15181c;--raised:#1c2025;--ink:#e4e6e9;--soft:#a0a8b2;--rule:#343a42;--accent:#86bfe8;--best:#21352a;
--theirs:#e2c377;--theirs-paper:#322b1a;--up:#77cf9c;--down:#f0907f;
--s0:#6fb1ea;--s1:#f0915f;--s2:#72c795;--s3:#c79be0;--s4:#e0b94d;--s5:#f08bb0;--s6:#5cc8cf;--s7:#abb1b9;
--p0:#2c4a66;--p1:#3f6f9a;--p2:#5b98cb;--p3:#8fc0e8;--p4:#d0e7fa;--cold:#ff9a5c`;

/** The page's style sheet: two themes, by the system's setting or the button's, and one for paper. */
export const STYLE = `
:root{${LIGHT}}
@media (prefers-color-scheme:dark){:root:not([data-theme=light]){${DARK}}}
:root[data-theme=dark]{${DARK}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:1rem}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.6 "Source Sans 3","Segoe UI",system-ui,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.skip{position:absolute;left:-100vw}.skip:focus{left:1rem;top:.5rem;background:var(--raised);padding:.4rem .8rem;z-index:2}
.page{max-width:78rem;margin:0 auto;padding:0 1.25rem 4rem}
header{display:flex;flex-wrap:wrap;gap:.5rem 2rem;align-items:start;justify-content:space-between;padding:2.2rem 0 1.4rem;border-bottom:1px solid var(--rule)}
h1,h2,h3,h4{line-height:1.25;text-wrap:balance;font-weight:600;margin:0}
h1{font-size:1.9rem;letter-spacing:-.01em}h2{font-size:1.4rem;padding-top:2.6rem;margin-bottom:.6rem}h3{font-size:1.08rem;margin:1.8rem 0 .5rem}h4{font-size:1rem;margin:1.4rem 0 .4rem;color:var(--soft)}
p{margin:.4rem 0 .9rem;max-width:46rem}.note{color:var(--soft);font-size:.92rem}
a{color:var(--accent)}button{font:inherit;color:inherit}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px;border-radius:3px}
#theme{background:var(--raised);border:1px solid var(--rule);border-radius:2rem;padding:.3rem 1rem;cursor:pointer}#theme:hover{border-color:var(--accent)}
nav ol{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem}nav{padding:.9rem 0;font-size:.95rem}nav a{display:inline-block;padding:.2rem 0;color:var(--soft);text-decoration:none}nav a:hover{color:var(--accent);text-decoration:underline}
nav strong{font-weight:600;display:block}
main{min-width:0}
@media (min-width:64rem){.columns{display:grid;grid-template-columns:12.5rem minmax(0,1fr);gap:2.5rem}nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding-top:2.7rem}nav ol{display:block}}
.scroll{overflow-x:auto;max-width:100%;border-radius:4px}
table{border-collapse:collapse;font-size:.92rem;min-width:100%;margin:.2rem 0 .4rem}
caption{text-align:left;padding:.5rem 0;color:var(--soft);caption-side:top}
caption b{color:var(--ink)}
th,td{padding:.38rem .55rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;vertical-align:baseline}
th[scope=row],thead th:first-child,.text{text-align:left!important}thead th{font-weight:600;border-bottom:2px solid var(--rule);color:var(--soft)}tbody th{font-weight:400}
td.wrap,th.wrap{white-space:normal;min-width:11rem;text-align:left}
th button{background:none;border:0;padding:0;cursor:pointer;font-weight:600;color:inherit}th button::after{content:" ↕";opacity:.45}th[aria-sort=ascending] button::after{content:" ↑";opacity:1}th[aria-sort=descending] button::after{content:" ↓";opacity:1}
.best{font-weight:700;background:var(--best)}.interval{display:block;color:var(--soft);font-size:.82rem;line-height:1.3;font-weight:400}.mark{display:inline-block;width:1em;text-align:center}
.up{color:var(--up)}.down{color:var(--down)}.theirs{color:var(--theirs);background:var(--theirs-paper);font-style:italic}
tr.reference th{font-weight:600}.family{display:block;color:var(--soft);font-size:.82rem;line-height:1.3;font-weight:400}
tr.target{background:var(--best)}
figure.plot{margin:1rem 0 1.6rem;padding:1rem 1.1rem .8rem;background:var(--raised);border:1px solid var(--rule);border-radius:8px;max-width:46rem}
figcaption{font-weight:600;margin-bottom:.5rem}
.drawing{display:block;width:100%;min-width:31rem;height:auto}.square .drawing{min-width:15rem}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,23rem),1fr));gap:1rem}.maps .plot{margin:0;min-width:0}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.2rem;padding:0;margin:.5rem 0;font-size:.9rem}
.swatch{width:1.6rem;height:.8rem;vertical-align:-.05em}.swatch.point{width:.8rem}
svg text{font-family:inherit;fill:var(--ink)}.tick{font-size:12px;fill:var(--soft)!important}.label{font-size:13px;fill:var(--soft)!important}.value{font-size:12px}
.grid{stroke:var(--rule);fill:none}.axis{stroke:var(--soft);fill:none}.frame{fill:none;stroke:var(--rule)}
.line{fill:none;stroke-width:2;stroke-linejoin:round}.dashed{stroke-dasharray:6 4}.error{fill:none;stroke-width:1.3;opacity:.75}.bar{stroke:none;opacity:.82}.bar+.error{stroke:var(--ink)}
${Array.from({ length: 8 }, (_, at) => `.s${at}{fill:var(--s${at});stroke:var(--s${at})}`).join('')}
.s0 text,.s1 text,.s2 text,.s3 text,.s4 text,.s5 text,.s6 text,.s7 text{stroke:none}
${Array.from({ length: 5 }, (_, at) => `.p${at}{fill:var(--p${at})}`).join('')}.point{stroke:var(--raised);stroke-width:.6}.cold{fill:none;stroke:var(--cold);stroke-width:1.7}
details{margin:.4rem 0}summary{cursor:pointer;color:var(--accent);font-size:.92rem;width:fit-content}
pre{white-space:pre-wrap;background:var(--raised);border:1px solid var(--rule);border-radius:6px;padding:.8rem 1rem;font-size:.86rem;line-height:1.5;font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.88em}
dl.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1.4rem;margin:1rem 0}dl.facts dt{color:var(--soft);grid-column:1}dl.facts dd{margin:0;grid-column:2}
ol.history{columns:17rem;padding-left:1.4rem;margin:.3rem 0 .8rem;font-size:.95rem}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:1rem;color:var(--soft);font-size:.9rem}
@media (max-width:30rem){.page{padding:0 .9rem 3rem}header{padding-top:1.4rem}h1{font-size:1.55rem}dl.facts{grid-template-columns:minmax(0,1fr);gap:0}dl.facts dd{grid-column:1}dl.facts dd{margin-bottom:.5rem}figure.plot{padding:.8rem}}
@media print{:root,:root[data-theme=dark]{${LIGHT}}nav,#theme,.skip{display:none}.columns{display:block}.page{max-width:none;padding:0}.scroll{overflow:visible}figure.plot,table,tr{break-inside:avoid}h2,h3,h4{break-after:avoid}a{color:inherit;text-decoration:none}details:not([open]){display:none}body{font-size:10pt}.drawing{min-width:0}}
`;

/**
 * The page's only script: the theme's button, and tables sorted by a column's head. Without it the page shows the same,
 * by the system's theme.
 */
export const SCRIPT = `'use strict';
(() => {
	const root = document.documentElement;
	const button = document.getElementById('theme');
	const system = matchMedia('(prefers-color-scheme: dark)');
	const isDark = () => (root.dataset.theme ? root.dataset.theme === 'dark' : system.matches);
	const tell = () => {
		button.textContent = isDark() ? 'Light theme' : 'Dark theme';
	};
	button.hidden = false;
	button.addEventListener('click', () => {
		root.dataset.theme = isDark() ? 'light' : 'dark';
		tell();
	});
	system.addEventListener('change', tell);
	tell();
	const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
	const compare = (a, b) => (a - b || 0) || (Number.isNaN(a - b) ? a.localeCompare(b) : 0);
	for (const table of document.querySelectorAll('table.sortable')) {
		const heads = [...table.tHead.rows[0].cells];
		heads.forEach((head, column) => {
			const sort = document.createElement('button');
			sort.type = 'button';
			sort.append(...head.childNodes);
			head.append(sort);
			sort.addEventListener('click', () => {
				const ascending = head.getAttribute('aria-sort') === 'descending' || (column === 0 && !head.hasAttribute('aria-sort'));
				for (const other of heads) other.removeAttribute('aria-sort');
				head.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
				const body = table.tBodies[0];
				const filled = [...body.rows].filter((row) => value(row, column) !== '');
				const empty = [...body.rows].filter((row) => value(row, column) === '');
				filled.sort((a, b) => (ascending ? 1 : -1) * compare(value(a, column), value(b, column)));
				body.append(...filled, ...empty);
			});
		});
	}
})();
`;
