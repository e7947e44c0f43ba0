import { type DeviceDescription, loadAddon, locateAddon } from './native/addon.js';
import { guard } from './native/session.js';

/** A device models can run on, or the reason why it cannot be used. */
export interface Device {
	/** `cpu` or `cuda`. */
	device: string;
	available: boolean;
	/** The maker's name for it. */
	name: string;
	/** Instruction set or architecture the kernels use: `avx512+vnni+bf16`, `avx512`, `avx2`, `generic`, `sm_90`, … */
	instruction: string;
	memoryBytes: number;
	/** CPU threads, or a card's multiprocessors. */
	threads: number;
	/** What it uses besides its own kernels, such as cuBLASLt, or why it does not; may be empty. */
	libraries: string;
	/** A reason code and a sentence when it is not available, else empty. */
	reason: string;
}

/** All devices this build knows of, usable or not. */
export function listDevices(): Device[] {
	return guard(() => loadAddon().listDevices()).map(({ backend, ...rest }: DeviceDescription) => ({
		device: backend,
		...rest,
	}));
}

/** The native addon in use. */
export interface AddonInfo {
	/** The package's version. */
	version: string;
	/** Its file. */
	path: string;
	/** `built` here from source, or `prebuilt`: carried by the package. */
	origin: 'built' | 'prebuilt';
	/** Instruction sets its kernels were compiled for, the plainest first; the best the processor can run is taken. */
	instructionSets: readonly string[];
}

/** @throws ERR_ALLMREC_ADDON_NOT_FOUND with the command that builds it */
export function addonInfo(): AddonInfo {
	const { addon, path, origin } = locateAddon();
	return { version: addon.version, path, origin, instructionSets: addon.instructionSets };
}
