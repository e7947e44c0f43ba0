import type { FromWorker, ToWorker } from './messages.js';
import { serializeError } from './messages.js';
import { runTask } from './run-task.js';

// A process that does one task and ends. It ends, too, when the one that started it does.

const abort = new AbortController();
const say = (message: FromWorker) => process.send?.(message);

process.on('disconnect', () => abort.abort(new Error('the experiment has ended')));
// Ctrl-C reaches all processes of the terminal; the experiment says what to do.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => abort.abort(new Error('terminated')));
process.on('message', async (message: ToWorker) => {
	if (message.kind === 'abort') return abort.abort(new Error('aborted'));
	try {
		await runTask(message.task, {
			...message.calls,
			signal: abort.signal,
			onProgress: (progress) => say({ kind: 'progress', progress }),
		});
		say({ kind: 'done' });
	} catch (error) {
		say({ kind: 'failed', error: serializeError(error) });
	}
	process.disconnect();
});
