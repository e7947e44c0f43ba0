"""DistilBERT of transformers with random weights: forward, forward and backward, and PyTorch's Adam over its weights."""

import torch
from transformers import DistilBertConfig, DistilBertModel

from protocol import serve


def model_of(s):
    torch.set_num_threads(s["threads"])
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=s["vocabSize"],
        max_position_embeddings=s["maxPositions"],
        n_layers=s["numLayers"],
        n_heads=s["numHeads"],
        dim=s["hiddenSize"],
        hidden_dim=s["intermediateSize"],
        dropout=0.0,
        attention_dropout=0.0,
    )
    return DistilBertModel(config).to(getattr(torch, s["dtype"]))


def batch_of(s):
    ids = torch.randint(0, s["vocabSize"], (s["texts"], s["tokens"]))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def forward(s):
    model = model_of(s).eval()
    batch = batch_of(s)

    def step():
        with torch.inference_mode():
            model(**batch).last_hidden_state.mean(1)

    return step


def backward(s):
    model = model_of(s).train()
    batch = batch_of(s)

    def step():
        model.zero_grad()
        model(**batch).last_hidden_state.mean(1).float().sum().backward()

    return step


def adam(s):
    model = model_of(s)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True if s["fused"] else None)
    return optimizer.step


serve({"forward": forward, "backward": backward, "adam": adam})
