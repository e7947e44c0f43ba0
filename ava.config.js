export default {
	files: ['dist/test/**/*.test.js'],
	workerThreads: false,
	concurrency: 2,
	timeout: '10m',
};
