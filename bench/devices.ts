import { loadAddon, type NativeEngine } from '../lib/native/addon.js';
import { profileByDefault } from '../lib/native/session.js';

const engines = new Map<number, NativeEngine>();

export const addon = loadAddon;

/** The CPU engine with so many threads, shared by all cases. */
export function engineOf(threads: number): NativeEngine {
	let engine = engines.get(threads);
	if (!engine) {
		engine = new (loadAddon().Engine)({ device: 'cpu', threads, profile: profileByDefault() });
		engines.set(threads, engine);
	}
	return engine;
}

export function disposeEngines(): void {
	for (const engine of engines.values()) engine.dispose();
	engines.clear();
}
