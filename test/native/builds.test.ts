// node-gyp and cmake-js build the same addon from the one list of sources.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { locateAddon } from '../../lib/native/addon.js';

/** By the native tests, where CMake is installed. */
const BY_CMAKE = join(process.cwd(), 'build-native', 'Release', 'allmrec.node');

/** What an addon exports, and what its classes can do; in a process of its own. */
function described(path: string): unknown {
	const script = `const addon = require(process.argv[1]);
		const members = Object.keys(addon).sort().map((name) => [name, Object.getOwnPropertyNames(addon[name].prototype ?? {}).sort()]);
		const engine = new addon.Engine({ device: 'cpu', threads: 1 });
		const { memoryBytes, ...cpu } = engine.info();
		engine.dispose();
		console.log(JSON.stringify({ version: addon.version, sets: addon.instructionSets, members, cpu }));`;
	return JSON.parse(execFileSync(process.execPath, ['-e', script, path], { encoding: 'utf8' }));
}

test('the addon that cmake-js builds is the one that node-gyp builds', (t) => {
	if (!existsSync(BY_CMAKE)) {
		t.log('NOT COMPARED: CMake did not build the native tests here');
		return t.pass();
	}
	t.deepEqual(described(BY_CMAKE), described(locateAddon().path));
});
