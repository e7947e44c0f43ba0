import { readdir, stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { ReadableStream } from 'node:stream/web';
import { setTimeout as sleep } from 'node:timers/promises';
import { downloadFile, listFiles, modelInfo } from '@huggingface/hub';
import { ALLMRecError, invalidArgument } from '../errors.js';
import { expectKnown } from '../known-options.js';
import type { LongCallOptions } from '../progress.js';
import { shardNames } from './checkpoint.js';
import type { RemoteFile } from './hub-cache.js';
import { CorruptDownload, exists, RepositoryCache } from './hub-cache.js';

/** Files beside the weights: configuration, tokenizer, and sentence-transformers' pooling. */
export const CONFIGURATION_FILES: readonly string[] = [
	'config.json',
	'generation_config.json',
	'tokenizer.json',
	'tokenizer_config.json',
	'special_tokens_map.json',
	'added_tokens.json',
	'vocab.json',
	'merges.txt',
	'vocab.txt',
	'modules.json',
	'sentence_bert_config.json',
	'1_Pooling/config.json',
];

/** Weights, the first group that has a file is taken: safetensors, else PyTorch's. */
const WEIGHT_FILES: readonly (readonly string[])[] = [
	['model.safetensors', 'model-*-of-*.safetensors', 'model.safetensors.index.json'],
	['*.safetensors', '*.safetensors.index.json'],
	['pytorch_model.bin', 'pytorch_model-*-of-*.bin', 'pytorch_model.bin.index.json'],
];

/** Options of {@link resolveCheckpoint}. */
export interface ResolveCheckpointOptions extends LongCallOptions {
	/** Files to have, as names or patterns (`*` within one folder). Default {@link CONFIGURATION_FILES}. */
	files?: readonly string[] | undefined;
	/** Fetch the weights too. Default true. */
	weights?: boolean | undefined;
	/** Branch, tag or commit, where the source names none. Default `main`. */
	revision?: string | undefined;
	/** Default `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`. */
	cacheDir?: string | undefined;
	/** Use the cache alone. Default: whether `HF_HUB_OFFLINE` is 1. */
	offline?: boolean | undefined;
	/** Default `HF_ENDPOINT`, else `https://huggingface.co`. */
	endpoint?: string | undefined;
	/** For private and gated models. Default `HF_TOKEN`. */
	accessToken?: string | undefined;
	/** Default the global `fetch`. */
	fetch?: typeof fetch | undefined;
	/** Attempts per file before giving up; a later one goes on where the earlier ended. Default 4. */
	attempts?: number | undefined;
}

const HUB_ID = /^([\w-][\w.-]*\/[\w.-]*[\w-])(?:@([\w./-]+))?$/;
const COMMIT = /^[0-9a-f]{40}$/;

/**
 * The local folder of a checkpoint: `source` itself when it is a folder with a `config.json`, else the model
 * `owner/name` or `owner/name@revision` of the Hugging Face Hub, downloaded into the cache that Python's
 * `huggingface_hub` uses too. Downloads resume, checksums are verified, and without network the cache is used.
 *
 * @throws ERR_ALLMREC_FILE_NOT_FOUND for a folder without config.json, ERR_ALLMREC_DOWNLOAD when the files can be
 * had neither from the Hub nor from the cache, the signal's reason when aborted
 */
export async function resolveCheckpoint(
	source: string,
	options: ResolveCheckpointOptions = {},
): Promise<string> {
	expectKnown('resolveCheckpoint', options);
	options.signal?.throwIfAborted();
	if (typeof source !== 'string' || source === '')
		invalidArgument('source', 'a folder or a Hub id such as `facebook/opt-125m`', source);
	const info = await stat(source).catch(() => undefined);
	if (info?.isDirectory()) {
		if (await exists(join(source, 'config.json'))) return source;
		const names = (await readdir(source)).slice(0, 8).join(', ');
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`The folder ${source} holds no config.json (it holds: ${names || 'nothing'}). Expected a Hugging Face checkpoint: config.json, the weights (*.safetensors or pytorch_model*.bin) and the tokenizer's files.`,
		);
	}
	if (info)
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`${source} is a file; expected the checkpoint's folder, the one that holds config.json.`,
		);
	const named = HUB_ID.exec(source);
	if (!named || source.includes('..'))
		throw new ALLMRecError(
			'ERR_ALLMREC_FILE_NOT_FOUND',
			`${source} is neither an existing folder nor a Hub id of the form owner/name or owner/name@revision.`,
		);
	const revision = named[2] ?? options.revision ?? 'main';
	return new Checkpoint(named[1]!, revision, options).resolve();
}

class Checkpoint {
	readonly #name: string;
	readonly #revision: string;
	readonly #options: ResolveCheckpointOptions;
	readonly #cache: RepositoryCache;
	readonly #endpoint: string;

