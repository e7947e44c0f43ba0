import { ALLMRecError, type ErrorCode } from '../errors.js';
import type { Progress } from '../progress.js';
import type { Task } from './plan.js';
import type { TaskCalls } from './run-task.js';

export type ToWorker =
	| { kind: 'task'; task: Task; calls: Omit<TaskCalls, 'signal' | 'onProgress'> }
	| { kind: 'abort' };

export type FromWorker =
	| { kind: 'progress'; progress: Progress }
	| { kind: 'done' }
	| { kind: 'failed'; error: SerializedError };

export interface SerializedError {
	message: string;
	code?: string | undefined;
	stack?: string | undefined;
}

export function serializeError(error: unknown): SerializedError {
	if (!(error instanceof Error)) return { message: String(error) };
	const code = (error as { code?: unknown }).code;
	return { message: error.message, stack: error.stack, ...(typeof code === 'string' ? { code } : {}) };
}

export function deserializeError({ message, code, stack }: SerializedError): Error {
	const error = code?.startsWith('ERR_ALLMREC_')
		? new ALLMRecError(code as ErrorCode, message)
		: new Error(message);
	if (stack !== undefined) error.stack = stack;
	return error;
}
