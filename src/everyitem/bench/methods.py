"""Ways to find the best items of one catalogue, all called alike: our algorithms, and faiss's exact IndexPQ.

`benchmarks/peers.py` has more of them. A way that cannot be had says why, as `Unsuited`.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index import PQIndex
from everyitem.index.pq import ALGORITHMS
from everyitem.types import Floats

PLANNER = "planner"
FAISS = "faiss IndexPQ"


class Unsuited(Exception):
    """This way cannot be tried here; the message says why."""


class Found(NamedTuple):
    """What a search returned, row by row, best first."""

    items: NDArray[Any]
    """(U, K)"""
    scores: NDArray[Any]
    """(U, K)"""
    scored: NDArray[np.int64] | None = None
    """(U,) items whose full score was computed, where that is known."""


class Method(NamedTuple):
    """One way to search a catalogue."""

    name: str
    search: Callable[[Floats, int, int], Found]
    """(U, D) queries, k, threads"""
    promise: Literal["bits", "exact", "approximate"]
    """"bits": the ids and score bits of the NumPy twin; "exact": its scores within rounding."""
    num_bytes: float
    """What lies in memory for it, all items together."""
    build_seconds: float
    """From codes, or vectors, to the first search."""


def built(index: PQIndex, samples_UD: Floats | None, threads: int = 1) -> float:
    """Lay the catalogue out for the fast searches; the seconds that took."""
    started = time.perf_counter()
    index.compact(samples_UD, threads=threads)
    return time.perf_counter() - started


def algorithms(index: PQIndex, build_seconds: float) -> list[Method]:
    """Every algorithm of `PQIndex.top_k`, and the planner, which chooses.

    Args:
        index: laid out already.
        build_seconds: what laying out took; the papers' algorithms do without.
    """
    codes = float(index.num_items * index.num_splits)
    postings = {"recjpqprune": 4 * codes}  # inverted lists, made by the first search: a position per item and split
    arranged = codes + index.layout_bytes
    return [
        Method(name or PLANNER, partial(_ours, index, name), "bits", codes + postings.get(name, 0.0), 0.0)
        if name in ("pqtopk", "recjpq", "recjpqprune")
        else Method(name or PLANNER, partial(_ours, index, name), "bits", arranged, build_seconds)
        for name in (*ALGORITHMS, None)
    ]


def faiss_pq(index: PQIndex) -> Iterator[Method]:
    """The same codes and codebooks inside faiss's IndexPQ: the exact search that most people have today."""
    faiss = imported("faiss", "faiss-cpu")
    if index.removed_I.any():
        raise Unsuited("IndexPQ cannot hide removed items")
    started = time.perf_counter()
    theirs = index.to_faiss()
    seconds = time.perf_counter() - started

    def search(queries_UD: Floats, k: int, threads: int) -> Found:
        faiss.omp_set_num_threads(threads)
        scores, items = theirs.search(queries_UD, k)
        return Found(items, scores)

    yield Method(FAISS, search, "exact", float(index.num_items * index.num_splits), seconds)


def imported(module: str, package: str) -> Any:
    """A module of the `bench` extra."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unsuited(f"{package} cannot be imported ({error}): pip install {package}") from None


def _ours(index: PQIndex, algorithm: str | None, queries_UD: Floats, k: int, threads: int) -> Found:
    found = index.top_k(queries_UD, k, algorithm=algorithm, threads=threads)
    return Found(found.items, found.scores, found.scored)
