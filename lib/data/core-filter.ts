import type { Database } from './database.js';

/** What is left after one round of the k-core filter. */
export interface CoreRound {
	interactions: number;
	users: number;
	items: number;
}

/**
 * Keeps the rows of table `log` (`user_code, item_code, …`) whose user and item both have at least `k`
 * interactions. Users and items are counted together in each round; rounds are repeated until nothing
 * changes, or once for the count of the authors' code. The fixed point is the k-core, whatever the order.
 *
 * @returns the state after each round that dropped something, the last one being what `log` holds.
 */
export async function filterCore(
	database: Database,
	k: number,
	{ singlePass, onRound }: { singlePass: boolean; onRound?: (round: number) => void },
): Promise<CoreRound[]> {
	const rounds: CoreRound[] = [];
	if (k <= 1) return rounds;
	for (;;) {
		onRound?.(rounds.length + 1);
		await countInteractions(database);
		const [rareUsers = 0, rareItems = 0] = await database.numbers(
			`SELECT (SELECT count(*) FROM user_count WHERE n < ${k}), (SELECT count(*) FROM item_count WHERE n < ${k})`,
		);
		if (rareUsers + rareItems === 0) break;
		await database.run(`CREATE OR REPLACE TABLE kept AS SELECT log.* FROM log
			SEMI JOIN (SELECT user_code FROM user_count WHERE n >= ${k}) USING (user_code)
			SEMI JOIN (SELECT item_code FROM item_count WHERE n >= ${k}) USING (item_code)`);
		await database.run('DROP TABLE log');
		await database.run('ALTER TABLE kept RENAME TO log');
		const [interactions = 0, users = 0, items = 0] = await database.numbers(
			'SELECT count(*), count(DISTINCT user_code), count(DISTINCT item_code) FROM log',
		);
		rounds.push({ interactions, users, items });
		if (singlePass || interactions === 0) break;
	}
	return rounds;
}

async function countInteractions(database: Database): Promise<void> {
	for (const side of ['user', 'item'])
		await database.run(
			`CREATE OR REPLACE TEMP TABLE ${side}_count AS SELECT ${side}_code, count(*) AS n FROM log GROUP BY ${side}_code`,
		);
}
