#!/usr/bin/env python3
"""Writes folders for `npm run parity` with tiny random backbones of stage 0 and what PyTorch computes of them.

    python3 scripts/make-backbone-fixtures.py test/parity/fixtures
    npm run parity -- test/parity/fixtures/backbone_*

An oracle, never a dependency: it wants torch and safetensors (CPU). Each model is written as its paper and the common
public implementations have it; parameters are named as the native class names them.
"""

import argparse
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

ITEMS = 23
LENGTHS = [5, 1, 8, 3]
MAX_LENGTH = 8
SHARED_NEGATIVES = 7
LEARNING_RATE = 1e-2
ADAM = {"betas": (0.9, 0.98), "eps": 1e-3}
STEPS = 3


class GRU4Rec(nn.Module):
    """Item embedding, GRU, linear: the states after each item."""

    config = {"kind": "gru4rec", "numItems": ITEMS, "maxLength": MAX_LENGTH, "hiddenUnits": 6, "gruUnits": 9,
              "numLayers": 2, "dropoutRate": 0.0}

    def __init__(self):
        super().__init__()
        c = self.config
        self.item_embedding = nn.Embedding(ITEMS + 1, c["hiddenUnits"], padding_idx=0)
        self.gru_layers = nn.GRU(c["hiddenUnits"], c["gruUnits"], c["numLayers"], batch_first=True)
        self.dense = nn.Linear(c["gruUnits"], c["hiddenUnits"])

    def features(self, history: torch.Tensor) -> torch.Tensor:
        return self.dense(self.gru_layers(self.item_embedding(history[None]))[0])[0]


SEQUENCE_MODELS = {"gru4rec": GRU4Rec}


def sequence_losses(calibration: float):
    """Losses of features (P, d), item table, next items (P) and negatives, as their papers have them."""

    def bce(x, table, positives, negatives):
        up, down = (x * table[positives]).sum(-1), (x * table[negatives]).sum(-1)
        return F.softplus(-up).mean() + F.softplus(down).mean()

    def softmax(x, table, positives, _):
        return F.cross_entropy(x @ table[1:].T, positives - 1)

    def gbce(x, table, positives, negatives):
        k = len(negatives)
        alpha = k / (ITEMS - 1)
        beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
        up = beta * F.softplus(-(x * table[positives]).sum(-1))
        down = F.softplus(x @ table[negatives].T) * (negatives[None] != positives[:, None])
        return ((up + down.sum(-1)) / (k + 1)).mean()

    return {"bce": bce, "softmax": softmax, "gbce": gbce}


def write_sequence_model(out: pathlib.Path, name: str, make) -> None:
    folder = out / f"backbone_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    model = make()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    with torch.no_grad():
        model.item_embedding.weight[0] = 0
    first = {k: v.detach().clone() for k, v in model.state_dict().items()}
    save_file(first, str(folder / "model.safetensors"), metadata={"a-llmrec.backbone": json.dumps(model.config)})
    histories = [torch.randint(1, ITEMS + 1, (n,)) for n in LENGTHS]
    total = sum(LENGTHS)
    positives = torch.randint(1, ITEMS + 1, (total,))
    expected = {
        "in.offsets": torch.tensor([0, *LENGTHS]).cumsum(0),
        "in.values": torch.cat(histories),
        "in.positives": positives,
        "features": torch.cat([model.features(h) for h in histories]).detach(),
        "user_vectors": torch.stack([model.features(h)[-1] for h in histories]).detach(),
        "item_table": first["item_embedding.weight"],
    }
    calibration = 0.75
    training = {}
    for loss_name, loss_of in sequence_losses(calibration).items():
        count = {"bce": total, "softmax": 0, "gbce": SHARED_NEGATIVES}[loss_name]
        negatives = torch.randint(1, ITEMS + 1, (count,))
        if loss_name == "gbce":
            negatives[0] = positives[0]  # drawn by accident
        expected[f"in.{loss_name}.negatives"] = negatives
        training[loss_name] = {"loss": loss_name, "negatives": max(count, 1), "calibration": calibration}
        model.load_state_dict(first)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, **ADAM)
        for step in range(STEPS):
            optimizer.zero_grad()
            x = torch.cat([model.features(h) for h in histories])
            loss = loss_of(x, model.item_embedding.weight, positives, negatives)
            loss.backward()
            if step == 0:
                expected[f"{loss_name}.loss"] = loss.detach()[None]
                for key, p in model.named_parameters():
                    expected[f"{loss_name}.grad.{key}"] = p.grad.clone()
            model.item_embedding.weight.grad[0] = 0
            optimizer.step()
        for key, p in model.named_parameters():
            expected[f"{loss_name}.adam{STEPS}.{key}"] = p.detach().clone()
    save_file({k: v.contiguous() for k, v in expected.items()}, str(folder / "expected.safetensors"))
    about = {"torch": torch.__version__, "learningRate": LEARNING_RATE, "beta1": ADAM["betas"][0],
             "beta2": ADAM["betas"][1], "eps": ADAM["eps"], "steps": STEPS, "training": training}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, make in SEQUENCE_MODELS.items():
        torch.manual_seed(arguments.seed)
        write_sequence_model(arguments.out, name, make)


main()
