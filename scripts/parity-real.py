#!/usr/bin/env python3
"""Writes two folders for `npm run parity` in the sizes of real checkpoints: opt-125m and DistilBERT-base.

    python3 scripts/parity-real.py /tmp/parity-real        # about 800 MB
    npm run parity -- /tmp/parity-real

The weights are random, so nothing is downloaded; there are logits and pooled vectors to agree on, and no gradients.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import DistilBertConfig, DistilBertModel, OPTConfig, OPTForCausalLM

NOTE = "random weights in a real checkpoint's sizes; dropout 0"


def randomise(model: torch.nn.Module) -> None:
    """About the spread of trained weights: embeddings and matrices alike, norms around 1, biases around 0."""
    for name, p in model.named_parameters():
        with torch.no_grad():
            if p.dim() == 1:
                p.copy_(0.1 * torch.randn_like(p) + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0))
            else:
                p.copy_(0.05 * torch.randn_like(p))


def write(path: pathlib.Path, config: dict, weights: dict, expected: dict) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config, indent=1, default=str))
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, str(path / "model.safetensors"),
              metadata={"format": "pt"})
    save_file({k: v.detach().contiguous() for k, v in expected.items()}, str(path / "expected.safetensors"))
    (path / "expected.json").write_text(json.dumps({"versions": {"torch": torch.__version__}, "note": NOTE}))


def language_model(out: pathlib.Path) -> None:
    config = OPTConfig(vocab_size=50272, hidden_size=768, word_embed_proj_dim=768, num_hidden_layers=12,
                       num_attention_heads=12, ffn_dim=3072, max_position_embeddings=2048)
    model = OPTForCausalLM(config)
    randomise(model)
    model.tie_weights()
    model.eval()
    ids = torch.randint(4, 50265, (2, 96))
    left_ids, left_mask = ids.clone(), torch.ones_like(ids)
    left_ids[1, :40], left_mask[1, :40] = 1, 0
    candidates = torch.randint(4, 50265, (6, 7))
    with torch.no_grad():
        after = torch.cat([ids[:1].expand(6, -1), candidates], 1)
        log_probs = model(after).logits.log_softmax(-1)[:, ids.shape[1] - 1:-1]
        expected = {
            "ids": ids,
            "logits": model(ids).logits,
            "left_ids": left_ids,
            "left_mask": left_mask,
            "left_logits": model(left_ids, attention_mask=left_mask).logits,
            "cand": candidates,
            "cand_logp": log_probs.gather(-1, candidates[..., None])[..., 0],
        }
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight"}
    write(out / "opt-125m", {**config.to_dict(), "architectures": ["OPTForCausalLM"]}, weights, expected)


def sentence_encoder(out: pathlib.Path) -> None:
    config = DistilBertConfig(dropout=0.0, attention_dropout=0.0)
    model = DistilBertModel(config)
    randomise(model)
    model.eval()
    lengths = [128, 77, 31, 1]
    mask = (torch.arange(128) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(999, 30522, (4, 128)) * mask
    with torch.no_grad():
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    write(out / "distilbert-base", config.to_dict(), model.state_dict(),
          {"ids": ids, "mask": mask, "hidden": hidden, "pooled": pooled})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(2)
    language_model(a.out)
    sentence_encoder(a.out)


if __name__ == "__main__":
    main()
