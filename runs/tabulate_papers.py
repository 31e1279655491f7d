"""The sections of docs/results.md that put a paper's table beside ours, from what the script of its name wrote."""

import json
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, dict[str, Any]]]
WEIGHTS = ("0", "0.003", "0.01", "0.03", "0.1", "0.3", "alone")
ALGORITHMS = ("recjpqprune", "block_prune", "bounded_scan")
# arXiv:2308.07192's code (ml-1m), NDCG@10 and Recall@10
GSASREC = {"ml-1m": {"sasrec": (0.1259, 0.2392), "gsasrec": (0.1726, 0.3003)}}
# arXiv:2312.06165, NDCG@10, d = 512, m = 8; Booking.com stands beside globo-news
RECJPQ = {
    "ml-1m": {
        **{"sasrec-dense": 0.131, "sasrec-svd": 0.129, "sasrec-bpr": 0.130, "sasrec-random": 0.125},
        **{"gbert4rec-dense": 0.157, "gbert4rec-svd": 0.154, "gbert4rec-bpr": 0.156, "gbert4rec-random": 0.156},
    },
    "globo-news": {
        **{"sasrec-dense": 0.137, "sasrec-svd": 0.185, "sasrec-bpr": 0.242, "sasrec-random": 0.256},
        **{"gbert4rec-dense": 0.376, "gbert4rec-svd": 0.379, "gbert4rec-bpr": 0.375, "gbert4rec-random": 0.316},
    },
    "oss-edits": {"sasrec-svd": 0.122},
}
# arXiv:2408.09992, table 2: NDCG@10, ms of encoder, then of scoring by the dense product, RecJPQ, PQTopK
PQTOPK = {
    "globo-news-gbert4rec-512": (0.328, 37.16, 6.22, 3.90, 3.09),
    "globo-news-sasrec-512": (0.188, 23.75, 6.27, 3.77, 2.93),
    "oss-edits-gbert4rec-512": (0.168, 37.52, 133.40, 33.87, 13.79),
    "oss-edits-sasrec-512": (0.120, 24.67, 131.35, 29.65, 10.03),
}
CONCENTRATED_HEAD = """
## Concentrated scores

Made by `runs/concentrated.sh`: SASRec, 8 bytes per item (k-means codes), D = 128, as many passes over the log for all;
the weight is that of the per-split cross-entropy beside the sampled softmax, `alone` is RPG's loss (the index ranks by
log-probabilities as it does by scores). Cells of the searches: items scored, median microseconds; top 10 of 1,000 real
queries, one thread, exact.
"""
GSASREC_HEAD = """
## gSASRec's comparison

Made by `runs/gsasrec.sh` (arXiv:2308.07192): D = 128, 200 events, a vector per item, random start. Published figures,
NDCG@10 / Recall@10, are of the authors' PyTorch code on the same data and split.
"""
RECJPQ_HEAD = """
## RecJPQ's comparison

Made by `runs/recjpq.sh` (arXiv:2312.06165): D = 512, 8 bytes per item. Published figures are NDCG@10 on MovieLens 1M,
on Booking.com beside globo-news, and on Gowalla beside oss-edits: other data, so only the order of the rows compares.
"""
PQTOPK_HEAD = """
## PQTopK's table

Made by `runs/pqtopk.sh` (arXiv:2408.09992): M = 8, D = 512, medians in ms, one thread; in italics the paper's (16 cores
of another machine, TensorFlow; Booking.com beside globo-news, Gowalla beside oss-edits).

| model | NDCG@10 | encoder | dense | RecJPQ | PQTopK | ours |
|---|--:|--:|--:|--:|--:|--:|
"""
SCORING = ("dense, C++", "recjpq", "pqtopk", "planner")


