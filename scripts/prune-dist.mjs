// Removes from dist what was compiled from sources that are gone; part of `npm run build:ts`.
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(root, 'dist');
for (const entry of readdirSync(dist, { recursive: true, withFileTypes: true })) {
	const path = join(entry.parentPath ?? entry.path, entry.name);
	const source = /^(.*?)(\.d\.ts|\.js|\.js\.map)$/.exec(relative(dist, path))?.[1];
	if (entry.isFile() && source && !existsSync(join(root, `${source}.ts`))) rmSync(path);
}
