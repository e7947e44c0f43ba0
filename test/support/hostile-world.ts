import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Database, literal } from '../../lib/data/database.js';
import { SeededRandom } from '../../lib/data/random.js';
import { freshPath } from '../data/folders.js';
import { HOSTILE, HUGE, wellFormed } from './hostile-text.js';

export interface HostileItem {
	id: string;
	title: string;
	description: string;
}

export interface HostileWorld {
	items: HostileItem[];
	interactions: { user: string; item: string; time: number }[];
}

/** Hostile texts that can be ids: not empty, and different when blanks around them are gone. */
export const HOSTILE_IDS: readonly string[] = [
	...new Set(HOSTILE.map((text) => wellFormed(text).replace(/^[\p{Zs}\ufeff]+|[\p{Zs}\ufeff]+$/gu, ''))),
].filter((id) => id !== '');

/** A log whose ids, titles, descriptions and users are all hostile; each user has six interactions. */
export function hostileWorld(numUsers: number): HostileWorld {
	const random = new SeededRandom(9);
	const huge = Object.values(HUGE);
	const text = () => wellFormed(HOSTILE[random.int(HOSTILE.length)]!);
	const items = HOSTILE_IDS.map((id, i) => ({
		id,
		title: i % 12 === 5 ? huge[i % huge.length]! : text() + (i % 3 === 0 ? text() : ''),
		description: i % 12 === 7 ? huge[i % huge.length]! : text() + text(),
	}));
	const interactions = Array.from({ length: numUsers }, (_, u) => {
		const user = HOSTILE_IDS[u] ?? `user ${u}`;
		const own = new Set<number>();
		while (own.size < 6) own.add(random.int(items.length));
		return [...own].map((item, i) => ({ user, item: items[item]!.id, time: 10 * u + i }));
	}).flat();
	// Every item once at least, by a user of its own kind.
	for (const [i, { id }] of items.entries())
		interactions.push({ user: `reader ${i % 10}`, item: id, time: 1e6 + i });
	return { items, interactions };
}

/** A file in a fresh folder. */
export async function write(name: string, text: string): Promise<string> {
	const path = freshPath(name);
	await mkdir(dirname(path), { recursive: true });
	await writeFile(path, text);
	return path;
}

export function csv(rows: readonly (readonly string[])[]): string {
	return rows.map((row) => `${row.map((cell) => `"${cell.replaceAll('"', '""')}"`).join(',')}\n`).join('');
}

export function jsonLines(rows: readonly unknown[]): string {
	return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
}

/** A Parquet file of JSON lines, with the columns as declared. */
export async function parquet(name: string, rows: readonly unknown[], columns: string): Promise<string> {
	const lines = await write(`${name}.jsonl`, jsonLines(rows));
	const path = join(dirname(lines), `${name}.parquet`);
	const database = await Database.open({});
	try {
		await database.run(
			`COPY (SELECT * FROM read_json(${literal(lines)}, format = 'newline_delimited', columns = {${columns}})) TO ${literal(path)} (FORMAT parquet)`,
		);
	} finally {
		database.close();
	}
	return path;
}
