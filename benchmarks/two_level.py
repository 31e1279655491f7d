"""What do two levels save? A training step against the full softmax, and a search against scoring every item.

    python benchmarks/two_level.py train  [--items 10000 100000 1000000] [--record]
    python benchmarks/two_level.py search [--items 10000 100000 1000000] [--record]
    python benchmarks/two_level.py search --model MODEL LOG [--record]      a trained model and its test users

Answers are checked before anything is timed: a loss against the table of all log-probabilities, a search against the
NumPy twin, ids and bits. A training step is the loss and its gradient for hidden states that are given, in a process
of its own; its memory is what the process grows by beyond items and hidden states, the gradient of the item vectors
included, 4 D I bytes whatever the loss. The optimiser comes on top, see `adam_ms`. One thread; times are those of the
processor, so that whoever else is on the machine counts little.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from recording import record
from rich.console import Console
from rich.table import Table

from everyitem.bench.timing import clocked, summary
from everyitem.index import DenseIndex, TwoLevelIndex, reference
from everyitem.types import Floats, TopK

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000]
LOSSES = ("two-level softmax", "full softmax", "sampled softmax")
STEP = ("items", "clusters", "dim", "positions", "loss", "steps", "median_ms", "peak_mb", "gradient_mb", "adam_ms")
SEARCH = (
    *("catalogue", "items", "clusters", "dim", "k", "algorithm", "timed"),
    *("median_us", "mean_us", "p95_us", "scored"),
)
CHECKED = 4
FLAVOURS = {"concentrated": 12.0, "diffuse": 4.0}
"""Length of queries against items of length about 1: how sharply a generated model prefers the items near a query."""


def main() -> None:
    args = arguments()
    rows = search(args) if args.what == "search" else steps(args)
    columns = SEARCH if args.what == "search" else STEP
    table = Table(*columns)
    for row in rows:
        table.add_row(*(f"{cell:,.4g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 150).print(table)
    if args.record:
        print(record(rows, f"two-level-{args.what}", columns))


# training -----------------------------------------------------------------------------------------------------------


def steps(args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Every size and loss in a process of its own."""
    rows = []
    for num_items in args.items:
        for loss in LOSSES:
            command = [sys.executable, __file__, "step", "--items", str(num_items), "--loss", loss]
            command += ["--dim", str(args.dim), "--positions", str(args.positions)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{loss} of {num_items:,} items failed\n{done.stderr}")
            rows.append(tuple(json.loads(done.stdout)))
            print(*rows[-1], file=sys.stderr)
    return rows


def one_step(args: argparse.Namespace) -> None:
    """The child of `steps`: one line of JSON, the values of STEP."""
    import torch

    from everyitem.model import loss as losses
    from everyitem.model.items import DenseItems, TwoLevelItems

    torch.set_num_threads(1)
    torch.manual_seed(0)
    (num_items,), dim, rng = args.items, args.dim, np.random.default_rng(0)
    num_clusters = math.ceil(math.sqrt(num_items))
    cluster_of = rng.permutation(num_items) % num_clusters
    two_level = args.loss == LOSSES[0]
    items = TwoLevelItems(cluster_of, dim) if two_level else DenseItems(num_items, dim)
    hidden = torch.randn(args.positions, dim, requires_grad=True)
    targets = torch.from_numpy((num_items * rng.random(args.positions) ** 3).astype(np.int64))
    function = {LOSSES[0]: losses.two_level_softmax, LOSSES[1]: losses.full_softmax, LOSSES[2]: losses.sampled_softmax}
    negatives = torch.from_numpy(rng.integers(0, num_items, 2048, dtype=np.int32))

    def step() -> None:
        function[args.loss](items, hidden, targets, negatives).backward()
        items.zero_grad(set_to_none=True)

    if two_level:
        rows = slice(0, CHECKED)
        whole = -items.scores(hidden[rows], targets[rows, None]).mean()
        torch.testing.assert_close(losses.two_level_softmax(items, hidden[rows], targets[rows]), whole)
    before = reset_peak()
    step()
    peak = megabytes("VmHWM") - before
    seconds = clocked([step] * 20, budget=args.seconds, clock=time.process_time)
    items.vectors.grad = torch.zeros_like(items.vectors)
    adam = torch.optim.Adam([items.vectors], fused=True)
    adam.step()
    adam_ms = float(np.median(clocked([adam.step] * 5, budget=args.seconds, clock=time.process_time))) * 1e3
    found = (len(seconds), float(np.median(seconds)) * 1e3, peak, 4e-6 * dim * num_items, adam_ms)
    print(json.dumps([num_items, num_clusters if two_level else 0, dim, args.positions, args.loss, *found]))


def reset_peak() -> float:
    """Forget the largest size so far; the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmRSS")


def megabytes(name: str) -> float:
    return int(Path("/proc/self/status").read_text().partition(name + ":")[2].split()[0]) * 1024 / 1e6


# searching ----------------------------------------------------------------------------------------------------------


def search(args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Generated catalogues of every size and flavour, or a model."""
    if args.model:
        return searched(*trained(*args.model, args.queries), args)
    return [
        row
        for num_items in args.items
        for flavour in FLAVOURS
        for row in searched(*generated(flavour, num_items, args.dim, args.queries), args)
    ]


def generated(flavour: str, num_items: int, dim: int, num_queries: int) -> tuple[str, TwoLevelIndex, Floats]:
    """Items around centres of uneven popularity, and queries near items, long enough to know what they want."""
    rng = np.random.default_rng(0)
    num_clusters = math.ceil(math.sqrt(num_items))
    centres = rng.standard_normal((num_clusters, dim), dtype=np.float32) / np.float32(math.sqrt(dim))
    cluster_of = rng.permutation(num_items) % num_clusters
    noise = rng.standard_normal((num_items, dim), dtype=np.float32) / np.float32(math.sqrt(dim))
    vectors = np.float32(0.7) * (centres[cluster_of] + noise)
    near = vectors[rng.integers(0, num_items, num_queries)]
    queries = near + np.float32(0.5) * rng.standard_normal(near.shape, dtype=np.float32) / np.float32(math.sqrt(dim))
    return flavour, TwoLevelIndex(vectors, cluster_of, centres), queries * np.float32(FLAVOURS[flavour])


def trained(model: Path, log: Path, num_queries: int) -> tuple[str, TwoLevelIndex, Floats]:
    """A model folder's index, and the queries of its test users."""
    from everyitem.data.interactions import read_log
    from everyitem.evaluate.heldout import split_for
    from everyitem.recommender import load

    recommender = load(model)
    if not isinstance(recommender.index, TwoLevelIndex):
        sys.exit(f"{model} has no two-level items: train it with --items two-level")
    histories = split_for(recommender, read_log(log)).test.histories
    users = np.random.default_rng(0).permutation(np.flatnonzero(histories.lengths > 0))[:num_queries]
    return log.resolve().name, recommender.index, recommender.encode(histories.select(np.sort(users)))


def searched(name: str, index: TwoLevelIndex, queries_UD: Floats, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Both indexes, taking turns; the dense one finds the largest inner products of the same vectors."""
    dense = DenseIndex(index.vectors_ID)
    ways: dict[str, Callable[[Floats, int], TopK]] = {
        "two-level": lambda q, k: index.top_k(q, k, threads=1),
        "dense": lambda q, k: dense.top_k(q, k, threads=1),
    }
    rows = []
    for k in args.k:
        check(index, queries_UD[:CHECKED], k)
        clocks: dict[str, list[Any]] = {way: [] for way in ways}
        for _ in range(3):
            for way, find in ways.items():
                calls = [partial(find, query[None], k) for query in queries_UD]
                clocks[way].append(clocked(calls, budget=args.seconds / 3, clock=time.process_time))
        for way, find in ways.items():
            times = summary(np.concatenate(clocks[way]))
            scored = float(find(queries_UD, k).scored.mean()) / index.num_items
            shape = (name, index.num_items, index.num_clusters, index.dim, k, way)
            rows.append((*shape, times.timed, times.median_us, times.mean_us, times.p95_us, scored))
    return rows


def check(index: TwoLevelIndex, queries_UD: Floats, k: int) -> None:
    """Ids, score bits and bounds of the NumPy twin, one query at a time: it needs 64 bytes per item."""
    model = (index.vectors_ID, index.cluster_of_I, index.clusters_CD, index.bias_C, index.logit_cap)
    for query in queries_UD:
        wanted = reference.top_k(reference.two_level_scores(query[None], *model), k)
        found = index.top_k(query[None], k)
        if not all(getattr(found, part).tobytes() == getattr(wanted, part).tobytes() for part in TopK._fields[:3]):
            sys.exit("the search does not give the bits of the NumPy twin: nothing is timed")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("train", "search", "step"))
    parser.add_argument("--items", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--positions", type=int, default=400, help="train: rows of hidden states")
    parser.add_argument("--loss", choices=LOSSES, default=LOSSES[0], help="step: the loss")
    parser.add_argument("--model", type=Path, nargs=2, metavar=("MODEL", "LOG"), help="search: a trained model")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--seconds", type=float, default=3.0, help="for every way and setting")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/record")
    return parser.parse_args()


if __name__ == "__main__":
    started = time.perf_counter()
    if sys.argv[1:2] == ["step"]:
        one_step(arguments())
    else:
        main()
        print(f"{time.perf_counter() - started:.0f} s")
