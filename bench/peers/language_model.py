"""OPT of transformers with random weights: prefill, decode, candidates on a shared prompt, and stage 2's step."""

import torch
from torch import nn
from transformers import DynamicCache, OPTConfig, OPTForCausalLM

from protocol import serve

models = {}


def model_of(s):
    """One model for each dtype and shape; a different one replaces it, to spare memory."""
    torch.set_num_threads(s["threads"])
    key = (s["dtype"], s["hiddenSize"], s["numLayers"], s["vocabSize"])
    if key not in models:
        models.clear()
        torch.manual_seed(1)
        config = OPTConfig(
            vocab_size=s["vocabSize"],
            hidden_size=s["hiddenSize"],
            word_embed_proj_dim=s["hiddenSize"],
            num_hidden_layers=s["numLayers"],
            num_attention_heads=s["numHeads"],
            ffn_dim=s["ffnSize"],
            max_position_embeddings=s["maxPositions"],
            dropout=0.0,
        )
        # Its own initialisation of a large model takes minutes.
        with torch.device("meta"):
            model = OPTForCausalLM(config).to(getattr(torch, s["dtype"]))
        model.to_empty(device="cpu")
        model.tie_weights()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-0.03, 0.03)
        models[key] = model.eval().requires_grad_(False)
    return models[key]


def tokens(s, *shape):
    return torch.randint(4, s["vocabSize"], shape)


def prefill(s):
    model = model_of(s)
    ids = tokens(s, s["batch"], s["context"])

    def step():
        with torch.inference_mode():
            model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)

    return step


def decode(s):
    """One iteration is one token for every sequence; after `window` of them the context is cut back.

    The context's keys and values are random numbers: how long a step takes does not depend on them.
    """
    model = model_of(s)
    cache = DynamicCache(config=model.config)
    shape = (s["batch"], s["numHeads"], s["context"], s["hiddenSize"] // s["numHeads"])
    with torch.inference_mode():
        for layer in range(s["numLayers"]):
            cache.update(*(torch.randn(shape).to(model.dtype) for _ in range(2)), layer)
    state = {"next": tokens(s, s["batch"], 1)}

    def step():
        with torch.inference_mode():
            if cache.get_seq_length() >= s["context"] + s["window"]:
                cache.crop(s["context"])
            logits = model(input_ids=state["next"], past_key_values=cache, use_cache=True).logits
            state["next"] = logits[:, -1:].argmax(-1)

    return step


def candidates(s):
    """The prompt once; its cache, repeated for every candidate, then serves all their titles in one batch."""
    model = model_of(s)
    prompt = tokens(s, 1, s["prompt"])
    titles = tokens(s, s["candidates"], s["title"])

    def step():
        with torch.inference_mode():
            cache = DynamicCache(config=model.config)
            first = model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            cache.batch_repeat_interleave(s["candidates"])
            rest = model(input_ids=titles[:, :-1], past_key_values=cache, use_cache=True).logits
            logits = torch.cat([first.expand(s["candidates"], -1, -1), rest], 1)
            log_probs = logits.float().log_softmax(-1).gather(-1, titles.unsqueeze(-1)).squeeze(-1)
            log_probs.sum(1).tolist()

    return step


def stage_two(s):
    model = model_of(s)
    dtype = getattr(torch, s["dtype"])
    width = s["hiddenSize"]

    def mlp(size, activation):
        return nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width), activation, nn.Linear(width, width))

    user, item = mlp(s["userSize"], nn.LeakyReLU()), mlp(s["jointSize"], nn.GELU())
    adam = torch.optim.Adam([*user.parameters(), *item.parameters()], lr=1e-4, betas=(0.9, 0.98))
    batch, context, targets, soft = s["batch"], s["context"], s["targets"], s["softItems"]
    ids = tokens(s, batch, context)
    users, items = torch.randn(batch, s["userSize"]), torch.randn(batch, soft, s["jointSize"])
    places = torch.tensor(s["softPlaces"])
    embed, decoder = model.get_input_embeddings(), model.model.decoder

    def step():
        adam.zero_grad()
        x = embed(ids).clone()
        x[:, 0] = user(users).to(dtype)
        x[:, places] = item(items).to(dtype)
        hidden = decoder(inputs_embeds=x, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, -targets - 1 : -1]).float()
        nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -targets:].flatten()).backward()
        adam.step()

    return step


serve({"prefill": prefill, "decode": decode, "candidates": candidates, "stageTwo": stage_two})
