import { type BaselineRequest, checkRequest } from '../../baselines/request.js';
import type { Split } from '../../data/split.js';

/** The floor under every recommender: an item's score is how often it was chosen in the training part, whoever asks. */
export class Popularity {
	/** (numItems + 1), training interactions; entry 0 is the padding. */
	readonly counts: Int32Array;

	private constructor(counts: Int32Array) {
		this.counts = counts;
	}

	static of(split: Split): Popularity {
		return new Popularity(split.itemCounts);
	}

	/** (users × width) counts of the candidates. @throws ERR_ALLMREC_INVALID_ARGUMENT, ERR_ALLMREC_UNKNOWN_ITEM */
	async score(request: BaselineRequest): Promise<Float32Array> {
		checkRequest(request, this.counts.length - 1);
		return Float32Array.from(request.candidates, (item) => this.counts[item]!);
	}
}
