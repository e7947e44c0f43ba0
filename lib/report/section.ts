import type { ResultGroup } from './aggregate.js';
import type { Markup } from './markup.js';

/** A part of the page with a line in the contents. */
export interface Section {
	id: string;
	title: string;
	body: Markup | readonly Markup[];
}

/** *Movies, few-shot: K = 128*: what tells groups apart. */
export function groupTitle({ dataset, scenario, negatives }: ResultGroup): string {
	const kind = SCENARIOS[scenario.kind];
	const name = scenario.name === scenario.kind || scenario.name === '' ? kind : `${kind}: ${scenario.name}`;
	return `${dataset.name}, ${name}${negatives === null ? ', whole catalogue' : ''}`;
}

const SCENARIOS: Record<ResultGroup['scenario']['kind'], string> = {
	overall: 'overall',
	coldUsers: 'cold users',
	fewShot: 'few-shot',
	crossDomain: 'cross-domain',
	temporal: 'temporal split',
	shuffle: 'shuffled',
	genres: 'genres',
	ablation: 'ablation',
	sweep: 'sweep',
};

/** Its title with the experiment's name, where there are several of those. */
export function longTitle(group: ResultGroup, groups: readonly ResultGroup[]): string {
	const several = new Set(groups.map(({ experiment }) => experiment)).size > 1;
	return several ? `${group.experiment}: ${groupTitle(group)}` : groupTitle(group);
}
