/**
 * Scores one packed sequence and prints the peak of the process beyond what it has with the library loaded:
 * `node memory-child.js FOLDER DTYPE PROMPT CANDIDATES LENGTH`.
 */
import { readFileSync } from 'node:fs';
import { CausalLM } from '../../lib/llm/causal-lm.js';
import { Session } from '../../lib/native/session.js';

const [folder, dtype, prompt, candidates, length] = process.argv.slice(2);
const [p, n, l] = [Number(prompt), Number(candidates), Number(length)];
const device = { device: 'cpu', threads: 2 } as const;
const session = Session.open(device);
// On Linux `maxRSS` begins with what the process had that started this one; the kernel's own mark does not.
const peak = () => {
	if (process.platform !== 'linux') return process.resourceUsage().maxRSS * 1024;
	return 1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]);
};
const before = peak();
const llm = await CausalLM.load(folder!, { ...device, dtype: dtype as 'int8' });
const loaded = peak();
const tokens = p + n * l;
const begin = (t: number) => (t < p ? 0 : p + Math.floor((t - p) / l) * l);
const of = (value: (t: number) => number) => Int32Array.from({ length: tokens }, (_, t) => value(t));
const rows = of((t) => t).subarray(p - 1);
await llm.logProbs(
	{
		ids: of((t) => 4 + (t % 90)),
		offsets: Int32Array.of(0, tokens),
		positions: of((t) => (t < p ? t : p + ((t - p) % l))),
		prefix: of((t) => (t < p ? 0 : p)),
		ownBegin: of(begin),
	},
	new Float32Array(0),
	rows,
	Int32Array.from(rows.keys()),
	rows.map((row) => 4 + (row % 90)),
);
console.log(JSON.stringify({ before, loaded: loaded - before, scored: peak() - before, rows: rows.length }));
llm.dispose();
session.release();
