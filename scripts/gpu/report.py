"""Puts the figures of one scripts/gpu.sh run together: report.py DIR reads what the parts left there and writes
DIR/results.json (card, driver, date, commit, and every figure with its floor, its share of it, and its peers) and
DIR/results.md (the same as tables). Standard library only.

A row of ours and a row of a peer belong together when they have the same name and the same kind of number; int8 and
int4 weights, which PyTorch has no like of, stand beside its float16. A ratio above 1 means that ours is faster.
"""

import json
import os
import sys

BENCHES = ("bench-models", "bench-scoring", "bench-ops", "bench-own-gemm")

# Of one H200: what is asked for, and which figure answers it. The last is a function of (our row, its peers).
GOALS = [
    ("prefill: share of the half ceiling", "opt-6.7b prefill", "", "float16", 0.60, lambda row: row["ofFloor"]),
    ("scoring, users/s", "opt-6.7b scoring", "4x", "float16", 40, lambda row: row["rate"]),
    ("scoring / the authors' way", "opt-6.7b scoring", "4x", "float16", 10, lambda row: ratio_to(row, "authors' way")),
    ("decode float16: share of bandwidth", "opt-6.7b decode", "1 ", "float16", 0.75, lambda row: row["ofFloor"]),
    ("decode int8: share of bandwidth", "opt-6.7b decode", "1 ", "int8", 0.70, lambda row: row["ofFloor"]),
    ("decode int4: share of bandwidth", "opt-6.7b decode", "1 ", "int4", 0.55, lambda row: row["ofFloor"]),
    ("stage-2 step / PyTorch", "opt-6.7b stage 2", "", "bfloat16", 1.2, lambda row: row["ratio"]),
    ("SASRec step / PyTorch eager", "sasrec step", "", "float32", 5, lambda row: ratio_to(row, "PyTorch eager")),
]


def load(path):
    """What a part left, or nothing: the part may have failed or not have been asked for."""
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def table(path):
    try:
        with open(path) as file:
            return [line.rstrip("\n").split("\t") for line in file]
    except OSError:
        return []


def peers_of(row, peers):
    """The peers of one of our rows, fastest first."""
    wanted = {"int8": "float16", "int4": "float16"}.get(row["dtype"], row["dtype"])
    found = []
    for peer in peers:
        if peer["name"] != row["name"] or peer["dtype"] != wanted or not peer["rate"]:
            continue
        # Several sequences at once are another job than one.
        if row["name"].endswith("decode") and not row["shape"].startswith("1 "):
            continue
        same_work = row["suite"] == "ops"  # counted with slightly different FLOPs: compare the times
        ours, theirs = (1 / row["milliseconds"], 1 / peer["milliseconds"]) if same_work else (row["rate"], peer["rate"])
        found.append(dict(peer=peer["peer"], dtype=peer["dtype"], rate=peer["rate"], unit=peer["unit"],
                          milliseconds=peer["milliseconds"], ratio=ours / theirs))  # fmt: skip
    return sorted(found, key=lambda peer: peer["ratio"])


def ratio_to(row, text):
    ratios = [peer["ratio"] for peer in row["peers"] if peer["peer"].endswith(text) or text in peer["peer"]]
    # Several peers may answer to the text: the fastest counts.
    return min(ratios) if ratios else None


def merge(folder):
    info = {key: value for key, value in (line[:2] for line in table(os.path.join(folder, "logs", "info.tsv")))}
    parts = []
    logs = os.path.join(folder, "logs")
    for name in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
        if name.endswith(".status"):
            for part, status, seconds, note in (line[:4] for line in table(os.path.join(logs, name))):
                parts.append(dict(part=part, status=int(status) if status.isdigit() else status,
                                  seconds=int(seconds), note=note))  # fmt: skip
    peers = load(os.path.join(folder, "peers.json")) or dict(rows=[], ceilings={})
    result = dict(**info, parts=parts, ceilings={}, peers={k: v for k, v in peers.items() if k not in ("rows", "kind")})
    rows = []
    for name in BENCHES:
        bench = load(os.path.join(folder, f"{name}.json"))
        if not bench:
            continue
        result["device"] = {k: bench.get(k) for k in ("device", "name", "instruction", "libraries", "threads", "memoryBytes")}
        result["ceilings"] = bench["ceilings"]
        result["quick"] = bench["quick"]
        for row in bench["rows"]:
            row["variant"] = "without cuBLASLt" if name == "bench-own-gemm" else ""
            if row["rate"]:
                row["peers"] = peers_of(row, peers["rows"])
                row["ratio"] = row["peers"][0]["ratio"] if row["peers"] else None
            else:
                row["peers"], row["ratio"] = [], None
            rows.append(row)
    # Tiny sizes say nothing of speed.
    result["goals"] = [goal_of([] if result.get("quick") else rows, *goal) for goal in GOALS]
    result["rows"] = rows
    result["peerRows"] = peers["rows"]
    return result


def goal_of(rows, what, name, shape, dtype, least, value_of):
    for row in rows:
        if row["name"] == name and row["shape"].startswith(shape) and row["dtype"] == dtype and row["rate"]:
            value = value_of(row)
            return dict(goal=what, least=least, value=value, met=None if value is None else value >= least)
    return dict(goal=what, least=least, value=None, met=None)


