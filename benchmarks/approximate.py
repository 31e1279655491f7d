"""Approximate searches over the same item vectors, each under several settings: recall@K is theirs to show.

All are built from the vectors that the codes stand for, on one thread with usual parameters; none is tuned to a
catalogue. One index serves all settings of a kind.
"""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from peers import CHUNK, Peer, Vectors, need_room

from everyitem.bench.methods import Found, Method, Unsuited, imported
from everyitem.index import PQIndex
from everyitem.types import Floats

TRAINED_ON = 100_000
PROBES = (8, 32, 128)
EXPANSIONS = (20, 100, 400)
LINKS, BUILD_EXPANSION = 16, 100
LEAVES_SEARCHED = (20, 100, 300)
GRAPH_MINUTES = 20.0
"""A graph that would take longer to build is not built."""


def faiss_fast_scan(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """PQ Fast Scan: 4-bit codes of its own, tables in registers, sums in integers."""
    faiss = imported("faiss", "faiss-cpu")
    for num_splits in (16, 32, 64):
        if index.dim % num_splits == 0:
            name = f"PQ{num_splits}x4fs"
            made, seconds = _faiss(faiss, name, index, vectors)
            yield _method(
                f"faiss {name}", partial(_search_faiss, faiss, made), index.num_items * num_splits / 2, seconds
            )


def faiss_ivfpq(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """Inverted lists over our very codes: nothing is lost but what lies in lists that are not searched (nprobe are).

    Codebooks of its own, for residuals, would be faiss's default; ours make it better here.
    """
    faiss = imported("faiss", "faiss-cpu")
    if index.rotation_DD is not None:
        raise Unsuited("IndexIVFPQ knows no rotation")
    lists = 2 ** round(math.log2(math.sqrt(index.num_items)))
    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    quantizer = faiss.IndexFlatIP(index.dim)
    made = faiss.IndexIVFPQ(quantizer, index.dim, lists, index.num_splits, 8, faiss.METRIC_INNER_PRODUCT)
    kmeans = faiss.Kmeans(index.dim, lists, niter=10, seed=0, max_points_per_centroid=100)
    kmeans.train(vectors.some(100 * lists))
    quantizer.add(kmeans.centroids)
    made.by_residual, made.is_trained = False, True
    missing = 256 - index.num_sub_items
    books = np.pad(index.codebooks_MBd, ((0, 0), (0, missing), (0, 0)), mode="edge")  # the first of equals is chosen
    faiss.copy_array_to_vector(books.ravel(), made.pq.centroids)
    for start in range(0, index.num_items, CHUNK):
        made.add(index.vectors(np.arange(start, min(start + CHUNK, index.num_items))))
    seconds = time.perf_counter() - started

    def search(probes: int, queries_UD: Floats, k: int, threads: int) -> Found:
        made.nprobe = probes
        return _search_faiss(faiss, made, queries_UD, k, threads)

    for probes in PROBES:
        if probes < lists:
            num_bytes = index.num_items * (index.num_splits + 8) + 4 * lists * index.dim
            yield _method(f"faiss IVF{lists},PQ nprobe {probes}", partial(search, probes), num_bytes, seconds)


def hnsw(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """hnswlib: a graph over the vectors; ef candidates are kept."""
    hnswlib = imported("hnswlib", "hnswlib")
    matrix, num_bytes = vectors.vectors_ID, _graph_bytes(index)
    made = hnswlib.Index("ip", index.dim)
    made.init_index(index.num_items, ef_construction=BUILD_EXPANSION, M=LINKS)
    made.set_num_threads(1)
    seconds = _grown(lambda start, stop: made.add_items(matrix[start:stop], np.arange(start, stop)), index.num_items)

    def search(ef: int, queries_UD: Floats, k: int, threads: int) -> Found:
        made.set_ef(max(ef, k))
        items, distances = made.knn_query(queries_UD, k, num_threads=threads)
        return Found(items.astype(np.int64), 1 - distances)

    for ef in EXPANSIONS:
        yield _method(f"hnswlib ef {ef}", partial(search, ef), num_bytes, seconds)


def usearch(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """usearch: another graph over the vectors."""
    library = imported("usearch.index", "usearch")
    matrix, num_bytes = vectors.vectors_ID, _graph_bytes(index)
    made = library.Index(ndim=index.dim, metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_EXPANSION)
    seconds = _grown(
        lambda start, stop: made.add(np.arange(start, stop), matrix[start:stop], threads=1), index.num_items
    )

    def search(expansion: int, queries_UD: Floats, k: int, threads: int) -> Found:
        made.expansion_search = expansion
        found = made.search(np.ascontiguousarray(queries_UD), k, threads=threads)
        items, distances = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return Found(items.astype(np.int64), 1 - distances)

    for expansion in EXPANSIONS:
        yield _method(f"usearch expansion {expansion}", partial(search, expansion), num_bytes, seconds)


def scann(index: PQIndex, vectors: Vectors) -> Iterator[Method]:
    """ScaNN: a tree of leaves, anisotropic 4-bit codes, the best 200 scored anew from the vectors."""
    library = imported("scann", "scann")
    matrix = vectors.vectors_ID
    need_room(1.5 * matrix.nbytes, "ScaNN's copy of the vectors")
    leaves = max(1, round(math.sqrt(index.num_items) * 1.75))
    started = time.perf_counter()
    builder = library.scann_ops_pybind.builder(matrix, 10, "dot_product").set_n_training_threads(1)
    builder = builder.tree(leaves, num_leaves_to_search=100, training_sample_size=min(index.num_items, 250_000))
    made = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(200).build()
    seconds = time.perf_counter() - started

    def search(searched: int, queries_UD: Floats, k: int, threads: int) -> Found:
        batch = made.search_batched if threads == 1 else made.search_batched_parallel
        found = batch(
            queries_UD, final_num_neighbors=k, pre_reorder_num_neighbors=max(200, 2 * k), leaves_to_search=searched
        )
        return Found(*found)

    for searched in LEAVES_SEARCHED:
        if searched < leaves:
            num_bytes = index.num_items * (4.0 * index.dim + index.dim / 4)
            yield _method(f"ScaNN {searched} of {leaves} leaves", partial(search, searched), num_bytes, seconds)


def _method(name: str, search: Callable[[Floats, int, int], Found], num_bytes: float, seconds: float) -> Method:
    return Method(name, search, "approximate", num_bytes, seconds)


def _graph_bytes(index: PQIndex) -> int:
    num_bytes = index.num_items * (4 * index.dim + 8 * LINKS + 16)
    need_room(num_bytes, "the graph")
    return num_bytes


def _faiss(faiss: Any, name: str, index: PQIndex, vectors: Vectors) -> tuple[Any, float]:
    faiss.omp_set_num_threads(1)
    started = time.perf_counter()
    made = faiss.index_factory(index.dim, name, faiss.METRIC_INNER_PRODUCT)
    made.train(vectors.some(TRAINED_ON))
    for start in range(0, index.num_items, CHUNK):
        made.add(index.vectors(np.arange(start, min(start + CHUNK, index.num_items))))
    return made, time.perf_counter() - started


def _search_faiss(faiss: Any, made: Any, queries_UD: Floats, k: int, threads: int) -> Found:
    faiss.omp_set_num_threads(threads)
    scores, items = made.search(np.ascontiguousarray(queries_UD), k)
    return Found(items, scores)


def _grown(add: Callable[[int, int], Any], num_items: int, step: int = 2000) -> float:
    """Insert everything, step by step, unless the pace says that it will take too long."""
    started = time.perf_counter()
    for start in range(0, num_items, step):
        add(start, min(start + step, num_items))
        done = time.perf_counter() - started
        expected = done * num_items / min(start + step, num_items) / 60
        if start + step >= 10_000 and expected > GRAPH_MINUTES:
            raise Unsuited(f"building would take {expected:.0f} minutes or more, and {GRAPH_MINUTES:.0f} are allowed")
    return time.perf_counter() - started


APPROXIMATE: list[Peer] = [faiss_fast_scan, faiss_ivfpq, hnsw, usearch, scann]
