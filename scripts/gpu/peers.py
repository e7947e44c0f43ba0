"""What a user would run instead, on PyTorch, timed on the same card as our benchmark: scripts/gpu.sh peers.

    peers.py --json peers.json [--only TEXT] [--seconds 1.5] [--limit 240]
    peers.py --json peers.json --cpu --quick        # does it run: tiny sizes, no GPU

Nothing is downloaded: weights are random and every config stands here. Names, shapes and units of the rows are
those of `a-llmrec-bench`, so that report.py can put them side by side. Models come from transformers where it is
installed; the plain PyTorch modules below run in any case, and are the tighter peer: no framework around them, and
decoding under a CUDA graph. A row that fails gives its reason and does not stop the others.

Times are medians over repetitions between CUDA events, after a warm-up.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
import time
import warnings

import torch
from torch import nn
from torch.nn import functional

try:
    import transformers

    transformers.logging.set_verbosity_error()
except Exception as error:  # not installed, or not fit for this PyTorch: the plain modules stand in
    transformers = None
    transformers_missing = f"{type(error).__name__}: {error}".splitlines()[0]
else:
    transformers_missing = ""
warnings.filterwarnings("ignore")

OPT_67B = dict(name="opt-6.7b", layers=32, width=4096, ffn=16384, heads=32, vocab=50272, positions=2048)
OPT_TINY = dict(name="opt-tiny", layers=2, width=64, ffn=256, heads=4, vocab=1000, positions=256)
FULL = dict(
    opt=OPT_67B, prompt=700, candidates=20, title=10, new_tokens=15, context=512, stage_batch=2, stage_tokens=1000,
    stage_targets=12, stage_soft=31, texts=120, text_tokens=128, encoder_layers=6, encoder_width=768,
    encoder_heads=12, encoder_ffn=3072, encoder_vocab=30522, batch=128, history=50, hidden=50, items=24000,
    matrix=8192, copy_bytes=4 << 30,
)  # fmt: skip
QUICK = dict(
    opt=OPT_TINY, prompt=40, candidates=4, title=5, new_tokens=3, context=32, stage_batch=2, stage_tokens=48,
    stage_targets=4, stage_soft=5, texts=4, text_tokens=16, encoder_layers=2, encoder_width=64, encoder_heads=4,
    encoder_ffn=128, encoder_vocab=500, batch=8, history=12, hidden=16, items=100, matrix=128, copy_bytes=1 << 20,
)  # fmt: skip


class Runner:
    """Times steps and collects rows."""

    def __init__(self, options):
        self.options = options
        self.device = "cpu" if options.cpu else "cuda"
        self.sizes = QUICK if options.quick else FULL
        self.rows = []
        self.ceilings = {}
        self.started = time.perf_counter()

    def elapsed(self):
        return time.perf_counter() - self.started

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time_once(self, step):
        """Seconds of one call, on the device."""
        if self.device == "cpu":
            start = time.perf_counter()
            step()
            return time.perf_counter() - start
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def measure(self, step):
        """Median seconds of a step."""
        budget = 0.05 if self.options.quick else self.options.seconds
        self.time_once(step)
        once = self.time_once(step)
        if once < 1e-3:  # short steps are timed in batches, or the events would be most of it
            inner = max(1, min(1000, math.ceil(2e-3 / max(once, 1e-6))))

            def batch():
                for _ in range(inner):
                    step()

            self.time_once(batch)
        else:
            inner, batch = 1, step
        times, spent = [], 0.0
        while len(times) < 3 or (spent < budget and len(times) < 200):
            seconds = self.time_once(batch)
            times.append(seconds / inner)
            spent += seconds
        return statistics.median(times)

    def row(self, name, dtype, peer, units, unit, make):
        """make() gives the step; everything it builds is freed before the next row."""
        if self.options.only not in f"{name} {dtype} {peer}":
            return None
        entry = dict(name=name, dtype=dtype, peer=peer, unit=unit, milliseconds=None, rate=None, note="")
        self.rows.append(entry)
        seconds = None
        if self.elapsed() > self.options.limit:
            entry["note"] = f"left out: the limit of {self.options.limit:g} s was reached"
        else:
            try:
                seconds = self.measure(make())
                entry.update(milliseconds=seconds * 1e3, rate=units / seconds)
            except Exception as error:  # out of memory, a missing kernel: the others go on
                entry["note"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            if self.device == "cuda":
                torch.cuda.empty_cache()
        shown = f"{entry['rate']:.4g} {unit}, {seconds * 1e3:.4g} ms" if seconds else entry["note"]
        print(f"{name:34} {dtype:9} {peer:44} {shown}", flush=True)
        return seconds


# ---- ceilings -------------------------------------------------------------------------------------------------


def ceilings(run):
    """What the card can do at most, as PyTorch reaches it: the large matrix product and the copy."""
    n, device = run.sizes["matrix"], run.device
    for name in ("float16", "bfloat16", "float32"):
        dtype = getattr(torch, name)

        def product():
            a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            out = torch.empty(n, n, device=device, dtype=dtype)
            return lambda: torch.matmul(a, b, out=out)

        seconds = run.row(f"gemm {n} cubed", name, "torch.matmul", 2 * n**3 / 1e9, "GFLOP/s", product)
        if seconds:
            run.ceilings[f"{name}_flops"] = 2 * n**3 / seconds
    count = run.sizes["copy_bytes"] // 2

    def copy():
        source = torch.ones(count // 4, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    seconds = run.row("copy", "float32", "tensor.copy_", 2 * count / 1e9, "GB/s", copy)
    if seconds:
        run.ceilings["bytes"] = 2 * count / seconds


def attention(run):
    s = run.sizes
    opt = s["opt"]
    shapes = [
        (f"attention {opt['name']} prefill", 1, s["prompt"], opt["heads"], opt["width"] // opt["heads"], True, "float16"),
        (f"attention {opt['name']} stage 2", s["stage_batch"], s["stage_tokens"], opt["heads"],
         opt["width"] // opt["heads"], True, "bfloat16"),
        ("attention distilbert", s["texts"], s["text_tokens"], s["encoder_heads"],
         s["encoder_width"] // s["encoder_heads"], False, "bfloat16"),
    ]  # fmt: skip
    for name, batch, tokens, heads, dim, causal, dtype in shapes:
        pairs = batch * tokens * ((tokens + 1) / 2 if causal else tokens)
        flops = 4 * pairs * heads * dim / 1e9
        kind = getattr(torch, dtype)

        def inputs(grad):
            """Sets of q, k and v taken in turn, together larger than any cache."""
            shape = (batch, heads, tokens, dim)
            sets = 1 if run.device == "cpu" else math.ceil((256 << 20) / (3 * 2 * math.prod(shape)))
            options = dict(device=run.device, dtype=kind, requires_grad=grad)
            return [[torch.randn(shape, **options) for _ in range(3)] for _ in range(sets)]

        def forward():
            turn = itertools.cycle(inputs(False))
            return lambda: functional.scaled_dot_product_attention(*next(turn), is_causal=causal)

        def backward():
            sets = [(s, functional.scaled_dot_product_attention(*s, is_causal=causal)) for s in inputs(True)]
            turn = itertools.cycle(sets)
            upstream = torch.randn_like(sets[0][1])

            def step():
                leaves, out = next(turn)
                return torch.autograd.grad(out, leaves, upstream, retain_graph=True)

            return step

        run.row(name, dtype, "PyTorch SDPA", flops, "GFLOP/s", forward)
        run.row(f"{name} backward", dtype, "PyTorch SDPA", 2.5 * flops, "GFLOP/s", backward)


# ---- SASRec ---------------------------------------------------------------------------------------------------


class SasRec(nn.Module):
    """The reference's model: Q = LN(x), x = Q + MHA(Q, x, x), x = FFN(LN(x)) + LN(x)."""

    def __init__(self, items, length, width, blocks, heads, dropout):
        super().__init__()
        self.width = width
        self.item = nn.Embedding(items + 1, width, padding_idx=0)
        self.position = nn.Embedding(length, width)
        self.dropout = nn.Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-8) for _ in range(2 * blocks + 1))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, heads, dropout) for _ in range(blocks))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, histories, positives, negatives):  # (B, T) each
        x = self.item(histories) * math.sqrt(self.width)
        x = self.dropout(x + self.position(torch.arange(histories.shape[1], device=x.device)))
        real = (histories != 0).unsqueeze(-1)
        x = x * real
        future = torch.ones((histories.shape[1],) * 2, dtype=torch.bool, device=x.device).triu(1)
        for i, attend in enumerate(self.attentions):
            x = x.transpose(0, 1)
            query = self.norms[2 * i](x)
            x = (query + attend(query, x, x, attn_mask=future)[0]).transpose(0, 1)
            x = self.norms[2 * i + 1](x)
            x = (x + self.dropout(self.outer[i](torch.relu(self.dropout(self.inner[i](x)))))) * real
        features = self.norms[-1](x)
        return ((features * self.item(other)).sum(-1) for other in (positives, negatives))


