#!/usr/bin/env python3
"""Trains the backbones of stage 0 in PyTorch, to hold the quality of the native ones against.

    node dist/scripts/backbone-quality.js DATASET --export task.json
    python3 scripts/backbone-quality.py task.json [--kinds gru4rec bprmf …] [--seeds 3] [--threads 1]

An oracle, never a dependency: it wants torch and numpy (CPU). Each model is an ordinary PyTorch module, trained by an
ordinary loop with torch's own generator: the same data, options, stopping rule and candidates as the native training,
and nothing else in common with it. SASRec is that of bench/peers/sasrec.py.
"""

import argparse
import copy
import json
import math
import pathlib
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench" / "peers"))


def embedding(rows, width, std=None):
    """Xavier's normal distribution, or a given deviation; row 0 is padding."""
    table = nn.Embedding(rows, width)
    nn.init.xavier_normal_(table.weight) if std is None else nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[0] = 0
    return table


class GRU4Rec(nn.Module):
    def __init__(self, task, o):
        super().__init__()
        self.item_emb = embedding(task.items + 1, o["hiddenUnits"])
        self.dropout = nn.Dropout(o["dropoutRate"])
        self.gru = nn.GRU(o["hiddenUnits"], o["gruUnits"], o["numLayers"], batch_first=True)
        self.dense = nn.Linear(o["gruUnits"], o["hiddenUnits"])

    def features(self, histories):
        return self.dense(self.gru(self.dropout(self.item_emb(torch.from_numpy(histories))))[0])


class NextItNet(nn.Module):
    def __init__(self, task, o):
        super().__init__()
        d, taps = o["hiddenUnits"], o["kernelSize"]
        self.item_emb = embedding(task.items + 1, d)
        dilations = [(1, 4)[block % 2] * part for block in range(o["numBlocks"]) for part in (1, 2)]
        self.convs = nn.ModuleList(nn.Conv1d(d, d, taps, dilation=dilation) for dilation in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(d, eps=1e-8) for _ in dilations)
        self.dense = nn.Linear(d, d)

    def features(self, histories):
        x = self.item_emb(torch.from_numpy(histories))
        residual = x
        for at, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            past = F.pad(x.transpose(1, 2), ((conv.kernel_size[0] - 1) * conv.dilation[0], 0))
            x = F.relu(norm(conv(past).transpose(1, 2)))
            if at % 2:
                x = residual = residual + x
        return self.dense(x)


class SASRec(nn.Module):
    def __init__(self, task, o):
        super().__init__()
        from sasrec import SASRec as Peer

        self.peer = Peer(task.items, o["maxLength"], o["hiddenUnits"], o["numBlocks"], o["numHeads"], o["dropoutRate"])
        self.item_emb = self.peer.item_emb

    def features(self, histories):
        return self.peer.features(histories)


class BPRMF(nn.Module):
    def __init__(self, task, o):
        super().__init__()
        self.users, self.items = embedding(task.users, o["hiddenUnits"]), embedding(task.items + 1, o["hiddenUnits"])
        nn.init.xavier_normal_(self.users.weight)

    def tables(self):
        return self.users.weight, self.items.weight

    def scores(self, user, item):
        return (user * item).sum(-1)

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        up, down = self.scores(u[users], i[positives]), self.scores(u[users], i[negatives[:, 0]])
        return F.softplus(down - up).mean()


class LightGCN(BPRMF):
    def __init__(self, task, o):
        nn.Module.__init__(self)
        self.o, self.num_users = o, task.users
        nodes = task.users + task.items + 1
        self.embedding = nn.Embedding(nodes, o["hiddenUnits"])
        nn.init.normal_(self.embedding.weight, std=0.1)
        edges = np.array(sorted({(u, task.users + i) for u, row in enumerate(task.train) for i in row})).T
        both = torch.from_numpy(np.concatenate([edges, edges[::-1]], 1))
        degrees = torch.bincount(both[0], minlength=nodes).clamp(min=1).float()
        weights = 1 / (degrees[both[0]] * degrees[both[1]]).sqrt()
        self.adjacency = torch.sparse_coo_tensor(both, weights, (nodes, nodes)).coalesce().to_sparse_csr()

    def tables(self):
        powers = [self.embedding.weight]
        for _ in range(self.o["numLayers"]):
            powers.append(self.adjacency @ powers[-1])
        mean = torch.stack(powers).mean(0)
        return mean[: self.num_users], mean[self.num_users :]

    def loss(self, users, positives, negatives):
        e = self.embedding.weight
        rows = (users, self.num_users + positives, self.num_users + negatives[:, 0])
        begun = sum((e[r] ** 2).sum() for r in rows)
        return super().loss(users, positives, negatives) + self.o["regularisation"] * begun / 2 / len(users)


