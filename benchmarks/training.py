"""How fast is training, and how much memory does it take? Positions per second beside RecTools and RePlay.

    python benchmarks/training.py --peers PEERS/bin/python --record        (benchmarks/peer_trainers.py makes PEERS)

A generated log; SASRec of the same size everywhere: two blocks, one head, histories of 50, batches of about as many
positions. A position is a target that was predicted. Every training is a process of its own, on one thread; they take
turns in rounds, medians count. Ours includes one validation, theirs nothing but their steps.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from recording import record
from rich.console import Console
from rich.table import Table

from everyitem.data.interactions import read_log
from everyitem.data.splits import split_log
from everyitem.data.synthetic import write_synthetic_log
from everyitem.types import Histories

COLUMNS = ("who", "items", "dim", "loss", "negatives", "timed", "positions_per_second", "peak_mb")
EVERYITEM = [sys.executable, "-c", "from everyitem.cli import main; main()"]
ROWS = 128
"""Histories per step of the peers; ours are packed to the same number of padded positions."""


class Way(NamedTuple):
    """One way to train."""

    who: str
    loss: str
    negatives: int | None
    options: tuple[str, ...]


def ways(args: argparse.Namespace, num_items: int) -> Iterator[Way]:
    """Ours, and the peers whose dense tables and logits this catalogue allows."""
    sampled = str(args.negatives)
    random_codes = ("--items", "pq", "--codes", "random", "--num-splits", "8")
    yield Way("everyitem, item codes", "sampled softmax", args.negatives, (*random_codes, "--num-negatives", sampled))
    if num_items > args.largest_dense:
        return
    dense = ("--items", "dense", "--no-warm-start")
    yield Way("everyitem", "sampled softmax", args.negatives, (*dense, "--num-negatives", sampled))
    full = num_items <= args.largest_full
    if full:
        yield Way("everyitem", "full softmax", None, (*dense, "--loss", "full-softmax"))
    if args.peers:
        for model in ("rectools-sasrec", "replay-sasrec"):
            yield Way(model, "sampled softmax", args.negatives, ("--loss", "sampled_softmax", "--negatives", sampled))
            if full:
                yield Way(model, "full softmax", None, ("--loss", "softmax"))


def main() -> None:
    args = arguments()
    console, rows = Console(width=110), []
    for num_items in args.items:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_synthetic_log(folder / "log", num_items=num_items, num_users=args.users, mean_length=30)
            write_for_peers(folder)
            for dim in args.dim:
                found = rounds(args, list(ways(args, num_items)), folder, dim)
                rows += [(w.who, num_items, dim, w.loss, w.negatives, *found[w]) for w in found]
                console.print(table(found, f"{num_items:,} items, D = {dim}"))
    if args.record:
        print(record(rows, "training", COLUMNS))


def rounds(
    args: argparse.Namespace, all_ways: list[Way], folder: Path, dim: int
) -> dict[Way, tuple[int, float, float]]:
    """(rounds, median positions/s, largest MB) of every way; they take turns."""
    speeds: dict[Way, list[float]] = {way: [] for way in all_ways}
    peaks = dict.fromkeys(all_ways, 0.0)
    for number in range(args.rounds):
        for way in all_ways:
            theirs = way.who.startswith(("rectools", "replay"))
            command = peer_command(args, way, folder, dim) if theirs else our_command(args, way, folder, dim, number)
            said, peak = run(command)
            if theirs:
                counted = json.loads(said.strip().splitlines()[-1])
                speeds[way].append(counted["positions"] / max(counted["seconds"], 1e-9))
            else:
                metrics = json.loads((folder / f"model-{number}" / "metrics.json").read_text())
                speeds[way].append(metrics["positions_per_second"])
            peaks[way] = max(peaks[way], peak)
    return {way: (args.rounds, float(np.median(speeds[way])), peaks[way]) for way in all_ways}


def our_command(args: argparse.Namespace, way: Way, folder: Path, dim: int, number: int) -> list[str]:
    positions = str(ROWS * 51)
    sizes = ("--dim", str(dim), "--length", "50", "--batch-positions", positions, "--memory", "0", "--threads", "1")
    once = ("--validate-every", "1000000", "--minutes", str(args.seconds / 60))
    return [*EVERYITEM, "train", str(folder / "log"), str(folder / f"model-{number}"), *sizes, *once, *way.options]


def peer_command(args: argparse.Namespace, way: Way, folder: Path, dim: int) -> list[str]:
    files = [str(folder / f"{name}.parquet") for name in ("events", "asked", "found")]
    sizes = ("--dim", str(dim), "--length", "50", "--batch", str(ROWS), "--minutes", str(args.seconds / 60))
    return [str(args.peers), "benchmarks/peer_trainers.py", way.who, *files, *sizes, *way.options]


def write_for_peers(folder: Path) -> None:
    """The training events as positions, and one user to ask, because they must be asked something."""
    train = split_log(read_log(folder / "log"), "leave-one-out", seed=0).train.histories
    write_events(train, folder / "events.parquet")
    first = pl.DataFrame({"user_id": [0], "history": [train[0].tolist()]})
    first.write_parquet(folder / "asked.parquet")


def write_events(histories: Histories, path: Path) -> None:
    """user_id, item_id as positions, and their place in time order."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    place = np.arange(len(users)) - np.repeat(np.cumsum(histories.lengths) - histories.lengths, histories.lengths)
    pl.DataFrame({"user_id": users, "item_id": histories.events(), "place": place}).write_parquet(path)


def run(command: list[str]) -> tuple[str, float]:
    """What a process says, and the largest memory it had resident, in MB."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command[:4])}: {errors[-2000:]}")
        said.seek(0)
        return said.read(), usage.ru_maxrss / 1024


def table(found: dict[Way, tuple[int, float, float]], title: str) -> Table:
    shown = Table(title=title, caption="one thread", caption_justify="left")
    for column in ("who", "loss", "positions/s", "peak MB"):
        shown.add_column(column, justify="left" if column in ("who", "loss") else "right")
    for way, (_, speed, peak) in found.items():
        loss = way.loss + (f", {way.negatives}" if way.negatives else "")
        shown.add_row(way.who, loss, f"{speed:,.0f}", f"{peak:,.0f}")
    return shown


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, help="the Python of an environment with RecTools and RePlay")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--negatives", type=int, default=256)
    parser.add_argument("--largest-dense", type=int, default=100_000, help="items up to which dense tables are trained")
    parser.add_argument(
        "--largest-full", type=int, default=10_000, help="items up to which the full softmax is trained"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-training.tsv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