	constructor(name: string, revision: string, options: ResolveCheckpointOptions) {
		this.#name = name;
		this.#revision = revision;
		this.#options = options;
		this.#cache = new RepositoryCache(options.cacheDir ?? defaultCacheFolder(), name);
		this.#endpoint = (options.endpoint ?? process.env.HF_ENDPOINT ?? 'https://huggingface.co').replace(
			/\/+$/,
			'',
		);
	}

	async resolve(): Promise<string> {
		const offline = this.#options.offline ?? process.env.HF_HUB_OFFLINE === '1';
		if (offline) {
			const cached = await this.#fromCache();
			if (cached !== undefined) return cached;
			throw this.#failure('offline use was asked for, and the cache does not hold it in full');
		}
		let commit: string;
		let files: RemoteFile[];
		try {
			commit = await this.#retry(() => this.#lookUp());
			files = await this.#retry(() => this.#list(commit));
		} catch (cause) {
			this.#options.signal?.throwIfAborted();
			if (cause instanceof ALLMRecError) throw cause;
			// What the Hub denies is an error; what it cannot be asked about comes from the cache.
			const status = statusOf(cause);
			if (status === undefined || status >= 500 || status === 429) {
				const cached = await this.#fromCache();
				if (cached !== undefined) return cached;
			}
			throw this.#failure(explain(cause, status), cause);
		}
		await this.#fetchAll(commit, files);
		if (this.#revision !== commit) await this.#cache.writeRef(this.#revision, commit);
		return this.#cache.snapshot(commit);
	}

	async #lookUp(): Promise<string> {
		const { sha } = await modelInfo({
			...this.#access(),
			name: this.#name,
			revision: this.#revision,
			additionalFields: ['sha'],
		});
		if (!COMMIT.test(sha)) throw new Error(`the Hub named the commit ${JSON.stringify(sha)}`);
		return sha;
	}

	/** The files to have, of those the repository holds. */
	async #list(commit: string): Promise<RemoteFile[]> {
		const all: RemoteFile[] = [];
		const entries = listFiles({ ...this.#access(), repo: this.#name, revision: commit, recursive: true });
		for await (const { type, path, size, oid, lfs, xetHash } of entries) {
			const etag = lfs?.oid ?? xetHash ?? oid;
			if (type !== 'file' || etag === undefined || !/^[\w-]+$/.test(etag)) continue;
			all.push({ path, size: lfs?.size ?? size, etag });
		}
		const patterns = [...(this.#options.files ?? CONFIGURATION_FILES)];
		if (this.#options.weights ?? true) {
			const group = WEIGHT_FILES.find((names) =>
				all.some(({ path }) => names.some((name) => matches(name, path))),
			);
			if (!group)
				throw this.#failure('the repository holds neither *.safetensors nor pytorch_model*.bin in its root');
			patterns.push(...group);
		}
		const wanted = all.filter(({ path }) => patterns.some((pattern) => matches(pattern, path)));
		if (!wanted.some(({ path }) => path === 'config.json'))
			throw this.#failure('the repository holds no config.json');
		// Names come from the repository and become paths here.
		const escaping = wanted.find(({ path }) => path.startsWith('/') || /\\|:|(^|\/)\.\.(\/|$)/.test(path));
		if (escaping)
			throw this.#failure(`the repository holds a file of the name ${JSON.stringify(escaping.path)}`);
		// The largest last: a snapshot that has its weights is complete.
		return wanted.sort((a, b) => a.size - b.size || (a.path < b.path ? -1 : 1));
	}

	async #fetchAll(commit: string, files: readonly RemoteFile[]): Promise<void> {
		const { signal, onProgress } = this.#options;
		const total = files.reduce((sum, { size }) => sum + size, 0);
		const begun = performance.now();
		let done = 0;
		let fetched = 0;
		let reported = 0;
		const report = (path: string, final = false) => {
			const now = performance.now();
			if (!onProgress || (!final && now - reported < 100)) return;
			reported = now;
			const rate = fetched / ((now - begun) / 1000);
			const secondsLeft = rate > 0 ? (total - done) / rate : undefined;
			onProgress({
				stage: 'download',
				done,
				total,
				unit: 'bytes',
				rate,
				message: `${this.#name}: ${path}`,
				...(secondsLeft === undefined ? {} : { secondsLeft }),
			});
		};
		for (const file of files) {
			const before = done;
			try {
				if (!(await this.#cache.has(commit, file.path)) && !(await this.#cache.linkExisting(commit, file)))
					await this.#retry(async () => {
						done = before + Math.min(await this.#cache.partialSize(file), file.size);
						await this.#cache.download(commit, file, (from) => this.#open(commit, file, from), {
							signal,
							onBytes: (count) => {
								done += count;
								fetched += count;
								report(file.path);
							},
						});
					});
			} catch (cause) {
				signal?.throwIfAborted();
				throw this.#failure(`${file.path} did not arrive: ${explain(cause, statusOf(cause))}`, cause);
			}
			done = before + file.size;
			report(file.path, true);
		}
	}

	async #open(commit: string, file: RemoteFile, from: number): Promise<ReadableStream<Uint8Array>> {
		const blob = await downloadFile({
			...this.#access(),
			repo: this.#name,
			path: file.path,
			revision: commit,
		});
		if (!blob) throw new Error('the Hub says that there is no such file');
		if (blob.size !== file.size)
			throw new CorruptDownload(file, `the Hub announced ${file.size} bytes and offers ${blob.size}`);
		return (from > 0 ? blob.slice(from) : blob).stream() as ReadableStream<Uint8Array>;
	}

	#access() {
		const { signal, accessToken = process.env.HF_TOKEN, fetch: base = fetch } = this.#options;
		const signalled: typeof fetch = (input, init) => base(input, signal ? { ...init, signal } : init);
		return { hubUrl: this.#endpoint, fetch: signalled, ...(accessToken ? { accessToken } : {}) };
	}

	/** Tries again after failures that may pass: no connection, a connection cut, 429 and 5xx. */
	async #retry<T>(task: () => Promise<T>): Promise<T> {
		const { attempts = 4, signal } = this.#options;
		for (let attempt = 1; ; attempt++)
			try {
				return await task();
			} catch (error) {
				signal?.throwIfAborted();
				const status = statusOf(error);
				const passing =
					status === undefined ? !(error instanceof ALLMRecError) : status >= 500 || status === 429;
				if (!passing || attempt >= attempts) throw error;
				await sleep(100 * 2 ** (attempt - 1), undefined, { signal }).catch(() => signal?.throwIfAborted());
			}
	}

	/** The snapshot, when the cache holds all that is needed. */
	async #fromCache(): Promise<string | undefined> {
		const commit = COMMIT.test(this.#revision) ? this.#revision : await this.#cache.readRef(this.#revision);
		// What a damaged cache names instead of a commit must not become a path.
		if (commit === undefined || !COMMIT.test(commit) || !(await this.#cache.has(commit, 'config.json')))
			return undefined;
		const folder = this.#cache.snapshot(commit);
		return (this.#options.weights ?? true) && !(await hasWeights(folder)) ? undefined : folder;
	}

	#failure(reason: string, cause?: unknown): ALLMRecError {
		const at = this.#revision === 'main' ? '' : `@${this.#revision}`;
		const tree = `${this.#endpoint}/${this.#name}/tree/${this.#revision}`;
		return new ALLMRecError(
			'ERR_ALLMREC_DOWNLOAD',
			`The model ${this.#name}${at} cannot be had from ${this.#endpoint}: ${reason}. Download its files by hand from ${tree} (config.json, *.safetensors or pytorch_model*.bin, the tokenizer's files) and give their folder instead of the id; a mirror is named by HF_ENDPOINT, a token for gated models by HF_TOKEN. The cache looked at is ${this.#cache.folder}.`,
			{ cause },
		);
	}
}

async function hasWeights(folder: string): Promise<boolean> {
	const names = await readdir(folder);
	for (const name of names.filter((name) => name.endsWith('.index.json'))) {
		const shards = await shardNames(join(folder, name)).catch(() => []);
		if (shards.length === 0) return false;
		for (const shard of shards) if (!(await exists(join(folder, shard)))) return false;
		return true;
	}
	return names.some((name) => /\.(safetensors|bin)$/.test(name));
}

function matches(pattern: string, path: string): boolean {
	const escaped = pattern.replace(/[\\^$.+?()[\]{}|]/g, '\\$&').replaceAll('*', '[^/]*');
	return new RegExp(`^${escaped}$`).test(path);
}

function statusOf(error: unknown): number | undefined {
	const status = (error as { statusCode?: unknown } | undefined)?.statusCode;
	return typeof status === 'number' ? status : undefined;
}

function explain(error: unknown, status: number | undefined): string {
	if (status === 401 || status === 403) return `it is private or gated, or does not exist (status ${status})`;
	if (status === 404) return 'there is no such model or revision (status 404)';
	const causes: string[] = [];
	for (let at = error; at instanceof Error && causes.length < 4; at = at.cause) causes.push(at.message);
	return causes.join(': ') || String(error);
}

function defaultCacheFolder(): string {
	const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env;
	const home = HF_HOME ?? join(XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'huggingface');
	return HF_HUB_CACHE ?? HUGGINGFACE_HUB_CACHE ?? join(home, 'hub');
}
