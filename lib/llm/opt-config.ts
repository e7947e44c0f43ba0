import { join } from 'node:path';
import { ALLMRecError } from '../errors.js';
import type { LlmDtype, OptConfig } from '../native/addon.js';
import { ConfigReader } from '../text/checkpoint.js';

/** How weights can be stored. */
export const LLM_DTYPES: readonly LlmDtype[] = ['float32', 'bfloat16', 'float16', 'int8', 'int4'];

/** By the names transformers gives them. */
const ACTIVATIONS: ReadonlyMap<string, OptConfig['activation']> = new Map([
	['relu', 'relu'],
	['gelu', 'gelu'],
	['gelu_python', 'gelu'],
	['gelu_new', 'gelu_tanh'],
	['gelu_fast', 'gelu_tanh'],
	['gelu_pytorch_tanh', 'gelu_tanh'],
]);

/** The field of `config.json` that names the dtype of a folder written by `quantizeCheckpoint`. */
export const STORED_FIELD = 'allmrec_weights';
const STORED_VERSION = 1;

/** Of a Hugging Face `config.json`. @throws ERR_ALLMREC_CHECKPOINT for a model that is not OPT. */
export function optConfig(json: Record<string, unknown>, folder: string): OptConfig {
	const c = new ConfigReader(json, folder);
	const fail = (what: string): never => {
		throw new ALLMRecError(
			'ERR_ALLMREC_CHECKPOINT',
			`${join(folder, 'config.json')} has ${what}; language models can be of the OPT family (facebook/opt-125m … opt-66b, Galactica).`,
		);
	};
	const type = c.text('model_type');
	if (type !== 'opt') fail(`the model type \`${type}\``);
	if (json.quantization_config !== undefined && json.quantization_config !== null)
		fail('weights quantised by another program (`quantization_config`); give the original checkpoint');
	const activation = c.text('activation_function', 'relu');
	const hiddenSize = c.integer('hidden_size');
	return {
		vocabSize: c.integer('vocab_size'),
		hiddenSize,
		embedSize: c.integer('word_embed_proj_dim', hiddenSize),
		numLayers: c.integer('num_hidden_layers'),
		numHeads: c.integer('num_attention_heads'),
		ffnSize: c.integer('ffn_dim'),
		maxPositions: c.integer('max_position_embeddings'),
		normBefore: c.boolean('do_layer_norm_before', true),
		finalNorm: !c.boolean('_remove_final_layer_norm', false),
		activation: ACTIVATIONS.get(activation) ?? fail(`the activation \`${activation}\``),
		bias: c.boolean('enable_bias', true),
		normAffine: c.boolean('layer_norm_elementwise_affine', true),
		tiedHead: c.boolean('tie_word_embeddings', true),
	};
}

/** The dtype of a folder written by `quantizeCheckpoint`; undefined for any other. @throws ERR_ALLMREC_CHECKPOINT */
export function storedDtype(json: Record<string, unknown>, folder: string): LlmDtype | undefined {
	const stored = json[STORED_FIELD] as { version?: unknown; dtype?: unknown } | undefined;
	if (stored === undefined) return undefined;
	const dtype = LLM_DTYPES.find((name) => name === stored?.dtype);
	if (stored?.version === STORED_VERSION && dtype) return dtype;
	throw new ALLMRecError(
		'ERR_ALLMREC_CHECKPOINT',
		`${join(folder, 'config.json')}: \`${STORED_FIELD}\` is damaged or of a newer version; quantise the original checkpoint again.`,
	);
}

/** What {@link storedDtype} reads. */
export function storedField(dtype: LlmDtype): Record<string, unknown> {
	return { [STORED_FIELD]: { version: STORED_VERSION, dtype } };
}

/** The `config.json` of a language model. */
export function huggingFaceOptConfig(c: OptConfig): Record<string, unknown> {
	return {
		_remove_final_layer_norm: !c.finalNorm,
		activation_function: c.activation === 'gelu_tanh' ? 'gelu_new' : c.activation,
		architectures: ['OPTForCausalLM'],
		attention_dropout: 0,
		bos_token_id: 2,
		do_layer_norm_before: c.normBefore,
		dropout: 0,
		enable_bias: c.bias ?? true,
		eos_token_id: 2,
		ffn_dim: c.ffnSize,
		hidden_size: c.hiddenSize,
		layer_norm_elementwise_affine: c.normAffine ?? true,
		max_position_embeddings: c.maxPositions,
		model_type: 'opt',
		num_attention_heads: c.numHeads,
		num_hidden_layers: c.numLayers,
		pad_token_id: 1,
		tie_word_embeddings: c.tiedHead ?? true,
		vocab_size: c.vocabSize,
		word_embed_proj_dim: c.embedSize,
	};
}
