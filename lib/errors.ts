/**
 * Stable codes of every error this library throws. `docs/errors.md` gives cause and remedy of each.
 */
export const ERROR_CODES = [
	'ERR_ALLMREC_INVALID_ARGUMENT',
	'ERR_ALLMREC_FILE_NOT_FOUND',
	'ERR_ALLMREC_FILE_FORMAT',
	'ERR_ALLMREC_CHECKPOINT',
	'ERR_ALLMREC_UNSUPPORTED',
	'ERR_ALLMREC_UNKNOWN_ITEM',
	'ERR_ALLMREC_UNKNOWN_USER',
	'ERR_ALLMREC_EMPTY_HISTORY',
	'ERR_ALLMREC_EMPTY_DATASET',
	'ERR_ALLMREC_PROMPT_TOO_LONG',
	'ERR_ALLMREC_TOO_FEW_ITEMS',
	'ERR_ALLMREC_DEVICE',
	'ERR_ALLMREC_DEVICE_LOST',
	'ERR_ALLMREC_OUT_OF_MEMORY',
	'ERR_ALLMREC_WRITE',
	'ERR_ALLMREC_LOCKED',
	'ERR_ALLMREC_NUMERIC',
	'ERR_ALLMREC_DISPOSED',
	'ERR_ALLMREC_RUN',
	'ERR_ALLMREC_ADDON_NOT_FOUND',
	'ERR_ALLMREC_DOWNLOAD',
	'ERR_ALLMREC_CANCELLED',
	'ERR_ALLMREC_INTERNAL',
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

/** Error with a stable {@link ErrorCode}; the native or system cause is kept in `cause`. */
export class ALLMRecError extends Error {
	override readonly name = 'ALLMRecError';

	constructor(
		readonly code: ErrorCode,
		message: string,
		options?: { cause?: unknown },
	) {
		super(message, options);
	}
}

/** Throws `ERR_ALLMREC_INVALID_ARGUMENT` in the house's wording: *Expected `name` to be …, got …*. */
export function invalidArgument(name: string, expected: string, got: unknown): never {
	throw new ALLMRecError(
		'ERR_ALLMREC_INVALID_ARGUMENT',
		`Expected \`${name}\` to be ${expected}, got ${describe(got)}.`,
	);
}

function describe(value: unknown): string {
	if (typeof value === 'string') return `\`${value}\` (string)`;
	if (typeof value === 'number' || typeof value === 'boolean' || value === null || value === undefined)
		return `\`${String(value)}\`${value === null || value === undefined ? '' : ` (${typeof value})`}`;
	return `a value of type ${Array.isArray(value) ? 'array' : typeof value}`;
}
