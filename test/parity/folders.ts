import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { Session } from '../../lib/native/session.js';
import { checkFolder, parityFolders } from '../../scripts/parity/check.js';
import { formatReport, type Report } from '../../scripts/parity/report.js';

/** dist/test/parity → the package's folder. */
const ROOT = join(import.meta.dirname, '../../..');
/** The copies that travel with the tests. */
export const OWN = join(ROOT, 'test/parity/fixtures');
const SHARED = join(ROOT, '../shared/fixtures');

/** The shared folders, or none (said aloud) where this checkout has them not beside it. */
export function sharedFolders(): string[] {
	if (existsSync(SHARED)) return parityFolders(SHARED);
	console.warn(`SKIP: ${SHARED} is not there, so only the parity with the copies in ${OWN} is checked.`);
	return [];
}

export async function check(folder: string): Promise<Report> {
	const session = Session.open({ device: 'cpu' });
	try {
		return await checkFolder(folder, session);
	} finally {
		session.release();
	}
}

/** What an assertion shows of a report that fails. */
export function failuresOf(report: Report): string {
	return report.failures.length === 0 ? '' : formatReport(report, { failuresOnly: true });
}