def concentrated_section(folder: Path) -> str:
    """NDCG against the share of the items scored, by the weight of the per-split cross-entropy."""
    found = _read(folder)
    if not found:
        return ""
    parts = [CONCENTRATED_HEAD]
    for name, results in found.items():
        parts.append(f"\n**{name}**\n\n| weight | updates | NDCG@10 | {' | '.join(ALGORITHMS)} |\n|---{'|--:' * 5}|\n")
        for weight in (weight for weight in WEIGHTS if weight in results):
            result = results[weight]
            lines = {line["algorithm"]: line for line in result["search"]["algorithms"]}
            cells = (f"{lines[a]['scored']:.2%}, {lines[a]['median_us']:.0f} us" for a in ALGORITHMS)
            updates = result["training"]["updates"]
            parts.append(f"| {weight} | {updates:,} | {_interval(result, 'ndcg@10')} | {' | '.join(cells)} |\n")
    return "".join(parts)


def gsasrec_section(folder: Path) -> str:
    """BCE against gBCE."""
    figures = {name: {m: f"{n:.4f} / {r:.4f}" for m, (n, r) in row.items()} for name, row in GSASREC.items()}
    return _beside(folder, GSASREC_HEAD, figures)


def recjpq_section(folder: Path) -> str:
    """Dense against codes."""
    figures = {name: {m: f"{n:.3f}" for m, n in row.items()} for name, row in RECJPQ.items()}
    return _beside(folder, RECJPQ_HEAD, figures)


def pqtopk_section(folder: Path) -> str:
    """Encoder and scoring by method, ms; scoring is of `runs/recjpqprune.sh` on the same models."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not found:
        return ""
    lines = []
    for name, result in found.items():
        scoring = _scoring(folder.parent / "recjpqprune" / f"{name}.json")
        encoder = f"{result['encoder_ms']['median']:.2f}"
        lines.append(f"| {name} | {_interval(result, 'ndcg@10')} | {encoder} | {' | '.join(scoring)} |")
        if name in PQTOPK:
            lines.append(f"| *published* | {' | '.join(f'*{value:g}*' for value in PQTOPK[name])} | |")
    return PQTOPK_HEAD + "\n".join(lines) + "\n"


def _scoring(path: Path) -> list[str]:
    if not path.is_file():
        return [""] * len(SCORING)
    methods = {line["algorithm"]: line["median_us"] / 1e3 for line in json.loads(path.read_text())["methods"]}
    return [f"{methods[name]:.3g}" if name in methods else "" for name in SCORING]


def _beside(folder: Path, head: str, published: dict[str, dict[str, str]]) -> str:
    """A table per data set: our NDCG@10, Recall@10, sizes and time, the paper's figure."""
    found = _read(folder)
    if not found:
        return ""
    parts = [head]
    heads = ("model", "NDCG@10", "Recall@10", "index MB", "encoder MB", "training s", "published")
    columns = f"| {' | '.join(heads)} |\n|---{'|--:' * (len(heads) - 1)}|\n"
    for name, results in found.items():
        parts.append(f"\n**{name}**\n\n{columns}")
        for model, result in results.items():
            training = result["training"]
            sizes = " | ".join(f"{training[part] / 1e6:.1f}" for part in ("index_bytes", "encoder_bytes"))
            cells = f"{_interval(result, 'ndcg@10')} | {_interval(result, 'recall@10')} | {sizes}"
            told = published.get(name, {}).get(model, "")
            parts.append(f"| {model} | {cells} | {training['training_seconds']:.0f} | {told} |\n")
    return "".join(parts)


def _read(folder: Path) -> Results:
    sets = sorted(path for path in folder.glob("*") if path.is_dir())
    return {
        path.name: {file.stem: json.loads(file.read_text()) for file in sorted(path.glob("*.json"))} for path in sets
    }


def _interval(result: dict[str, Any], metric: str) -> str:
    value, low, high = (result[metric][key] for key in ("value", "low", "high"))
    return f"{value:.4f} ± {(high - low) / 2:.4f}"
