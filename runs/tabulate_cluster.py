"""The section of docs/results.md about batch jobs and clusters, from the newest records of `runs/cluster.sh`.

The sizing table is arithmetic over what was measured on one machine: nobody here has run ten billion items.
"""

from pathlib import Path

from speed_records import Row, newest, usual

BATCH = """
## Every user of a log

Made by `benchmarks/offline.py`: `everyitem recommend MODEL --users LOG --out FILE`, every run a process of its own; the
file is the same to the byte on any number of cores. A longer log is the same users again under further names.

| model | users | events | cores | users/s | users per s of CPU | peak MB | of it the model |
|---|--:|--:|--:|--:|--:|--:|--:|
"""
SHARDS = """
## A catalogue in shards

Made by `benchmarks/cluster.py`: shards are Ray actors on one machine of two cores, which they share, so that more
shards cannot be faster here; ids, score bits and bounds are those of the whole index. Microseconds, one query.

| items | shards | whole index | all shards | round trip alone | merge alone |
|--:|--:|--:|--:|--:|--:|
"""
KILLED = """
An actor killed while it was asked again and again with a deadline of 50 ms: {degraded:,} answers came without its
shard, said so, and had a bound that held; it answered again after {seconds:.1f} s. Without a deadline a search waits.
"""
SIZING = """
**How many machines for a billion items, and for ten?** On paper, from parts that were measured (tr13: M = 8 bytes,
codes and queries of a trained model, one query at a time on one thread of a shard: `planner` above). Memory is the
index with its layout; latency is a shard's search, one round trip and the merge, the last two grown in proportion to
the shards beyond those measured; a backbone adds its own time.

| items | items per shard | shards | GB per shard | GB in all | search ms | round trip and merge ms | together ms |
|--:|--:|--:|--:|--:|--:|--:|--:|
"""
CATALOGUES = (10**9, 10**10)


def cluster_section(records: Path) -> str:
    """Three tables; empty where nothing was run."""
    batch = newest(records, "offline", ("model", "log", "users", "cores"))
    rows = newest(records, "cluster", ("what", "items", "shards"))
    parts = [BATCH + "".join(map(_batch_line, batch))] if batch else []
    if rows:
        parts += [_shards(rows), _sizing(rows, newest(records, "scale"))]
    return "".join(parts)


def _batch_line(row: Row) -> str:
    of_cpu = row["users"] / row["cpu_seconds"]
    numbers = [
        row["users"],
        row["events"],
        row["cores"],
        row["users_per_second"],
        of_cpu,
        row["peak_mb"],
        row["model_mb"],
    ]
    return f"| {row['model']} | " + " | ".join(f"{number:,.0f}" for number in numbers) + " |\n"


def _shards(rows: list[Row]) -> str:
    ways = ("whole index", "shards", "round trip", "merge")
    lines = []
    for shape in dict.fromkeys((row["items"], row["shards"]) for row in rows if row["what"] in ways):
        found = {row["what"]: row["median_us"] for row in rows if (row["items"], row["shards"]) == shape}
        cells = " | ".join(f"{found[way]:,.0f}" for way in ways)
        lines.append(f"| {shape[0]:,} | {shape[1]} | {cells} |\n")
    killed = next((row for row in rows if row["what"].startswith("until a killed")), None)
    told = KILLED.format(degraded=killed["timed"], seconds=killed["median_us"] / 1e6) if killed else ""
    return SHARDS + "".join(lines) + told


def _sizing(rows: list[Row], scale: list[Row]) -> str:
    """One line per catalogue and measured size of a shard."""
    searched = [row for row in scale if row["catalogue"] == "tr13" and row["algorithm"] == "planner" and usual(row)]
    lines = []
    for items in CATALOGUES:
        for size in sorted(searched, key=lambda row: row["items"]):
            shards = -(-items // size["items"])
            gigabytes, search = size["items"] * size["bytes_per_item"] / 1e9, size["median_us"] / 1e3
            spent = sum(_grown(rows, what, shards) for what in ("round trip", "merge")) / 1e3 if shards > 1 else 0.0
            cells = f"{gigabytes:,.1f} | {gigabytes * shards:,.0f} | {search:.2f} | {spent:.2f} | {search + spent:.2f}"
            lines.append(f"| {items:,} | {size['items']:,} | {shards} | {cells} |\n")
    return SIZING + "".join(lines) if lines else ""


def _grown(rows: list[Row], what: str, shards: int) -> float:
    """Microseconds for so many shards: as measured for the nearest number below, in proportion from there."""
    measured = {row["shards"]: row["median_us"] for row in rows if row["what"] == what}
    nearest = max((number for number in measured if number <= shards), default=min(measured))
    return float(measured[nearest] * shards / nearest)
