import { ALLMRecError, type ErrorCode } from '../errors.js';
import { atOnce, blocks, type Steps } from '../event-loop.js';
import {
	loadAddon,
	type NativeAddon,
	type NativeCancelFlag,
	type NativeEngine,
	type NativeModel,
	type Ragged,
} from './addon.js';

/** Where models run. */
export interface DeviceOptions {
	/**
	 * `auto` (default) takes a GPU when one can be used and the CPU otherwise; `cuda` fails when there is none.
	 * `cudaemu` runs the CUDA kernels on the CPU, thousands of times slower: for tests of the kernels alone.
	 */
	device?: 'auto' | 'cpu' | 'cuda' | 'cudaemu' | undefined;
	/** CPU threads. Default: as many as the process may use. */
	threads?: number | undefined;
	/** Path of the CUDA back end's library; see docs/cuda.md for where it is looked for otherwise. */
	cudaLibrary?: string | undefined;
	/** Path of cuBLASLt, `auto` (default: it is looked for) or `off`. For the whole process. */
	cublasLt?: string | undefined;
	/**
	 * Times every op and prints a table to the standard error when the device is closed: calls, milliseconds, work,
	 * and the share of the machine's limit. Default: whether the environment variable `ALLMREC_PROFILE` is set.
	 */
	profile?: boolean | undefined;
}

/** An opened device, shared by the models created on it; its jobs run one after another. */
export class Session {
	readonly addon: NativeAddon;
	readonly engine: NativeEngine;
	/** Why `auto` did not take a GPU; empty when it did or when none was wanted. */
	readonly fallbackReason: string;
	readonly #key: string;
	readonly #atExit: (() => void) | undefined;
	#owners = 1;
	static readonly #open = new Map<string, Session>();

	private constructor(
		key: string,
		atExit: (() => void) | undefined,
		addon: NativeAddon,
		engine: NativeEngine,
		fallbackReason: string,
	) {
		this.#key = key;
		this.#atExit = atExit;
		this.addon = addon;
		this.engine = engine;
		this.fallbackReason = fallbackReason;
	}

	/**
	 * The session of a device; models that ask for the same one share it, as they must to be trained together. Each
	 * caller releases it once.
	 *
	 * @throws ERR_ALLMREC_DEVICE when the device asked for cannot be used.
	 */
	static open(options: DeviceOptions = {}): Session {
		const { device = 'auto', threads = 0, profile = profileByDefault() } = options;
		const key = `${device}:${threads}:${profile}`;
		const known = Session.#open.get(key);
		if (known) return known.share();
		const session = Session.#create(key, options);
		Session.#open.set(key, session);
		return session;
	}

	static #create(key: string, options: DeviceOptions): Session {
		const { device = 'auto', threads = 0, cudaLibrary, cublasLt, profile = profileByDefault() } = options;
		const addon = loadAddon();
		const engine = guard(
			() =>
				new addon.Engine({
					device,
					threads,
					...(cudaLibrary ? { cudaLibrary } : {}),
					...(cublasLt ? { cublasLt } : {}),
					profile,
				}),
		);
		// `process.exit()` does not end environments as other ends do.
		const atExit = profile ? () => engine.stop() : undefined;
		if (atExit) process.once('exit', atExit);
		return new Session(key, atExit, addon, engine, device === 'auto' ? engine.info().reason : '');
	}

	/** One more owner; each calls {@link release} once. */
	share(): this {
		this.#owners++;
		return this;
	}

	release(): void {
		if (--this.#owners > 0) {
			this.engine.trim();
			return;
		}
		Session.#open.delete(this.#key);
		if (this.#atExit) process.off('exit', this.#atExit);
		this.engine.dispose();
	}
}

/** Whether the environment asks for a profile of every device. */
export function profileByDefault(): boolean {
	return !['', '0'].includes(process.env.ALLMREC_PROFILE ?? '');
}

/** Runs a native call, turning its errors into {@link ALLMRecError} with the native one as the cause. */
export function guard<T>(call: () => T): T {
	try {
		return call();
	} catch (error) {
		throw translate(error);
	}
}

