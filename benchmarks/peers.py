"""Exact searches that people write or install instead: dense products and PQ scans in torch and NumPy, faiss.

A peer is a function from a catalogue to `Method`s; where it cannot be had it raises `Unsuited` with the reason. Peers
keep the catalogue in the layout that suits them; what they must build is counted as theirs.
"""

import functools
import time
from collections.abc import Callable, Iterator

import numpy as np

from everyitem.bench import methods
from everyitem.bench.methods import Found, Method, Unsuited, imported
from everyitem.index import DenseIndex, PQIndex
from everyitem.types import Floats

CHUNK = 1 << 16
ROOM = 0.8
"""The share of the free memory that a peer may take."""


class Vectors:
    """All item vectors of a catalogue, made at the first call: 4 D bytes per item, where memory has room."""

    def __init__(self, index: PQIndex) -> None:
        self._index = index

    @functools.cached_property
    def vectors_ID(self) -> Floats:
        """(I, D)"""
        index = self._index
        need_room(4 * index.dim * index.num_items, "all item vectors")
        vectors = np.empty((index.num_items, index.dim), np.float32)
        for start in range(0, len(vectors), CHUNK):
            stop = min(start + CHUNK, len(vectors))
            vectors[start:stop] = index.vectors(np.arange(start, stop))
        return vectors

    def some(self, count: int, seed: int = 0) -> Floats:
        """Vectors of random items, to train on."""
        rng = np.random.default_rng(seed)
        return self._index.vectors(rng.choice(self._index.num_items, min(count, self._index.num_items), replace=False))


Peer = Callable[[PQIndex, Vectors], Iterator[Method]]


def need_room(num_bytes: float, what: str) -> None:
    """Raise unless the machine has so much memory to spare."""
    with open("/proc/meminfo") as file:
        free = int(file.read().partition("MemAvailable:")[2].split()[0]) * 1024
    if num_bytes > ROOM * free:
        raise Unsuited(f"{what} would take {num_bytes / 1e9:.1f} GB, and {ROOM:.0%} of {free / 1e9:.1f} GB may be used")


def numpy_pqtopk(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """A loop over splits, each a look-up of the whole catalogue, then argpartition: 10 lines that anyone can write."""
    need_room(index.num_items * (index.num_splits + 8), "columns of codes")
    started = time.perf_counter()
    columns = [np.ascontiguousarray(column) for column in index.codes_IM.T]
    seconds = time.perf_counter() - started
    scores_I, part_I = np.empty((2, index.num_items), np.float32)
    tables = np.zeros((index.num_splits, 256), np.float32)

    def search_one(table_MB: Floats, k: int) -> tuple[np.ndarray, np.ndarray]:
        tables[:, : table_MB.shape[1]] = table_MB
        np.take(tables[0], columns[0], out=scores_I, mode="clip")
        for table, column in zip(tables[1:], columns[1:], strict=True):
            np.add(scores_I, np.take(table, column, out=part_I, mode="clip"), out=scores_I)
        best = np.argpartition(scores_I, -k)[-k:] if k < len(scores_I) else np.arange(len(scores_I))
        best = best[np.lexsort((best, -scores_I[best]))]
        return best, scores_I[best]

    def search(queries_UD: Floats, k: int, threads: int) -> Found:
        rows = [search_one(table_MB, k) for table_MB in index.score_table(queries_UD)]
        return Found(*(np.stack(column) for column in zip(*rows, strict=True)))

    yield Method("PQTopK, NumPy", search, "exact", index.num_items * (index.num_splits + 8), seconds)


def torch_pqtopk(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """PQTopK as its authors wrote it for TensorFlow: gather split by split, add, topk."""
    torch = imported("torch", "torch")
    num_bytes = index.num_items * 4 * index.num_splits
    need_room(num_bytes + 8 * index.num_items, "codes as int32")
    started = time.perf_counter()
    columns = [torch.from_numpy(np.ascontiguousarray(column, np.int32)) for column in index.codes_IM.T]
    seconds = time.perf_counter() - started

    def search(queries_UD: Floats, k: int, threads: int) -> Found:
        torch.set_num_threads(threads)
        table_UMB = torch.from_numpy(index.score_table(queries_UD))
        scores_UI = table_UMB[:, 0].index_select(1, columns[0])
        for m in range(1, len(columns)):
            scores_UI += table_UMB[:, m].index_select(1, columns[m])
        return Found(*_topk(scores_UI, k))

    yield Method("PQTopK, torch", search, "exact", num_bytes, seconds)


def torch_dense(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """The Transformer default: every item vector times the query, then topk."""
    torch = imported("torch", "torch")
    matrix_ID = torch.from_numpy(vectors.vectors_ID)

    def search(queries_UD: Floats, k: int, threads: int) -> Found:
        torch.set_num_threads(threads)
        return Found(*_topk(torch.from_numpy(np.ascontiguousarray(queries_UD)) @ matrix_ID.T, k))

    yield Method("dense, torch", search, "exact", vectors.vectors_ID.nbytes, 0.0)


def our_dense(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """Our own index of vectors, exact as well."""
    dense = DenseIndex(vectors.vectors_ID)

    def search(queries_UD: Floats, k: int, threads: int) -> Found:
        found = dense.top_k(queries_UD, k, threads=threads)
        return Found(found.items, found.scores, found.scored)

    yield Method("dense, C++", search, "exact", vectors.vectors_ID.nbytes, 0.0)


def _topk(scores_UI, k: int) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    scores, items = scores_UI.topk(min(k, scores_UI.shape[1]), dim=1)
    return items.numpy(), scores.numpy()


def offered(
    peers: list[Peer], index: PQIndex, vectors: Vectors, report: Callable[[str], None] = print
) -> Iterator[Method]:
    """What the peers offer for a catalogue; why one does not is reported."""
    for peer in peers:
        started = time.perf_counter()
        try:
            yield from peer(index, vectors)
        except Unsuited as reason:
            report(f"skipped {peer.__name__}: {reason}")
        else:
            report(f"{peer.__name__} is ready after {time.perf_counter() - started:.0f} s")


def faiss_pq(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """faiss's IndexPQ with our codes and codebooks."""
    need_room(2 * index.num_items * index.num_splits, "faiss's copies of the codes")
    yield from methods.faiss_pq(index)


EXACT: list[Peer] = [faiss_pq, numpy_pqtopk, torch_pqtopk]
DENSE: list[Peer] = [our_dense, torch_dense]
