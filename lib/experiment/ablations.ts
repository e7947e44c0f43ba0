import type { RunOptions } from '../recommend/run-config.js';

/** Rows of the paper's tables 8 and 9, and A-LLMRec_all: what of a run's options differs. */
export const ABLATIONS = {
	'A-LLMRec': {},
	'without L_matching': { alignment: { matching: 0 } },
	'without L_item-recon and L_text-recon': { alignment: { alpha: 0, beta: 0 } },
	'without L_rec': { alignment: { recommendation: 0 } },
	'frozen sentence encoder': { alignment: { freezeEncoder: true } },
	'without user vector': { withoutUser: true },
	'without joint embedding': { joint: 'none' },
	'random joint embedding': { joint: 'random' },
	'last items alone': { alignment: { items: 'last' } },
	'all items': { alignment: { items: 'all' } },
} as const satisfies Record<string, RunOptions>;
