import { type ChildProcess, spawn } from 'node:child_process';
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import type { Readable, Writable } from 'node:stream';

/** The first Chromium in PATH. */
export function findChromium(): string | undefined {
	for (const name of ['chromium', 'chromium-browser', 'google-chrome'])
		for (const folder of (process.env.PATH ?? '').split(delimiter)) {
			const path = join(folder, name);
			try {
				accessSync(path, constants.X_OK);
				return path;
			} catch {}
		}
	return undefined;
}

interface Message {
	id?: number;
	method?: string;
	params?: Record<string, unknown>;
	result?: Record<string, unknown>;
	error?: { message: string };
	sessionId?: string;
}

/** A page in a headless Chromium, driven over the DevTools protocol through a pipe. */
export class BrowserPage {
	/** Exceptions, errors on the console, refused resources, and requests over a network. */
	readonly problems: string[] = [];
	readonly #child: ChildProcess;
	readonly #profile: string;
	readonly #waiting = new Map<
		number,
		{ resolve: (result: Record<string, unknown>) => void; reject: (error: Error) => void }
	>();
	readonly #events = new Map<string, () => void>();
	#session: string | undefined;
	#id = 0;
	#left = '';

	private constructor(path: string) {
		this.#profile = mkdtempSync(join(tmpdir(), 'a-llmrec-browser-'));
		const flags = [
			'--headless',
			'--no-sandbox',
			'--disable-gpu',
			'--no-first-run',
			'--remote-debugging-pipe',
		];
		this.#child = spawn(path, [...flags, `--user-data-dir=${this.#profile}`, 'about:blank'], {
			stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
		});
		const output = this.#child.stdio[4] as Readable;
		output.setEncoding('utf8');
		output.on('data', (data: string) => this.#receive(data));
		this.#child.on('close', () => {
			for (const { reject } of this.#waiting.values()) reject(new Error('The browser has ended.'));
		});
		(this.#child.stdio[3] as Writable).on('error', () => {}); // said by `close`
	}

	static async open(path: string): Promise<BrowserPage> {
		const page = new BrowserPage(path);
		const { targetId } = await page.send('Target.createTarget', { url: 'about:blank' });
		const { sessionId } = await page.send('Target.attachToTarget', { targetId, flatten: true });
		page.#session = sessionId as string;
		for (const domain of ['Page', 'Runtime', 'Log', 'Network']) await page.send(`${domain}.enable`);
		return page;
	}

	send(method: string, params: object = {}): Promise<Record<string, unknown>> {
		const id = ++this.#id;
		const message = { id, method, params, sessionId: this.#session };
		(this.#child.stdio[3] as Writable).write(`${JSON.stringify(message)}\0`);
		return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
	}

	/** Goes to an address and waits until the page has loaded. */
	async go(url: string): Promise<void> {
		const loaded = new Promise<void>((resolve) => this.#events.set('Page.loadEventFired', resolve));
		const { errorText } = await this.send('Page.navigate', { url });
		if (errorText) throw new Error(`${url}: ${errorText}`);
		await loaded;
	}

	/** The value of an expression in the page. */
	async evaluate<T>(expression: string): Promise<T> {
		const answer = await this.send('Runtime.evaluate', {
			expression,
			returnByValue: true,
			awaitPromise: true,
		});
		if (answer.exceptionDetails) throw new Error(JSON.stringify(answer.exceptionDetails));
		return (answer.result as { value: T }).value;
	}

	async press(key: 'Tab' | 'Enter'): Promise<void> {
		const text = key === 'Enter' ? '\r' : undefined;
		const code = key === 'Enter' ? 13 : 9;
		for (const type of ['keyDown', 'keyUp'])
			await this.send('Input.dispatchKeyEvent', {
				type,
				key,
				code: key,
				windowsVirtualKeyCode: code,
				text: type === 'keyDown' ? text : undefined,
			});
	}

	async resize(width: number, height: number): Promise<void> {
		const metrics = { width, height, deviceScaleFactor: 1, mobile: false };
		await this.send('Emulation.setDeviceMetricsOverride', metrics);
	}

	async prefer(theme: 'light' | 'dark'): Promise<void> {
		const features = [{ name: 'prefers-color-scheme', value: theme }];
		await this.send('Emulation.setEmulatedMedia', { features });
	}

	async close(): Promise<void> {
		const ended = new Promise((resolve) => this.#child.on('close', resolve));
		this.#child.kill();
		await ended;
		rmSync(this.#profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
	}

	#receive(data: string): void {
		const messages = (this.#left + data).split('\0');
		this.#left = messages.pop()!;
		for (const text of messages) this.#handle(JSON.parse(text) as Message);
	}

	#handle({ id, method, params, result, error }: Message): void {
		if (id !== undefined) {
			const waiting = this.#waiting.get(id);
			this.#waiting.delete(id);
			if (error) waiting?.reject(new Error(error.message));
			else waiting?.resolve(result ?? {});
			return;
		}
		const told = JSON.stringify(params);
		if (method === 'Runtime.exceptionThrown') this.problems.push(told);
		if (method === 'Runtime.consoleAPICalled' && params?.type === 'error') this.problems.push(told);
		if (method === 'Log.entryAdded') this.problems.push(told);
		if (method === 'Network.requestWillBeSent' && !/"url":"(file|about|data):/.test(told))
			this.problems.push(told);
		this.#events.get(method ?? '')?.();
	}
}
