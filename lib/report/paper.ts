/**
 * Figures that others published, to be shown beside ours and always marked as theirs: A-LLMRec (KDD 2024,
 * arXiv 2404.11343), Hit@1 of the target among 1 + 19 candidates, by the authors' protocol and code. That protocol looks
 * for the answer in generated text, so their figures and ours do not measure quite the same thing.
 */
export const PAPER = 'A-LLMRec, KDD 2024 (arXiv 2404.11343)';

/** Names that a data set of the paper goes by, as letters and digits only. */
const DATASETS: Record<string, readonly string[]> = {
	'Movies and TV': ['moviesandtv', 'moviestv', 'amazonmoviesandtv'],
	'Video Games': ['videogames', 'amazonvideogames'],
	Beauty: ['luxurybeauty', 'beauty', 'amazonluxurybeauty', 'amazonbeauty'],
	Toys: ['toys', 'toysandgames', 'amazontoys', 'amazontoysandgames'],
};

const MODELS = [
	'NCF',
	'NextItNet',
	'GRU4Rec',
	'SASRec',
	'MoRec',
	'CTRL',
	'RECFORMER',
	'LLM-Only',
	'TALLRec',
	'MLP-LLM',
	'A-LLMRec',
] as const;

/** Table 2 of the paper: rows are data sets, columns {@link MODELS}. */
const OVERALL: Record<string, readonly number[]> = {
	'Movies and TV': [0.4273, 0.5855, 0.5215, 0.6154, 0.413, 0.3467, 0.4865, 0.0121, 0.2345, 0.5838, 0.6237],
	'Video Games': [0.3159, 0.4305, 0.4026, 0.5402, 0.4894, 0.2354, 0.4925, 0.0168, 0.4403, 0.4788, 0.5282],
	Beauty: [0.2957, 0.4231, 0.4131, 0.5298, 0.4997, 0.3963, 0.4878, 0.012, 0.5542, 0.5548, 0.5809],
	Toys: [0.1849, 0.1415, 0.1673, 0.2359, 0.1728, 0.1344, 0.2871, 0.0141, 0.071, 0.3225, 0.3336],
};

/** A published table. */
export interface PaperTable {
	title: string;
	columns: readonly string[];
	rows: readonly { name: string; values: readonly (number | null)[] }[];
	source: string;
}

/** Ours stand beside these where the name of the data set matches; here they all are. */
export const PAPER_TABLES: readonly PaperTable[] = [
	{
		title: 'Hit@1 by data set',
		columns: MODELS,
		rows: Object.entries(OVERALL).map(([name, values]) => ({ name, values })),
		source: PAPER,
	},
	{
		title: 'Hit@1 of scenarios',
		columns: ['SASRec', 'A-LLMRec', 'A-LLMRec (SBERT)'],
		rows: [
			{ name: 'Beauty, cold items', values: [0.119, 0.5605, 0.5591] },
			{ name: 'Beauty, warm items', values: [0.6312, 0.6414, 0.6405] },
			{ name: 'Beauty, few-shot, K = 128', values: [0.1813, 0.3099, 0.3486] },
			{ name: 'Movies and TV → Video Games', values: [0.0506, 0.0901, 0.1203] },
		],
		source: PAPER,
	},
	{
		title: 'Hit@1 of ablations, Beauty',
		columns: ['A-LLMRec'],
		rows: [
			{ name: 'full', values: [0.5809] },
			{ name: 'no matching', values: [0.5548] },
			{ name: 'no reconstruction', values: [0.5327] },
			{ name: 'no L_rec', values: [0.5523] },
			{ name: 'frozen SBERT', values: [0.5565] },
			{ name: 'no user vector', values: [0.5547] },
			{ name: 'no joint embedding', values: [0.5213] },
		],
		source: PAPER,
	},
	{
		title: 'Speed, Beauty, one A6000',
		columns: ['A-LLMRec', 'TALLRec'],
		rows: [
			{ name: 'training, minutes', values: [232.5, 588.6] },
			{ name: 'inference, seconds per batch of 4', values: [1.98, 3.36] },
		],
		source: PAPER,
	},
	{
		title: 'By likelihood ranking, Luxury Beauty, OPT-6.7B int8',
		columns: ['Hit@1', 'NDCG@10', 'cold Hit@1', 'warm Hit@1'],
		rows: [
			{ name: 'SASRec', values: [0.505, 0.645, 0.169, 0.71] },
			{ name: 'A-LLMRec', values: [0.6, 0.712, 0.492, 0.666] },
			{ name: 'popularity-gated fusion', values: [0.622, null, null, null] },
		],
		source: 'an independent reproduction, not the paper',
	},
];

/** What the paper calls models of ours, by plain name. */
const ALIASES: Record<string, string> = { allmrece: 'allmrec', allmrecq: 'allmrecsbert' };

const plain = (name: string) => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/** The paper's name of a data set, if it is one of the paper's. */
export function paperDataset(name: string): string | undefined {
	return Object.keys(DATASETS).find((dataset) => DATASETS[dataset]!.includes(plain(name)));
}

/** What is asked of {@link paperHit1}; data set and model by our names. */
export interface PaperQuestion {
	dataset: string;
	scenario: string;
	slice: string;
	negatives: number | null;
	model: string;
}

/** The paper's Hit@1 of the same model, data set, slice and number of negatives. */
export function paperHit1({ dataset, scenario, slice, negatives, model }: PaperQuestion): number | undefined {
	const name = paperDataset(dataset);
	if (!name || scenario !== 'overall' || negatives !== 19) return undefined;
	const wanted = ALIASES[plain(model)] ?? plain(model);
	const among = (columns: readonly string[]) => columns.findIndex((known) => plain(known) === wanted);
	if (slice === 'overall') return OVERALL[name]![among(MODELS)];
	const { columns, rows } = PAPER_TABLES[1]!;
	return rows.find((row) => row.name === `${name}, ${slice} items`)?.values[among(columns)] ?? undefined;
}
