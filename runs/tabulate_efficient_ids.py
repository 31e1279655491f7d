"""The section of docs/results.md about language models with direct item ids, from the files of `efficient_ids.sh`."""

import json
from pathlib import Path
from typing import Any

METRICS = ("ndcg@5", "ndcg@10", "recall@5", "recall@10")
ABLATION = "-ablation-"
HEAD = """
## Language models with direct item ids

Made by `EVERYITEM_DATA=... runs/efficient_ids.sh WORK {set}` (arXiv:2509.03746): an item is one position of a causal
language model, so one pass answers. Same split and language model for all; {minutes:g} minutes of training on one
thread, or until validation stopped improving, and longer for what is written token by token (the column says how
long); vectors alone; ± is half the 95 % interval. `full-softmax` is the reference: a softmax over the whole catalogue;
`dense` samples it, `two-level` asks for the cluster and then for the item of it, `pq` has codes. `ids-` are strings of
tokens, found by a beam of 20. `titles` writes the next title, by a beam of 20 over the titles there are; `bigrec`
writes it freely and takes the nearest, also with popularity or the scores of `sasrec-dense` mixed in as far as
validation wants it. Passes: until validation was best / made. Training includes that of a dense model where items start
from one. Milliseconds are for one user on one thread, encoder and top-10, on a busy machine.

"""
ABLATIONS = """
At most {epochs} passes over {set}, two-level items unless said, everything else as above. Silhouette: of the clusters,
in the SVD vectors that "kmeans" and "spectral" see. Uncorrected: ranked by h . (e_i + e_c), as the paper's serving code
does unless told otherwise, without the normaliser inside of the cluster. Differences within the intervals are none.

"""
WHAT = {
    "kmeans": "balanced k-means clusters, items start from an SVD",
    "spectral": "spectral clusters",
    "frequency": "clusters dealt out by popularity",
    "random": "random clusters",
    "one-level": "full softmax, no clusters",
    "random-start": "items start at random",
    "item-16": "item vectors of 16 numbers",
    "item-256": "item vectors of 256 numbers",
    "cap": "logits capped at 30",
}
COLUMNS = (
    "model",
    "NDCG@5",
    "NDCG@10",
    "Recall@5",
    "Recall@10",
    "users",
    "passes",
    "training s",
    "index MB",
    "ms median",
    "ms p95",
)
ABLATION_COLUMNS = (
    "what",
    "clusters",
    "largest",
    "silhouette",
    "NDCG@10",
    "Recall@10",
    "NDCG@10 uncorrected",
    "passes",
)


def efficient_ids_section(folder: Path) -> str:
    """One table per data set, and one of its ablations; empty where nothing was run."""
    found = {path.name: _results(path) for path in sorted(folder.glob("*"))}
    return "".join(_section(name, results) for name, results in found.items() if results)


def _results(folder: Path) -> dict[str, Any]:
    """By name; BIGRec is a result for everything that can be mixed in."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        result = json.loads(path.read_text())
        if "alone" in result:
            users = {"users": result["users"], "num_items": result["num_items"]}
            for name in ("alone", "popularity", "recommender"):
                if name in result:
                    found[path.stem + ("" if name == "alone" else f" + {name}")] = result[name] | users
        else:
            found[path.stem] = result
    return found


def _section(name: str, results: dict[str, Any]) -> str:
    main = {model: result for model, result in results.items() if ABLATION not in model}
    short = {model.split(ABLATION)[1]: result for model, result in results.items() if ABLATION in model}
    parts = []
    if main:
        minutes = next(r["settings"]["minutes"] for r in main.values() if "settings" in r)
        parts.append(HEAD.format(set=name, minutes=minutes) + _table(name, main))
    if short:
        epochs = next(iter(short.values()))["settings"]["epochs"]
        parts.append(ABLATIONS.format(set=name, epochs=epochs) + _ablations(short))
    return "\n".join(parts)


def _table(name: str, results: dict[str, Any]) -> str:
    best = {metric: max(result[metric]["value"] for result in results.values()) for metric in METRICS}
    order = sorted(results, key=lambda model: -results[model]["ndcg@10"]["value"])
    lines = [f"| {model} | {' | '.join(_cells(results[model], best))} |" for model in order]
    return f"{name}, {next(iter(results.values()))['num_items']:,} items:\n\n" + _lines(COLUMNS, lines)


def _lines(columns: tuple[str, ...], lines: list[str]) -> str:
    return "\n".join([f"| {' | '.join(columns)} |", f"|---{'|--:' * (len(columns) - 1)}|", *lines]) + "\n"


def _cells(result: dict[str, Any], best: dict[str, float]) -> list[str]:
    training, time = result.get("training"), result.get("total_ms")
    index = training.get("index_bytes") if training else None
    return [
        *(_estimate(result[metric], best[metric]) for metric in METRICS),
        f"{result['users']:,}",
        _passes(training) if training else "",
        f"{_seconds(training):.0f}" if training else "",
        "" if index is None else f"{index / 1e6:.1f}",
        f"{time['median']:.2f}" if time else "",
        f"{time['p95']:.2f}" if time else "",
    ]


def _seconds(training: dict[str, Any]) -> float:
    if "minutes" in training:  # of a model that writes titles
        return 60.0 * training["minutes"]
    return float(training["training_seconds"] + training.get("dense_start", {}).get("training_seconds", 0.0))


def _passes(training: dict[str, Any]) -> str:
    if "passes" in training:
        return f"{training['passes']:.1f}"
    events, users = (training["protocol"][name] for name in ("train_events", "test_users"))
    made = training["positions"] / (events * training.get("tokens_per_item", 1) - users)  # a user's first is no target
    best = training.get("best_update")  # not recorded by the first runs
    kept = "?" if best is None else f"{made * best / training['updates']:.1f}"
    return f"{kept} / {made:.1f}"


def _estimate(measured: dict[str, float], best: float) -> str:
    text = f"{measured['value']:.4f} ± {(measured['high'] - measured['low']) / 2:.4f}"
    return f"**{text}**" if measured["value"] == best else text


def _ablations(results: dict[str, Any]) -> str:
    best = {metric: max(result[metric]["value"] for result in results.values()) for metric in METRICS}
    lines = []
    for name in [*(name for name in WHAT if name in results), *sorted(set(results) - set(WHAT))]:
        result = results[name]
        training, plain = result["training"], result.get("uncorrected")
        cells = [
            *(f"{training[part]:,}" if part in training else "" for part in ("clusters", "largest_cluster")),
            f"{result['silhouette']:.3f}" if "silhouette" in result else "",
            *(_estimate(result[metric], best[metric]) for metric in ("ndcg@10", "recall@10")),
            _estimate(plain["ndcg@10"], 0.0) if plain else "",
            _passes(training),
        ]
        lines.append(f"| {WHAT.get(name, name)} | {' | '.join(cells)} |")
    return _lines(ABLATION_COLUMNS, lines)