def number(value, form=".3g"):
    """Plain digits: neither an exponent nor more than three figures that mean something."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 else format(value, form)


def percent(value):
    return "–" if value is None else f"{100 * value:.0f} %"


def markdown(result):
    lines = [f"# {result.get('card', 'unknown card')}", ""]
    for label, key in (("driver", "driver"), ("nvcc", "nvcc"), ("date", "date"), ("commit", "commit"),
                       ("power limit", "powerLimit")):  # fmt: skip
        if result.get(key):
            lines.append(f"- {label}: {result[key]}")
    peers = result["peers"]
    if peers.get("torch"):
        missing = peers.get("transformers_missing", "")
        lines.append(f"- peers: PyTorch {peers['torch']}, transformers {peers.get('transformers') or 'none: ' + missing}")
    if result["ceilings"]:
        c = result["ceilings"]
        half, wide, memory = ((c[key] or 0) / scale for key, scale in (("half", 1e12), ("float32", 1e12), ("bytes", 1e9)))
        lines.append(f"- ceilings: half {half:.4g} TFLOP/s, float32 {wide:.4g} TFLOP/s, {memory:.4g} GB/s ({c['source']})")
    if result.get("quick"):
        lines.append("- tiny sizes: whether it runs; the times say nothing")
    lines += ["", "| part | status | seconds | |", "|---|---|---|---|"]
    lines += [f"| {p['part']} | {'ok' if p['status'] == 0 else p['status']} | {p['seconds']} | {p['note']} |"
              for p in result["parts"]]  # fmt: skip
    lines += ["", "| goal | at least | measured | |", "|---|---|---|---|"]
    for g in result["goals"]:
        met = "not measured" if g["met"] is None else "met" if g["met"] else "not met"
        lines.append(f"| {g['goal']} | {g['least']:g} | {number(g['value'])} | {met} |")
    for suite in ("models", "scoring", "ops"):
        rows = [row for row in result["rows"] if row["suite"] == suite]
        if not rows:
            continue
        lines += ["", f"## {suite}", "", "| | shape | numbers | ms | rate | of the floor | peers: ours is … times as fast |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for row in rows:
            name = row["name"] + (f" ({row['variant']})" if row["variant"] else "")
            if not row["rate"]:
                lines.append(f"| {name} | {row['shape']} | {row['dtype']} | – | – | – | {row['note'].replace('|', '/')} |")
                continue
            beside = "; ".join(f"{p['peer']} {number(p['ratio'])}" for p in row["peers"])
            lines.append(f"| {name} | {row['shape']} | {row['dtype']} | {number(row['milliseconds'])} | "
                         f"{number(row['rate'])} {row['unit']} | {percent(row['ofFloor'])} | {beside} |")  # fmt: skip
    lines += profiles(result)
    if result["peerRows"]:
        lines += ["", "## peers", "", "| | numbers | peer | ms | rate |", "|---|---|---|---|---|"]
        for row in result["peerRows"]:
            rate = f"{number(row['rate'])} {row['unit']}" if row["rate"] else row["note"].replace("|", "/")
            lines.append(f"| {row['name']} | {row['dtype']} | {row['peer']} | {number(row['milliseconds'])} | {rate} |")
    return "\n".join(lines) + "\n"


def profiles(result):
    """Where the steps' time goes: the ops that take most of it, and their floors."""
    lines = []
    for row in result["rows"]:
        if not row.get("profile"):
            continue
        lines += ["", f"### {row['name']}, {row['shape']}, {row['dtype']}", "", "| op | calls | ms | of the floor |",
                  "|---|---|---|---|"]  # fmt: skip
        for op in row["profile"][:8]:
            flops, memory = (result["ceilings"].get(key) for key in (row["arithmetic"], "bytes"))
            floor = 1e3 * max(op["flops"] / flops, op["bytes"] / memory) if flops and memory else None
            share = percent(floor / op["milliseconds"]) if floor and op["milliseconds"] else "–"
            lines.append(f"| {op['op']} | {op['calls']} | {number(op['milliseconds'])} | {share} |")
    return ["", "## where the time goes", *lines] if lines else []


def main():
    if len(sys.argv) != 2:
        sys.exit("Usage: report.py DIR")
    folder = sys.argv[1]
    result = merge(folder)
    with open(os.path.join(folder, "results.json"), "w") as file:
        json.dump(result, file, indent="\t", ensure_ascii=False)
        file.write("\n")
    with open(os.path.join(folder, "results.md"), "w") as file:
        file.write(markdown(result))
    measured = sum(1 for row in result["rows"] if row["rate"])
    met = [goal["met"] for goal in result["goals"]]
    print(f"{measured} of {len(result['rows'])} rows measured; goals: {met.count(True)} met, {met.count(False)} not met, "
          f"{met.count(None)} not measured")  # fmt: skip
    return 0 if result["rows"] or result["peerRows"] else 1


if __name__ == "__main__":
    sys.exit(main())
