"""The section of docs/results.md about the server, from the newest record of `benchmarks/serving.py`."""

from pathlib import Path

from speed_records import Row, newest

HEAD = """
## The server

Made by `python benchmarks/serving.py MODEL LOG --seconds 600 --reloads 200 --sigterms 50 --record`: `everyitem serve`,
a model of {items:,} items, {workers} worker(s), histories of real users, k = 10. Load is open-loop over 16 connections
(overload: 256) from another core of the same machine, and latency counts from when a request was due. Every answer
under reloads is held against the oracle of the version that it names. Refused: 503 with Retry-After. Closed loop: 16
connections that wait for their answers. The seconds are those of this run.

| | seconds | requests/s asked | answered/s | p50 ms | p95 | p99 | p99.9 | errors | refused | |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|
"""


def serving_section(records: Path) -> str:
    """One table; empty where nothing was recorded."""
    rows = newest(records, "serving", about=("step", "rate", "workers"))
    if not rows:
        return ""
    return HEAD.format(items=rows[0]["items"], workers=rows[0]["workers"]) + "\n".join(map(_line, rows)) + "\n"


def _line(row: Row) -> str:
    numbers = [row[name] for name in ("seconds", "rate", "per_second", "p50", "p95", "p99", "p999")]
    shown = ["" if number is None else f"{number:,.1f}" for number in numbers]
    counts = [f"{row[name]:,}" for name in ("errors", "refused")]
    return f"| {' | '.join([row['step'], *shown, *counts, row['note'] or ''])} |"
