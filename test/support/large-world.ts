import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Database, literal } from '../../lib/data/database.js';
import { freshPath } from '../data/folders.js';

export interface LargeWorldOptions {
	users: number;
	items: number;
	interactions: number;
	/** Words of a description. Default 40. */
	words?: number;
	/** Items whose description is of so many characters: `[item, characters]`. */
	long?: readonly (readonly [item: number, characters: number])[];
}

/** Writes a log and a catalogue as CSV, made by hashing row numbers: far more than `generateWorld` is made for. */
export async function largeWorld({
	users,
	items,
	interactions,
	words = 40,
	long = [],
}: LargeWorldOptions): Promise<{ interactions: string; items: string }> {
	const folder = freshPath('large');
	await mkdir(folder, { recursive: true });
	const files = { interactions: join(folder, 'interactions.csv'), items: join(folder, 'items.csv') };
	const copy = (query: string, file: string) =>
		`COPY (${query}) TO ${literal(file)} (FORMAT csv, HEADER true)`;
	const text = (seed: string, count: number) =>
		`array_to_string(list_transform(range(${count}), k -> 'w' || (hash(${seed} * 1000 + k) % 5000)::VARCHAR), ' ')`;
	const longText = long
		.map(
			([item, characters]) =>
				`WHEN i = ${item} THEN repeat('tale <b>of</b> &amp; woe ', ${Math.ceil(characters / 24)})`,
		)
		.join(' ');
	const database = await Database.open({});
	try {
		await database.run('SET preserve_insertion_order = true');
		// Every user and item is there; the rest by hash, frequent items first.
		await database.run(
			copy(
				`SELECT 'u' || (i % ${users})::VARCHAR AS "user",
					'i' || (CASE WHEN i < ${items} THEN i ELSE
						floor(${items} * pow((hash(i) % 1000003) / 1000003.0, 2)) END)::BIGINT::VARCHAR AS item,
					1500000000 + (hash(i + 7) % 100000000)::BIGINT AS time
				FROM range(${interactions}) AS r(i)`,
				files.interactions,
			),
		);
		await database.run(
			copy(
				`SELECT 'i' || i::VARCHAR AS id, 'Title ' || i::VARCHAR || ' ' || ${text('i', 4)} AS title,
					CASE ${longText} ${longText ? 'ELSE' : 'WHEN true THEN'} ${text('(i + 17)', words)} END AS description,
					'g' || (i % 12)::VARCHAR || '|g' || (i % 7)::VARCHAR AS genres
				FROM range(${items}) AS r(i)`,
				files.items,
			),
		);
	} finally {
		database.close();
	}
	return files;
}
