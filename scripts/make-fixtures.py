#!/usr/bin/env python3
"""Writes further folders for `npm run parity`: tiny random models and what PyTorch and transformers compute of them.

    python3 scripts/make-fixtures.py /tmp/fixtures --seed 3
    npm run parity -- /tmp/fixtures

An oracle, never a dependency: it wants torch, transformers, tokenizers and safetensors (CPU). The folders have the form
of the shared fixtures, in sizes, head counts, layer counts and variants that those leave out.
"""

import argparse
import collections
import json
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, OPTConfig, OPTForCausalLM


class Folder:
    """Collects what one folder expects."""

    def __init__(self, out: pathlib.Path, name: str):
        self.path = out / name
        self.path.mkdir(parents=True, exist_ok=True)
        self.tensors: dict[str, torch.Tensor] = {}
        self.json: dict = {"versions": {"torch": torch.__version__}}

    def add(self, **tensors: torch.Tensor) -> None:
        for name, tensor in tensors.items():
            self.tensors[name] = tensor.detach().clone().contiguous()

    def gradients(self, module: nn.Module, prefix: str = "grad.") -> None:
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                self.tensors[prefix + name] = parameter.grad.clone().contiguous()

    def write(self, weights: dict[str, torch.Tensor] | None = None) -> None:
        if self.tensors:
            save_file(self.tensors, str(self.path / "expected.safetensors"))
        (self.path / "expected.json").write_text(json.dumps(self.json, indent=1))
        if weights is not None:
            save_file({k: v.detach().clone().contiguous() for k, v in weights.items()},
                      str(self.path / "model.safetensors"), metadata={"format": "pt"})


def randomise(module: nn.Module, std: float = 0.15) -> None:
    """Norms and biases too, so that an error in any term shows."""
    for name, p in module.named_parameters():
        norm = p.dim() == 1 and name.endswith("weight")
        with torch.no_grad():
            p.copy_(torch.randn_like(p) * std + (1.0 if norm else 0.0))


