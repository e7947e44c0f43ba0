import { spawnSync } from 'node:child_process';
import { closeSync, constants, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { constants as system } from 'node:os';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freshPath } from '../data/folders.js';

const source = fileURLToPath(new URL('../../../test/support/faulty-disk.c', import.meta.url));
const { errno } = system;

/** What happens at a call that changes a file: the system's error, or SIGKILL. */
export type Fault = 'ENOSPC' | 'EDQUOT' | 'EROFS' | 'EIO' | 'KILL';

let library: string | undefined;

/** Builds the library that makes a process's disk fail; gives why there is none where it cannot be built. */
export function buildFaultyDisk(): { missing: string | undefined } {
	if (process.platform !== 'linux') return { missing: 'a preloaded library fails only on Linux' };
	if (library) return { missing: undefined };
	const path = freshPath('faulty-disk.so');
	mkdirSync(dirname(path), { recursive: true });
	const build = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-o', path, source, '-ldl'], {
		encoding: 'utf8',
	});
	if (build.status !== 0) return { missing: `no C compiler (cc): ${build.error?.message ?? build.stderr}` };
	library = path;
	return { missing: undefined };
}

const [AT, ERROR, LASTS, COUNT, FAILED] = [0, 8, 16, 24, 32];
const PATH = 40;
const PATH_BYTES = 1024;

/**
 * The disk of a process, as to what lies below some folders. Calls that change files there are counted; from one of
 * them on they fail, or one does, or one kills the process.
 */
export class FaultyDisk {
	readonly #control: string;
	/** Environment of the process. */
	readonly env: Record<string, string>;

	constructor(folders: readonly string[], control = freshPath('control')) {
		this.#control = control;
		this.env = {
			LD_PRELOAD: library ?? '',
			ALLMREC_FAULT_FOLDERS: folders.join(':'),
			ALLMREC_FAULT_CONTROL: control,
		};
		mkdirSync(dirname(control), { recursive: true });
		this.heal();
	}

	/** Counts from now on; call number `at`, from 1, fails, and those after it if it `lasts`. */
	fail(fault: Fault, at: number, lasts = false): void {
		const bytes = Buffer.alloc(PATH + PATH_BYTES);
		bytes.writeBigInt64LE(BigInt(at), AT);
		bytes.writeBigInt64LE(BigInt(fault === 'KILL' ? 0 : errno[fault]), ERROR);
		bytes.writeBigInt64LE(lasts ? 1n : 0n, LASTS);
		// In place: the process may have mapped the file.
		const file = openSync(this.#control, constants.O_RDWR | constants.O_CREAT);
		writeSync(file, bytes, 0, bytes.length, 0);
		closeSync(file);
	}

	/** Counts from now on, and nothing fails. */
	heal(): void {
		this.fail('EIO', 0);
	}

	/** Calls counted. */
	get calls(): number {
		return Number(readFileSync(this.#control).readBigInt64LE(COUNT));
	}

	/** Calls that failed. */
	get failures(): number {
		return Number(readFileSync(this.#control).readBigInt64LE(FAILED));
	}

	/** File or folder of the first call that failed. */
	get failedPath(): string {
		const bytes = readFileSync(this.#control).subarray(PATH, PATH + PATH_BYTES);
		return bytes.subarray(0, bytes.indexOf(0)).toString();
	}
}
