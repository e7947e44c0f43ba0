"""SASRec in PyTorch as its reference trains it, with a sampler of the reference's kind in the same process."""

import math

import numpy as np
import torch
from torch import nn

from protocol import serve


class FeedForward(nn.Module):
    """Two pointwise layers with ReLU, dropout after each, and a residual."""

    def __init__(self, width, dropout):
        super().__init__()
        self.conv1 = nn.Conv1d(width, width, kernel_size=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=1)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)

    def forward(self, x):  # (B, T, C)
        hidden = torch.relu(self.dropout1(self.conv1(x.transpose(-1, -2))))
        return self.dropout2(self.conv2(hidden)).transpose(-1, -2) + x


class SASRec(nn.Module):
    def __init__(self, items, length, width, blocks, heads, dropout):
        super().__init__()
        self.length, self.width = length, width
        self.item_emb = nn.Embedding(items + 1, width, padding_idx=0)
        self.pos_emb = nn.Embedding(length, width)
        self.emb_dropout = nn.Dropout(dropout)
        self.attention_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-8) for _ in range(blocks))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, dropout) for _ in range(blocks))
        self.forward_norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-8) for _ in range(blocks))
        self.forwards = nn.ModuleList(FeedForward(width, dropout) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(width, eps=1e-8)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
        with torch.no_grad():
            self.item_emb.weight[0] = 0

    def features(self, histories):  # numpy (B, T) → (B, T, C)
        ids = torch.from_numpy(histories)
        x = self.item_emb(ids) * math.sqrt(self.width)
        positions = torch.from_numpy(np.tile(np.arange(self.length), (len(histories), 1)))
        x = self.emb_dropout(x + self.pos_emb(positions))
        padding = (ids == 0).unsqueeze(-1)
        x = x * ~padding
        future = ~torch.tril(torch.ones((self.length, self.length), dtype=torch.bool))
        for i, attention in enumerate(self.attentions):
            x = x.transpose(0, 1)
            query = self.attention_norms[i](x)
            attended, _ = attention(query, x, x, attn_mask=future)
            x = (query + attended).transpose(0, 1)
            x = self.forwards[i](self.forward_norms[i](x)) * ~padding
        return self.last_norm(x)

    def forward(self, histories, positives, negatives):
        features = self.features(histories)
        positive = (features * self.item_emb(torch.from_numpy(positives))).sum(-1)
        negative = (features * self.item_emb(torch.from_numpy(negatives))).sum(-1)
        return positive, negative


def model_of(s):
    torch.set_num_threads(s["threads"])
    torch.manual_seed(1)
    return SASRec(s["items"], s["maxLength"], s["hiddenUnits"], s["numBlocks"], s["numHeads"], s["dropoutRate"])


def histories_of(s):
    """Lists of items, from two files of int32: where each user's begin, and the items."""
    offsets = np.fromfile(s["offsets"], dtype=np.int32)
    values = np.fromfile(s["values"], dtype=np.int32)
    return [values[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:])]


def padded(histories, length):
    rows = np.zeros((len(histories), length), dtype=np.int64)
    for row, history in zip(rows, histories):
        kept = history[-length:]
        if kept:
            row[-len(kept) :] = kept
    return rows


def train(s):
    model = model_of(s)
    model.train()
    histories, items, length, batch = histories_of(s), s["items"], s["maxLength"], s["batchSize"]
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    criterion = nn.BCEWithLogitsLoss()
    rng = np.random.RandomState(1)

    def draw_negative(known):
        item = rng.randint(1, items + 1)
        while item in known:
            item = rng.randint(1, items + 1)
        return item

    def draw_user():
        history = histories[rng.randint(len(histories))]
        sequence, positive, negative = (np.zeros(length, dtype=np.int64) for _ in range(3))
        known = set(history)
        following, at = history[-1], length - 1
        for item in reversed(history[:-1]):
            sequence[at], positive[at] = item, following
            negative[at] = draw_negative(known)
            following = item
            at -= 1
            if at < 0:
                break
        return sequence, positive, negative

    def step():
        sequences, positives, negatives = (np.stack(rows) for rows in zip(*(draw_user() for _ in range(batch))))
        positive, negative = model(sequences, positives, negatives)
        valid = np.where(positives != 0)
        adam.zero_grad()
        loss = criterion(positive[valid], torch.ones_like(positive[valid]))
        loss = loss + criterion(negative[valid], torch.zeros_like(negative[valid]))
        loss.backward()
        adam.step()

    return step


def evaluate_singly(s):
    """One iteration ranks one user's target among 1 + perUser − 1 candidates, as the authors' evaluation does."""
    model = model_of(s)
    model.eval()
    histories = histories_of(s)
    rng = np.random.RandomState(1)
    state = {"user": 0}

    def step():
        history = histories[state["user"] % len(histories)]
        state["user"] += 1
        known = set(history)
        candidates = [int(rng.randint(1, s["items"] + 1))]
        while len(candidates) < s["perUser"]:
            item = int(rng.randint(1, s["items"] + 1))
            if item not in known:
                candidates.append(item)
        with torch.no_grad():
            user = model.features(padded([history], s["maxLength"]))[:, -1, :]
            scores = -(model.item_emb(torch.tensor(candidates)) @ user.unsqueeze(-1)).squeeze(-1)[0]
            scores.argsort().argsort()[0].item()

    return step


def evaluate_batched(s):
    """One iteration ranks every user's target, `evaluationBatch` users at a time; perUser 0 = the whole catalogue."""
    model = model_of(s)
    model.eval()
    histories = histories_of(s)
    batch, per_user = s["evaluationBatch"], s["perUser"]
    rng = np.random.RandomState(1)
    targets = torch.from_numpy(rng.randint(1, s["items"] + 1, size=len(histories)))
    others = rng.randint(1, s["items"] + 1, size=(len(histories), max(per_user - 1, 1)))
    candidates = torch.cat([targets[:, None], torch.from_numpy(others)], 1)

    def step():
        with torch.no_grad():
            for first in range(0, len(histories), batch):
                chosen = histories[first : first + batch]
                users = model.features(padded(chosen, s["maxLength"]))[:, -1, :]
                if per_user > 0:
                    table = model.item_emb(candidates[first : first + batch])
                    scores = (table @ users.unsqueeze(-1)).squeeze(-1)
                    (scores[:, 1:] > scores[:, :1]).sum(1).tolist()
                    continue
                scores = users @ model.item_emb.weight.T
                target = scores.gather(1, targets[first : first + batch, None])
                scores[:, 0] = -math.inf
                for row, history in enumerate(chosen):
                    scores[row, history] = -math.inf
                (scores > target).sum(1).tolist()

    return step


serve({"train": train, "evaluateSingly": evaluate_singly, "evaluateBatched": evaluate_batched})
