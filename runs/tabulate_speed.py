"""The section of docs/results.md about search speed, from the newest record of `benchmarks/scoring.py`."""

import csv
from itertools import groupby
from pathlib import Path

PEER = "faiss IndexPQ"
KEY = ("catalogue", "items", "num_splits", "dim", "k")
HEAD = f"""
## How fast is exact top-K?

Made by `benchmarks/scoring.py --record`, which first compares ids and score bits of every algorithm with the NumPy
twin. One query at a time on one thread, from Python, score table included; microseconds. Two cores, AMD EPYC, Zen 5,
AVX-512, nothing else running: beside two trainings {PEER} took twice as long and the bounded scan as long as
before, so that ratios of a busy machine flatter. `svd-rank`, `kmeans` and `svd` (the paper's codes) are models trained
on oss-edits; the others are generated (`benchmarks/catalogues.py`). How items got their codes decides what pruning can
do.
"""


def speed_section(records: Path) -> str:
    """Tables of the newest record; empty where there is none."""
    newest = sorted(records.glob("*/*-scoring.tsv"))[-1:]
    if not newest:
        return ""
    with newest[0].open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return HEAD + "".join(_table(list(group)) for _, group in groupby(rows, key=lambda row: [row[k] for k in KEY]))


def _table(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    peer = next((float(row["median_us"]) for row in rows if row["algorithm"] == PEER), None)
    head = (
        f"\n**{first['catalogue']}**, {int(first['items']):,} items, M = {first['num_splits']}, D = {first['dim']}, "
        f"K = {first['k']}\n\n"
        f"| algorithm | median | mean | p95 | items scored | {PEER} takes |\n|---|--:|--:|--:|--:|--:|\n"
    )
    return head + "".join(_line(row, peer) for row in rows)


def _line(row: dict[str, str], peer: float | None) -> str:
    median = float(row["median_us"])
    times = "" if peer is None else f"{peer / median:.1f} x"
    cells = (f"{float(row[name]):,.0f}" for name in ("median_us", "mean_us", "p95_us"))
    return (
        f"| {row['algorithm']} | {' | '.join(cells)} | {float(row['scored']) / float(row['items']):.2%} | {times} |\n"
    )
