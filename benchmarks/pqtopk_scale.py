"""How does time grow with the catalogue, from a thousand items to a billion? PQTopK's simulation (arXiv:2408.09992).

    python benchmarks/pqtopk_scale.py --items 1000 10000 100000 1000000 --num-splits 4 8 16 32 64 --record

As in the paper: random codes, D = 512, K = 10, scoring and top-K without a backbone, one thread. Beside PQTopK and
RecJPQ stand our searches and, as far as memory goes, peers. `--kinds tr13` does the same on codes that a model was
trained with (M = 8), re-sampled to the size.
"""

import argparse
import itertools
from pathlib import Path

from catalogues import CACHE, LEARNT, catalogue
from ours import ours
from peers import DENSE, EXACT, Vectors, need_room, offered
from recording import record
from rich.console import Console

from everyitem.bench import show
from everyitem.bench.catalogues import SAMPLES
from everyitem.bench.check import check, num_checked
from everyitem.bench.difficulty import difficulty
from everyitem.bench.measure import Setting, measure
from everyitem.bench.methods import Unsuited
from everyitem.index import PQIndex

DIM = 512


def main() -> None:
    args = arguments()
    console = Console(width=120)
    for kind, num_items, num_splits in itertools.product(args.kinds, args.items, args.num_splits):
        if kind in LEARNT and num_splits != 8:
            continue
        try:
            need_room(1.1 * num_items * num_splits, f"{num_items:,} codes of {num_splits} bytes")
        except Unsuited as reason:
            print(f"skipped: {reason}")
            continue
        scale(kind, num_items, num_splits, args, console)


def scale(kind: str, num_items: int, num_splits: int, args: argparse.Namespace, console: Console) -> None:
    """One point of the curves."""
    made = catalogue(kind, num_items, num_splits, DIM, args.queries + SAMPLES, args.cache)
    index = PQIndex(made.codes_IM, made.codebooks_MBd)
    queries_UD = made.queries_UD[SAMPLES : SAMPLES + args.queries]
    ways = ours(index, made.queries_UD[:SAMPLES])
    if kind == "uniform":  # nothing to prune, and seconds per query at 64 splits
        ways = [way for way in ways if way.name != "recjpqprune"]
    ways += offered([*EXACT, *DENSE] if args.peers else [], index, Vectors(index))
    check(index, ways, queries_UD[: num_checked(index)], args.k)
    hard = difficulty(index, queries_UD)
    with console.status("") as status:
        lines = measure(index, ways, queries_UD, Setting(args.k), seconds=args.seconds, report=status.update)
    for table in show.tables(lines, f"{made.name}, {num_items:,} items, M = {num_splits}, D = {DIM}\n{hard}"):
        console.print(table)
    if args.record:
        shape = (made.name, num_items, num_splits, DIM, *hard)
        record([(*shape, *show.record(line).values()) for line in lines], "scale")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=["uniform", *LEARNT], default=["uniform"])
    parser.add_argument("--items", type=int, nargs="+", default=[10**n for n in range(3, 8)])
    parser.add_argument("--num-splits", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0, help="for every way to search")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", type=Path, default=CACHE, help="where tr13 and mf13 are kept")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/record/<machine>/<date>-scale.tsv")
    return parser.parse_args()


if __name__ == "__main__":
    main()