class NCF(BPRMF):
    def __init__(self, task, o):
        nn.Module.__init__(self)
        e, h, d = o["embeddingSize"], o["towerUnits"], o["hiddenUnits"]
        self.users, self.items = embedding(task.users, e), embedding(task.items + 1, e)
        nn.init.xavier_normal_(self.users.weight)
        self.user_tower = nn.Sequential(nn.Linear(e, h), nn.ReLU(), nn.Linear(h, d))
        self.item_tower = nn.Sequential(nn.Linear(e, h), nn.ReLU(), nn.Linear(h, d))

    def tables(self):
        return self.user_tower(self.users.weight), self.item_tower(self.items.weight)

    def loss(self, users, positives, negatives):
        u, i = self.tables()
        items = torch.cat([positives[:, None], negatives], 1)
        logits = self.scores(u[users][:, None], i[items])
        labels = torch.zeros_like(logits)
        labels[:, 0] = 1
        return F.binary_cross_entropy_with_logits(logits, labels)


class NeuMF(NCF):
    def __init__(self, task, o):
        nn.Module.__init__(self)
        self.half = o["hiddenUnits"] // 2
        self.users = embedding(task.users, o["hiddenUnits"], 0.01)
        self.items = embedding(task.items + 1, o["hiddenUnits"], 0.01)
        nn.init.normal_(self.users.weight, std=0.01)
        self.mlp = nn.Sequential(nn.Linear(2 * self.half, o["towerUnits"]), nn.ReLU(),
                                 nn.Linear(o["towerUnits"], self.half), nn.ReLU())
        self.predict = nn.Linear(2 * self.half, 1)

    def tables(self):
        return self.users.weight, self.items.weight

    def scores(self, user, item):
        user, item = torch.broadcast_tensors(user, item)
        joined = torch.cat([user[..., self.half :], item[..., self.half :]], -1)
        both = torch.cat([user[..., : self.half] * item[..., : self.half], self.mlp(joined)], -1)
        return self.predict(both)[..., 0]


SEQUENCE = {"gru4rec": GRU4Rec, "nextitnet": NextItNet, "sasrec": SASRec}
INTERACTION = {"bprmf": BPRMF, "lightgcn": LightGCN, "ncf": NCF, "neumf": NeuMF}


class Task:
    def __init__(self, path):
        task = json.loads(pathlib.Path(path).read_text())
        self.train, self.items, self.options = task["train"], task["items"], task["options"]
        self.users = len(self.train)
        self.known = np.zeros((self.users, self.items + 1), dtype=bool)  # none of these is drawn as a negative
        for user, row in enumerate(task["known"]):
            self.known[user, row] = True
        self.validation, self.test = task["validation"], task["test"]

    def negatives(self, users, random):
        """An item for each user of an array that this user never chose."""
        drawn = random.integers(1, self.items + 1, users.shape)
        while (again := self.known[users, drawn]).any():
            drawn[again] = random.integers(1, self.items + 1, int(again.sum()))
        return drawn


def padded(rows, length, left):
    batch = np.zeros((len(rows), length), dtype=np.int64)
    for at, row in enumerate(rows):
        row = row[-length:]
        first = length - len(row) if left else 0
        batch[at, first : first + len(row)] = row
    return batch


class SequenceTrainer:
    """Whole histories, one uniform negative per position, binary cross-entropy."""

    def __init__(self, kind, task, o):
        self.kind, self.task, self.o = kind, task, o
        self.left = kind == "sasrec"  # its positions count from the end
        self.model = SEQUENCE[kind](task, o)
        self.examples = [u for u, row in enumerate(task.train) if len(row) > 1]

    def losses(self, random):
        order = random.permutation(self.examples)
        length = self.o["maxLength"]
        for first in range(0, len(order), self.o["batchSize"]):
            users = order[first : first + self.o["batchSize"]]
            rows = [self.task.train[u] for u in users]
            inputs = padded([row[:-1] for row in rows], length, self.left)
            positives = padded([row[1:] for row in rows], length, self.left)
            negatives = self.task.negatives(np.broadcast_to(users[:, None], positives.shape), random)
            x = self.model.features(inputs)
            e = self.model.item_emb
            valid = torch.from_numpy(positives > 0)
            up = (x * e(torch.from_numpy(positives))).sum(-1)[valid]
            down = (x * e(torch.from_numpy(negatives))).sum(-1)[valid]
            yield F.softplus(-up).mean() + F.softplus(down).mean()

    def after_backward(self):
        self.model.item_emb.weight.grad[0] = 0

    def user_vectors(self, users, histories):
        vectors = []
        for first in range(0, len(histories), 128):
            rows = histories[first : first + 128]
            x = self.model.features(padded(rows, self.o["maxLength"], self.left))
            last = [-1 if self.left else min(len(row), self.o["maxLength"]) - 1 for row in rows]
            vectors.append(x[torch.arange(len(rows)), last])
        return torch.cat(vectors)

    def item_table(self):
        return self.model.item_emb.weight

    def scores(self, user, item):
        return (user * item).sum(-1)


