/**
 * Lets `performance.now()` run a million times as fast until the function that is given back is called. The training
 * loop saves a checkpoint a minute: so it saves one after each step, and reports each.
 */
export function fastClock(): () => void {
	const real = performance.now.bind(performance);
	const begun = real();
	performance.now = () => begun + (real() - begun) * 1e6;
	return () => {
		Reflect.deleteProperty(performance, 'now');
	};
}
