/**
 * The addon is loaded by worker threads alone, one after the other, and so unloaded with each where the system does
 * that; every second one is terminated in the middle of training. Arguments: the addon's file, the number of workers.
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';

const [, , file, count] = process.argv;
const code = `
const { parentPort } = require('node:worker_threads');
const addon = require(${JSON.stringify(file)});
const rows = { offsets: Int32Array.from({ length: 33 }, (_, i) => 8 * i), values: Int32Array.from({ length: 256 }, (_, i) => 1 + (i * 7) % 50) };
(async () => {
	const engine = new addon.Engine({ device: 'cpu', threads: 2 });
	const model = new addon.Backbone(engine, { kind: 'sasrec', numItems: 50, maxLength: 10, hiddenUnits: 16, numBlocks: 2, numHeads: 2, dropoutRate: 0.1, variant: 'reference' });
	await model.initialise(1);
	const trainer = new addon.BackboneTrainer(model, rows, rows, { batchSize: 16, loss: 'bce', l2Embedding: 0, seed: 1, learningRate: 1e-2 });
	parentPort.postMessage(await trainer.run(5));
	if (ENDLESS) await trainer.run(1e9);
})();
`;
const losses = new Set<number>();
for (let i = 0; i < Number(count); i++) {
	const worker = new Worker(code.replace('ENDLESS', String(i % 2 === 1)), { eval: true });
	const exited = once(worker, 'exit');
	const [loss] = await once(worker, 'message');
	losses.add(loss as number);
	if (i % 2 === 1) void worker.terminate();
	await exited;
}
console.log(losses.size);
