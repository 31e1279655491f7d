"""Keeps what was measured: one TSV per machine, date and question. An empty cell was not measured."""

import datetime
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "record"
SCORING = (
    *("catalogue", "items", "num_splits", "dim", "best", "threshold", "gap"),
    *("k", "batch", "threads", "cache", "algorithm", "timed", "median_us", "mean_us", "p95_us", "p99_us"),
    *("scored", "recall", "bytes_per_item", "build_us_per_item", "bandwidth"),
)


def record(rows: Iterable[Sequence[Any]], question: str = "scoring", columns: Sequence[str] = SCORING) -> Path:
    """Append to this machine's file of today.

    Raises:
        ValueError: the file has other columns.
    """
    path = RECORD / f"{platform.machine()}-{platform.system().lower()}" / f"{datetime.date.today()}-{question}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = "\t".join(columns) + "\n"
    if not path.exists():
        path.write_text(head)
    with path.open("r+") as file:
        if (found := file.readline()) != head:
            raise ValueError(f"{path} has the columns {found!r}, but these rows are {head!r}: move it away")
        file.seek(0, 2)
        file.writelines("\t".join(map(_cell, row)) + "\n" for row in rows)
    return path


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
