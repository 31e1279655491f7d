"""How long do item codes take, and how well do they tell items apart?

    python benchmarks/codes.py LOG

LOG is a log folder or file; every event counts as training. Before the table is printed, every strategy's codes are
checked: shape, and no tuple shared after ties were broken.
"""

import argparse
import time

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from everyitem.compress import codes
from everyitem.compress.ties import break_ties
from everyitem.data.interactions import Log, read_log
from everyitem.quantise import Codes, Quantised

STRATEGIES = {
    "random": codes.random_codes,
    "svd": codes.svd_codes,
    "svd-rank": codes.svd_rank_codes,
    "bpr": codes.bpr_codes,
    "kmeans": codes.kmeans_codes,
}
COLUMNS = ("strategy", "s", "unique", "tied", "largest", "s to part", "tied left", "changed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", help="log folder, .parquet or .csv")
    parser.add_argument("--num-splits", type=int, default=8)
    parser.add_argument("--num-sub-items", type=int, default=256)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    console = Console()
    log = read_log(args.log)
    title = f"{log.num_items:,} items, {log.num_events:,} events, M={args.num_splits}, B={args.num_sub_items}"
    table = Table(*COLUMNS, title=title, box=box.SIMPLE_HEAD, padding=0)
    for strategy in args.strategies:
        with console.status(strategy):
            table.add_row(strategy, *measure(log, strategy, args.num_splits, args.num_sub_items, args.seed))
    console.print(table)


def measure(log: Log, strategy: str, num_splits: int, num_sub_items: int, seed: int) -> list[str]:
    started = time.perf_counter()
    assigned: Codes | Quantised = STRATEGIES[strategy](
        log.histories, log.num_items, num_splits, num_sub_items=num_sub_items, seed=seed
    )
    assigned_at = time.perf_counter()
    codes_IM, codebooks_MBd, _ = assigned if isinstance(assigned, Quantised) else (assigned, None, None)
    unique_IM, ties = break_ties(codes_IM, num_sub_items, seed, codebooks_MBd=codebooks_MBd)
    broken_at = time.perf_counter()

    assert unique_IM.shape == (log.num_items, num_splits)
    assert len(np.unique(unique_IM, axis=0)) == log.num_items or ties.tied_after
    return [
        f"{assigned_at - started:.1f}",
        f"{len(np.unique(codes_IM, axis=0)) / log.num_items:.2%}",
        f"{ties.tied_before:,}",
        f"{ties.largest_before:,}",
        f"{broken_at - assigned_at:.1f}",
        f"{ties.tied_after:,}",
        f"{ties.changed:,}",
    ]


if __name__ == "__main__":
    main()
