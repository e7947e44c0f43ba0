// One file after another: these tests measure time and memory. Started by scripts/reliability.mjs.
export default {
	files: ['dist/test/reliability/**/*.test.js'],
	workerThreads: false,
	concurrency: 1,
	serial: true,
	timeout: process.env.ALLMREC_LONG === '1' ? '90m' : '5m',
};
