import { spawn } from 'node:child_process';
import test from 'ava';
import { held, LONG } from '../support/reliability.js';

/** `npm run test:sanitize`, or the part of it that `npm test` has time for. */
function sanitize(args: string[]): Promise<{ status: number | null; output: string }> {
	return new Promise((done, failed) => {
		const child = spawn(process.execPath, ['scripts/sanitize.mjs', ...args], {
			stdio: ['ignore', 'pipe', 'pipe'],
		});
		let output = '';
		for (const stream of [child.stdout, child.stderr])
			stream.setEncoding('utf8').on('data', (text: string) => {
				output += text;
			});
		child.on('error', failed);
		child.on('close', (status) => done({ status, output }));
	});
}

test('no finding of the sanitizers', async (t) => {
	t.timeout(LONG ? 5 * 3600_000 : 5 * 60_000);
	const { status, output } = await sanitize(LONG ? [] : ['--short']);
	for (const skipped of output.match(/^SKIP .*$/gm) ?? []) t.log(skipped);
	t.is(status, 0, output);
	const parts = [...output.matchAll(/^passed (\S+): (\d+) passed(?:, 0 failed)?, 0 findings/gm)];
	const of = (kind: string) => parts.filter(([, name]) => name?.startsWith(kind));
	const sum = (kind: string) => of(kind).reduce((total, [, , checks]) => total + Number(checks), 0);
	t.is(Number(/^sanitize: (\d+) passed, 0 failed/m.exec(output)?.[1]), parts.length);
	if (parts.length === 0) return; // skipped, and said so
	held(
		'Sanitizers',
		LONG
			? 'The native code and the addon pass their tests without a finding of the address, undefined-behaviour and thread sanitizers.'
			: 'The executor passes its tests without a finding of the thread sanitizer, the readers of files without one of the address and undefined-behaviour sanitizers.',
		{
			'programs and suites': parts.length,
			'checks under ASan and UBSan': sum('address'),
			'checks under TSan': sum('thread'),
			...(LONG && { 'checks on the emulator': sum('emulator') }),
			findings: 0,
		},
	);
});
