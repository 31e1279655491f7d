"""Product quantisation: vectors to codes and back. NumPy only.

Knows k-means and rotations. Does not know where vectors come from (a log, another model), nor how codes are searched.

Convention: `rotated = vectors @ rotation.T`, and split m of it, d = D / M consecutive columns, is replaced by its
nearest sub-item, so `vector ~= rotation.T @ concat_m codebooks[m, codes[m]]`.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from everyitem.types import Floats

Codes = NDArray[np.uint8]

TRAINING_VECTORS_PER_SUB_ITEM = 256  # more samples per centroid no longer move it (Faiss draws the same line)
LLOYD_STEPS = 25
ROTATION_ROUNDS = 40
LLOYD_STEPS_PER_ROUND = 2
ROWS_IN_CACHE = 2048  # 2048 x 256 float32 scores are 2 MB
ROWS_IN_MEMORY = 1 << 16


class Quantised(NamedTuple):
    """Codes and what is needed to read them."""

    codes_IM: Codes
    """(I, M) uint8, C-contiguous."""
    codebooks_MBd: Floats
    """(M, B, D / M) float32: sub-item b of split m."""
    rotation_DD: Floats | None
    """(D, D) orthonormal float32, original space to rotated space; None: the identity."""


def product_quantise(
    vectors_ID: Floats, num_splits: int, *, num_sub_items: int = 256, rotate: bool = False, seed: int = 0
) -> Quantised:
    """Cut vectors into splits and replace every part by the nearest of its split's k-means centroids.

    Product quantisation (Jegou et al. 2011, IEEE TPAMI 33(1)). With `rotate`, an orthonormal rotation is learnt first:
    the non-parametric OPQ (Ge et al. 2013, CVPR), `ROTATION_ROUNDS` alternations of Lloyd steps and an orthogonal
    Procrustes solution, begun at OPQ's parametric solution. Both train on at most 256 vectors per sub-item, drawn
    without replacement. With fewer distinct vectors than sub-items the surplus sub-items repeat others and go unused.

    Args:
        vectors_ID: (I, D) finite, any float dtype, may be a memory map. Not modified.
        num_splits: M, a divisor of D.
        num_sub_items: B, 2 to 256.
        rotate: learn a rotation first (OPQ).
        seed: the same seed gives the same codes on the same machine and BLAS.

    Returns:
        Quantised: codes in the order of the vectors; ties as in `encode`.

    Raises:
        ValueError: no vectors, M does not divide D, B out of range, or NaN or infinity among the vectors.

    Cost: O(I D B) to encode, after a training that does not depend on I; beside the result a few tens of MB.
    """
    if not 2 <= num_sub_items <= 256:
        raise ValueError(f"num_sub_items={num_sub_items}: codes are bytes, choose 2 to 256")
    _check_vectors(vectors_ID)
    num_items, dim = vectors_ID.shape
    if num_splits < 1 or dim % num_splits:
        raise ValueError(f"num_splits={num_splits} does not divide dim {dim}: choose a divisor, or pad the vectors")
    if num_items == 0:
        raise ValueError("got no vectors: k-means needs at least one")
    rng = np.random.default_rng(seed)
    sample_SD = _sample(vectors_ID, TRAINING_VECTORS_PER_SUB_ITEM * num_sub_items, rng)
    rotation_DD = _optimise_rotation(sample_SD, num_splits, num_sub_items, rng) if rotate else None
    codebooks_MBd = _train(_rotate(sample_SD, rotation_DD), num_splits, num_sub_items, rng)
    return Quantised(encode(vectors_ID, codebooks_MBd, rotation_DD), codebooks_MBd, rotation_DD)


def encode(vectors_ID: Floats, codebooks_MBd: Floats, rotation_DD: Floats | None = None) -> Codes:
    """The nearest sub-item of every split, by Euclidean distance.

    Args:
        vectors_ID: (I, D) finite, any float dtype, may be a memory map. Not modified.
        codebooks_MBd: (M, B, D / M) float32, B at most 256.
        rotation_DD: (D, D) orthonormal; None: the identity.

    Returns:
        (I, M) uint8; ties go to the smaller sub-item. Distances are compared in float32, so sub-items that differ by
        less than its rounding count as tied.

    Raises:
        ValueError: widths differ, or NaN or infinity among the vectors.

    Cost: O(I D B), and O(I D D) for a rotation; memory flat in I beside the codes.
    """
    _check_vectors(vectors_ID)
    num_splits, num_sub_items, width = codebooks_MBd.shape
    assert num_sub_items <= 256
    if vectors_ID.shape[1] != num_splits * width:
        raise ValueError(
            f"vectors have dim {vectors_ID.shape[1]}, the codebooks {num_splits} x {width}: "
            "encode with the codebooks that were trained on vectors of this dim"
        )
    codes_IM = np.empty((len(vectors_ID), num_splits), np.uint8)
    for rows in _slices(len(vectors_ID), ROWS_IN_MEMORY):
        rotated_ID = _rotate(np.asarray(vectors_ID[rows], np.float32), rotation_DD)
        for m, centroids_Bd in enumerate(codebooks_MBd):
            codes_IM[rows, m] = _nearest(rotated_ID[:, m * width : (m + 1) * width], centroids_Bd)
    return codes_IM


def decode(codes_IM: Codes, codebooks_MBd: Floats, rotation_DD: Floats | None = None) -> Floats:
    """The vectors that the codes stand for, in the original space.

    Args:
        codes_IM: (I, M), every value below B.
        codebooks_MBd: (M, B, D / M) float32.
        rotation_DD: (D, D) orthonormal; None: the identity.

    Returns:
        (I, D) float32: `concat_m codebooks[m, codes[:, m]] @ rotation`.

    Cost: O(I D), and O(I D D) for a rotation.
    """
    num_splits, _, width = codebooks_MBd.shape
    parts_IMd = codebooks_MBd[np.arange(num_splits), codes_IM]
    vectors_ID: Floats = parts_IMd.reshape(len(codes_IM), num_splits * width)
    return vectors_ID if rotation_DD is None else vectors_ID @ rotation_DD


def _check_vectors(vectors_ID: Floats) -> None:
    if vectors_ID.ndim != 2:
        raise ValueError(f"vectors have shape {vectors_ID.shape}: give one row per item, (I, D)")
    for rows in _slices(len(vectors_ID), ROWS_IN_MEMORY):
        finite_I = np.isfinite(vectors_ID[rows]).all(1)
        if not finite_I.all():
            raise ValueError(
                f"vector {rows.start + int(finite_I.argmin())} holds NaN or infinity: drop it or give it a value"
            )


def _slices(num_rows: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, num_rows, step)]


def _sample(vectors_ID: Floats, size: int, rng: Generator) -> Floats:
    if len(vectors_ID) <= size:
        return np.array(vectors_ID, np.float32)
    rows = rng.choice(len(vectors_ID), size, replace=False)
    return np.asarray(vectors_ID[np.sort(rows)], np.float32)


def _rotate(vectors_ID: Floats, rotation_DD: Floats | None) -> Floats:
    return vectors_ID if rotation_DD is None else vectors_ID @ rotation_DD.T


def _train(vectors_SD: Floats, num_splits: int, num_sub_items: int, rng: Generator) -> Floats:
    """Every split's k-means centroids."""
    parts = [np.ascontiguousarray(part) for part in np.split(vectors_SD, num_splits, axis=1)]
    return np.stack([_lloyd(part, _seed_centroids(part, num_sub_items, rng), LLOYD_STEPS, rng) for part in parts])