def sasrec(run):
    s = run.sizes
    batch, length = s["batch"], s["history"]

    def step_of(filled, optimizer_options):
        torch.manual_seed(1)
        model = SasRec(s["items"], length, s["hidden"], 2, 1, 0.2).to(run.device).train()
        adam = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), **optimizer_options)
        rows = [torch.randint(1, s["items"] + 1, (batch, length)) for _ in range(3)]
        for row in rows:
            row[:, : length - filled] = 0
        criterion = nn.BCEWithLogitsLoss()

        def step():  # batches come from the host, as in training; drawing them is not part of it
            histories, positives, negatives = (row.to(run.device, non_blocking=True) for row in rows)
            positive, negative = model(histories, positives, negatives)
            valid = torch.where(positives != 0)
            adam.zero_grad()
            loss = criterion(positive[valid], torch.ones_like(positive[valid]))
            loss = loss + criterion(negative[valid], torch.zeros_like(negative[valid]))
            loss.backward()
            adam.step()

        return step

    sparse = max(1, length // 8)
    for name, filled in (("sasrec step", length), ("sasrec step sparse", sparse)):
        run.row(name, "float32", "PyTorch eager", batch, "sequences/s", lambda: step_of(filled, {}))
    run.row("sasrec step", "float32", "PyTorch eager, fused Adam", batch, "sequences/s",
            lambda: step_of(length, dict(fused=True)))  # fmt: skip


# ---- sentence encoder -----------------------------------------------------------------------------------------


class PlainEncoder(nn.Module):
    def __init__(self, s):
        super().__init__()
        width = s["encoder_width"]
        self.token, self.position = nn.Embedding(s["encoder_vocab"], width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        layer = nn.TransformerEncoderLayer(width, s["encoder_heads"], s["encoder_ffn"], 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, s["encoder_layers"], enable_nested_tensor=False)

    def forward(self, ids):
        return self.layers(self.norm(self.token(ids) + self.position.weight[: ids.shape[1]]))


def encoder(run):
    s = run.sizes

    def plain():
        return PlainEncoder(s)

    def hugging_face():
        config = transformers.DistilBertConfig(
            vocab_size=s["encoder_vocab"], n_layers=s["encoder_layers"], n_heads=s["encoder_heads"],
            dim=s["encoder_width"], hidden_dim=s["encoder_ffn"], dropout=0.0, attention_dropout=0.0,
        )  # fmt: skip
        model = transformers.DistilBertModel(config)
        inner = model.forward
        model.forward = lambda ids: inner(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return model

    def step_of(make, dtype, tf32, train):
        torch.manual_seed(1)
        model = make().to(run.device).train(train)
        ids = torch.randint(0, s["encoder_vocab"], (s["texts"], s["text_tokens"]), device=run.device)

        def step():
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            with torch.autocast(run.device, getattr(torch, dtype), enabled=dtype != "float32"):
                if not train:
                    with torch.inference_mode():
                        return model(ids).mean(1)
                pooled = model(ids).mean(1)
            model.zero_grad()
            pooled.float().sum().backward()
            return None

        return step

    makers = [("PyTorch", plain)]
    if transformers:
        makers.insert(0, ("transformers", hugging_face))
    for train, name in ((True, "distilbert forward+backward"), (False, "distilbert forward")):
        for label, make in makers:
            for dtype, tf32, suffix in (
                ("float32", False, ""),
                ("float32", True, ", TF32"),
                ("float16", True, ", autocast"),
                ("bfloat16", True, ", autocast"),
            ):
                run.row(name, dtype, label + suffix, s["texts"], "texts/s",
                        lambda: step_of(make, dtype, tf32, train))  # fmt: skip
    torch.set_float32_matmul_precision("highest")


# ---- language model -------------------------------------------------------------------------------------------


class PlainOpt(nn.Module):
    """OPT, pre-norm, with keys and values in slabs of a fixed size. Weights are made on the device."""

    def __init__(self, c, device, dtype):
        super().__init__()
        self.heads, self.width = c["heads"], c["width"]
        width, ffn = c["width"], c["ffn"]

        def linear(out, n):
            return nn.Linear(n, out, device=device, dtype=dtype)

        def norm():
            return nn.LayerNorm(width, device=device, dtype=dtype)

        self.token = nn.Embedding(c["vocab"], width, device=device, dtype=dtype)
        self.position = nn.Embedding(c["positions"] + 2, width, device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            nn.ModuleList([norm(), linear(3 * width, width), linear(width, width), norm(), linear(ffn, width),
                           linear(width, ffn)])
            for _ in range(c["layers"])
        )  # fmt: skip
        self.norm = norm()
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.02)
        self.requires_grad_(False)

    def slabs(self, batch, length):
        weight = self.token.weight
        shape = (2, batch, self.heads, length, self.width // self.heads)
        return [torch.zeros(shape, device=weight.device, dtype=weight.dtype) for _ in self.layers]

    def hidden(self, x, cache=None, at=None, mask=None):
        """x (B, T, C) with its positions added. With a cache, keys and values go to its columns `at`."""
        batch, tokens, width = x.shape
        for (norm1, qkv, out, norm2, fc1, fc2), slab in zip(self.layers, cache or [None] * len(self.layers)):
            q, k, v = qkv(norm1(x)).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            if slab is not None:
                slab[0].index_copy_(2, at, k)
                slab[1].index_copy_(2, at, v)
                k, v = slab
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
            x = x + out(y.transpose(1, 2).reshape(batch, tokens, width))
            x = x + fc2(functional.relu(fc1(norm2(x))))
        return self.norm(x)

    def embed(self, ids, positions):
        return self.token(ids) + self.position(positions + 2)

    def logits(self, hidden):
        return hidden @ self.token.weight.T


class PlainPeer:
    """The language model's work on the plain module."""

    label = "PyTorch"

    def __init__(self, c, device, dtype):
        self.c, self.device = c, device
        self.model = PlainOpt(c, device, dtype)

    def to(self, dtype):
        self.model.to(dtype)

    def embed_table(self):
        return self.model.token

    def ids(self, *shape):
        return torch.randint(4, self.c["vocab"], shape, device=self.device)

    def prefill(self, tokens):
        ids, positions = self.ids(1, tokens), torch.arange(tokens, device=self.device)

        @torch.inference_mode()
        def step():
            hidden = self.model.hidden(self.model.embed(ids, positions))
            return self.model.logits(hidden[:, -1]).argmax(-1)

        return step

    def scoring(self, prompt, candidates, title):
        """The prompt once; its keys and values, repeated, then serve every candidate's title in one batch."""
        model, device = self.model, self.device
        ids, titles = self.ids(1, prompt), self.ids(candidates, title)
        positions = torch.arange(prompt + title, device=device)
        seen = torch.ones(title - 1, prompt + title - 1, dtype=torch.bool, device=device).tril(prompt)

        @torch.inference_mode()
        def step():
            cache = model.slabs(1, prompt)
            first = model.hidden(model.embed(ids, positions[:prompt]), cache, positions[:prompt])[:, -1:]
            grown = []
            for slab in cache:
                large = torch.empty((2, candidates, slab.shape[2], prompt + title - 1, slab.shape[4]),
                                    device=device, dtype=slab.dtype)  # fmt: skip
                large[:, :, :, :prompt] = slab
                grown.append(large)
            at = positions[prompt : prompt + title - 1]
            rest = model.hidden(model.embed(titles[:, :-1], at), grown, at, seen)
            hidden = torch.cat([first.expand(candidates, -1, -1), rest], 1)
            log_probs = model.logits(hidden).float().log_softmax(-1)
            return log_probs.gather(-1, titles.unsqueeze(-1)).squeeze(-1).sum(1)

        return step

    def authors(self, prompt, new_tokens):
        decode, fill = self.decoder(prompt, prompt + new_tokens)

        def step():
            fill()
            for _ in range(new_tokens - 1):
                decode()

        return step

    def decode(self, context, graph=False):
        window = 64
        decode, fill = self.decoder(context, context + window)
        fill()
        state = {"left": window - 1}
        run = decode
        if graph and self.device == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    decode()
            torch.cuda.current_stream().wait_stream(side)
            fill()
            captured = torch.cuda.CUDAGraph()
            with torch.cuda.graph(captured):
                decode()
            fill()
            run = captured.replay

        def step():
            if state["left"] == 0:  # cut back, without a prefill
                decode.at.fill_(context)
                state["left"] = window - 1
            run()
            state["left"] -= 1

        return step

    def decoder(self, context, capacity):
        """A prefill and a decoding step whose position lives on the device."""
        model, device = self.model, self.device
        ids, positions = self.ids(1, context), torch.arange(capacity, device=device)
        cache = model.slabs(1, capacity)
        at = torch.full((1,), context, device=device)
        following = self.ids(1, 1)

        @torch.inference_mode()
        def fill():
            mask = torch.ones(context, capacity, dtype=torch.bool, device=device).tril()
            hidden = model.hidden(model.embed(ids, positions[:context]), cache, positions[:context], mask)
            following.copy_(model.logits(hidden[:, -1]).argmax(-1, keepdim=True))
            at.fill_(context)

        @torch.inference_mode()
        def decode():
            seen = (positions <= at).view(1, 1, 1, -1)
            hidden = model.hidden(model.embed(following, at.view(1, 1)), cache, at, seen)
            following.copy_(model.logits(hidden[:, -1]).argmax(-1, keepdim=True))
            at.add_(1)

        decode.at = at
        return decode, fill

    def forward_embeds(self, x):
        positions = torch.arange(x.shape[1], device=self.device)
        return self.model.hidden(x + self.model.position(positions + 2))

    def head(self, hidden):
        return self.model.logits(hidden)


class TransformersPeer(PlainPeer):
    """The same work on OPTForCausalLM."""

    label = "transformers"

    def __init__(self, c, device, dtype):
        self.c, self.device = c, device
        config = transformers.OPTConfig(
            vocab_size=c["vocab"], hidden_size=c["width"], word_embed_proj_dim=c["width"],
            num_hidden_layers=c["layers"], num_attention_heads=c["heads"], ffn_dim=c["ffn"],
            max_position_embeddings=c["positions"], dropout=0.0,
        )  # fmt: skip
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # 13 GB instead of 27 while the weights are made
        try:
            with torch.device(device):
                self.model = transformers.OPTForCausalLM(config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(default)

    def embed_table(self):
        return self.model.get_input_embeddings()

    def prefill(self, tokens):
        ids = self.ids(1, tokens)

        @torch.inference_mode()
        def step():
            return self.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1)

        return step

    def scoring(self, prompt, candidates, title):
        ids, titles = self.ids(1, prompt), self.ids(candidates, title)
        model = self.model

        @torch.inference_mode()
        def step():
            cache = transformers.DynamicCache(config=model.config)
            first = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            cache.batch_repeat_interleave(candidates)
            rest = model(input_ids=titles[:, :-1], past_key_values=cache, use_cache=True).logits
            log_probs = torch.cat([first.expand(candidates, -1, -1), rest], 1).float().log_softmax(-1)
            return log_probs.gather(-1, titles.unsqueeze(-1)).squeeze(-1).sum(1)

        return step

    def authors(self, prompt, new_tokens):
        ids = self.ids(1, prompt)
        model = self.model

        @torch.inference_mode()
        def step():
            embeds = model.get_input_embeddings()(ids)
            mask = torch.ones_like(ids)
            return model.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, num_beams=1,
                                  repetition_penalty=1.5, min_new_tokens=new_tokens,
                                  max_new_tokens=new_tokens)  # fmt: skip

        return step

    def decode(self, context, graph=False):
        model, window = self.model, 64
        cache = transformers.DynamicCache(config=model.config)
        with torch.inference_mode():
            out = model(input_ids=self.ids(1, context), past_key_values=cache, use_cache=True, logits_to_keep=1)
        state = {"next": out.logits[:, -1:].argmax(-1)}

        @torch.inference_mode()
        def step():
            if cache.get_seq_length() >= context + window:
                cache.crop(context)
            logits = model(input_ids=state["next"], past_key_values=cache, use_cache=True).logits
            state["next"] = logits[:, -1:].argmax(-1)

        return step

    def forward_embeds(self, x):
        return self.model.model.decoder(inputs_embeds=x, use_cache=False).last_hidden_state

    def head(self, hidden):
        return self.model.lm_head(hidden)


def stage_two(peer, s, dtype):
    """Both projections learn through the frozen model; logits of the target rows only."""
    width, device = s["opt"]["width"], peer.device
    batch, tokens, targets, soft = s["stage_batch"], s["stage_tokens"], s["stage_targets"], s["stage_soft"]

    def mlp(size, activation):
        return nn.Sequential(nn.Linear(size, width), nn.LayerNorm(width), activation, nn.Linear(width, width))

    user, item = mlp(50, nn.LeakyReLU()).to(device), mlp(128, nn.GELU()).to(device)
    adam = torch.optim.Adam([*user.parameters(), *item.parameters()], lr=1e-4, betas=(0.9, 0.98))
    ids = peer.ids(batch, tokens)
    users, items = torch.randn(batch, 50, device=device), torch.randn(batch, soft, 128, device=device)
    places = torch.arange(1, soft + 1, device=device) * ((tokens - targets - 1) // (soft + 1))
    embed = peer.embed_table()

    def step():
        adam.zero_grad()
        x = embed(ids).clone()
        x[:, 0] = user(users).to(dtype)
        x[:, places] = item(items).to(dtype)
        hidden = peer.forward_embeds(x)
        logits = peer.head(hidden[:, -targets - 1 : -1]).float()
        functional.cross_entropy(logits.flatten(0, 1), ids[:, -targets:].flatten()).backward()
        adam.step()

    return step


def language_model(run):
    s = run.sizes
    c, name = s["opt"], s["opt"]["name"]
    prompt, new_tokens = s["prompt"], s["new_tokens"]
    names = [f"{name} {part}" for part in ("prefill", "scoring", "decode", "stage 2")]
    for kind in ([TransformersPeer] if transformers else []) + [PlainPeer]:
        if not any(run.options.only in f"{row} float16 bfloat16 {kind.label}" for row in names) and run.options.only:
            continue
        if run.elapsed() > run.options.limit:
            continue
        torch.manual_seed(1)
        try:
            peer = kind(c, run.device, torch.float16)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            run.rows.append(dict(name=f"{name} prefill", dtype="float16", peer=kind.label, unit="tokens/s",
                                 milliseconds=None, rate=None, note=problem))  # fmt: skip
            print(f"{kind.label}: {problem}", flush=True)
            continue
        label, half = kind.label, "float16"
        run.row(f"{name} prefill", half, label, prompt, "tokens/s", lambda: peer.prefill(prompt))
        run.row(f"{name} scoring", half, f"{label}, prompt shared by the candidates", 1, "users/s",
                lambda: peer.scoring(prompt, s["candidates"], s["title"]))  # fmt: skip
        run.row(f"{name} scoring", half, f"{label}, the authors' way: generate", 1, "users/s",
                lambda: peer.authors(prompt, new_tokens))  # fmt: skip
        run.row(f"{name} decode", half, label, 1, "tokens/s", lambda: peer.decode(s["context"]))
        if kind is PlainPeer:
            run.row(f"{name} decode", half, f"{label}, CUDA graph", 1, "tokens/s",
                    lambda: peer.decode(s["context"], True))  # fmt: skip
        peer.to(torch.bfloat16) if kind is PlainPeer else peer.model.to(torch.bfloat16)
        run.row(f"{name} stage 2", "bfloat16", label, s["stage_batch"], "sequences/s",
                lambda: stage_two(peer, s, torch.bfloat16))  # fmt: skip
        del peer
        if run.device == "cuda":
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True)
    parser.add_argument("--only", default="", help="rows whose name, dtype or peer contains this text")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each row is repeated")
    parser.add_argument("--limit", type=float, default=240, help="seconds after which no row begins")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device here; --cpu --quick checks that the script runs.")
    run = Runner(options)
    if transformers is None:
        print(f"transformers cannot be used ({transformers_missing}): the plain PyTorch modules stand alone.")
    result = dict(
        kind="peers",
        device="cpu" if options.cpu else torch.cuda.get_device_name(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        transformers=transformers.__version__ if transformers else None,
        transformers_missing=transformers_missing,
        quick=options.quick,
        rows=run.rows,
        ceilings=run.ceilings,
    )
    try:
        for group in (ceilings, attention, sasrec, encoder, language_model):
            try:
                group(run)
            except Exception as error:  # a group that cannot even begin
                note = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                print(f"{group.__name__}: {note}", flush=True)
                run.rows.append(dict(name=group.__name__, dtype="", peer="", unit="", milliseconds=None, rate=None,
                                     note=note))  # fmt: skip
    finally:
        result["seconds"] = run.elapsed()
        with open(options.json, "w") as file:
            json.dump(result, file, indent="\t")
            file.write("\n")
    failed = [row for row in run.rows if row["rate"] is None]
    print(f"{len(run.rows) - len(failed)} rows, {len(failed)} without a figure, {run.elapsed():.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
