"""How fast are the best items found? Answers are checked before anything is timed; ratios come from the same run.

    python benchmarks/scoring.py --kind tr13 --items 1300000     a generated catalogue (benchmarks/catalogues.py)
    python benchmarks/scoring.py --model EXPORT        what `everyitem export MODEL EXPORT --log LOG --queries N` wrote
    ... --peers exact dense approximate --k 10 100 --batch 1 64 --threads 1 2 --cold --record

Every query is timed once per round, the ways to search taking turns, as far as their seconds go. Every k is combined
with every batch and number of threads; --cold adds one query at a time on one thread with emptied caches.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from approximate import APPROXIMATE
from catalogues import CACHE, LEARNT, catalogue
from ours import ours
from peers import DENSE, EXACT, Peer, Vectors, offered
from recording import record
from rich.console import Console

from everyitem.bench import show
from everyitem.bench.catalogues import KINDS, SAMPLES
from everyitem.bench.check import check, num_checked
from everyitem.bench.difficulty import difficulty
from everyitem.bench.measure import Setting, measure
from everyitem.index import PQIndex

PEERS: dict[str, list[Peer]] = {"exact": EXACT, "dense": DENSE, "approximate": APPROXIMATE}


def main() -> None:
    args = arguments()
    made = catalogue(args.model or args.kind, args.items, args.num_splits, args.dim, args.queries + SAMPLES, args.cache)
    index = PQIndex(made.codes_IM, made.codebooks_MBd, rotation_DD=made.rotation_DD)
    queries_UD = np.array(made.queries_UD[SAMPLES : SAMPLES + args.queries])
    hard = difficulty(index, queries_UD)
    title = f"{made.name}, {index.num_items:,} items, M = {index.num_splits}, D = {index.dim}\n{hard}"

    vectors = Vectors(index)
    ways = ours(index, made.queries_UD[:SAMPLES])
    ways += offered([peer for group in args.peers for peer in PEERS[group]], index, vectors)
    for k in args.k:
        check(index, ways, queries_UD[: num_checked(index)], k, max(args.threads))
    console = Console(width=None if sys.stdout.isatty() else 120)
    settings = [Setting(*values) for values in itertools.product(args.k, args.batch, args.threads)]
    settings += [Setting(k, cold=True) for k in args.k if args.cold]
    for setting in settings:
        started = time.perf_counter()
        with console.status("") as status:
            lines = measure(index, ways, queries_UD, setting, seconds=args.seconds, report=status.update)
        for table in show.tables(lines, title):
            console.print(table)
        if args.record:
            shape = (made.name, index.num_items, index.num_splits, index.dim, *hard)
            print(record([(*shape, *show.record(line).values()) for line in lines]))
        console.print(f"{time.perf_counter() - started:.0f} s", style="dim")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder of everyitem export, instead of a generated catalogue")
    parser.add_argument("--kind", choices=[*KINDS, *LEARNT], default="tr13")
    parser.add_argument("--items", type=int, default=1_300_000)
    parser.add_argument("--num-splits", type=int, default=8)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200, help=f"timed; the {SAMPLES} before them arrange the items")
    parser.add_argument("--k", type=int, nargs="+", default=[10])
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--peers", choices=PEERS, nargs="*", default=["exact"])
    parser.add_argument("--seconds", type=float, default=3.0, help="for every way to search and setting")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where tr13 and mf13 are kept")
    parser.add_argument(
        "--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-scoring.tsv"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
