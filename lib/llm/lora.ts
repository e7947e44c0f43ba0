import { join } from 'node:path';
import { z } from 'zod';
import { makeFolder, writeJson } from '../files/atomic.js';
import { assertReadable, type FileRules, readJson, unusable } from '../files/read.js';
import type { LoraConfig, NativeLora, OptConfig } from '../native/addon.js';
import { makeDescribed } from '../native/described.js';
import { guard, loaded, run, type Session } from '../native/session.js';

/** How large a low-rank adapter is. */
export const loraSchema = z.strictObject({
	/** Default 8. */
	rank: z.int().min(1).default(8),
	/** What B·A is multiplied with is alpha / rank. Default 16. */
	alpha: z.number().positive().default(16),
	/** Of the adapter's input, in training. Default 0.05. */
	dropout: z.number().min(0).lt(1).default(0.05),
});

export type LoraOptions = z.input<typeof loraSchema>;

const CONFIG = 'adapter_config.json';
const WEIGHTS = 'adapter_model.safetensors';
const RULES: FileRules = {
	code: 'ERR_ALLMREC_CHECKPOINT',
	remedy: 'give a folder of PEFT with a LoRA of q_proj and v_proj',
};

const none = z.union([z.null(), z.array(z.unknown()).length(0), z.strictObject({})]).optional();
/** Of `adapter_config.json`: what would change what is computed has to be what is computed here. */
const configSchema = z.looseObject({
	peft_type: z.literal('LORA'),
	r: z.int().min(1),
	lora_alpha: z.number().positive().finite(),
	lora_dropout: z.number().min(0).lt(1).default(0),
	target_modules: z
		.array(z.string())
		.refine((names) => [...names].sort().join() === 'q_proj,v_proj', 'expected q_proj and v_proj'),
	base_model_name_or_path: z.string().nullish(),
	bias: z.literal('none').default('none'),
	fan_in_fan_out: z.literal(false).default(false),
	use_rslora: z.literal(false).optional(),
	use_dora: z.literal(false).optional(),
	modules_to_save: none,
	layers_to_transform: none,
	rank_pattern: none,
	alpha_pattern: none,
});

/** A LoRA (Hu et al., 2022) of an OPT language model's query and value projections. */
export class LoraAdapter {
	readonly config: Readonly<LoraConfig>;
	/** The language model it was made for, as its folder says; empty where it does not. */
	readonly base: string;
	/** @internal */
	readonly native: NativeLora;

	private constructor(native: NativeLora, config: LoraConfig, base: string) {
		this.native = native;
		this.config = config;
		this.base = base;
	}

	/** A fresh adapter, which changes nothing yet. @param base name or path of the language model */
	static async create(
		session: Session,
		llm: Readonly<OptConfig>,
		{ rank, alpha, dropout }: z.output<typeof loraSchema>,
		{ base, seed }: { base: string; seed: number },
	): Promise<LoraAdapter> {
		const config: LoraConfig = {
			rank,
			alpha,
			dropout,
			hiddenSize: llm.hiddenSize,
			numLayers: llm.numLayers,
		};
		const native = guard(() => new session.addon.Lora(session.engine, config));
		await run((cancel) => native.initialise(seed, cancel));
		return new LoraAdapter(native, config, base);
	}

	/**
	 * Reads a folder of PEFT for a language model of the given shape.
	 *
	 * @throws ERR_ALLMREC_FILE_NOT_FOUND, ERR_ALLMREC_CHECKPOINT for another kind of adapter or of another model
	 */
	static async load(
		folder: string,
		session: Session,
		llm: Readonly<OptConfig>,
		signal?: AbortSignal,
	): Promise<LoraAdapter> {
		const path = join(folder, CONFIG);
		const weights = join(folder, WEIGHTS);
		const json = await readJson(path, configSchema, RULES);
		await assertReadable(weights);
		const { hiddenSize, numLayers } = llm;
		const config: LoraConfig = {
			rank: json.r,
			alpha: json.lora_alpha,
			dropout: json.lora_dropout,
			hiddenSize,
			numLayers,
		};
		const native = await makeDescribed(
			path,
			{ weights: 4 * numLayers * hiddenSize * json.r, files: [weights], rules: RULES },
			() => new session.addon.Lora(session.engine, config),
		);
		try {
			expectNoOthers(session, native, weights);
			await loaded(native, [weights], signal);
			return new LoraAdapter(native, config, json.base_model_name_or_path ?? '');
		} catch (error) {
			native.dispose();
			throw error;
		}
	}

	/** Writes `adapter_model.safetensors` and `adapter_config.json` as PEFT does. */
	async save(folder: string): Promise<void> {
		await makeFolder(folder);
		await run(() => this.native.save(join(folder, WEIGHTS), { format: 'pt' }, 'F32'));
		await writeJson(join(folder, CONFIG), {
			peft_type: 'LORA',
			task_type: 'CAUSAL_LM',
			base_model_name_or_path: this.base,
			r: this.config.rank,
			lora_alpha: this.config.alpha,
			lora_dropout: this.config.dropout,
			target_modules: ['q_proj', 'v_proj'],
			fan_in_fan_out: false,
			bias: 'none',
			inference_mode: true,
		});
	}

	/** Idempotent. A language model that computes with it goes on doing so. */
	dispose(): void {
		this.native.dispose();
	}
}

/** A tensor that would be ignored belongs to another adapter than this one. */
function expectNoOthers(session: Session, native: NativeLora, path: string): void {
	const known = new Set(native.parameters().map(({ name }) => name));
	const file = guard(() => session.addon.openTensorFile(path));
	try {
		const other = file.tensors().find(({ name }) => !known.has(name));
		if (other)
			throw unusable(path, `its tensor \`${other.name}\` is of no projection of this language model`, RULES);
	} finally {
		file.close();
	}
}
