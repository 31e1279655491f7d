"""Which cluster a vector joins, and how a cluster that has grown too large becomes two. NumPy; knows no index."""

import math

import numpy as np
from numpy.typing import NDArray

from everyitem.index.core import load_core
from everyitem.types import Floats, Ids

ROWS_AT_ONCE = 4096

Grouped = tuple[NDArray[np.int64], Floats, Floats]
"""(cluster of every item, cluster vectors, cluster biases)"""


def nearest(vectors_ND: Floats, means_CD: Floats) -> Ids:
    """(N,) the nearest mean by Euclidean distance; ties go to the smaller cluster. A row knows nothing of others."""
    half_C = np.square(means_CD, dtype=np.float32).sum(axis=1) / 2
    parts = [vectors_ND[start : start + ROWS_AT_ONCE] for start in range(0, len(vectors_ND), ROWS_AT_ONCE)]
    found = [(load_core().dense_scores(part, means_CD) - half_C).argmax(axis=1) for part in parts]
    return np.concatenate([np.empty(0, np.int32), *found]).astype(np.int32)


def among(vectors_ND: Floats) -> Floats:
    """(D,) a place among vectors: the direction of their mean, as long as they are on average.

    The mean itself is shorter the more they differ, and an item there scores less than any of them for every query.
    """
    mean_D, length = _mean(vectors_ND), float(np.linalg.norm(vectors_ND.astype(np.float64), axis=1).mean())
    norm = float(np.linalg.norm(mean_D))
    return (mean_D * (length / norm if norm > 0 else 0)).astype(np.float32)


def split(
    vectors_ID: Floats, cluster_of_I: NDArray[np.int64], clusters_CD: Floats, bias_C: Floats, max_size: int
) -> Grouped:
    """Halve the clusters with more than `max_size` items across their longest direction, until none is left.

    The first half keeps the cluster's number, the second gets a new one. Of a cluster with n items and mean m, a half
    with n' and m' gets the vector e + m' - m and the bias b + log(n' / n). As log sum_j exp <q, v_j> = log n + <q, m>
    to first order in q, log p(half) + log p(i | half) is then log p(c) + log p(i | c) to first order.
    """
    cluster_of_I, clusters, biases = cluster_of_I.copy(), list(clusters_CD), bias_C.tolist()
    large = np.flatnonzero(np.bincount(cluster_of_I, minlength=len(clusters)) > max_size).tolist()
    order = np.argsort(cluster_of_I, kind="stable")
    left = [(c, order[slice(*np.searchsorted(cluster_of_I[order], (c, c + 1)))]) for c in large]
    while left:
        c, members = left.pop()
        vector_D, bias, mean_D = clusters[c], biases[c], _mean(vectors_ID[members])
        fresh = len(clusters)
        clusters.append(vector_D)
        biases.append(bias)
        for number, half in zip((c, fresh), _halves(vectors_ID[members]), strict=True):
            items = members[half]
            cluster_of_I[items] = number
            clusters[number] = (vector_D + (_mean(vectors_ID[items]) - mean_D)).astype(np.float32)
            biases[number] = bias + math.log(len(items) / len(members))
            if len(items) > max_size:
                left.append((number, items))
    return cluster_of_I, np.stack(clusters), np.array(biases, np.float32)


def _mean(vectors_ND: Floats) -> NDArray[np.float64]:
    mean_D: NDArray[np.float64] = vectors_ND.mean(axis=0, dtype=np.float64)
    return mean_D


def _halves(vectors_ND: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows below and above the median along the direction of the largest variance, each ascending."""
    centred_ND = vectors_ND - _mean(vectors_ND)
    _, directions_DD = np.linalg.eigh(centred_ND.T @ centred_ND)
    order = np.argsort(centred_ND @ directions_DD[:, -1], kind="stable")
    middle = len(order) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])
