"""How fast are the best items found? Answers are checked before anything is timed; ratios come from the same run.

    python benchmarks/scoring.py --items 1300000 --kind easy      a generated catalogue (M = 8, D = 512)
    python benchmarks/scoring.py --model EXPORT        what `everyitem export MODEL EXPORT --log LOG` wrote

One query at a time on one thread, K = 10; every query is timed once per round, the algorithms taking turns.
"""

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from catalogues import LEVELS, generate, read_export
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from everyitem.index import DenseIndex, PQIndex, reference
from everyitem.index.pq import ALGORITHMS
from everyitem.types import Floats

Search = Callable[[Floats], tuple[Any, Any]]  # queries -> (ids, scores)
RECORD = Path(__file__).parent / "record"
COLUMNS = ["catalogue", "items", "num_splits", "dim", "k", "algorithm", "median_us", "mean_us", "p95_us", "scored"]
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a folder of everyitem export, instead of a generated catalogue")
    parser.add_argument("--kind", choices=["uniform", *LEVELS], default="uniform")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--num-splits", type=int, default=8)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--queries", type=int, default=100, help="timed; the 64 before them may arrange the catalogue")
    parser.add_argument(
        "--dense", action=argparse.BooleanOptionalAction, default=False, help="needs 4 D bytes per item"
    )
    parser.add_argument("--record", action="store_true", help="append a TSV to benchmarks/record/")
    args = parser.parse_args()

    made = (args.kind, args.items, args.num_splits, args.dim, args.queries + 64)
    catalogue = read_export(args.model) if args.model else generate(*made)
    pq = PQIndex(catalogue.codes_IM, catalogue.codebooks_MBd, rotation_DD=catalogue.rotation_DD)
    started = time.perf_counter()
    pq.compact(catalogue.queries_UD[:64])
    seconds = time.perf_counter() - started
    queries_UD = catalogue.queries_UD[64 : 64 + args.queries]
    searches = pq_searches(pq, args.k) | faiss_search(pq, args.k)
    if args.dense:
        searches |= dense_searches(pq, args.k)
    check(searches, pq, queries_UD[:10], args.k)
    shape = [catalogue.name, *map(str, (pq.num_items, pq.num_splits, pq.dim, args.k))]
    rows = [
        [
            *shape,
            name,
            *(f"{number:.1f}" for number in (np.median(us), us.mean(), np.quantile(us, 0.95))),
            f"{scored:.0f}",
        ]
        for name, us, scored in timed(searches, pq, queries_UD, args.k)
    ]
    show(rows, seconds / pq.num_items * 1e6)
    if args.record:
        print(record(rows))


def check(searches: dict[str, Search], pq: PQIndex, queries_UD: Floats, k: int) -> None:
    """Stop unless ids and score bits are those of the NumPy twin, and every peer's scores within rounding of them."""
    scores = reference.pq_scores(pq.score_table(queries_UD), pq.codes_IM)
    wanted, found = reference.top_k(scores, k), pq.top_k(queries_UD, k)
    assert found.items.tobytes() == wanted.items.tobytes(), "ids differ from the reference"
    assert found.scores.tobytes() == wanted.scores.tobytes(), "score bits differ from the reference"
    for name, search in searches.items():
        ids, values = search(queries_UD)[:2]
        if name in ALGORITHMS:
            assert ids.tobytes() == wanted.items.tobytes(), f"{name}: ids differ from the reference"
            assert values.tobytes() == wanted.scores.tobytes(), f"{name}: score bits differ from the reference"
        assert np.allclose(values, wanted.scores, rtol=1e-3, atol=1e-3), f"{name}: scores differ"
        assert (ids == wanted.items).mean() > 0.95, f"{name}: ids differ"


def pq_searches(pq: PQIndex, k: int) -> dict[str, Search]:
    return {name: partial(pq.top_k, k=k, algorithm=name, threads=1) for name in ALGORITHMS} | {
        "pqtopk, NumPy": lambda q: reference.top_k(reference.pq_scores(pq.score_table(q), pq.codes_IM), k)[:2]
    }


def dense_searches(pq: PQIndex, k: int) -> dict[str, Search]:
    vectors_ID = pq.vectors(np.arange(pq.num_items))
    dense = DenseIndex(vectors_ID)
    return {
        "dense, C++": lambda q: dense.top_k(q, k, threads=1)[:2],
        "dense, NumPy matmul": lambda q: reference.top_k(q @ vectors_ID.T, k)[:2],
    }


def faiss_search(pq: PQIndex, k: int) -> dict[str, Search]:
    """The same codes and codebooks inside faiss's IndexPQ, if faiss is installed."""
    try:
        import faiss
    except ImportError:
        return {}
    if pq.rotation_DD is not None:
        return {}  # IndexPQ knows no rotation
    faiss.omp_set_num_threads(1)
    index = faiss.IndexPQ(pq.dim, pq.num_splits, 8, faiss.METRIC_INNER_PRODUCT)
    faiss.copy_array_to_vector(pq.codebooks_MBd.ravel(), index.pq.centroids)
    index.is_trained = True
    index.add_sa_codes(np.ascontiguousarray(pq.codes_IM))
    return {"faiss IndexPQ": lambda q: index.search(q, k)[::-1]}


def timed(
    searches: dict[str, Search], pq: PQIndex, queries_UD: Floats, k: int
) -> Iterator[tuple[str, NDArray[np.float64], float]]:
    """Per search: its name, microseconds per query, and the mean of items scored."""
    clocks: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(ROUNDS):
        for name, search in searches.items():
            slow = "NumPy" in name or "dense" in name
            for row in range(min(10, len(queries_UD)) if slow else len(queries_UD)):
                start = time.perf_counter()
                search(queries_UD[row, None])
                clocks[name].append(time.perf_counter() - start)
    for name, seconds in clocks.items():
        ours = name in ALGORITHMS
        scored = pq.top_k(queries_UD, k, algorithm=name).scored.mean() if ours else pq.num_items
        yield name, np.array(seconds) * 1e6, float(scored)


def show(rows: list[list[str]], microseconds_per_item: float) -> None:
    title = ", ".join(f"{name} {value}" for name, value in zip(COLUMNS[:5], rows[0], strict=False))
    table = Table(title=f"{title}; arranged in {microseconds_per_item:.2f} us per item")
    base = next((row for row in rows if row[5] == "faiss IndexPQ"), rows[0])
    for name in [*COLUMNS[5:], f"times {base[5]}"]:
        table.add_column(name, justify="left" if name == "algorithm" else "right")
    for row in rows:
        table.add_row(*row[5:], f"{float(base[6]) / float(row[6]):.1f}")
    Console().print(table)


def record(rows: list[list[str]]) -> Path:
    """Append to this machine's file of today."""
    path = RECORD / f"{platform.machine()}-{platform.system().lower()}" / f"{datetime.date.today()}-scoring.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a") as file:
        file.writelines("\t".join(row) + "\n" for row in ([COLUMNS] if new else []) + rows)
    return path


if __name__ == "__main__":
    main()
