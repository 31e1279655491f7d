"""The section of docs/results.md about language models with direct item ids, from the files of `efficient_ids.sh`."""

import json
from pathlib import Path
from typing import Any

METRICS = ("ndcg@5", "ndcg@10", "recall@5", "recall@10")
HEAD = """
## Language models with direct item ids

Made by `EVERYITEM_DATA=... runs/efficient_ids.sh WORK EPOCHS` (arXiv:2509.03746): an item is one position of a causal
language model, so one pass answers. Same split, users, vectors alone and at most the same passes over the data for
every model of a data set; ± is half the 95 % interval. `full-softmax` is the reference: a softmax over the whole
catalogue; `dense` samples it, `two-level` asks for the cluster and then for the item of it, `pq` has codes (its
training time includes that of the dense model it starts from). Passes: until validation was best / made.
The clock of training ran on a shared core. Milliseconds are for one user on one thread, encoder and top-10.

"""
COLUMNS = (
    "model",
    "NDCG@5",
    "NDCG@10",
    "Recall@5",
    "Recall@10",
    "passes",
    "training s",
    "index MB",
    "ms median",
    "ms p95",
)


def efficient_ids_section(folder: Path) -> str:
    """One table per data set; empty where nothing was run."""
    found = {path: sorted(path.glob("*.json")) for path in sorted(folder.glob("*"))}
    tables = [_table(path.name, {f.stem: json.loads(f.read_text()) for f in files}) for path, files in found.items()]
    return HEAD + "\n".join(tables) if tables else ""


def _table(name: str, results: dict[str, Any]) -> str:
    first = next(iter(results.values()))
    best = {metric: max(result[metric]["value"] for result in results.values()) for metric in METRICS}
    order = sorted(results, key=lambda model: -results[model]["ndcg@10"]["value"])
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|"]
    lines += [f"| {model} | {' | '.join(_cells(results[model], best))} |" for model in order]
    return f"{name}, {first['num_items']:,} items, {first['users']:,} test users:\n\n" + "\n".join(lines) + "\n"


def _cells(result: dict[str, Any], best: dict[str, float]) -> list[str]:
    training, time = result["training"], result["total_ms"]
    seconds = training["training_seconds"] + training.get("dense_start", {}).get("training_seconds", 0.0)
    return [
        *(_estimate(result[metric], best[metric]) for metric in METRICS),
        _passes(training),
        f"{seconds:.0f}",
        f"{training['index_bytes'] / 1e6:.1f}",
        f"{time['median']:.2f}",
        f"{time['p95']:.2f}",
    ]


def _passes(training: dict[str, Any]) -> str:
    per_pass = training["protocol"]["train_events"] - training["protocol"]["test_users"]  # a user's first is no target
    made = training["positions"] / per_pass
    best = training.get("best_update")  # not recorded by the first runs
    kept = "?" if best is None else f"{made * best / training['updates']:.1f}"
    return f"{kept} / {made:.1f}"


def _estimate(measured: dict[str, float], best: float) -> str:
    text = f"{measured['value']:.4f} ± {(measured['high'] - measured['low']) / 2:.4f}"
    return f"**{text}**" if measured["value"] == best else text
