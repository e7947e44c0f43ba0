import {
	type DuckDBConnection,
	type DuckDBDataChunk,
	DuckDBInstance,
	type DuckDBResult,
} from '@duckdb/node-api';
import { ALLMRecError } from '../errors.js';

export interface DatabaseOptions {
	/** Database file, or `:memory:`. */
	path?: string;
	/** DuckDB's `memory_limit`, e.g. `1GB`. What does not fit is spilled into `spillFolder`. */
	memoryLimit?: string;
	/** Where DuckDB spills; without it nothing is spilled. */
	spillFolder?: string;
	/** Threads of DuckDB. Default: one per core. */
	threads?: number;
	signal?: AbortSignal | undefined;
}

/** Cell of a result row: what the queries of this folder select. */
export type Cell = string | number | bigint | boolean | null;

/** A DuckDB connection that stops when its signal is aborted, and whose errors carry a code. */
export class Database {
	readonly connection: DuckDBConnection;
	readonly #instance: DuckDBInstance;
	readonly #signal: AbortSignal | undefined;
	#closed = false;

	private constructor(
		instance: DuckDBInstance,
		connection: DuckDBConnection,
		signal: AbortSignal | undefined,
	) {
		this.#instance = instance;
		this.connection = connection;
		this.#signal = signal;
	}

	static async open({ path = ':memory:', memoryLimit, spillFolder, threads, signal }: DatabaseOptions) {
		signal?.throwIfAborted();
		const config: Record<string, string> = { autoinstall_known_extensions: 'false' };
		if (memoryLimit) config.memory_limit = memoryLimit;
		if (spillFolder) config.temp_directory = spillFolder;
		if (threads) config.threads = String(threads);
		try {
			const instance = await DuckDBInstance.create(path, config);
			const connection = await instance.connect();
			// Databases are for work that is done when they are closed, which happens in the caller's thread.
			await connection.run('PRAGMA disable_checkpoint_on_shutdown');
			return new Database(instance, connection, signal);
		} catch (cause) {
			throw translate(cause);
		}
	}

	/** Runs one statement and waits for its end. */
	async run(sql: string): Promise<void> {
		await this.#interruptible(() => this.connection.run(sql));
	}

	/** All rows of a small result. */
	async rows(sql: string): Promise<Cell[][]> {
		const reader = await this.#interruptible(() => this.connection.runAndReadAll(sql));
		return reader.getRows() as Cell[][];
	}

	/** The one row of a result whose columns are numbers. */
	async numbers(sql: string): Promise<number[]> {
		const [row] = await this.rows(sql);
		return (row ?? []).map(Number);
	}

	/** Chunks of a large result, in order, without holding more than a few of them. */
	async *chunks(sql: string): AsyncGenerator<DuckDBDataChunk> {
		const result: DuckDBResult = await this.#interruptible(() => this.connection.stream(sql));
		for (;;) {
			const chunk = await this.#interruptible(() => result.fetchChunk());
			if (!chunk || chunk.rowCount === 0) return;
			yield chunk;
		}
	}

	/** A second connection to the same database, for writing while this one streams. */
	async connect(): Promise<DuckDBConnection> {
		return this.#instance.connect();
	}

	close(): void {
		if (this.#closed) return;
		this.#closed = true;
		this.connection.closeSync();
		this.#instance.closeSync();
	}

	async #interruptible<T>(work: () => Promise<T>): Promise<T> {
		const signal = this.#signal;
		signal?.throwIfAborted();
		const interrupt = () => this.connection.interrupt();
		signal?.addEventListener('abort', interrupt, { once: true });
		try {
			return await work();
		} catch (cause) {
			signal?.throwIfAborted();
			throw translate(cause);
		} finally {
			signal?.removeEventListener('abort', interrupt);
		}
	}
}

/** DuckDB's error with the code of this library. */
function translate(cause: unknown): ALLMRecError {
	if (cause instanceof ALLMRecError) return cause;
	const message = cause instanceof Error ? cause.message : String(cause);
	const [first = message] = message.split('\n');
	if (/Out of Memory Error/i.test(message))
		return new ALLMRecError(
			'ERR_ALLMREC_OUT_OF_MEMORY',
			`DuckDB ran out of memory or of room to spill; raise \`memoryLimit\`, or free space on the disk of the output folder. ${first}`,
			{ cause },
		);
	if (/No files found|Cannot open file/i.test(message))
		return new ALLMRecError('ERR_ALLMREC_FILE_NOT_FOUND', first, { cause });
	if (/^(Parser|Binder|Catalog|Internal) Error/.test(message))
		return new ALLMRecError('ERR_ALLMREC_INTERNAL', first, { cause });
	return new ALLMRecError('ERR_ALLMREC_FILE_FORMAT', first, { cause });
}

/** A SQL string literal. */
export function literal(text: string): string {
	return `'${text.replaceAll("'", "''")}'`;
}

/** A quoted SQL name. */
export function identifier(name: string): string {
	return `"${name.replaceAll('"', '""')}"`;
}

/** A SQL list of files. DuckDB expands wildcards in them, so those of real names are escaped. */
export function fileList(files: readonly string[]): string {
	return `[${files.map((file) => literal(file.replaceAll(/[*?[]/g, '[$&]'))).join(', ')}]`;
}
