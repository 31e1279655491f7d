"""Generated interactions, and the codes that RecJPQ would give their items: the ground of `tr13` and `mf13`.

250,000 users meet 40 of 1.3 million items each. Items stand in clusters, clusters in departments; a user has up to
four clusters of interest and wanders in them, now and then to a neighbour or to a hit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from everyitem.types import Floats

NUM_ITEMS, NUM_USERS, NUM_EVENTS = 1_300_000, 250_000, 40
NUM_SPLITS, NUM_SUB_ITEMS = 8, 256
DEPARTMENTS, INTERESTS, REACH = 60, 4, 6
Events = NDArray[np.int64]


class Clusters(NamedTuple):
    """Cluster c holds the positions starts[c] to starts[c] + sizes[c] - 1, the largest first."""

    sizes: Events
    starts: Events
    department: Events
    members: Events
    """Clusters sorted by department; department d's are members[first[d] : first[d + 1]]."""
    first: Events


def interactions(rng: np.random.Generator, num_items: int = NUM_ITEMS, num_users: int = NUM_USERS) -> Events:
    """(users, 40) items, oldest first. An item's number says nothing about its cluster."""
    clusters = _clusters(rng, num_items)
    popularity = clusters.sizes * np.exp(rng.standard_normal(len(clusters.sizes)))
    likes = rng.choice(len(popularity), (num_users, INTERESTS), p=popularity / popularity.sum())
    interests = rng.integers(1, INTERESTS + 1, num_users)
    cluster = likes[:, 0]
    place = _fresh(rng, clusters.sizes[cluster])
    events = np.empty((num_users, NUM_EVENTS), np.int64)
    for t in range(NUM_EVENTS):
        switch, wander, hit = rng.random(num_users) < 0.15, rng.random(num_users) < 0.07, rng.random(num_users) < 0.03
        own = likes[np.arange(num_users), rng.integers(0, interests)]
        cluster = np.where(wander, _neighbour(rng, clusters, cluster), np.where(switch, own, cluster))
        sizes = clusters.sizes[cluster]
        stay = (rng.random(num_users) < 0.35) & ~switch & ~wander & (t > 0)
        near = (place + rng.integers(-REACH, REACH + 1, num_users)) % sizes
        place = np.where(stay, near, _fresh(rng, sizes))
        events[:, t] = np.where(hit, num_items * rng.random(num_users) ** 4, clusters.starts[cluster] + place)
    return rng.permutation(num_items)[events]


def _clusters(rng: np.random.Generator, num_items: int) -> Clusters:
    weights = (1.0 + np.arange(num_items // 300)) ** -0.7
    sizes = np.maximum(5, (num_items * weights / weights.sum()).astype(np.int64))
    sizes[0] += num_items - sizes.sum()
    department = rng.integers(0, DEPARTMENTS, len(sizes))
    first = np.searchsorted(np.sort(department), np.arange(DEPARTMENTS + 1))
    return Clusters(sizes, np.cumsum(sizes) - sizes, department, np.argsort(department, kind="stable"), first)


def _fresh(rng: np.random.Generator, sizes: Events) -> Events:
    return (sizes * rng.random(len(sizes)) ** 2.2).astype(np.int64)


def _neighbour(rng: np.random.Generator, clusters: Clusters, cluster: Events) -> Events:
    """A cluster of the same department, each as likely."""
    low, high = clusters.first[clusters.department[cluster]], clusters.first[clusters.department[cluster] + 1]
    return clusters.members[rng.integers(low, high)]


def item_factors(
    rng: np.random.Generator, events: Events, num_items: int, rank: int, iterations: int
) -> tuple[Floats, Floats]:
    """The right singular vectors (I, rank) and values of users x items counts, by a randomised SVD."""
    num_users, length = events.shape
    indptr = np.arange(0, num_users * length + 1, length)
    counts = csr_matrix(
        (np.ones(events.size, np.float32), events.ravel().astype(np.int32), indptr), (num_users, num_items)
    )
    counts.sum_duplicates()
    transposed = counts.T.tocsr()
    basis = np.linalg.qr(counts @ rng.standard_normal((num_items, rank), dtype=np.float32))[0]
    for _ in range(iterations):
        basis = np.linalg.qr(counts @ (transposed @ basis))[0]
    # counts ~ basis (basis.T counts): the small side's SVD, through its rank x rank square
    projected = transposed @ basis
    values, turn = np.linalg.eigh((projected.T @ projected).astype(np.float64))
    order = np.argsort(-values)
    sigma = np.sqrt(np.maximum(values[order], 1e-12)).astype(np.float32)
    return (projected @ turn[:, order].astype(np.float32)) / sigma, sigma


def rank_codes(rng: np.random.Generator, factors_IM: Floats, *, centred: bool) -> NDArray[np.uint8]:
    """RecJPQ's codes (arXiv:2312.06165): a factor per split, noise where factors tie, bins of equal size by rank."""
    factors = factors_IM - factors_IM.mean(axis=0) if centred else factors_IM
    factors = factors / np.linalg.norm(factors, axis=0)
    noisy = factors + rng.normal(0, 1e-5, factors.shape)
    ranks = np.argsort(np.argsort(noisy, axis=0, kind="stable"), axis=0, kind="stable")
    return np.ascontiguousarray(NUM_SUB_ITEMS * ranks // len(ranks), np.uint8)


def resized(rng: np.random.Generator, codes_IM: NDArray[np.uint8], num_items: int) -> NDArray[np.uint8]:
    """Fewer items: a subset. More: items drawn again, every code moved by up to 6 with probability 1/2, clipped."""
    if num_items <= len(codes_IM):
        return codes_IM[np.sort(rng.choice(len(codes_IM), num_items, replace=False))]
    sized = np.empty((num_items, codes_IM.shape[1]), np.uint8)
    for start in range(0, num_items, 1 << 20):
        rows = rng.integers(0, len(codes_IM), min(1 << 20, num_items - start), dtype=np.int32)
        moves = rng.integers(-REACH, REACH + 1, (len(rows), codes_IM.shape[1]), dtype=np.int16)
        moves *= rng.integers(0, 2, moves.shape, dtype=np.int16)
        sized[start : start + len(rows)] = np.clip(codes_IM[rows] + moves, 0, NUM_SUB_ITEMS - 1)
    return sized
