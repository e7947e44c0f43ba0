import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ALLMRecError } from '../errors.js';

/** Names of the tiny checkpoints that come with the package; see the README for what they are. */
export const EMBEDDED_ENCODER = 'embedded:tiny-encoder';
export const EMBEDDED_LLM = 'embedded:tiny-opt';

/** The folder of an embedded checkpoint, or the source itself. @throws ERR_ALLMREC_FILE_NOT_FOUND */
export function resolveEmbedded(source: string): string {
	if (!source.startsWith('embedded:')) return source;
	const folder = join(packageFolder(), 'assets', source.slice('embedded:'.length));
	if (existsSync(join(folder, 'config.json'))) return folder;
	throw new ALLMRecError(
		'ERR_ALLMREC_FILE_NOT_FOUND',
		`The package has no embedded checkpoint \`${source}\`; the ones it has are ${EMBEDDED_ENCODER} and ${EMBEDDED_LLM}.`,
	);
}

/** dist/lib/recommend → the package. */
function packageFolder(): string {
	return join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
}
