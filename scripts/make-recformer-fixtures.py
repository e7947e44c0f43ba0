#!/usr/bin/env python3
"""Writes a folder for `npm run parity` with a tiny random RecFormer and what PyTorch computes of it.

    python3 scripts/make-recformer-fixtures.py test/parity/fixtures
    npm run parity -- test/parity/fixtures/recformer

An oracle, never a dependency: it wants torch and safetensors (CPU). The window of attention is a mask over full, dense
attention; parameters are named as the native class names them.
"""

import argparse
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CONFIG = {"kind": "bert", "vocabSize": 40, "hiddenSize": 12, "numLayers": 3, "numHeads": 3, "intermediateSize": 20,
          "maxPositions": 32, "typeVocabSize": 2, "layerNormEps": 1e-12, "activation": "gelu", "dropoutRate": 0.0,
          "window": 6, "maxItems": 5}
LENGTHS = [32, 1, 5, 17]
ITEMS = 9
TEMPERATURE = 0.05
LEARNING_RATE = 1e-2
ADAM = {"betas": (0.9, 0.999), "eps": 1e-3}
STEPS = 3


def linear(out: int, inside: int) -> nn.Linear:
    return nn.Linear(inside, out)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        c, f = CONFIG["hiddenSize"], CONFIG["intermediateSize"]

        def module(**parts):
            m = nn.Module()
            for name, part in parts.items():
                setattr(m, name, part)
            return m

        norm = lambda: nn.LayerNorm(c, eps=CONFIG["layerNormEps"])
        self.attention = module(
            self=module(query=linear(c, c), key=linear(c, c), value=linear(c, c)),
            output=module(dense=linear(c, c), LayerNorm=norm()))
        self.intermediate = module(dense=linear(f, c))
        self.output = module(dense=linear(c, f), LayerNorm=norm())

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        heads = CONFIG["numHeads"]
        n, c = x.shape
        own = getattr(self.attention, "self")
        q, k, v = (part(x).view(n, heads, c // heads).transpose(0, 1) for part in (own.query, own.key, own.value))
        scores = (q @ k.transpose(1, 2) / math.sqrt(c // heads)).masked_fill(~seen, -math.inf)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, c)
        x = self.attention.output.LayerNorm(x + self.attention.output.dense(attended))
        hidden = F.gelu(self.intermediate.dense(x))
        return self.output.LayerNorm(x + self.output.dense(hidden))


class RecFormer(nn.Module):
    def __init__(self):
        super().__init__()
        c = CONFIG["hiddenSize"]
        self.embeddings = nn.Module()
        for name, rows in (("word", CONFIG["vocabSize"]), ("position", CONFIG["maxPositions"]),
                           ("token_type", CONFIG["typeVocabSize"]), ("text_type", 3),
                           ("item_position", CONFIG["maxItems"] + 1)):
            setattr(self.embeddings, f"{name}_embeddings", nn.Embedding(rows, c))
        self.embeddings.LayerNorm = nn.LayerNorm(c, eps=CONFIG["layerNormEps"])
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer() for _ in range(CONFIG["numLayers"]))

    def states(self, ids: torch.Tensor, types: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        e = self.embeddings
        places = torch.arange(len(ids))
        x = e.LayerNorm(e.word_embeddings(ids) + e.position_embeddings(places) + e.token_type_embeddings.weight[0]
                        + e.text_type_embeddings(types) + e.item_position_embeddings(items))
        seen = (places[:, None] - places[None]).abs() <= CONFIG["window"] // 2
        seen[0, :] = True
        seen[:, 0] = True
        for layer in self.encoder.layer:
            x = layer(x, seen)
        return x

    def vectors(self, texts) -> torch.Tensor:
        return torch.stack([self.states(*text)[0] for text in texts])


def random_texts(lengths):
    return [(torch.randint(0, CONFIG["vocabSize"], (n,)),
             torch.tensor([0] + [1 + i // 2 % 2 for i in range(n - 1)]),
             torch.tensor([0] + [min(1 + i // 6, CONFIG["maxItems"]) for i in range(n - 1)])) for n in lengths]


def write_texts(expected, name, texts) -> None:
    expected[f"in.{name}.offsets"] = torch.tensor([0] + [len(ids) for ids, _, _ in texts]).cumsum(0)
    for i, part in enumerate(("ids", "types", "items")):
        expected[f"in.{name}.{part}"] = torch.cat([text[i] for text in texts])


def train(model, first, name, loss_of, expected) -> None:
    model.load_state_dict(first)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, **ADAM)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if step == 0:
            expected[f"{name}.loss"] = loss.detach()[None]
            if name == "ranking":
                for key, p in model.named_parameters():
                    expected[f"{name}.grad.{key}"] = p.grad.clone()
        optimizer.step()
    for key, p in model.named_parameters():
        expected[f"{name}.adam{STEPS}.{key}"] = p.detach().clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    folder = arguments.out / "recformer"
    folder.mkdir(parents=True, exist_ok=True)
    model = RecFormer()
    for name, p in model.named_parameters():
        if "LayerNorm.weight" in name:
            nn.init.normal_(p, mean=1.0, std=0.1)
        else:
            nn.init.normal_(p, std=0.3)
    first = {k: v.detach().clone() for k, v in model.state_dict().items()}
    histories, sentences = random_texts(LENGTHS), random_texts([4, 9, 7])
    items = torch.randn(ITEMS, CONFIG["hiddenSize"])
    targets, pairs = torch.tensor([3, 0, 8, 3]), torch.tensor([2, 0, 1, 2])
    expected = {"in.items": items, "in.targets": targets, "in.pairs": pairs}
    write_texts(expected, "histories", histories)
    write_texts(expected, "texts", histories + sentences)
    with torch.no_grad():
        expected["hidden_states"] = torch.cat([model.states(*text) for text in histories])
        expected["vectors"] = model.vectors(histories)
        scores = F.normalize(expected["vectors"], dim=-1) @ F.normalize(items, dim=-1).T
        before = (scores > scores.gather(1, targets[:, None])).sum(1)
        expected["ndcg"] = torch.where(before < 10, 1 / torch.log2(before + 2.0), 0.0).mean()[None]

    def ranking() -> torch.Tensor:
        logits = F.normalize(model.vectors(histories), dim=-1) @ F.normalize(items, dim=-1).T
        return F.cross_entropy(logits / TEMPERATURE, targets)

    def contrast() -> torch.Tensor:
        users = F.normalize(model.vectors(histories), dim=-1)
        logits = users @ F.normalize(model.vectors(sentences), dim=-1).T
        return F.cross_entropy(logits / TEMPERATURE, pairs)

    train(model, first, "ranking", ranking, expected)
    train(model, first, "contrast", contrast, expected)
    metadata = {"a-llmrec.recformer": json.dumps(CONFIG)}
    save_file(first, str(folder / "model.safetensors"), metadata=metadata)
    save_file({k: v.contiguous() for k, v in expected.items()}, str(folder / "expected.safetensors"))
    about = {"torch": torch.__version__, "learningRate": LEARNING_RATE, "beta1": ADAM["betas"][0],
             "beta2": ADAM["betas"][1], "eps": ADAM["eps"], "steps": STEPS, "temperature": TEMPERATURE}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")


main()
