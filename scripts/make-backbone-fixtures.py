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


class NextItNet(nn.Module):
    """Residual blocks of two dilated causal convolutions, linear."""

    config = {"kind": "nextitnet", "numItems": ITEMS, "maxLength": MAX_LENGTH, "hiddenUnits": 6, "numBlocks": 3,
              "kernelSize": 3}

    def __init__(self):
        super().__init__()
        c, taps = 6, 3
        self.item_embedding = nn.Embedding(ITEMS + 1, c, padding_idx=0)
        self.blocks = nn.ModuleList()
        for i in range(self.config["numBlocks"]):
            block = nn.Module()
            for part in (1, 2):
                conv = nn.Module()
                conv.weight = nn.Parameter(torch.empty(taps, c, c))  # (taps, out, in)
                conv.bias = nn.Parameter(torch.empty(c))
                conv.dilation = (1, 4)[i % 2] * part
                setattr(block, f"conv{part}", conv)
                setattr(block, f"norm{part}", nn.LayerNorm(c, eps=1e-8))
            self.blocks.append(block)
        self.dense = nn.Linear(c, c)

    def features(self, history: torch.Tensor) -> torch.Tensor:
        x = self.item_embedding(history)
        for block in self.blocks:
            y = x
            for part in (1, 2):
                conv = getattr(block, f"conv{part}")
                past = F.pad(y.T[None], ((conv.weight.shape[0] - 1) * conv.dilation, 0))
                y = F.conv1d(past, conv.weight.permute(1, 2, 0), conv.bias, dilation=conv.dilation)[0].T
                y = F.relu(getattr(block, f"norm{part}")(y))
            x = x + y
        return self.dense(x)


SEQUENCE_MODELS = {"gru4rec": GRU4Rec, "nextitnet": NextItNet}

USERS = 11
D = 6


def table(out: nn.Module, rows: int, width: int, name: str) -> None:
    setattr(out, f"{name}_embedding", nn.Embedding(rows, width))


def bpr(user, liked, other):
    return F.softplus(-(user * (liked - other)).sum(-1)).mean()


class BprMf(nn.Module):
    """Embeddings of users and items; score = their product."""

    config = {"kind": "bprmf", "numItems": ITEMS, "numUsers": USERS, "hiddenUnits": D}
    options = {}
    negatives = 1

    def __init__(self, train):
        super().__init__()
        table(self, USERS, D, "user")
        table(self, ITEMS + 1, D, "item")

    def tables(self):
        return self.user_embedding.weight, self.item_embedding.weight

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        return bpr(u[users], i[positives], i[negatives])


class Ncf(nn.Module):
    """Two towers over embeddings; binary cross-entropy with drawn negatives."""

    config = {"kind": "ncf", "numItems": ITEMS, "numUsers": USERS, "hiddenUnits": D, "embeddingSize": 5,
              "towerUnits": 7}
    options = {"negatives": 3}
    negatives = 3

    def __init__(self, train):
        super().__init__()
        table(self, USERS, 5, "user")
        table(self, ITEMS + 1, 5, "item")
        self.user_tower = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, D))
        self.item_tower = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, D))

    def tables(self):
        items = self.item_tower(self.item_embedding.weight)
        return self.user_tower(self.user_embedding.weight), items * (torch.arange(ITEMS + 1) > 0)[:, None]

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        up = (u[users] * i[positives]).sum(-1)
        down = (u[users][:, None] * i[negatives.view(len(users), -1)]).sum(-1)
        return F.binary_cross_entropy_with_logits(torch.cat([up[:, None], down], 1),
                                                  torch.tensor([1.0] + [0.0] * self.negatives).expand(len(users), -1))


class LightGcn(nn.Module):
    """Propagation by the dense normalised adjacency, mean over layers; BPR and ½ λ‖e⁰‖² a mean over examples."""

    config = {"kind": "lightgcn", "numItems": ITEMS, "numUsers": USERS, "hiddenUnits": D, "numLayers": 3}
    options = {"regularisation": 0.05}
    negatives = 1

    def __init__(self, train):
        super().__init__()
        self.embedding = nn.Embedding(USERS + ITEMS + 1, D)
        a = torch.zeros(USERS + ITEMS + 1, USERS + ITEMS + 1)
        for user, items in enumerate(train):
            for item in items.tolist():
                a[user, USERS + item] = a[USERS + item, user] = 1
        degrees = a.sum(1).clamp(min=1)
        self.adjacency = a / (degrees[:, None] * degrees[None]).sqrt()

    def tables(self):
        powers = [self.embedding.weight]
        for _ in range(self.config["numLayers"]):
            powers.append(self.adjacency @ powers[-1])
        u, i = torch.stack(powers).mean(0).split([USERS, ITEMS + 1])
        return u, i * (torch.arange(ITEMS + 1) > 0)[:, None]

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        e = self.embedding.weight
        begun = sum((e[rows] ** 2).sum() for rows in (users, USERS + positives, USERS + negatives))
        return bpr(u[users], i[positives], i[negatives]) + self.options["regularisation"] * begun / 2 / len(users)


