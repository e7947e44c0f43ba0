import { join } from 'node:path';
import { z } from 'zod';
import { writeJson } from '../files/atomic.js';
import {
	type FileRecords,
	fileRecordsSchema,
	readSealed,
	recordFiles,
	sealed,
	sealSchema,
	verifyFiles,
} from '../files/integrity.js';
import { type FileRules, tryReadJson, unusable } from '../files/read.js';
import { FusionGate } from './fusion.js';

/** The file of a run that has size and checksum of what the run consists of. Runs of earlier versions have none. */
const RECORDS = 'files.json';
const FORMAT = 'a-llmrec-files';

const recordsSchema = z.strictObject({
	format: z.literal(FORMAT),
	version: z.literal(1),
	files: fileRecordsSchema,
	sha256: sealSchema,
});

const RULES: FileRules = { code: 'ERR_ALLMREC_RUN', missing: 'ERR_ALLMREC_RUN' };

/**
 * Writes files of a run and records them. While they are written they have no record, so a crash leaves either files
 * with theirs or files that nothing is known of.
 *
 * @param names paths within the run; a folder stands for all files in it
 */
export async function recorded<T>(
	run: string,
	names: readonly string[],
	write: () => T,
): Promise<Awaited<T>> {
	const others = Object.entries(await readRecords(run)).filter(
		([path]) => !names.some((name) => path === name || path.startsWith(`${name}/`)),
	);
	await writeRecords(run, Object.fromEntries(others));
	const result = await write();
	await writeRecords(run, { ...Object.fromEntries(others), ...(await recordFiles(run, names)) });
	return result;
}

/**
 * Expects files of a run to be what was written: all of a folder, or one.
 *
 * @throws ERR_ALLMREC_RUN
 */
export async function verifyRun(run: string, name: string, signal?: AbortSignal): Promise<void> {
	const records = Object.entries(await readRecords(run)).filter(
		([path]) => path === name || path.startsWith(`${name}/`),
	);
	const remedy = 'copy the run again, or run `a-llmrec train` again';
	await verifyFiles(run, Object.fromEntries(records), { ...RULES, remedy }, signal);
}

async function readRecords(run: string): Promise<FileRecords> {
	const remedy = `copy the run again, or delete ${RECORDS} to do without checksums`;
	const read = await readSealed(join(run, RECORDS), recordsSchema, { ...RULES, remedy });
	return read?.files ?? {};
}

async function writeRecords(run: string, files: FileRecords): Promise<void> {
	const sorted = Object.fromEntries(Object.entries(files).sort(([a], [b]) => (a < b ? -1 : 1)));
	await writeJson(join(run, RECORDS), sealed({ format: FORMAT, version: 1, files: sorted }));
}

const fusionSchema = z.looseObject({ gate: z.unknown(), normalisation: z.enum(['mean', 'sum']) });

/** Undefined where the run has none yet. @throws ERR_ALLMREC_RUN */
export async function readFusion(
	path: string,
): Promise<{ gate: FusionGate; normalisation: 'mean' | 'sum' } | undefined> {
	const rules = { ...RULES, remedy: 'delete it and run `a-llmrec train` again' };
	const json = await tryReadJson(path, fusionSchema, rules);
	if (!json) return undefined;
	try {
		return { gate: FusionGate.fromJSON(json.gate), normalisation: json.normalisation };
	} catch (cause) {
		throw unusable(path, (cause as Error).message.replace(/\.$/, ''), rules, cause);
	}
}
