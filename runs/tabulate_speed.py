"""The section of docs/results.md about search speed, from the newest record of `benchmarks/scoring.py`."""

from itertools import groupby
from pathlib import Path
from typing import Any

from charts import draw_recall
from speed_records import Row, newest, shape, usual

PEER = "faiss IndexPQ"
MEMORY_OF_PEERS = ("PQTopK", "dense")
OTHERWISE: dict[str, dict[str, Any]] = {
    "cold": {"cache": "cold"},
    "K = 100": {"k": 100},
    "2 threads": {"threads": 2},
    "batch 64": {"batch": 64},
    "64, 2 threads": {"batch": 64, "threads": 2},
}
HEAD = f"""
## How fast is exact top-K?

Made by `benchmarks/scoring.py --record`, which first compares ids and score bits of every algorithm with the NumPy
twin. Top 10, one query at a time on one thread, from Python, score table included; microseconds per query. Two cores,
AMD EPYC, Zen 5, AVX-512, nothing else running: beside two trainings {PEER} took twice as long and the bounded scan as
long as before, so that ratios of a busy machine flatter. `svd-rank`, `kmeans` and `svd` (the paper's codes) are models
trained on oss-edits, `tr13` and `mf13` on generated interactions; the others are made by hand
(`everyitem.bench.catalogues`). How items got their codes decides what pruning can do. Cold: 64 MB of other memory were
read before every query. Scored: items whose full score was computed. Build: us per item, one thread.
"""
APPROXIMATE = """
Approximate peers, on the vectors that the codes stand for, not tuned; recall is against the exact answer:

| search | recall@10 | median | p95 | bytes per item | build |
|---|--:|--:|--:|--:|--:|
"""


def speed_section(records: Path, pictures: Path) -> str:
    """Tables of the newest record, a picture where approximate peers were measured; empty where there is no record."""
    rows = newest(records, "scoring")
    usually = {shape(row) for row in rows if usual(row)}
    rows = [row for row in rows if shape(row) in usually]  # other settings have nothing to stand beside
    if not rows:
        return ""
    grouped = [list(group) for _, group in groupby(sorted(rows, key=_order(rows)), key=shape)]
    return HEAD + "".join(_catalogue(group, pictures) for group in grouped)


def _order(rows: list[Row]) -> Any:
    """Catalogues in the order of the record, all settings of one together."""
    first = {}
    for row in rows:
        first.setdefault(shape(row), len(first))
    return lambda row: first[shape(row)]


def _catalogue(rows: list[Row], pictures: Path) -> str:
    first = rows[0]
    said = f"\n**{first['catalogue']}**, {first['items']:,} items, M = {first['num_splits']}, D = {first['dim']}"
    if first["gap"] is not None:
        said += (
            f"; (max-mean)/sd {first['best']:.1f}, (theta-mean)/sd {first['threshold']:.1f}, "
            f"G/(max-mean) {first['gap']:.2f}"
        )
    exact = [row for row in rows if usual(row) and row["recall"] is None]
    rough = [row for row in rows if usual(row) and row["recall"] is not None]
    return said + "\n\n" + _exact(exact, rows) + _bandwidth(rows) + (_rough(rough, exact, pictures) if rough else "")


def _exact(exact: list[Row], rows: list[Row]) -> str:
    peer = next((row["median_us"] for row in exact if row["algorithm"] == PEER), None)
    other = {
        name: {row["algorithm"]: row["median_us"] for row in rows if usual(row, **setting)}
        for name, setting in OTHERWISE.items()
    }
    shown = [name for name, found in other.items() if found]
    costs = ["bytes per item", "build"] if any(row["bytes_per_item"] is not None for row in exact) else []
    heads = ["median", "mean", "p95", "p99", *shown, "scored", *costs, f"{PEER} takes"]
    lines = [f"| algorithm | {' | '.join(heads)} |", f"|---{'|--:' * len(heads)}|"]
    for row in exact:
        cells = [_us(row[f"{name}_us"]) for name in ("median", "mean", "p95", "p99")]
        cells += [_us(other[name].get(row["algorithm"])) for name in shown]
        cells.append(f"{row['scored']:.2%}" if row["scored"] is not None else "")
        cells += [_number(row[name]) for name in ("bytes_per_item", "build_us_per_item")[: len(costs)]]
        cells.append("" if peer is None else f"{peer / row['median_us']:.1f} x")
        lines.append(f"| {row['algorithm']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _bandwidth(rows: list[Row]) -> str:
    measured = [row for row in rows if row["bandwidth"] and (usual(row) or usual(row, cache="cold"))]
    said = [f"{row['bandwidth']:.0%} ({row['cache']})" for row in measured]
    return f"\nReading the codes once takes {', '.join(said)} of the bounded scan's median.\n" if said else ""


def _rough(rough: list[Row], exact: list[Row], pictures: Path) -> str:
    lines = [
        f"| {row['algorithm']} | {row['recall']:.3f} | {_us(row['median_us'])} | {_us(row['p95_us'])} | "
        f"{_number(row['bytes_per_item'])} | {_number(row['build_us_per_item'])} |\n"
        for row in rough
    ]
    name = f"recall-{rough[0]['catalogue']}-{rough[0]['items']}.svg"
    draw_recall(
        [*rough, *exact], pictures / name, f"{rough[0]['catalogue']}, {rough[0]['items']:,} items: recall and time"
    )
    return APPROXIMATE + "".join(lines) + f"\n![recall and time](results/{name})\n"


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
