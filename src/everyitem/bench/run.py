"""What `everyitem bench` does: a catalogue, answers checked, then times of every algorithm, faiss beside them."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from everyitem.bench import methods
from everyitem.bench.catalogues import SAMPLES, generate, read_export
from everyitem.bench.check import check, num_checked
from everyitem.bench.difficulty import Difficulty, difficulty
from everyitem.bench.measure import Measurement, Setting, measure
from everyitem.index import PQIndex, load_index
from everyitem.types import Floats

Report = Callable[[str], None]


class Bench(NamedTuple):
    """What was measured, and on what."""

    name: str
    num_items: int
    num_splits: int
    dim: int
    difficulty: Difficulty
    lines: list[Measurement]


class Ground(NamedTuple):
    """An index laid out, and queries that its layout has not seen."""

    name: str
    pq: PQIndex
    queries_UD: Floats
    build_seconds: float


def run(
    ground: Ground,
    settings: Iterable[Setting],
    others: Iterable[Callable[[PQIndex], Iterator[methods.Method]]] = (methods.faiss_pq,),
    *,
    seconds: float = 3.0,
    report: Report = print,
) -> Bench:
    """Check and time our algorithms and some others on one catalogue.

    Args:
        ground: what is searched.
        settings: each times every method.
        others: give methods, or raise `Unsuited`: then the reason is reported.
        seconds: per method and setting.
        report: takes remarks.

    Raises:
        WrongAnswer: a method does not keep its promise.
    """
    name, index, queries_UD, build_seconds = ground
    ways = methods.algorithms(index, build_seconds)
    for other in others:
        try:
            ways += other(index)
        except methods.Unsuited as reason:
            report(f"skipped: {reason}")
    lines = []
    settings = list(settings)
    few = queries_UD[: num_checked(index)]
    for k in dict.fromkeys(setting.k for setting in settings):
        check(index, ways, few, k, max(setting.threads for setting in settings))
    for setting in settings:
        lines += measure(index, ways, queries_UD, setting, seconds=seconds)
    return Bench(name, index.num_items, index.num_splits, index.dim, difficulty(index, queries_UD), lines)


def generated(kind: str, num_items: int, num_splits: int, dim: int, num_queries: int) -> Ground:
    """A hand-made catalogue; the first queries arrange it, the others are asked."""
    made = generate(kind, num_items, num_splits, dim, num_queries + SAMPLES)
    index = PQIndex(made.codes_IM, made.codebooks_MBd)
    return Ground(kind, index, made.queries_UD[SAMPLES:], methods.built(index, made.queries_UD[:SAMPLES]))


def opened(folder: Path, queries: Path | None, num_queries: int) -> Ground:
    """An index folder, or a folder of `everyitem export`.

    Args:
        folder: either.
        queries: (U, D) float32, .npy; None: the export's own queries, or else vectors of random items.
        num_queries: asked at most.

    Raises:
        FileNotFoundError: neither kind of folder is there.
        ValueError: the index has no item codes, or queries do not fit it.
    """
    if (folder / "codes.npy").is_file():
        made = read_export(folder)
        index = PQIndex(made.codes_IM, made.codebooks_MBd, rotation_DD=made.rotation_DD)
        asked = made.queries_UD
    elif (folder / "CURRENT").is_file():
        found = load_index(folder)
        if not isinstance(found, PQIndex):
            raise ValueError(f"{folder} holds vectors, which are searched one way only; bench needs item codes")
        index, asked = found, np.empty((0, found.dim), np.float32)
    else:
        raise FileNotFoundError(f"{folder}: neither an index folder (CURRENT) nor an export (codes.npy) is here")
    if queries is not None:
        asked = _read_queries(queries, index.dim)
    if not len(asked):
        asked = index.vectors(np.random.default_rng(0).integers(0, index.num_items, num_queries + SAMPLES))
    samples = min(SAMPLES, len(asked) // 2)
    seconds = methods.built(index, asked[:samples] if samples else None)
    return Ground(folder.resolve().name, index, asked[samples:][:num_queries], seconds)


def _read_queries(path: Path, dim: int) -> Floats:
    from everyitem.index.embeddings import read_vectors

    queries_UD = np.ascontiguousarray(read_vectors(path).vectors_ID)
    if queries_UD.shape[1] != dim or not len(queries_UD):
        raise ValueError(f"{path} has shape {queries_UD.shape}, but this catalogue is asked with (U, {dim}), U >= 1")
    return queries_UD
