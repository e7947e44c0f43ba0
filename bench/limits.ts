import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sourceFolder } from './peer.js';

/** What the machine can do at most with so many threads; null where it could not be measured. */
export interface Limits {
	/** fp32 multiply-adds, GFLOP/s (a multiply-add counts two) */
	gigaflops: number | null;
	/** bf16 dot products, GFLOP/s; null where the processor has none */
	bfloat16Gigaflops: number | null;
	/** 8-bit dot products, GOP/s (a multiply-add counts two); null where the processor has none */
	int8Gigaflops: number | null;
	/** Streaming read, GB/s. */
	readGigabytes: number | null;
	/** Copy, GB/s, bytes read and bytes written counted. */
	copyGigabytes: number | null;
}

const unknown: Limits = {
	gigaflops: null,
	bfloat16Gigaflops: null,
	int8Gigaflops: null,
	readGigabytes: null,
	copyGigabytes: null,
};

/** Compiles limits.cpp in a temporary folder and runs it for each number of threads. */
export function measureLimits(
	threads: readonly number[],
	processorTime: boolean,
): { limits: Map<number, Limits>; problem: string } {
	const folder = mkdtempSync(join(tmpdir(), 'a-llmrec-limits-'));
	try {
		const program = join(folder, 'limits');
		const problem = compile(join(sourceFolder, 'limits.cpp'), program);
		if (problem) return { limits: new Map(threads.map((n) => [n, unknown])), problem };
		const measured = threads.map((n): [number, Limits] => [
			n,
			JSON.parse(
				execFileSync(program, [String(n), processorTime ? 'processor' : 'wall'], { encoding: 'utf8' }),
			) as Limits,
		]);
		return { limits: new Map(measured), problem: '' };
	} catch (error) {
		return { limits: new Map(threads.map((n) => [n, unknown])), problem: (error as Error).message };
	} finally {
		rmSync(folder, { recursive: true, force: true });
	}
}

/** Empty when it worked. */
function compile(source: string, program: string): string {
	// A compiler may be called through another program, as `ccache g++` is.
	const named = process.env.CXX?.trim();
	const compilers = (named ? [named] : ['g++', 'clang++', 'c++']).map((text) => text.split(/\s+/));
	for (const [compiler, ...first] of compilers)
		for (const target of ['-march=native', '-mcpu=native'])
			try {
				const flags = [...first, '-O3', target, '-std=c++17', '-pthread', source, '-o', program];
				execFileSync(compiler!, flags, { stdio: 'ignore' });
				return '';
			} catch {}
	return `no C++ compiler worked (${compilers.map((words) => words.join(' ')).join(', ')})`;
}

/** Seconds of so much work at a limit in units of 10⁹ per second. */
export function atLimit(work: number, limit: number | null): number | null {
	return limit === null ? null : work / (limit * 1e9);
}

/** GFLOP/s of products with weights of a dtype: of float32 where the processor has nothing faster. */
export function gigaflopsOf(dtype: string, limits: Limits): number | null {
	const { gigaflops, bfloat16Gigaflops, int8Gigaflops } = limits;
	if (dtype === 'bfloat16' || dtype === 'float16') return bfloat16Gigaflops ?? gigaflops;
	return dtype === 'int8' || dtype === 'int4' ? (int8Gigaflops ?? gigaflops) : gigaflops;
}