def padded(ids: torch.Tensor, lengths: list[int], side: str, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        if side == "left":
            mask[row, ids.shape[1] - length:] = 1
        else:
            mask[row, :length] = 1
    return torch.where(mask == 1, ids, pad), mask


# ---------------------------------------------------------------- language models


def opt(out: pathlib.Path, name: str, rows: int, length: int, files: str, **config) -> None:
    c = OPTConfig(max_position_embeddings=4 * length, dropout=0.1, attention_dropout=0.0, pad_token_id=1,
                  bos_token_id=2, eos_token_id=2, **config)
    model = OPTForCausalLM(c)
    randomise(model)
    model.tie_weights()
    model.eval()
    f = Folder(out, name)
    vocabulary, width = c.vocab_size, c.word_embed_proj_dim
    ids = torch.randint(4, vocabulary, (rows, length))
    lengths = [length] + [int(n) for n in torch.randint(2, length, (rows - 1,))]
    left, left_mask = padded(ids, lengths, "left", 1)
    right, right_mask = padded(ids, lengths, "right", 1)
    with torch.no_grad():
        f.add(ids=ids, logits=model(ids).logits, left_ids=left, left_mask=left_mask, right_ids=right,
              right_mask=right_mask, left_logits=model(left, attention_mask=left_mask).logits,
              right_logits=model(right, attention_mask=right_mask).logits)
    embeds = (0.3 * torch.randn(rows, length, width)).requires_grad_()
    labels = torch.where(right_mask == 1, ids, -100)
    labels[:, :2] = -100
    result = model(inputs_embeds=embeds, attention_mask=right_mask, labels=labels)
    result.loss.backward()
    f.add(embeds=embeds, embeds_logits=result.logits, labels=labels, loss=result.loss, grad_embeds=embeds.grad)
    f.gradients(model)
    candidates = torch.randint(4, vocabulary, (5, 3))
    with torch.no_grad():
        all_ids = torch.cat([ids[:1].expand(5, -1), candidates], 1)
        log_probs = model(all_ids).logits.log_softmax(-1)[:, length - 1:-1]
        f.add(cand=candidates, cand_logp=log_probs.gather(-1, candidates[..., None])[..., 0])
    gen_embeds = model.get_input_embeddings()(left)
    f.add(gen_embeds=gen_embeds)

    def greedy(penalty=1.0, eos=None, **prompt):
        full = model.generate(**prompt, attention_mask=left_mask, max_new_tokens=12, do_sample=False,
                              repetition_penalty=penalty, eos_token_id=eos if eos is not None else -1,
                              pad_token_id=2)
        return full[:, prompt["input_ids"].shape[1]:] if "input_ids" in prompt else full

    with torch.no_grad():
        f.json["greedy"] = greedy(input_ids=left).tolist()
        f.json["greedy_rep1.3"] = greedy(1.3, input_ids=left).tolist()
        f.json["greedy_embeds"] = greedy(inputs_embeds=gen_embeds).tolist()
        embeds_rows = greedy(1.3, inputs_embeds=gen_embeds)
        f.json["greedy_embeds_rep1.3"] = embeds_rows.tolist()
        f.json["eos_id"] = int(embeds_rows[0, 4])
        f.json["greedy_embeds_rep1.3_eos"] = greedy(1.3, f.json["eos_id"], inputs_embeds=gen_embeds).tolist()
        f.json["greedy_rep1.3_eos"] = greedy(1.3, f.json["eos_id"], input_ids=left).tolist()
    f.json["note"] = "the penalty sees padding ids with input_ids; finished rows are filled with pad_token_id=2"
    weights = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" or not c.tie_word_embeddings}
    (f.path / "config.json").write_text(json.dumps({**c.to_dict(), "architectures": ["OPTForCausalLM"]}, indent=1,
                                                   default=str))
    f.write(weights if files != "sharded" else None)
    if files == "bare":
        torch.save({k.removeprefix("model."): v for k, v in weights.items()}, f.path / "pytorch_model.bin")
    elif files == "legacy":
        torch.save({**weights, "lm_head.weight": model.lm_head.weight}, f.path / "pytorch_model.bin",
                   _use_new_zipfile_serialization=False)
        torch.save({k: v.half() for k, v in weights.items()}, f.path / "pytorch_model.fp16.bin")
    else:
        shard(f.path, weights)


def shard(path: pathlib.Path, weights: dict[str, torch.Tensor]) -> None:
    names = sorted(weights)
    halves = [names[: len(names) // 2], names[len(names) // 2:]]
    where = {}
    for i, part in enumerate(halves, 1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file({k: weights[k].clone().contiguous() for k in part}, str(path / file), metadata={"format": "pt"})
        where.update({k: file for k in part})
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


# ---------------------------------------------------------------- sentence encoders


def pooled_of(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weight = mask[..., None].float()
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


def encoder(out: pathlib.Path, name: str, model: nn.Module, rows: int, length: int, squares: float) -> None:
    randomise(model)
    model.eval()
    f = Folder(out, name)
    ids = torch.randint(5, model.config.vocab_size, (rows, length))
    lengths = [length, 1] + [int(n) for n in torch.randint(1, length, (rows - 2,))]
    ids, mask = padded(ids, lengths, "right", 0)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    pooled = pooled_of(hidden, mask)
    w = torch.randn_like(pooled)
    ((pooled * w).sum() + squares * (pooled**2).sum()).backward()
    f.add(ids=ids, mask=mask, hidden=hidden, cls=hidden[:, 0], pooled=pooled,
          pooled_l2norm=nn.functional.normalize(pooled, dim=-1), w=w)
    f.gradients(model)
    if squares:
        f.json["note"] = f"loss = sum(pooled*w) + {squares}*sum(pooled^2)"
    (f.path / "config.json").write_text(json.dumps(model.config.to_dict(), indent=1, default=str))
    prefix = model.config.model_type + "."
    f.write(model.state_dict())
    old = {prefix + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in model.state_dict().items()}
    torch.save(old, f.path / "pytorch_model.bin")


def distilbert(**config) -> nn.Module:
    return DistilBertModel(DistilBertConfig(dropout=0.0, attention_dropout=0.0, **config))


def bert(**config) -> nn.Module:
    return BertModel(BertConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **config))


# ---------------------------------------------------------------- SASRec


class FeedForward(nn.Module):
    def __init__(self, d: int, residual: bool):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(d, d, 1), nn.Conv1d(d, d, 1)
        self.residual = residual

    def forward(self, x):
        y = self.conv2(self.conv1(x.transpose(-1, -2)).relu()).transpose(-1, -2)
        return y + x if self.residual else y


class SASRec(nn.Module):
    """`reference`: as A-LLMRec's authors train it. `pre`, `post`: pmixer/SASRec.pytorch, with and without norm_first."""

    def __init__(self, items: int, args: dict, layout: str):
        super().__init__()
        d, blocks, heads = args["hidden_units"], args["num_blocks"], args["num_heads"]
        reference = layout == "reference"
        self.layout = layout
        self.item_emb = nn.Embedding(items + 1, d, padding_idx=0)
        self.pos_emb = nn.Embedding(args["maxlen"] + (0 if reference else 1), d,
                                    padding_idx=None if reference else 0)
        self.attention_layernorms = nn.ModuleList(nn.LayerNorm(d, eps=1e-8) for _ in range(blocks))
        self.attention_layers = nn.ModuleList(nn.MultiheadAttention(d, heads) for _ in range(blocks))
        self.forward_layernorms = nn.ModuleList(nn.LayerNorm(d, eps=1e-8) for _ in range(blocks))
        self.forward_layers = nn.ModuleList(FeedForward(d, reference) for _ in range(blocks))
        self.last_layernorm = nn.LayerNorm(d, eps=1e-8)

    def features(self, seq: torch.Tensor) -> torch.Tensor:
        length = seq.shape[1]
        x = self.item_emb(seq) * self.item_emb.embedding_dim**0.5
        hidden = ~torch.tril(torch.ones(length, length, dtype=torch.bool))
        if self.layout == "reference":
            real = (seq != 0)[..., None]
            x = (x + self.pos_emb(torch.arange(length))) * real
        else:
            x = x + self.pos_emb(torch.arange(1, length + 1) * (seq != 0))

        def attend(i, q, kv):
            y, _ = self.attention_layers[i](q.transpose(0, 1), kv.transpose(0, 1), kv.transpose(0, 1), attn_mask=hidden)
            return y.transpose(0, 1)

        for i in range(len(self.attention_layers)):
            norm1, norm2, forward = self.attention_layernorms[i], self.forward_layernorms[i], self.forward_layers[i]
            if self.layout == "reference":
                q = norm1(x)
                x = forward(norm2(q + attend(i, q, x))) * real
            elif self.layout == "pre":
                q = norm1(x)
                x = x + attend(i, q, q)
                x = x + forward(norm2(x))
            else:
                x = norm1(x + attend(i, x, x))
                x = norm2(x + forward(x))
        return self.last_layernorm(x)


def sasrec(out: pathlib.Path, name: str, layout: str, lengths: list[int], items: int, empty: bool = False,
           **args) -> None:
    args = {"maxlen": 50, "hidden_units": 50, "num_blocks": 2, "num_heads": 1, "dropout_rate": 0.0, "l2_emb": 0.0,
            "lr": 0.001, "norm_first": layout == "pre", **args}
    model = SASRec(items, args, layout)
    randomise(model)
    if layout != "reference":
        with torch.no_grad():
            model.item_emb.weight[0] = 0
            model.pos_emb.weight[0] = 0
    f = Folder(out, name)
    maxlen = args["maxlen"]
    seq, pos, neg = (torch.zeros(len(lengths), maxlen, dtype=torch.long) for _ in range(3))
    for row, length in enumerate(lengths):
        for t in (seq, pos, neg):
            t[row, maxlen - length:] = torch.randint(1, items + 1, (length,))
    cand = torch.randint(1, items + 1, (len(lengths), 7))
    f.json.update(args=args, item_num=items, user_num=len(lengths))

    def losses():
        h = model.features(seq)
        p, n = (h * model.item_emb(pos)).sum(-1), (h * model.item_emb(neg)).sum(-1)
        at = pos != 0
        bce = nn.functional.binary_cross_entropy_with_logits
        loss = bce(p[at], torch.ones_like(p[at])) + bce(n[at], torch.zeros_like(n[at]))
        if args["l2_emb"]:
            loss = loss + args["l2_emb"] * torch.norm(model.item_emb.weight)
        return h, p, n, loss

    h, p, n, loss = losses()
    with torch.no_grad():
        f.add(seq=seq, log_feats=h, log_only=h[:, -1], cand=cand,
              predict=(model.item_emb(cand) * h[:, -1:]).sum(-1))
        if layout != "reference":
            f.add(pos=pos, neg=neg, pos_logits=p, neg_logits=n)
    if layout == "reference":
        optimiser = torch.optim.Adam(model.parameters(), lr=args["lr"], betas=(0.9, 0.98))
        f.add(pos=pos, neg=neg, pos_logits=p, neg_logits=n, loss=loss)
        f.json["losses"] = []
        start = {k: v.clone() for k, v in model.state_dict().items()}
        for step in range(1, 4):
            _, _, _, loss = losses()
            optimiser.zero_grad()
            loss.backward()
            f.json["losses"].append(loss.item())
            if step == 1:
                f.gradients(model)
            optimiser.step()
            if step != 2:
                f.add(**{f"adam{step}.{k}": v for k, v in model.state_dict().items()})
        model.load_state_dict(start)
    f.write(model.state_dict())
    kwargs = {"user_num": len(lengths), "item_num": items, "args": argparse.Namespace(**args)}
    state = collections.OrderedDict((k, v.clone()) for k, v in model.state_dict().items())
    torch.save([kwargs, state], f.path / "SASRec.pth")
    torch.save(state, f.path / "bare.pth")


# ---------------------------------------------------------------- small parts


def gru(out: pathlib.Path, name: str, layers: int, inputs: int, hidden: int, rows: int, steps: int) -> None:
    model = nn.GRU(inputs, hidden, layers, batch_first=True)
    f = Folder(out, name)
    x, h0 = torch.randn(rows, steps, inputs, requires_grad=True), torch.randn(layers, rows, hidden, requires_grad=True)
    y, hn = model(x, h0)
    w1, w2 = torch.randn_like(y), torch.randn_like(hn)
    ((y * w1).sum() + (hn * w2).sum()).backward()
    f.add(x=x, h0=h0, y=y, hn=hn, w1=w1, w2=w2, grad_x=x.grad, grad_h0=h0.grad)
    f.gradients(model)
    f.json["note"] = "loss = sum(y*w1)+sum(hn*w2)"
    f.write(model.state_dict())


class TwoLayer(nn.Module):
    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(size, hidden), nn.Linear(hidden, size)

    def forward(self, x):
        latent = torch.sigmoid(self.fc1(x))
        return latent, self.fc2(latent)


def stage1(out: pathlib.Path, name: str, sbert: nn.Module, d: int, joint: int, rows: int, length: int, alpha: float,
           beta: float) -> None:
    width = sbert.config.hidden_size
    model = nn.ModuleDict({"sbert": sbert, "mlp": TwoLayer(d, joint), "mlp2": TwoLayer(width, joint)})
    randomise(model)
    model.eval()
    f = Folder(out, name)
    users, pos, neg = (torch.randn(rows, d) for _ in range(3))
    mse, bce = nn.functional.mse_loss, nn.functional.binary_cross_entropy_with_logits
    texts = {}
    for side in ("pos", "neg"):
        ids, mask = padded(torch.randint(5, sbert.config.vocab_size, (rows, length)),
                           [int(n) for n in torch.randint(1, length + 1, (rows,))], "right", 0)
        texts[side] = pooled_of(sbert(input_ids=ids, attention_mask=mask).last_hidden_state, mask)
        f.add(**{f"{side}_ids": ids, f"{side}_mask": mask, f"{side}_text": texts[side]})
    terms = collections.defaultdict(float)
    for side, items, target in (("pos", pos, 1.0), ("neg", neg, 0.0)):
        e, decoded = model["mlp"](items)
        q, text_decoded = model["mlp2"](texts[side])
        logits = (users * decoded).mean(1)
        terms["bpr"] += bce(logits, torch.full_like(logits, target))
        terms["matching"] += mse(e, q)
        terms["rc"] += mse(decoded, items)
        terms["text_rc"] += mse(text_decoded, texts[side].detach())
    total = terms["bpr"] + terms["matching"] + alpha * terms["rc"] + beta * terms["text_rc"]
    total.backward()
    f.add(log_emb=users, pos_emb=pos, neg_emb=neg, total=total, **terms)
    f.gradients(model)
    f.json["note"] = f"total = bpr + matching + {alpha} rc + {beta} text_rc"
    (f.path / "config.json").write_text(json.dumps(sbert.config.to_dict(), indent=1, default=str))
    f.write({k: v for k, v in model.state_dict().items() if "pooler" not in k})


def stage2(out: pathlib.Path, name: str, d: int, joint: int, width: int, users: int, items: int) -> None:
    def mlp(size, activation):
        return nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width), activation, nn.Linear(width, width))

    model = nn.ModuleDict({"log_emb_proj": mlp(d, nn.LeakyReLU()), "item_emb_proj": mlp(joint, nn.GELU())})
    randomise(model)
    f = Folder(out, name)
    x1, x2 = torch.randn(users, d, requires_grad=True), torch.randn(items, joint, requires_grad=True)
    y1, y2 = model["log_emb_proj"](x1), model["item_emb_proj"](x2)
    w1, w2 = torch.randn_like(y1), torch.randn_like(y2)
    ((y1 * w1).sum() + (y2 * w2).sum()).backward()
    f.add(x1=x1, x2=x2, y1=y1, y2=y2, w1=w1, w2=w2, gx1=x1.grad, gx2=x2.grad)
    f.gradients(model)
    f.write(model.state_dict())
    torch.save(model["log_emb_proj"].state_dict(), f.path / "log_proj.pt")
    torch.save(model["item_emb_proj"].state_dict(), f.path / "item_proj.pt")


# ---------------------------------------------------------------- tokenizers

TEXTS = [
    "The Legend of Zelda: Ocarina of Time", "Super Mario 64, Super Metroid and Super Smash Bros.", "It's the best game",
    "This user has played [HistoryEmb] in the previous.", "naïve café, Größe, 日本語テスト 🎮🕹️", "1,000,000 x 3.14159",
    "a\tb\nc\r\nd  two   spaces ", "don't can't we'll I'M", "x" * 80, "", " ", "</s><pad>[CLS] [SEP]", "e\u0301 \u00a0\u200b",
]


def byte_level_bpe(out: pathlib.Path, name: str, added: list[str]) -> None:
    from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer, processors

    f = Folder(out, name)
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(TEXTS * 3, vocab_size=420, min_frequency=2, special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
                                show_progress=False)
    trained.save_model(str(f.path))
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("</s>", "<pad>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    plain = [tokenizer.encode(t).ids for t in TEXTS]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in added])
    encoded = [tokenizer.encode(t).ids for t in TEXTS]
    tokenizer.save(str(f.path / "tokenizer.json"))
    (f.path / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>", "add_bos_token": True}))
    f.json.update(strings=TEXTS, ids_plain=plain, ids=encoded,
                  ids_nospecial=[tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS],
                  decoded=[tokenizer.decode(row) for row in encoded],
                  added={t: tokenizer.token_to_id(t) for t in [*added, "</s>", "<pad>"]},
                  vocab=tokenizer.get_vocab_size())
    f.write()


def word_piece(out: pathlib.Path, name: str, lowercase: bool) -> None:
    from tokenizers import BertWordPieceTokenizer

    f = Folder(out, name)
    trained = BertWordPieceTokenizer(lowercase=lowercase)
    trained.train_from_iterator(TEXTS * 3, vocab_size=260, min_frequency=2, show_progress=False)
    trained.save_model(str(f.path))
    tokenizer = BertWordPieceTokenizer(str(f.path / "vocab.txt"), lowercase=lowercase)
    tokenizer.save(str(f.path / "tokenizer.json"))
    (f.path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lowercase}))
    f.json.update(strings=TEXTS, ids=[tokenizer.encode(t).ids for t in TEXTS],
                  ids_nospecial=[tokenizer.encode(t, add_special_tokens=False).ids for t in TEXTS])
    for length in (9, 24):
        tokenizer.enable_truncation(length)
        f.json[f"ids_trunc{length}"] = [tokenizer.encode(t).ids for t in TEXTS]
    f.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    out = a.out

    opt(out, "opt-gelu", 4, 17, "legacy", vocab_size=101, hidden_size=24, word_embed_proj_dim=24, num_hidden_layers=3,
        num_attention_heads=3, ffn_dim=40, activation_function="gelu")
    opt(out, "opt-galactica", 3, 20, "sharded", vocab_size=300, hidden_size=32, word_embed_proj_dim=32,
        num_hidden_layers=2, num_attention_heads=4, ffn_dim=96, activation_function="gelu", enable_bias=False)
    opt(out, "opt-plain-norms", 3, 14, "bare", vocab_size=150, hidden_size=24, word_embed_proj_dim=40,
        num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, activation_function="gelu_new",
        layer_norm_elementwise_affine=False)
    opt(out, "opt-untied", 2, 12, "legacy", vocab_size=130, hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=2,
        num_attention_heads=2, ffn_dim=50, tie_word_embeddings=False)
    opt(out, "opt-no-final-norm", 2, 9, "bare", vocab_size=67, hidden_size=20, word_embed_proj_dim=20,
        num_hidden_layers=1, num_attention_heads=5, ffn_dim=80, _remove_final_layer_norm=True)
    opt(out, "opt-post-norm", 3, 30, "bare", vocab_size=600, hidden_size=72, word_embed_proj_dim=40, num_hidden_layers=2,
        num_attention_heads=6, ffn_dim=130, do_layer_norm_before=False)
    opt(out, "opt-post-norm-one-head", 3, 11, "sharded", vocab_size=90, hidden_size=33, word_embed_proj_dim=33,
        num_hidden_layers=2, num_attention_heads=1, ffn_dim=7, do_layer_norm_before=False)
    opt(out, "opt-projected-pre-norm", 6, 65, "legacy", vocab_size=1031, hidden_size=128, word_embed_proj_dim=48,
        num_hidden_layers=4, num_attention_heads=2, ffn_dim=256)

    encoder(out, "distilbert-deep", distilbert(vocab_size=211, max_position_embeddings=80, n_layers=4, n_heads=1, dim=24,
            hidden_dim=50), 7, 70, 0.5)
    encoder(out, "distilbert-relu", distilbert(vocab_size=99, max_position_embeddings=33, n_layers=1, n_heads=6, dim=66,
            hidden_dim=31, activation="relu"), 3, 33, 0.0)
    encoder(out, "bert-tanh-gelu", bert(vocab_size=150, hidden_size=40, num_hidden_layers=3, num_attention_heads=5,
            intermediate_size=90, hidden_act="gelu_new", max_position_embeddings=64, type_vocab_size=1,
            layer_norm_eps=1e-5), 9, 40, 0.25)

    sasrec(out, "sasrec-odd", "reference", [7, 6, 3, 1, 7], 40, maxlen=7, hidden_units=36, num_blocks=3, num_heads=4)
    sasrec(out, "sasrec-wide", "reference", [200, 150, 2, 1, 33, 64, 65], 300, maxlen=200, hidden_units=64, num_heads=2,
           num_blocks=1)
    sasrec(out, "sasrec-l2", "reference", [14, 3, 9], 30, maxlen=14, hidden_units=32, l2_emb=0.01)
    sasrec(out, "sasrec-empty-row", "reference", [12, 0, 5], 30, maxlen=12, hidden_units=16)
    sasrec(out, "pmixer-post", "post", [20, 11, 1, 2, 19], 50, maxlen=20, hidden_units=30, num_heads=3, num_blocks=3)
    sasrec(out, "pmixer-pre", "pre", [20, 11, 1, 2, 19], 50, maxlen=20, hidden_units=30, num_heads=2, num_blocks=2)
    sasrec(out, "pmixer-pre-odd", "pre", [9, 1, 4], 25, maxlen=9, hidden_units=50)

    gru(out, "gru-one", 1, 5, 9, 4, 13)
    gru(out, "gru-deep", 3, 12, 20, 7, 21)
    stage1(out, "stage1-bert", bert(vocab_size=130, hidden_size=36, num_hidden_layers=2, num_attention_heads=3,
           intermediate_size=44, max_position_embeddings=30), 50, 128, 6, 22, 0.5, 0.2)
    stage1(out, "stage1-distilbert", distilbert(vocab_size=80, max_position_embeddings=24, n_layers=1, n_heads=2, dim=20,
           hidden_dim=28), 21, 9, 3, 15, 0.3, 0.7)
    stage2(out, "stage2", 50, 128, 96, 3, 41)
    stage2(out, "stage2-narrow", 7, 7, 5, 1, 1)
    byte_level_bpe(out, "bpe", ["[PAD]", "[UserRep]", "[HistoryEmb]", "[CandidateEmb]"])
    word_piece(out, "wordpiece", True)
    word_piece(out, "wordpiece-cased", False)


if __name__ == "__main__":
    main()