class NeuMf(nn.Module):
    """Matrix factorisation and a perceptron side by side, one linear layer over both."""

    config = {"kind": "neumf", "numItems": ITEMS, "numUsers": USERS, "hiddenUnits": D, "towerUnits": 7}
    options = {"negatives": 3}
    negatives = 3

    def __init__(self, train):
        super().__init__()
        half = D // 2
        table(self, USERS, D, "user")
        table(self, ITEMS + 1, D, "item")
        first = nn.Module()
        first.user_weight = nn.Parameter(torch.empty(7, half))
        first.item_weight = nn.Parameter(torch.empty(7, half))
        first.bias = nn.Parameter(torch.empty(7))
        self.mlp = nn.ModuleList([first, nn.ReLU(), nn.Linear(7, half)])
        self.predict = nn.Module()
        self.predict.gmf_weight = nn.Parameter(torch.empty(1, half))
        self.predict.mlp_weight = nn.Parameter(torch.empty(1, half))
        self.predict.bias = nn.Parameter(torch.empty(1))

    def tables(self):
        return self.user_embedding.weight, self.item_embedding.weight

    def logits(self, u, i):
        half = D // 2
        first = self.mlp[0]
        joined = torch.cat([u[..., half:], i[..., half:]], -1)
        hidden = F.relu(F.linear(joined, torch.cat([first.user_weight, first.item_weight], 1), first.bias))
        both = torch.cat([u[..., :half] * i[..., :half], F.relu(self.mlp[2](hidden))], -1)
        return F.linear(both, torch.cat([self.predict.gmf_weight, self.predict.mlp_weight], 1),
                        self.predict.bias)[..., 0]

    def scores(self, u, i):
        return self.logits(u[:, None].expand(-1, len(i), -1), i[None].expand(len(u), -1, -1))

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        items = torch.cat([positives[:, None], negatives.view(len(users), -1)], 1)
        logits = self.logits(u[users][:, None].expand(-1, items.shape[1], -1), i[items])
        labels = torch.tensor([1.0] + [0.0] * self.negatives).expand(len(users), -1)
        return F.binary_cross_entropy_with_logits(logits, labels)


INTERACTION_MODELS = {"bprmf": BprMf, "ncf": Ncf, "lightgcn": LightGcn, "neumf": NeuMf}


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

    def sampled_softmax(x, table, positives, negatives):
        others = (x @ table[negatives].T).masked_fill(negatives[None] == positives[:, None], float("-inf"))
        logits = torch.cat([(x * table[positives]).sum(-1, keepdim=True), others], 1)
        return F.cross_entropy(logits, torch.zeros_like(positives))

    return {"bce": bce, "softmax": softmax, "gbce": gbce, "sampledSoftmax": sampled_softmax}


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
        count = {"bce": total, "softmax": 0}.get(loss_name, SHARED_NEGATIVES)
        negatives = torch.randint(1, ITEMS + 1, (count,))
        if count == SHARED_NEGATIVES:
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


def write_interaction_model(out: pathlib.Path, name: str, make) -> None:
    folder = out / f"backbone_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    train = [torch.randint(1, ITEMS + 1, (int(torch.randint(1, 7, ())),)) for _ in range(USERS)]
    model = make(train)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    with torch.no_grad():
        (model.embedding.weight[USERS] if name == "lightgcn" else model.item_embedding.weight[0]).zero_()
    users = torch.randint(0, USERS, (9,))
    positives = torch.randint(1, ITEMS + 1, (9,))
    negatives = torch.randint(1, ITEMS + 1, (9 * make.negatives,))
    first = {k: v.detach().clone() for k, v in model.state_dict().items()}
    expected = {
        "in.train.offsets": torch.tensor([0, *map(len, train)]).cumsum(0),
        "in.train.values": torch.cat(train),
        "in.users": users,
        "in.positives": positives,
        "in.loss.negatives": negatives,
    }
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, **ADAM)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = model.loss(users, positives, negatives)
        loss.backward()
        if step == 0:
            expected["loss.loss"] = loss.detach()[None]
            for key, p in model.named_parameters():
                expected[f"loss.grad.{key}"] = p.grad.clone()
        optimizer.step()
    for key, p in model.named_parameters():
        expected[f"loss.adam{STEPS}.{key}"] = p.detach().clone()
    user_table, item_table = (t.detach() for t in model.tables())
    expected["after.users"], expected["after.items"] = user_table, item_table
    scores = getattr(model, "scores", lambda u, i: u @ i.T)
    expected["after.scores"] = scores(user_table, item_table[1:]).detach()
    # W · mean of the history's items + b, by ridge regression over the users as they are after training.
    means = torch.stack([item_table[items].double().mean(0) for items in train])
    x = torch.cat([means, torch.ones(USERS, 1, dtype=torch.float64)], 1)
    a = x.T @ x
    a += torch.diag(torch.tensor([1e-3 * a.diagonal()[:D].sum() / D] * D + [0.0], dtype=torch.float64))
    expected["after.folded"] = (x @ torch.linalg.solve(a, x.T @ user_table.double())).float()
    save_file(first, str(folder / "model.safetensors"), metadata={"a-llmrec.backbone": json.dumps(model.config)})
    save_file({k: v.contiguous() for k, v in expected.items()}, str(folder / "expected.safetensors"))
    about = {"torch": torch.__version__, "learningRate": LEARNING_RATE, "beta1": ADAM["betas"][0],
             "beta2": ADAM["betas"][1], "eps": ADAM["eps"], "steps": STEPS, "training": {"loss": make.options}}
    (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, make in SEQUENCE_MODELS.items():
        torch.manual_seed(arguments.seed)
        write_sequence_model(arguments.out, name, make)
    for name, make in INTERACTION_MODELS.items():
        torch.manual_seed(arguments.seed)
        write_interaction_model(arguments.out, name, make)


main()
