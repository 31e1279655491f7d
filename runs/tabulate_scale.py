"""The section of docs/results.md about the size of the catalogue, from the newest record of `runs/pqtopk_scale.sh`."""

from pathlib import Path

from charts import draw_growth
from speed_records import Row, newest

SIZES = tuple(10**n for n in range(3, 10))
# arXiv:2408.09992, simulated experiment, m = 8: milliseconds, from the authors' table of runs
PUBLISHED_MS = {
    "PQTopK, as published": (0.74, 1.02, 1.79, 9.04, 146.6, 1408.2, 13573.4),
    "RecJPQ, as published": (2.21, 2.65, 4.52, 20.5, 253.0, 2516.1, 24319.2),
    "default, as published": (0.56, 1.07, 11.95, 111.6, 1111.6),
}
HEAD = """
## From a thousand items to a billion

Made by `runs/pqtopk_scale.sh`, PQTopK's simulated experiment (arXiv:2408.09992): scoring and top 10 without a backbone,
D = 512, M = 8 unless said, one query at a time on one thread; milliseconds, median. `uniform` has random codes, as in
the paper: nothing can be pruned. `tr13` has codes and sub-items that a model was trained with, re-sampled to the size.
Published figures are TensorFlow on 16 cores of another machine: an order of magnitude, no ratio. Empty: memory did not
do (24 GB).

![time against size](results/growth.svg)
"""
SPLITS = """
Bytes per item (M) on random codes, {items:,} items:
"""


def scale_section(records: Path, pictures: Path) -> str:
    """A picture, a table per catalogue, one over M; empty where nothing was run."""
    rows = newest(records, "scale")
    if not rows:
        return ""
    eight = [row for row in rows if row["num_splits"] == 8]
    draw_growth(eight, pictures / "growth.svg", "Time per query and size of the catalogue")
    parts = [HEAD]
    for catalogue in dict.fromkeys(row["catalogue"] for row in eight):
        found = [row for row in eight if row["catalogue"] == catalogue]
        cells = {(row["algorithm"], row["items"]): row["median_us"] / 1e3 for row in found}
        sizes = sorted({row["items"] for row in found})
        if catalogue == "uniform":
            published = [(name, n, ms) for name, row in PUBLISHED_MS.items() for n, ms in zip(SIZES, row, strict=False)]
            cells |= {(name, n): ms for name, n, ms in published if n in sizes}
        parts.append(f"\n**{catalogue}**\n\n" + _grid(cells, [f"{n:,}" for n in sizes], sizes))
    return "".join(parts) + _by_splits(rows)


def _by_splits(rows: list[Row]) -> str:
    """The largest size that was run with most values of M."""
    random = [row for row in rows if row["catalogue"] == "uniform"]
    widths = {n: {row["num_splits"] for row in random if row["items"] == n} for n in {row["items"] for row in random}}
    items = max(widths, key=lambda n: (len(widths[n]), n), default=0)
    if len(widths.get(items, ())) < 2:
        return ""
    cells = {(r["algorithm"], r["num_splits"]): r["median_us"] / 1e3 for r in random if r["items"] == items}
    splits = sorted(widths[items])
    return SPLITS.format(items=items) + "\n" + _grid(cells, [f"M = {m}" for m in splits], splits)


def _grid(cells: dict[tuple[str, int], float], heads: list[str], columns: list[int]) -> str:
    lines = [f"| ms | {' | '.join(heads)} |", f"|---{'|--:' * len(heads)}|"]
    for name in dict.fromkeys(name for name, _ in cells):
        found = (cells.get((name, column)) for column in columns)
        shown = " | ".join("" if ms is None else f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in found)
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines) + "\n"
