/**
 * Compares this library with dumps of PyTorch and transformers: `npm run parity -- FOLDER…`. A folder holds weights
 * and what they must compute (see the README of the shared fixtures); a folder of such folders is searched.
 */
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Session } from '../lib/native/session.js';
import { checkFolder, parityFolders } from './parity/check.js';
import { formatReport } from './parity/report.js';

const USAGE = `Usage: npm run parity -- [--device cpu|cuda|auto] [--threads N] [--failures-only] FOLDER…`;

async function main(): Promise<number> {
	const { values, positionals } = parseArgs({
		allowPositionals: true,
		options: {
			device: { type: 'string', default: 'cpu' },
			threads: { type: 'string', default: '0' },
			'failures-only': { type: 'boolean', default: false },
			help: { type: 'boolean', short: 'h', default: false },
		},
	});
	const { device } = values;
	if (
		values.help ||
		positionals.length === 0 ||
		(device !== 'cpu' && device !== 'cuda' && device !== 'auto')
	) {
		console.error(USAGE);
		return values.help ? 0 : 2;
	}
	const missing = positionals.filter((folder) => !existsSync(folder));
	if (missing.length > 0) {
		console.error(`${missing.join(', ')} is not there.`);
		return 1;
	}
	const folders = positionals.flatMap(parityFolders);
	if (folders.length === 0) {
		console.error(`No folder with expected.json or expected.safetensors under ${positionals.join(', ')}.`);
		return 1;
	}
	const session = Session.open({ device, threads: Number(values.threads) });
	const { name, instruction } = session.engine.info();
	console.log(`On ${name} (${instruction}).\n`);
	let failed = 0;
	try {
		for (const folder of folders) {
			const report = await checkFolder(folder, session);
			console.log(formatReport(report, { failuresOnly: values['failures-only'] }));
			if (report.failures.length > 0) failed++;
		}
	} finally {
		session.release();
	}
	console.log(
		failed === 0 ? `${folders.length} folders agree.` : `${failed} of ${folders.length} folders FAIL.`,
	);
	return failed === 0 ? 0 : 1;
}

process.exitCode = await main();
