import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import type { Session } from '../../lib/native/session.js';
import { checkAlignment, isAlignment } from './alignment.js';
import { checkBackbone, isBackbone } from './backbone.js';
import { checkByteLevelBpe, isByteLevelBpe } from './byte-level-bpe.js';
import { checkEncoder, isEncoder } from './encoder.js';
import { Fixture } from './fixture.js';
import { checkGru, isGru } from './gru.js';
import { checkOpt, isOpt } from './opt.js';
import { checkProjector, isProjector } from './projector.js';
import { checkRecFormer, isRecFormer } from './recformer.js';
import { Report } from './report.js';
import { checkSasRec, isSasRec } from './sas-rec.js';
import { checkSentenceTokenizer, isSentenceTokenizer } from './word-piece.js';

interface Kind {
	name: string;
	/** Decided by what the files hold, never by what they are called. */
	matches(fixture: Fixture): boolean;
	check(fixture: Fixture, report: Report, session: Session): Promise<void>;
}

/** The more special first: stage 1 holds a sentence encoder and its configuration. */
const KINDS: readonly Kind[] = [
	{ name: 'OPT', matches: isOpt, check: checkOpt },
	{ name: 'stage 1', matches: isAlignment, check: checkAlignment },
	{ name: 'sentence encoder', matches: isEncoder, check: checkEncoder },
	{ name: 'RecFormer', matches: isRecFormer, check: checkRecFormer },
	{ name: 'backbone', matches: isBackbone, check: checkBackbone },
	{ name: 'SASRec', matches: isSasRec, check: checkSasRec },
	{ name: 'GRU', matches: isGru, check: checkGru },
	{ name: 'stage 2 projections', matches: isProjector, check: checkProjector },
	{ name: 'byte-level BPE', matches: isByteLevelBpe, check: checkByteLevelBpe },
	{ name: 'sentence tokenizer', matches: isSentenceTokenizer, check: checkSentenceTokenizer },
];

/** Folders that say what they expect: the folder itself, or those below it. */
export function parityFolders(folder: string): string[] {
	if (existsSync(join(folder, 'expected.json')) || existsSync(join(folder, 'expected.safetensors')))
		return [folder];
	return readdirSync(folder)
		.sort()
		.map((name) => join(folder, name))
		.filter((path) => statSync(path).isDirectory())
		.flatMap(parityFolders);
}

/** Compares everything a folder expects with what this library computes. */
export async function checkFolder(folder: string, session: Session): Promise<Report> {
	let fixture: Fixture | undefined;
	let report = new Report(folder, 'unknown');
	try {
		fixture = new Fixture(session.addon, folder);
		const known = fixture;
		const kind = KINDS.find(({ matches }) => matches(known));
		if (!kind) throw new Error('its files are of no kind that is known here');
		report = new Report(folder, kind.name);
		await kind.check(fixture, report, session);
		report.finish(fixture);
	} catch (error) {
		report.fail('(the folder)', (error as Error).message);
	} finally {
		fixture?.close();
	}
	return report;
}
