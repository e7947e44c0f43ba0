import { ALLMRecError } from '../errors.js';

const REMEDIES: Readonly<Record<string, string>> = {
	ENOSPC: 'make room on its disk',
	EDQUOT: 'make room on its disk',
	EROFS: 'allow writing there, or give another folder',
	EACCES: 'allow writing there, or give another folder',
	EPERM: 'allow writing there, or give another folder',
	ENOENT: 'its folder is not there; make it, or give another',
	ENOTDIR: 'its folder is not there; make it, or give another',
	ENAMETOOLONG: 'give a shorter name',
	EFBIG: 'give a folder whose file system and limits take files of this size',
	EMFILE: 'raise the limit of open files',
	ENFILE: 'raise the limit of open files',
	EIO: "its disk reports a fault; see the system's log",
};

/** The error of a file or folder that could not be written: the system's reason and what to do about it. */
export function writeError(path: string, cause: unknown): unknown {
	const { code, syscall, message } = cause as NodeJS.ErrnoException;
	if (cause instanceof ALLMRecError || typeof syscall !== 'string' || !code) return cause;
	const reason = /^\w+: ([^,]*)/.exec(message)?.[1] ?? code;
	const remedy = REMEDIES[code] ?? 'see to its disk, or give another folder';
	return new ALLMRecError(
		'ERR_ALLMREC_WRITE',
		`${path} cannot be written (${reason}); ${remedy}, then do the same again.`,
		{ cause },
	);
}

/**
 * Does what writes `path`.
 *
 * @throws ERR_ALLMREC_WRITE if the system refuses
 */
export async function writing<T>(path: string, work: () => Promise<T>): Promise<T> {
	try {
		return await work();
	} catch (cause) {
		throw writeError(path, cause);
	}
}
