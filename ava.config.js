export default {
	files: ['dist/test/**/*.test.js', '!dist/test/reliability/**'],
	workerThreads: false,
	concurrency: 2,
	timeout: '10m',
};
