#!/usr/bin/env python3
"""Writes test/llm/fixtures/generation.json: what transformers' `generate` gives for the two tiny OPT models of
test/parity/fixtures, greedily, by beam search and confined to a trie.

    python3 scripts/make-generation-fixtures.py

An oracle, never a dependency: it wants torch, transformers and safetensors (CPU). A case is written only if float32 and
float64 agree on its ids, so that no near tie decides; a case that they disagree on ends the script.
"""

import collections
import json
import pathlib

import torch
import transformers
from safetensors.torch import load_file
from transformers import OPTConfig, OPTForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("opt125m_like", "opt350m_like")
PAD = 1
NEW_TOKENS = 12


def load(name: str, dtype: torch.dtype) -> OPTForCausalLM:
    folder = ROOT / "test" / "parity" / "fixtures" / name
    config = json.loads((folder / "config.json").read_text())
    model = OPTForCausalLM(OPTConfig(**{k: v for k, v in config.items() if k not in ("architectures", "torch_dtype")}))
    weights = load_file(str(folder / "model.safetensors"))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all(name == "lm_head.weight" for name in missing), (missing, unexpected)
    model.tie_weights()
    return model.to(dtype).eval()


def prompts_of(vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, vocabulary, (length,), generator=generator).tolist() for length in (9, 1, 5)]


def trie_of(vocabulary: int) -> list[list[int]]:
    """Answers with common beginnings, one that begins another, one of a single token."""
    generator = torch.Generator().manual_seed(11)
    answers = [torch.randint(4, 4 + vocabulary // 8, (1 + n % 6,), generator=generator).tolist() for n in range(24)]
    return answers + [answers[5][:3]]


def run(model: OPTForCausalLM, prompts: list[list[int]], options: dict, answers: list[list[int]] | None):
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    eos = options["eos_token_id"]

    def allowed(_row: int, tokens: torch.Tensor) -> list[int]:
        done = tokens[longest:].tolist()
        if done and done[-1] in (eos, PAD):
            return [PAD]
        return sorted({a[len(done)] if len(done) < len(a) else eos for a in answers if a[:len(done)] == done})

    with torch.no_grad():
        out = model.generate(ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=PAD,
                             return_dict_in_generate=True, output_scores=True,
                             prefix_allowed_tokens_fn=allowed if answers else None, **options)
    rows = out.sequences[:, longest:].tolist()
    ended = [row[:row.index(eos) + 1] if eos in row else row for row in rows]
    per = options.get("num_return_sequences", 1)
    scores = out.sequences_scores.tolist() if options.get("num_beams", 1) > 1 else [None] * len(rows)
    return [ended[i:i + per] for i in range(0, len(ended), per)], [scores[i:i + per] for i in range(0, len(rows), per)]


def endings(model: OPTForCausalLM, prompts: list[list[int]]) -> list[int]:
    """Tokens that end a text in its middle, if they are the end token: what comes most often there."""
    ids, _ = run(model, prompts, {"eos_token_id": -1, "num_beams": 5, "num_return_sequences": 5}, None)
    count = collections.Counter(token for rows in ids for row in rows for token in row[2:9])
    return [token for token, _ in count.most_common(3)]


def cases(ends: list[int]):
    for penalty in (1.0, 1.3, 1.5):
        for eos in (-1, *ends):
            yield {"eos_token_id": eos, "repetition_penalty": penalty}, False
        yield {"eos_token_id": 2, "repetition_penalty": penalty}, True
    for beams in (2, 4, 5):
        for early in (False, True, "never"):
            for length_penalty in (-0.5, 1.0, 2.0):
                for eos in ends[:2]:
                    yield {"eos_token_id": eos, "num_beams": beams, "early_stopping": early,
                           "length_penalty": length_penalty, "num_return_sequences": 2}, False
        yield {"eos_token_id": ends[2], "num_beams": beams, "length_penalty": 0.0, "num_return_sequences": beams}, False
        yield {"eos_token_id": -1, "num_beams": beams}, False
        yield {"eos_token_id": ends[0], "num_beams": beams, "repetition_penalty": 1.3}, False


def main() -> None:
    result = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__},
              "new_tokens": NEW_TOKENS, "models": []}
    for name in FOLDERS:
        single, double = load(name, torch.float32), load(name, torch.float64)
        vocabulary = single.config.vocab_size
        prompts, answers = prompts_of(vocabulary), trie_of(vocabulary)
        written, left_out = [], 0
        for options, confined in cases(endings(single, prompts)):
            confinement = answers if confined else None
            # Padding counts as seen for a repetition penalty, so those prompts run alone.
            alone = options.get("repetition_penalty", 1.0) != 1.0
            batches = [[p] for p in prompts] if alone else [prompts]
            ids, scores = [], []
            for batch in batches:
                rows, numbers = run(single, batch, options, confinement)
                exact, _ = run(double, batch, options, confinement)
                if rows != exact:
                    left_out += 1
                    break
                ids += rows
                scores += numbers
            else:
                written.append({"options": options, "confined": confined, "ids": ids,
                                "scores": [[s if s is None else round(s, 6) for s in row] for row in scores]})
        print(f"{name}: {len(written)} cases, {left_out} near ties left out")
        assert left_out == 0
        result["models"].append({"name": name, "prompts": prompts, "answers": answers, "cases": written})
    path = ROOT / "test" / "llm" / "fixtures" / "generation.json"
    path.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
