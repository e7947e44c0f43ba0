import type { z } from 'zod';
import { nearest } from './data/nearest.js';
import { ALLMRecError } from './errors.js';

/**
 * Fills defaults and checks ranges.
 *
 * @throws ERR_ALLMREC_INVALID_ARGUMENT in the house's wording, with the nearest known name for a misspelled option.
 */
export function parseOptions<T extends z.ZodType>(schema: T, options: unknown, what: string): z.output<T> {
	const result = schema.safeParse(options);
	if (result.success) return result.data;
	const messages = result.error.issues.map((issue) => {
		const path = issue.path.join('.');
		if (issue.code === 'unrecognized_keys') {
			const known = knownKeys(schema, issue.path);
			return issue.keys
				.map((key) => {
					const near = nearest(key, known);
					return `unknown option \`${[...issue.path, key].join('.')}\`${near ? `, did you mean \`${near}\`?` : ''}`;
				})
				.join('; ');
		}
		return `\`${path}\`: ${issue.message}`;
	});
	throw new ALLMRecError('ERR_ALLMREC_INVALID_ARGUMENT', `Options of ${what}: ${messages.join('; ')}.`, {
		cause: result.error,
	});
}

function knownKeys(schema: z.ZodType, path: readonly PropertyKey[]): string[] {
	let current: unknown = schema;
	for (const key of path) current = shapeOf(current)?.[key as string];
	return Object.keys(shapeOf(current) ?? {});
}

function shapeOf(schema: unknown): Record<string, unknown> | undefined {
	let s = schema as { shape?: Record<string, unknown>; def?: { innerType?: unknown } } | undefined;
	while (s && !s.shape && s.def?.innerType) s = s.def.innerType as typeof s;
	return s?.shape;
}
