"""Shows measurements to people, as tables for the terminal, and to machines, as flat records. Computes ratios only."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from everyitem.bench.measure import Measurement
from everyitem.bench.methods import FAISS


def record(line: Measurement) -> dict[str, Any]:
    """A measurement as one flat row; what does not apply is None."""
    values = line._asdict()
    flat = {**line.setting._asdict(), **line.times._asdict()}
    cache = "cold" if flat.pop("cold") else "steady"
    return {
        **{name: flat.pop(name) for name in ("k", "batch", "threads")},
        "cache": cache,
        "algorithm": line.algorithm,
        **flat,
        **{name: values[name] for name in ("scored", "recall", "bytes_per_item", "build_us_per_item", "bandwidth")},
    }


def tables(lines: Iterable[Measurement], title: str) -> Iterable[Table]:
    """One table per setting, the ratio to faiss's IndexPQ (without it, to the first line) in the last column."""
    for setting, group in groupby(lines, key=lambda line: line.setting):
        yield _table(list(group), f"{title}\n{setting}")


def _table(lines: Sequence[Measurement], title: str) -> Table:
    peer = next((line for line in lines if line.algorithm == FAISS), lines[0])
    hits = ["recall"] * any(line.recall is not None for line in lines)
    table = Table(title=escape(title), caption=_caption(lines, peer), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("us per query", no_wrap=True)
    for name in ("median", "mean", "p95", "p99", "scored", *hits, "B/item", "build", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        times = line.times
        table.add_row(
            line.algorithm,
            *(_us(value) for value in (times.median_us, times.mean_us, times.p95_us, times.p99_us)),
            _share(line.scored),
            *(_share(getattr(line, name)) for name in hits),
            f"{line.bytes_per_item:,.0f}",
            f"{line.build_us_per_item:,.3g}",
            f"{peer.times.median_us / times.median_us:,.1f} x",
        )
    return table


def _caption(lines: Sequence[Measurement], peer: Measurement) -> str:
    said = [f"ratio: {peer.algorithm} takes so many times as long; build: us per item; answers were checked first"]
    said += [
        f"reading the codes once takes {_share(line.bandwidth)} of {line.algorithm}'s median"
        for line in lines
        if line.bandwidth is not None
    ]
    return "\n".join(said)


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3g}%"
