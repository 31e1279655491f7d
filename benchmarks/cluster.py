"""What does it cost to search a catalogue in shards, and what happens when a shard's process is killed?

    python benchmarks/cluster.py [--items 1000000] [--shards 1 2 4 8] [--record]     (needs `ray[data]`)

Cuts a catalogue (codes of a trained model, see `catalogues.py`), holds the shards in actors of this machine, checks
that they answer as the whole index does (ids, score bits, bounds), then times in turn: a search of the whole, one of
all shards, and the merge alone. "round trip" is a question that needs no search. Last, one actor is killed: counted are
the answers within a deadline that lack its shard (each with a true bound), timed is how long it takes to be back.
"""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from catalogues import CACHE, catalogue
from recording import record
from rich.console import Console
from rich.table import Table

from everyitem.index import PQIndex, load_index, shards
from everyitem.serve import cluster

COLUMNS = ("what", "catalogue", "items", "shards", "k", "timed", "median_us", "p99_us")
K = 10
PATIENCE = 120.0
"""Seconds until a killed shard must be back."""


def main() -> None:
    args = arguments()
    made = catalogue("tr13", args.items, 8, 512, 64, args.cache)
    rows: list[tuple[Any, ...]] = []
    with tempfile.TemporaryDirectory() as folder, cluster.connected("auto"):
        PQIndex(made.codes_IM, made.codebooks_MBd).save(Path(folder) / "index")
        whole = load_index(Path(folder) / "index")
        for num_shards in args.shards:
            where = shards.save_shards(Path(folder) / "index", Path(folder) / f"{num_shards}", num_shards)
            sharded = cluster.ShardedIndex(where)
            check(whole, sharded, made.queries_UD)
            shape = ("tr13", args.items, num_shards, K)
            for what, times in measured(whole, sharded, where, made.queries_UD, args.seconds).items():
                rows.append((what, *shape, len(times), np.median(times) * 1e6, np.quantile(times, 0.99) * 1e6))
        rows += [(*row[:1], *shape, *row[1:]) for row in killed(whole, sharded, made.queries_UD)]
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(
            *("" if cell is None else f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row)
        )
    Console(width=120).print(table)
    if args.record:
        print(record(rows, "cluster", COLUMNS))


def check(whole: Any, sharded: cluster.ShardedIndex, queries_UD: Any) -> None:
    """Ids, score bits and bounds, with and without a filter."""
    allow = np.arange(whole.num_items) % 3 == 0
    for options in ({}, {"allow": allow}):
        wanted, found = whole.top_k(queries_UD, K, **options), sharded.top_k(queries_UD, K, **options)
        if any(a.tobytes() != b.tobytes() for a, b in zip(wanted[:3], found[:3], strict=True)):
            raise SystemExit("the shards do not answer as the whole index does")


def measured(
    whole: Any, sharded: cluster.ShardedIndex, where: shards.Shards, queries_UD: Any, seconds: float
) -> dict[str, list[float]]:
    """Seconds of every call, the ways taking turns."""
    parts = [where.open(number, verify=False).top_k(queries_UD[:1], K) for number in range(len(where.versions))]
    nothing = np.zeros(0, np.int64)
    ways: dict[str, Callable[[Any], Any]] = {
        "whole index": lambda query: whole.top_k(query, K, threads=1),
        "shards": lambda query: sharded.top_k(query, K, threads=1),
        "round trip": lambda query: sharded.vectors(nothing),
        "merge": lambda query: shards.merge_top_k(parts, where.starts, K),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < until:
        for name, way in ways.items():
            query = queries_UD[turn % len(queries_UD)][None]
            started = time.perf_counter()
            way(query)
            times[name].append(time.perf_counter() - started)
        turn += 1
    return {name: found[len(found) // 10 :] for name, found in times.items()}


def killed(whole: Any, sharded: cluster.ShardedIndex, queries_UD: Any) -> list[tuple[Any, ...]]:
    """What a killed actor costs: (what, answers, microseconds, None)."""
    wanted = whole.top_k(queries_UD, K)
    actor = sharded._actors[-1]
    os.kill(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())), signal.SIGKILL)
    started, degraded, row = time.perf_counter(), 0, 0
    while time.perf_counter() - started < PATIENCE:
        row = (row + 1) % len(queries_UD)
        answer = sharded.ask(queries_UD[row, None], K, deadline=0.05)
        if not answer.silent:
            if answer.top.items.tobytes() != wanted.items[row].tobytes():
                raise SystemExit("an answer that claims to be whole is not")
            if degraded:
                return [("until a killed shard answers again", degraded, (time.perf_counter() - started) * 1e6, None)]
        elif (answer.top.bound < wanted.scores[row][~np.isin(wanted.items[row], answer.top.items[0])]).any():
            raise SystemExit("the bound of a degraded answer does not hold")
        else:
            degraded += 1
    raise SystemExit(f"the killed shard did not answer again within {PATIENCE} s")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=5.0, help="for every number of shards")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where tr13 is kept")
    parser.add_argument(
        "--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-cluster.tsv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