/** Awaits a native call; aborting the signal cancels it and rejects with the signal's reason. */
export async function run<T>(
	call: (cancel: NativeCancelFlag) => Promise<T>,
	signal?: AbortSignal | undefined,
): Promise<T> {
	signal?.throwIfAborted();
	try {
		const result = await cancellable(call, signal);
		signal?.throwIfAborted();
		return result;
	} catch (error) {
		throw signal?.aborted ? signal.reason : error;
	}
}

/**
 * Awaits a native call that can stop in its middle; undefined once it has stopped because the signal is aborted. What
 * else goes wrong is thrown, aborted or not.
 */
export async function runOrCancel<T>(
	call: (cancel: NativeCancelFlag) => Promise<T>,
	signal: AbortSignal | undefined,
): Promise<T | undefined> {
	if (signal?.aborted) return undefined;
	try {
		return await cancellable(call, signal);
	} catch (error) {
		if (signal?.aborted && (error as ALLMRecError).code === 'ERR_ALLMREC_CANCELLED') return undefined;
		throw error;
	}
}

async function cancellable<T>(
	call: (cancel: NativeCancelFlag) => Promise<T>,
	signal: AbortSignal | undefined,
): Promise<T> {
	const flag = new (loadAddon().CancelFlag)();
	const cancel = () => flag.cancel();
	signal?.addEventListener('abort', cancel, { once: true });
	try {
		return await call(flag);
	} catch (error) {
		throw translate(error);
	} finally {
		signal?.removeEventListener('abort', cancel);
	}
}

/**
 * Gives what `work` gives. If it fails, whatever it has kept is disposed of, the latest first: native memory is not
 * left to the garbage collector, which does not know of it.
 */
export async function opening<T>(work: (keep: Keep) => Promise<T>): Promise<T> {
	const kept: Disposable[] = [];
	try {
		return await work((part) => {
			kept.push(part);
			return part;
		});
	} catch (error) {
		for (const part of kept.reverse()) part.dispose();
		throw error;
	}
}

/** A fresh model with the weights of files. It is disposed of if they cannot be had. */
export function loaded<Model extends NativeModel>(
	native: Model,
	paths: string[],
	signal?: AbortSignal | undefined,
): Promise<Model> {
	return opening(async (keep) => {
		keep(native);
		await run((cancel) => native.load(paths, cancel), signal);
		return native;
	});
}

/** Takes what has been opened and gives it back. */
export type Keep = <Part extends Disposable>(part: Part) => Part;

interface Disposable {
	dispose(): void;
}

function translate(error: unknown): unknown {
	if (error instanceof ALLMRecError || !(error instanceof Error)) return error;
	const { code } = error as { code?: unknown };
	if (typeof code !== 'string' || !code.startsWith('ERR_ALLMREC_')) return error;
	return new ALLMRecError(code as ErrorCode, error.message, { cause: error });
}

/** Rows of different lengths as one array with offsets. */
export function ragged(rows: ArrayLike<ArrayLike<number>>): Ragged {
	return atOnce(raggedSteps(rows));
}

/** {@link ragged} in steps. */
export function* raggedSteps(rows: ArrayLike<ArrayLike<number>>): Steps<Ragged> {
	const offsets = new Int32Array(rows.length + 1);
	yield* blocks(rows.length, ROWS, (from, to) => {
		for (let r = from; r < to; r++) offsets[r + 1] = offsets[r]! + rows[r]!.length;
	});
	const values = new Int32Array(offsets[rows.length]!);
	yield* blocks(rows.length, ROWS, (from, to) => {
		for (let r = from; r < to; r++) values.set(rows[r]!, offsets[r]!);
	});
	return { offsets, values };
}

/** Rows of one step. */
const ROWS = 1 << 12;

/** Rows `indices` of a matrix (n, width). */
export function takeRows(matrix: Float32Array, width: number, indices: ArrayLike<number>): Float32Array {
	return atOnce(takeRowsSteps(matrix, width, indices));
}

/** {@link takeRows} in steps. */
export function* takeRowsSteps(
	matrix: Float32Array,
	width: number,
	indices: ArrayLike<number>,
): Steps<Float32Array> {
	const rows = new Float32Array(indices.length * width);
	yield* blocks(indices.length, ROWS, (from, to) => {
		for (let i = from; i < to; i++) {
			const at = indices[i]! * width;
			rows.set(matrix.subarray(at, at + width), i * width);
		}
	});
	return rows;
}
