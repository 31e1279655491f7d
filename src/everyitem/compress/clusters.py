"""Puts every item of a catalogue into one cluster, for the two-level softmax (arXiv:2509.03746).

Knows item vectors and how often items were met. Knows no model, no index and no files.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags_array
from scipy.sparse.linalg import eigsh

from everyitem.compress import ClustersName
from everyitem.types import Floats, Ids

SLACK = 2
"""No cluster has more than this many times its fair share of items."""
LLOYD_STEPS = 12
SAMPLE_PER_CLUSTER = 64
FILL_ROUNDS = 32
NEIGHBOURS = 50
EIGENVECTORS = 32
LARGEST_SPECTRAL = 100_000
ROWS_AT_ONCE = 4096
CHUNK_VALUES = 1 << 22

Positions = NDArray[np.int64]


def num_clusters_for(num_items: int) -> int:
    """C where none is asked for: the root of the number of items, where C + I / C is least."""
    return max(1, math.ceil(math.sqrt(num_items)))


def assign_clusters(
    vectors_ID: Floats, events_I: NDArray[np.int64], kind: ClustersName, num_clusters: int | None, *, seed: int
) -> Ids:
    """The cluster of every item, at most `SLACK` times the fair share of items in each.

    Args:
        vectors_ID: what items that belong together have similar ones of; "random" and "frequency" do not look at them.
        events_I: how often each item was met; "frequency" looks at it.
        kind: "kmeans" (nearest centres, filled up evenly), "spectral" (of the graph of nearest neighbours; clusters
            that are too large are halved again and again, so that there may be more than asked for; the paper's),
            "frequency" (dealt out by popularity) or "random".
        num_clusters: C; None: the root of the number of items.
        seed: of everything random.

    Returns:
        (I,) int32; every number up to the largest is used.

    Raises:
        ValueError: C is not within 1 to I, or "spectral" for more than 100,000 items.
    """
    num_items = len(vectors_ID)
    num_clusters = num_clusters_for(num_items) if num_clusters is None else num_clusters
    if not 1 <= num_clusters <= num_items:
        raise ValueError(f"num_clusters is {num_clusters}; allowed: 1 to {num_items}, the number of items")
    if kind == "spectral" and num_items > LARGEST_SPECTRAL:
        raise ValueError(
            f"spectral clusters need every item's neighbours: {num_items:,} items, at most {LARGEST_SPECTRAL:,}; "
            "use kmeans"
        )
    rng = np.random.default_rng(seed)
    most = SLACK * math.ceil(num_items / num_clusters)
    functions: dict[ClustersName, Callable[[], NDArray[np.int64]]] = {
        "random": lambda: _dealt(rng.permutation(num_items), num_clusters),
        "frequency": lambda: _dealt(np.argsort(-events_I, kind="stable"), num_clusters),
        "kmeans": lambda: _filled(vectors_ID, _centres(vectors_ID, num_clusters, rng), most),
        "spectral": lambda: _spectral(vectors_ID, num_clusters, most, rng),
    }
    return np.unique(functions[kind](), return_inverse=True)[1].astype(np.int32)


def _dealt(order: Positions, num_clusters: int) -> Positions:
    """Items in this order, dealt out like cards."""
    cluster_of_I = np.empty(len(order), np.int64)
    cluster_of_I[order] = np.arange(len(order)) % num_clusters
    return cluster_of_I


def _centres(vectors_ID: Floats, num_clusters: int, rng: np.random.Generator) -> Floats:
    """k-means of a sample, begun at random items; a centre that nothing is near to stays where it is."""
    drawn = rng.permutation(len(vectors_ID))[: SAMPLE_PER_CLUSTER * num_clusters]
    sample_SD = np.asarray(vectors_ID[drawn], np.float32)
    centres_CD = sample_SD[:num_clusters].copy()
    for _ in range(LLOYD_STEPS):
        near_S, _ = _nearest(sample_SD, centres_CD)
        counts = np.bincount(near_S, minlength=num_clusters)
        shape = (num_clusters, len(near_S))
        member_CS = csr_matrix((np.ones(shape[1]), (near_S, np.arange(shape[1]))), shape)
        centres_CD[counts > 0] = (member_CS @ sample_SD)[counts > 0] / counts[counts > 0, None]
    return centres_CD


def _nearest(vectors_ND: Floats, centres_CD: Floats) -> tuple[Positions, Floats]:
    """(N,) the nearest centre and half the squared distance, up to the vector's own norm."""
    half_C = np.square(centres_CD).sum(axis=1) / 2
    near, far = np.empty(len(vectors_ND), np.int64), np.empty(len(vectors_ND), np.float32)
    for start in range(0, len(vectors_ND), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        distance = half_C - vectors_ND[part] @ centres_CD.T
        near[part] = distance.argmin(axis=1)
        far[part] = np.take_along_axis(distance, near[part, None], 1)[:, 0]
    return near, far


def _filled(vectors_ID: Floats, centres_CD: Floats, most: int) -> Positions:
    """Each item to the nearest centre that has room; where too many come, the nearest stay and the others go on.

    Who has found no place after `FILL_ROUNDS` rounds takes whatever is free: that is how many identical vectors end.
    """
    cluster_of_I, room_C = np.full(len(vectors_ID), -1), np.full(len(centres_CD), most)
    left = np.arange(len(vectors_ID))
    for _ in range(FILL_ROUNDS):
        free = np.flatnonzero(room_C)
        near, far = _nearest(vectors_ID[left], centres_CD[free])
        order = np.lexsort((far, near))
        near = free[near[order]]
        stays = np.arange(len(near)) - np.searchsorted(near, near) < room_C[near]
        cluster_of_I[left[order[stays]]] = near[stays]
        room_C -= np.bincount(near[stays], minlength=len(room_C))
        left = np.flatnonzero(cluster_of_I < 0)
        if not len(left):
            return cluster_of_I
    cluster_of_I[left] = np.repeat(np.arange(len(room_C)), room_C)[: len(left)]
    return cluster_of_I


def _spectral(vectors_ID: Floats, num_clusters: int, most: int, rng: np.random.Generator) -> Positions:
    """Normalised cuts (Shi and Malik 2000; Ng, Jordan and Weiss 2001), then halves of what is too large."""
    graph_II = _neighbour_graph(vectors_ID)
    embedded_IE = _eigenvectors(graph_II, min(num_clusters, EIGENVECTORS), rng)
    embedded_IE /= np.maximum(np.linalg.norm(embedded_IE, axis=1, keepdims=True), 1e-12)
    cluster_of_I, _ = _nearest(embedded_IE, _centres(embedded_IE, num_clusters, rng))
    large = [c for c, size in enumerate(np.bincount(cluster_of_I)) if size > most]
    while large:
        c = large.pop()
        members = np.flatnonzero(cluster_of_I == c)
        fiedler_N = _eigenvectors(graph_II[members][:, members], 2, rng)[:, 0]
        # at zero, but no part below a quarter: a graph in pieces would lose them one by one
        cut = np.clip(np.count_nonzero(fiedler_N < 0), len(members) // 4, len(members) - len(members) // 4)
        other = members[np.argsort(fiedler_N, kind="stable")[cut:]]
        fresh = int(cluster_of_I.max()) + 1
        cluster_of_I[other] = fresh
        large += [n for n, size in ((c, len(members) - len(other)), (fresh, len(other))) if size > most]
    return cluster_of_I


def _neighbour_graph(vectors_ID: Floats) -> csr_matrix:
    """(I, I) 1 where one of the two is among the other's nearest by cosine, 1/2 where not mutually."""
    unit_ID = vectors_ID / np.maximum(np.linalg.norm(vectors_ID, axis=1, keepdims=True), 1e-12)
    count = min(NEIGHBOURS, len(unit_ID) - 1)
    step = max(1, CHUNK_VALUES // len(unit_ID))
    near = [
        np.argpartition(-(unit_ID[start : start + step] @ unit_ID.T), count, axis=1)[:, : count + 1].ravel()
        for start in range(0, len(unit_ID), step)
    ]
    columns = np.concatenate(near)
    rows = np.repeat(np.arange(len(unit_ID)), count + 1)
    graph_II = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(unit_ID),) * 2)
    return (graph_II + graph_II.T) / 2


def _eigenvectors(graph_II: csr_matrix, count: int, rng: np.random.Generator) -> Floats:
    """(I, count) of the normalised graph, the largest eigenvalue last: its vector says nothing but degrees."""
    roots = np.sqrt(np.maximum(np.asarray(graph_II.sum(axis=1)).ravel(), 1e-12))
    normal_II = diags_array(1 / roots) @ graph_II @ diags_array(1 / roots)
    if len(roots) <= max(4 * count, 256):
        vectors = np.linalg.eigh(normal_II.toarray())[1][:, -count:]
    else:
        values, vectors = eigsh(normal_II, k=count, which="LA", v0=rng.random(len(roots)), tol=1e-3)
        vectors = vectors[:, np.argsort(values)]
    return np.asarray(vectors / roots[:, None], np.float32)