def _optimise_rotation(vectors_SD: Floats, num_splits: int, num_sub_items: int, rng: Generator) -> Floats:
    """Non-parametric OPQ: codebooks given the rotation, the rotation given the codebooks, and so on."""
    rotation_DD = _balanced_rotation(vectors_SD, num_splits)
    codebooks_MBd = _train(vectors_SD @ rotation_DD.T, num_splits, num_sub_items, rng)
    for _ in range(ROTATION_ROUNDS):
        rotated_SD = vectors_SD @ rotation_DD.T
        parts = [np.ascontiguousarray(part) for part in np.split(rotated_SD, num_splits, axis=1)]
        codebooks_MBd = np.stack(
            [_lloyd(p, c, LLOYD_STEPS_PER_ROUND, rng) for p, c in zip(parts, codebooks_MBd, strict=True)]
        )
        approximate_SD = decode(encode(rotated_SD, codebooks_MBd), codebooks_MBd)
        # Procrustes: argmin over orthonormal R of |X R^T - Y| is R^T = U V^T where X^T Y = U S V^T.
        left_DD, _, right_DD = np.linalg.svd(vectors_SD.T @ approximate_SD)
        rotation_DD = (left_DD @ right_DD).T
    return rotation_DD


def _balanced_rotation(vectors_SD: Floats, num_splits: int) -> Floats:
    """Parametric OPQ: principal axes dealt out so that every split gets about the same product of variances."""
    dim = vectors_SD.shape[1]
    variance_D, axes_DD = np.linalg.eigh(np.cov(vectors_SD, rowvar=False, bias=True).reshape(dim, dim))
    log_variance_D = np.log(np.maximum(variance_D, 1e-12 * variance_D[-1] + np.finfo(np.float32).tiny))
    dealt: list[list[int]] = [[] for _ in range(num_splits)]
    for axis in range(dim - 1, -1, -1):
        open_splits = [split for split in dealt if len(split) < dim // num_splits]
        min(open_splits, key=lambda split: log_variance_D[split].sum()).append(axis)
    return np.asarray(axes_DD.T[np.concatenate(dealt)], np.float32)


def _seed_centroids(points_Sd: Floats, num_sub_items: int, rng: Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007); repeats the first draw where there are too few distinct points."""
    first_d = points_Sd[rng.integers(len(points_Sd))]
    centroids_Bd = np.repeat(first_d[None], num_sub_items, axis=0)
    rest = _draw_far(points_Sd, _squared_norm(points_Sd - first_d), num_sub_items - 1, rng)
    centroids_Bd[1 : 1 + len(rest)] = rest
    return centroids_Bd


def _draw_far(points_Sd: Floats, distance_S: Floats, count: int, rng: Generator) -> Floats:
    """Up to `count` distinct points, each drawn by its squared distance to the nearest centroid so far."""
    drawn: list[int] = []
    for _ in range(count):
        cumulative_S = np.cumsum(distance_S, dtype=np.float64)
        if cumulative_S[-1] == 0:
            break
        drawn.append(int(np.searchsorted(cumulative_S, rng.random() * cumulative_S[-1], side="right")))
        distance_S = np.minimum(distance_S, _squared_norm(points_Sd - points_Sd[drawn[-1]]))
    return points_Sd[drawn]


def _lloyd(points_Sd: Floats, centroids_Bd: Floats, steps: int, rng: Generator) -> Floats:
    """Lloyd's steps until the assignment rests; an empty cluster moves to a far point."""
    before_S = None
    for _ in range(steps):
        codes_S = _nearest(points_Sd, centroids_Bd)
        if before_S is not None and np.array_equal(codes_S, before_S):
            break
        before_S = codes_S
        centroids_Bd, empty_B = _means(points_Sd, codes_S, centroids_Bd)
        if empty_B.size:
            distance_S = _squared_norm(points_Sd - centroids_Bd[codes_S])
            far = _draw_far(points_Sd, distance_S, empty_B.size, rng)
            centroids_Bd[empty_B[: len(far)]] = far
    return centroids_Bd


def _means(points_Sd: Floats, codes_S: Codes, centroids_Bd: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Every cluster's mean, and which clusters are empty (they stay where they were)."""
    count_B = np.bincount(codes_S, minlength=len(centroids_Bd))
    # bincount sums in float64, so the mean of equal points is that point and `_draw_far` sees a distance of 0
    sum_Bd = np.stack([np.bincount(codes_S, column, len(centroids_Bd)) for column in points_Sd.T], axis=1)
    mean_Bd = (sum_Bd / np.maximum(count_B, 1)[:, None]).astype(np.float32)
    return np.where(count_B[:, None] > 0, mean_Bd, centroids_Bd), np.flatnonzero(count_B == 0)


def _nearest(points_Sd: Floats, centroids_Bd: Floats) -> Codes:
    """argmin_b |x - c_b|^2 = argmax_b x.c_b - |c_b|^2 / 2, one matrix product with the constant as an extra column."""
    # Centred, because an offset common to all points would eat the digits that tell the centroids apart.
    centre_d = centroids_Bd.mean(0)
    centred_Bd = centroids_Bd - centre_d
    table_dB = np.concatenate([centred_Bd, -0.5 * _squared_norm(centred_Bd)[:, None]], axis=1).T
    codes_S = np.empty(len(points_Sd), np.uint8)
    for rows in _slices(len(points_Sd), ROWS_IN_CACHE):
        centred_Sd = points_Sd[rows] - centre_d
        ones_S1 = np.ones((len(centred_Sd), 1), np.float32)
        codes_S[rows] = (np.concatenate([centred_Sd, ones_S1], axis=1) @ table_dB).argmax(1)
    return codes_S


def _squared_norm(vectors_Sd: Floats) -> Floats:
    norm_S: Floats = np.einsum("sd,sd->s", vectors_Sd, vectors_Sd)
    return norm_S
