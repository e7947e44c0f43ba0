import { ALLMRecError } from '../errors.js';
import { inTurns, type Steps } from '../event-loop.js';
import type {
	NativeAddon,
	NativeCancelFlag,
	NativeGeneratedSequence,
	NativeGenerationRequest,
	NativeGenerator,
	NativeOpt,
} from '../native/addon.js';
import { guard, run } from '../native/session.js';

/** What becomes of a request. */
export interface GenerationListener {
	/** Of a request that streams. */
	token?(id: number, logProb: number): void;
	finished(sequences: NativeGeneratedSequence[]): void;
	failed(error: unknown): void;
}

export interface GenerationQueueOptions {
	/** Sequences generated at once; a beam and a sample count as one each. */
	slots: number;
	/** Most tokens in the key-value cache. Default: slots · positions; memory is taken as it is needed. */
	cacheTokens?: number | undefined;
}

/** All generation with one model: whoever asks joins the batch that runs. */
export class GenerationQueue {
	readonly #native: NativeGenerator;
	readonly #listeners = new Map<number, GenerationListener>();
	readonly #tokenBytes: () => Steps<{ offsets: Int32Array; bytes: Uint8Array }>;
	#stops: Promise<void> | undefined;
	/** Cuts the running step short. */
	#cancel: NativeCancelFlag | undefined;
	/** Whether the generator may still hold requests that nobody waits for. */
	#dropped = false;
	#running = false;
	#closed = false;

	constructor(
		addon: NativeAddon,
		model: NativeOpt,
		{ slots, cacheTokens }: GenerationQueueOptions,
		tokenBytes: () => Steps<{ offsets: Int32Array; bytes: Uint8Array }>,
	) {
		this.#native = guard(
			() => new addon.Generator(model, { slots, ...(cacheTokens === undefined ? {} : { cacheTokens }) }),
		);
		this.#tokenBytes = tokenBytes;
	}

	/** What requests with stop sequences of text need first: the text of every token. */
	async prepareStops(signal?: AbortSignal | undefined): Promise<void> {
		this.#stops ??= inTurns(this.#tokenBytes()).then((bytes) => {
			if (!this.#closed) this.#native.setTokenBytes(bytes);
		});
		await this.#stops;
		signal?.throwIfAborted();
	}

	/**
	 * Queues requests, all or none; gives their numbers.
	 *
	 * @throws ERR_ALLMREC_INVALID_ARGUMENT, ERR_ALLMREC_DISPOSED
	 */
	submit(
		requests: readonly NativeGenerationRequest[],
		listener: (i: number) => GenerationListener,
	): number[] {
		if (this.#closed)
			throw new ALLMRecError('ERR_ALLMREC_DISPOSED', 'This language model is used after dispose().');
		const numbers: number[] = [];
		try {
			for (const request of requests) numbers.push(guard(() => this.#native.submit(request)));
		} catch (error) {
			for (const number of numbers) this.#native.abort(number);
			throw error;
		} finally {
			for (const [i, number] of numbers.entries()) this.#listeners.set(number, listener(i));
			void this.#run();
		}
		return numbers;
	}

	/** Ends a request; it finishes with what there is of it. */
	abort(number: number): void {
		if (this.#listeners.has(number)) this.#native.abort(number);
	}

	/** Forgets a request. A step that is computed for nobody any more is cut short. */
	drop(number: number): void {
		if (!this.#listeners.delete(number)) return;
		this.#native.abort(number);
		this.#dropped = true;
		if (this.#listeners.size === 0) this.#cancel?.cancel();
	}

	/** No more requests; what runs is finished. */
	close(): void {
		this.#closed = true;
		if (!this.#running) this.#native.dispose();
	}

	async #run(): Promise<void> {
		if (this.#running) return;
		this.#running = true;
		while (this.#listeners.size > 0 || this.#dropped) {
			this.#dropped = false;
			try {
				const { tokens, finished } = await run((cancel) => {
					this.#cancel = cancel;
					return this.#native.advance(cancel);
				});
				for (const { request, id, logProb } of tokens) this.#listeners.get(request)?.token?.(id, logProb);
				for (const { request, sequences } of finished) {
					const listener = this.#listeners.get(request);
					this.#listeners.delete(request);
					listener?.finished(sequences);
				}
			} catch (error) {
				// Cut short because there was no listener. Those there are now came later, and are served next.
				if ((error as { code?: unknown }).code === 'ERR_ALLMREC_CANCELLED') continue;
				// The generator has dropped what it had begun; what it had not fails with it.
				const listeners = [...this.#listeners];
				for (const [number] of listeners) this.drop(number);
				for (const [, listener] of listeners) listener.failed(error);
			}
		}
		this.#running = false;
		if (this.#closed) this.#native.dispose();
	}
}
