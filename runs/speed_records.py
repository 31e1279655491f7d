"""Reads what `benchmarks/recording.py` wrote; numbers become numbers, empty cells None."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXT = (
    *("catalogue", "cache", "algorithm", "what", "model", "log"),
    *("backbone", "precision", "queries", "stage", "clock", "who", "loss", "step", "note"),
)
SHAPE = ("catalogue", "items", "num_splits", "dim")
SETTING = ("k", "batch", "threads", "cache")
USUAL = {"k": 10, "batch": 1, "threads": 1, "cache": "steady"}
Row = dict[str, Any]


def newest(records: Path, question: str, about: Sequence[str] = (*SHAPE, *SETTING, "algorithm")) -> list[Row]:
    """The rows of the newest record that answers a question; of rows `about` the same thing only the last."""
    found = sorted(records.glob(f"*/*-{question}.tsv"), key=lambda path: path.name)[-1:]
    latest: dict[tuple[Any, ...], Row] = {}
    for path in found:
        with path.open() as file:
            for cells in csv.DictReader(file, delimiter="\t"):
                row = {name: _value(name, cell) for name, cell in cells.items()}
                key = tuple(row[name] for name in about)
                latest.pop(key, None)  # what was measured again moves to where it was measured last
                latest[key] = row
    return list(latest.values())


def usual(row: Row, **differing: Any) -> bool:
    """Whether a row was measured in the usual setting, but for what differs."""
    return all(row[name] == value for name, value in (USUAL | differing).items())


def shape(row: Row) -> tuple[Any, ...]:
    """What was searched."""
    return tuple(row[name] for name in SHAPE)


def _value(name: str, cell: str) -> Any:
    if name in TEXT or not cell:
        return cell or None
    number = float(cell)
    return int(number) if number.is_integer() and name not in ("scored", "recall") else number
