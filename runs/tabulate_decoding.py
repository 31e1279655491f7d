"""The section of docs/results.md about items that are written token by token, from the files of `decoding.sh`."""

import json
from pathlib import Path
from typing import Any

HEAD = """
## Single-step decoding against items written token by token

Made by `EVERYITEM_DATA=... runs/decoding.sh WORK` (`benchmarks/decoding.py`): the same backbone, split and loop for all
rows of a data set, vectors alone. Single-step models answer in one pass and search an index; semantic ids are written
token by token, with kept keys and values and beams that share their prompt. One user at a time on one thread, history
in, top-10 out, all ways in turns; the ratio is to the fastest single-step way. Passes: calls of the model per
recommendation. Proved: users for whom no better item exists, as the search itself says; found: share of the exact
top-10 that it holds.

"""
METRICS = ("ndcg@10", "recall@10")
COLUMNS = ("way", "NDCG@10", "Recall@10", "ms median", "ms p95", "ratio", "passes", "items scored", "proved", "found")


def decoding_section(folder: Path) -> str:
    """One table per data set; empty where nothing was run."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return HEAD + "\n".join(_table(name, result) for name, result in found.items()) if found else ""


def _table(name: str, result: dict[str, Any]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|---{'|--:' * (len(COLUMNS) - 1)}|"]
    lines += [f"| {way} | {' | '.join(_cells(row))} |" for way, row in result["methods"].items()]
    users = f"{result['quality_users']:,} users for quality, {result['users']:,} timed; {result['machine']}"
    return f"{name}: {users}.\n\n" + "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        *(f"{row[m]['value']:.4f} ± {(row[m]['high'] - row[m]['low']) / 2:.4f}" for m in METRICS),
        f"{row['median_ms']:.2f}",
        f"{row['p95_ms']:.2f}",
        f"{row['ratio']:.1f}",
        f"{row['calls']:.1f}",
        f"{row['scored']:,.0f}",
        f"{row['proved']:.0%}",
        "" if row["found"] is None else f"{row['found']:.1%}",
    ]
