import {
	type DuckDBConnection,
	type DuckDBDataChunk,
	DuckDBInstance,
	type DuckDBResult,
} from '@duckdb/node-api';
import { ALLMRecError } from '../errors.js';

export interface DatabaseOptions {
	/** A file to keep tables in while it is open; without it they are in memory. */
	path?: string | undefined;
	/** DuckDB's `memory_limit`, e.g. `1GB`. What does not fit is spilled into `spillFolder`. */
	memoryLimit?: string;
	/** File or folder that is written to: what fails there is ERR_ALLMREC_WRITE. */
	output?: string | undefined;
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
	/** Tables are in the file. */
	readonly #filed: boolean;
	readonly #output: string | undefined;
	readonly #signal: AbortSignal | undefined;
	#closed = false;

	private constructor(
		instance: DuckDBInstance,
		connection: DuckDBConnection,
		filed: boolean,
		output: string | undefined,
		signal: AbortSignal | undefined,
	) {
		this.#instance = instance;
		this.connection = connection;
		this.#filed = filed;
		this.#output = output;
		this.#signal = signal;
	}

	static async open({ path, output, memoryLimit, spillFolder, threads, signal }: DatabaseOptions) {
		signal?.throwIfAborted();
		const config: Record<string, string> = { autoinstall_known_extensions: 'false' };
		if (memoryLimit) config.memory_limit = memoryLimit;
		if (spillFolder) config.temp_directory = spillFolder;
		if (threads) config.threads = String(threads);
		try {
			const instance = await DuckDBInstance.create(':memory:', config);
			try {
				const connection = await instance.connect();
				// Nobody reads the file again. A log it could be recovered by, or a last flush when it is closed, would end the
				// process where the disk fails while either is cut off.
				if (path) {
					await connection.run(`ATTACH ${literal(path)} AS work (RECOVERY_MODE no_wal_writes)`);
					await connection.run('PRAGMA disable_checkpoint_on_shutdown');
				}
				const database = new Database(instance, connection, path !== undefined, output, signal);
				await database.#use(connection);
				return database;
			} catch (error) {
				instance.closeSync();
				throw error;
			}
		} catch (cause) {
			throw translate(cause, [], output);
		}
	}

	/**
	 * Runs one statement and waits for its end.
	 *
	 * @param files what it reads, others' files: whatever they make DuckDB fail with is said of them
	 */
	async run(sql: string, files?: readonly string[]): Promise<void> {
		await this.#interruptible(() => this.connection.run(sql), files);
	}

	/** All rows of a small result. */
	async rows(sql: string, files?: readonly string[]): Promise<Cell[][]> {
		const reader = await this.#interruptible(() => this.connection.runAndReadAll(sql), files);
		return reader.getRows() as Cell[][];
	}

	/** The one row of a result whose columns are numbers. */
	async numbers(sql: string, files?: readonly string[]): Promise<number[]> {
		const [row] = await this.rows(sql, files);
		return (row ?? []).map(Number);
	}

	/** Chunks of a large result, in order, without holding more than a few of them. */
	async *chunks(sql: string, files?: readonly string[]): AsyncGenerator<DuckDBDataChunk> {
		const result: DuckDBResult = await this.#interruptible(() => this.connection.stream(sql), files);
		for (;;) {
			const chunk = await this.#interruptible(() => result.fetchChunk(), files);
			if (!chunk || chunk.rowCount === 0) return;
			yield chunk;
		}
	}

	/** A second connection to the same database, for writing while this one streams. */
	async connect(): Promise<DuckDBConnection> {
		const connection = await this.#instance.connect();
		await this.#use(connection);
		return connection;
	}

	async #use(connection: DuckDBConnection): Promise<void> {
		if (this.#filed) await connection.run('USE work');
	}

	close(): void {
		if (this.#closed) return;
		this.#closed = true;
		this.connection.closeSync();
		this.#instance.closeSync();
	}

	async #interruptible<T>(work: () => Promise<T>, files?: readonly string[]): Promise<T> {
		const signal = this.#signal;
		signal?.throwIfAborted();
		const interrupt = () => this.connection.interrupt();
		signal?.addEventListener('abort', interrupt, { once: true });
		try {
			return await work();
		} catch (cause) {
			signal?.throwIfAborted();
			throw translate(cause, files, this.#output);
		} finally {
			signal?.removeEventListener('abort', interrupt);
		}
	}
}

/** DuckDB's error with the code of this library. */
function translate(cause: unknown, files: readonly string[] = [], output?: string): ALLMRecError {
	if (cause instanceof ALLMRecError) return cause;
	const message = cause instanceof Error ? cause.message : String(cause);
	const [line = message] = message.split('\n');
	const first = line.length <= 500 ? line : `${line.slice(0, 500)}…`;
	if (/Out of Memory Error/i.test(message))
		return new ALLMRecError(
			'ERR_ALLMREC_OUT_OF_MEMORY',
			`DuckDB ran out of memory or of room to spill; raise \`memoryLimit\`, or free space on the disk of the output folder. ${first}`,
			{ cause },
		);
	if (isWriteFailure(message, output))
		return new ALLMRecError(
			'ERR_ALLMREC_WRITE',
			`${output ?? 'The output'} cannot be written; make room on its disk and allow writing there, then do the same again. ${first}`,
			{ cause },
		);
	if (/No files found|Cannot open file/i.test(message))
		return new ALLMRecError('ERR_ALLMREC_FILE_NOT_FOUND', first, { cause });
	if (files.length > 0) {
		const named = files.some((file) => first.includes(file)) ? '' : `${files.join(', ')} cannot be read: `;
		return new ALLMRecError('ERR_ALLMREC_FILE_FORMAT', `${named}${first}`, { cause });
	}
	if (/^(Parser|Binder|Catalog|INTERNAL|Internal|FATAL) Error/.test(message))
		return new ALLMRecError('ERR_ALLMREC_INTERNAL', first, { cause });
	return new ALLMRecError('ERR_ALLMREC_FILE_FORMAT', first, { cause });
}

/** By the file it names, or a reason of the system that only writing has. */
function isWriteFailure(message: string, output: string | undefined): boolean {
	if (!/^(IO|FATAL|TransactionContext) Error/i.test(message)) return false;
	return (
		(output !== undefined && message.includes(output)) ||
		/No space left on device|Disk quota exceeded|Read-only file system|File too large/i.test(message)
	);
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