class InteractionTrainer:
    """Pairs of a user and an item, with items that the user did not choose."""

    def __init__(self, kind, task, o):
        self.task, self.o = task, o
        self.model = INTERACTION[kind](task, o)
        self.count = o.get("negatives", 1)
        self.pairs = np.array([(u, i) for u, row in enumerate(task.train) for i in row])

    def losses(self, random):
        order = random.permutation(len(self.pairs))
        for first in range(0, len(order), self.o["batchSize"]):
            users, positives = self.pairs[order[first : first + self.o["batchSize"]]].T
            negatives = self.task.negatives(np.broadcast_to(users[:, None], (len(users), self.count)), random)
            yield self.model.loss(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (users, positives, negatives)))

    def after_backward(self):
        pass

    def user_vectors(self, users, _):
        return self.model.tables()[0][users]

    def item_table(self):
        return self.model.tables()[1]

    def scores(self, user, item):
        return self.model.scores(user, item)


@torch.no_grad()
def full_ndcg(trainer, task):
    """NDCG@10 of the validation items over the whole catalogue, without what the user has."""
    trainer.model.eval()
    users, items = task.validation["users"], trainer.item_table()[1:]
    histories = [task.train[u] for u in users]
    vectors, gains = trainer.user_vectors(users, histories), []
    for first in range(0, len(users), 64):
        scores = trainer.scores(vectors[first : first + 64, None], items[None])
        targets = torch.tensor(task.validation["targets"][first : first + 64])[:, None] - 1
        own = scores.gather(1, targets)
        for row, history in zip(scores, histories[first : first + 64]):
            row[torch.tensor(history) - 1] = -math.inf
        ranks = (scores > own).sum(1).double()
        gains.append(torch.where(ranks < 10, 1 / torch.log2(ranks + 2), 0))
    trainer.model.train()
    return float(torch.cat(gains).mean())


@torch.no_grad()
def tested(trainer, task):
    trainer.model.eval()
    t = task.test
    vectors = trainer.user_vectors(t["users"], t["histories"])
    candidates = torch.tensor(t["candidates"])
    scores = trainer.scores(vectors[:, None], trainer.item_table()[candidates])
    targets = torch.tensor(t["targets"])
    ranks = (scores > scores.gather(1, targets[:, None])).sum(1).double()
    return float((ranks == 0).double().mean()), float(torch.where(ranks < 10, 1 / torch.log2(ranks + 2), 0).mean())


def train(kind, task, seed):
    o = {**task.options[kind], "seed": seed}
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    trainer = (SequenceTrainer if kind in SEQUENCE else InteractionTrainer)(kind, task, o)
    adam = torch.optim.Adam(trainer.model.parameters(), lr=o["learningRate"], betas=(o["beta1"], o["beta2"]))
    best, best_epoch, since, weights = -1.0, 0, 0, None
    for epoch in range(1, o["epochs"] + 1):
        for loss in trainer.losses(random):
            adam.zero_grad()
            loss.backward()
            trainer.after_backward()
            adam.step()
        if epoch % o["validateEvery"]:
            continue
        score = full_ndcg(trainer, task)
        if score > best:
            best, best_epoch, since, weights = score, epoch, 0, copy.deepcopy(trainer.model.state_dict())
        else:
            since += 1
            if since >= o["patience"]:
                break
    trainer.model.load_state_dict(weights)
    hit, ndcg = tested(trainer, task)
    return {"kind": kind, "seed": seed, "bestEpoch": best_epoch, "validation NDCG@10": best, "Hit@1": hit,
            "NDCG@10": ndcg}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--kinds", nargs="+", choices=[*SEQUENCE, *INTERACTION], default=[*SEQUENCE, *INTERACTION])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    task = Task(arguments.task)
    results = []
    for kind in arguments.kinds:
        for seed in range(arguments.seeds):
            begun = time.perf_counter()
            results.append({**train(kind, task, seed), "seconds": round(time.perf_counter() - begun)})
            print(json.dumps(results[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent="\t") + "\n")


main()
