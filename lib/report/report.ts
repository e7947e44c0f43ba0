import { createHash } from 'node:crypto';
import { invalidArgument } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import { type ExperimentResult, readResults } from '../experiment/results.js';
import { writeFileAtomic } from '../files/atomic.js';
import { expectKnown } from '../known-options.js';
import type { LongCallOptions } from '../progress.js';
import { groupResults, type ResultGroup } from './aggregate.js';
import { decimal } from './axis.js';
import { examplesSection, latentsSection, provenanceSection, timingsSection } from './details.js';
import { curvesSection, genresSection, mapsSection, popularitySection } from './figures.js';
import { fusionSection } from './fusion.js';
import { renderTables } from './markdown.js';
import { type Markup, markup, rawElement } from './markup.js';
import { longTitle, type Section } from './section.js';
import { SCRIPT, STYLE } from './style.js';
import { paperSection, resultsSection, variantsSection } from './tables.js';

export interface ReportOptions {
	/** Default: *Results of* and the experiments' names. */
	title?: string | undefined;
	/** Label of the model that the others are compared with; default A-LLMRec, else the first aligned model. */
	reference?: string | undefined;
	/** Of the bootstrap; default 2,000. */
	resamples?: number | undefined;
}

export interface WriteReportOptions extends ReportOptions, LongCallOptions {
	/** Folders of experiments, each with its `results`. */
	folders: readonly string[];
	/** The page's path. */
	out: string;
	/** Also writes the tables in Markdown, without anything of single users and items. Default: not. */
	tables?: string | undefined;
}

export interface ReportSummary {
	path: string;
	/** Result files read. */
	results: number;
	/** Titles of the page's sections. */
	sections: string[];
	bytes: number;
}

/**
 * Writes one HTML page of the results of experiments, which needs nothing else: no network, no other file.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_FILE_FORMAT with the damaged file's name, ERR_ALLMREC_WRITE,
 * ERR_ALLMREC_INVALID_ARGUMENT where two folders have the same result
 */
export async function writeReport(options: WriteReportOptions): Promise<ReportSummary> {
	expectKnown('writeReport', options);
	const { folders, out, tables, signal, onProgress, ...how } = options;
	if (folders.length === 0) invalidArgument('folders', 'at least one folder', folders);
	const results: ExperimentResult[] = [];
	for (const folder of folders) {
		results.push(...(await readResults(folder, signal)));
		const message = folder;
		onProgress?.({ stage: 'report', done: results.length, unit: 'results', message });
	}
	const { page, sections } = await inTurns(renderReport(results, how), signal);
	await writeFileAtomic(out, [page]);
	if (tables !== undefined)
		await writeFileAtomic(tables, [await inTurns(renderTables(results, how), signal)]);
	return { path: out, results: results.length, sections, bytes: Buffer.byteLength(page) };
}

/** The page's HTML. @param results at least one */
export function* renderReport(
	results: readonly ExperimentResult[],
	{ title, reference, resamples = 2000 }: ReportOptions = {},
): Steps<{ page: string; sections: string[] }> {
	if (results.length === 0) invalidArgument('results', 'at least one result', results);
	const groups = groupResults(results, reference);
	const found = [
		yield* resultsSection(groups, resamples),
		yield* variantsSection(groups, resamples),
		yield* popularitySection(groups, resamples),
		genresSection(groups),
		yield* fusionSection(groups, resamples),
		latentsSection(groups),
		mapsSection(groups),
		curvesSection(groups),
		examplesSection(groups),
		timingsSection(groups),
		paperSection(groups),
		provenanceSection(groups),
	];
	const sections = found.filter((section) => section !== undefined);
	const experiments = [...new Set(groups.map(({ experiment }) => experiment))];
	const heading = title ?? `Results of ${experiments.join(', ')}`;
	return {
		page: pageOf(heading, facts(groups), sections).text,
		sections: sections.map((section) => section.title),
	};
}

/** What a glance should tell. */
function facts(groups: readonly ResultGroup[]): Markup {
	const datasets = new Map(groups.map(({ dataset }) => [JSON.stringify(dataset), dataset]));
	const seeds = new Set(groups.flatMap(({ cells }) => cells.map(({ seed }) => seed)));
	const labels = new Set(groups.flatMap(({ labels }) => labels));
	const about = [...datasets.values()].map(
		({ name, numUsers, numItems, numInteractions }) =>
			markup`<dd><bdi>${name}</bdi>: ${decimal(numUsers, 0)} users, ${decimal(numItems, 0)} items, ${decimal(numInteractions, 0)} interactions</dd>`,
	);
	return markup`<dl class="facts"><dt>Data</dt>${about}
<dt>Models</dt><dd><bdi>${[...labels].join(', ')}</bdi></dd>
<dt>Scenarios</dt>${groups.map((group) => markup`<dd><bdi>${longTitle(group, groups)}</bdi></dd>`)}
<dt>Seeds</dt><dd>${[...seeds].sort((a, b) => a - b).join(', ')}</dd></dl>`;
}

function pageOf(title: string, about: Markup, sections: readonly Section[]): Markup {
	// Nothing but this style and this script may take effect, whatever a title holds.
	const policy = `default-src 'none'; style-src '${hashOf(STYLE)}'; script-src '${hashOf(SCRIPT)}'; base-uri 'none'; form-action 'none'`;
	return markup`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="a-llmrec">
<title>${title}</title>
${rawElement('style', STYLE)}
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="page">
<header><h1><bdi>${title}</bdi></h1><button type="button" id="theme" hidden>Dark theme</button></header>
<div class="columns">
<nav aria-label="Contents"><ol>${sections.map((section) => markup`<li><a href="#${section.id}">${section.title}</a></li>`)}</ol></nav>
<main id="content" tabindex="-1">
${about}
${sections.map(({ id, title, body }) => markup`<section id="${id}" aria-labelledby="${id}-title"><h2 id="${id}-title">${title}</h2>\n${body}</section>\n`)}
<footer>Written by a-llmrec from the files listed under <a href="#provenance">What was run</a>.</footer>
</main>
</div>
</div>
${rawElement('script', SCRIPT)}
</body>
</html>
`;
}

function hashOf(text: string): string {
	return `sha256-${createHash('sha256').update(text).digest('base64')}`;
}
