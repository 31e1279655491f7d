"""Gives every item its code: M sub-items, chosen before training from who met what, or from item vectors.

Knows training histories and item vectors. Knows no model, no index and no files.

What the strategies that read histories share:

* The matrix is users x items and its entries are interaction counts, sparse throughout.
* Binning is by rank: `code = floor(B * rank / I)`, so that the sizes of a split's bins differ by at most one. Estimated
  quantiles do not keep that: scikit-learn's KBinsDiscretizer, which the RecJPQ authors use, merges bins narrower than
  1e-8 and looks at 200,000 items only, and beyond a million items a factor is so peaked that both matter.
* An item that no history holds has no factor. It draws its rank (its sub-items, for k-means) at random, which also
  keeps the bins equal; `nearest_codes` replaces that where vectors of all items exist.
* Items met by the same users the same number of times tie under any deterministic rule: see `break_ties`.
"""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.linalg import qr, svd
from scipy.sparse import csr_matrix, diags_array

from everyitem.compress.ties import TieReport as TieReport
from everyitem.compress.ties import break_ties as break_ties
from everyitem.quantise import Codes, Quantised, product_quantise
from everyitem.types import Floats, Histories

Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]

SVD_NOISE = 1e-5  # RecJPQ's, in units of a component's range
RANK_JITTER = 1.0  # in bins: tied items spread over the few bins around them
# Norm of the noise beside a unit vector. 0.6 parts nearly all items with equal vectors, but on two real logs the codes
# then found fewer next items; what 0.2 leaves tied, `break_ties` parts.
VECTOR_JITTER = 0.2
BPR_EPOCHS = 20
BPR_LEARNING_RATE = 0.05
CELLS = 256
OVERSAMPLING, POWER_ITERATIONS = 10, 5  # of the randomised SVD


def count_matrix(histories: Histories, num_items: int) -> csr_matrix:
    """Users x items, how often each met the other.

    Args:
        histories: positions 0..num_items - 1; rows may be views with gaps between them.
        num_items: width of the matrix.

    Returns:
        (U, I) float32 CSR without duplicates, columns ascending within a row.

    Raises:
        ValueError: a position outside the catalogue.
    """
    lengths_U = histories.lengths
    stops_U = np.cumsum(lengths_U)
    events = np.arange(lengths_U.sum()) + np.repeat(histories.starts - (stops_U - lengths_U), lengths_U)
    items = histories.items[events]
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise ValueError(
            f"histories hold positions {items.min()}..{items.max()}, the catalogue has 0..{num_items - 1}: "
            "give the num_items of the log that the histories come from"
        )
    indptr = np.concatenate([[0], stops_U])
    counts_UI = csr_matrix((np.ones(len(items), np.float32), items, indptr), shape=(len(histories), num_items))
    counts_UI.sum_duplicates()
    return counts_UI


def seen_items(histories: Histories, num_items: int) -> Mask:
    """(I,) whether any history holds the item."""
    return _seen(count_matrix(histories, num_items))


def random_codes(
    histories: Histories, num_items: int, num_splits: int = 8, *, num_sub_items: int = 256, seed: int = 0
) -> Codes:
    """Sub-items drawn independently and uniformly: RecJPQ's baseline (arXiv:2312.06165), a hash of the item.

    Args:
        histories: not read; here so that all strategies are called alike.
        num_items: I.
        num_splits: M.
        num_sub_items: B, 2 to 256.
        seed: the same seed gives the same codes.

    Returns:
        (I, M) uint8, C-contiguous.

    Raises:
        ValueError: num_splits or num_sub_items out of range.
    """
    _check_shape(num_splits, num_sub_items)
    return np.random.default_rng(seed).integers(num_sub_items, size=(num_items, num_splits), dtype=np.uint8)


def svd_codes(
    histories: Histories, num_items: int, num_splits: int = 8, *, num_sub_items: int = 256, seed: int = 0
) -> Codes:
    """RecJPQ's SVD strategy: one component of a truncated SVD of the counts per split, cut into equally full bins.

    arXiv:2312.06165, section 4.2: M right singular vectors (not scaled), each brought to [0, 1], plus N(0, 1e-5) so
    that values differ, then B quantile bins. Deviation: bins are cut by rank, for the reasons at the top of this file.
    Beyond a million items a few popular ones set the range, nearly all others lie within the noise, and the codes of
    the tail are close to random; `svd_rank_codes` is the cure.

    Args:
        histories: training events only.
        num_items: I.
        num_splits: M; components beyond the matrix's rank are pure noise.
        num_sub_items: B, 2 to 256.
        seed: the same seed gives the same codes on the same machine and BLAS.

    Returns:
        (I, M) uint8, C-contiguous; the sizes of a split's bins differ by at most one.

    Raises:
        ValueError: a position outside the catalogue, num_splits or num_sub_items out of range.

    Cost: O(M events + I log I); memory O(events + I M).
    """
    _check_shape(num_splits, num_sub_items)
    counts_UI = count_matrix(histories, num_items)
    factors_IM, _ = _item_factors(counts_UI, num_splits, seed)
    return _quantile_codes(factors_IM, _seen(counts_UI), num_sub_items, seed)


def svd_rank_codes(
    histories: Histories, num_items: int, num_splits: int = 8, *, num_sub_items: int = 256, seed: int = 0
) -> Codes:
    """SVD codes that keep their meaning in the long tail: damped counts, directions instead of sizes, noise by rank.

    log(1 + count), users to unit length, items divided by the square root of their norm, M components, item rows to
    unit length, rank per split, N(0, 1 bin) added to the rank, ranked again, B equal bins. Against `svd_codes` neither
    heavy users nor popular items set the scale, and the noise moves every item by about one bin, wherever it lies.

    Args, Returns, Raises, Cost: as `svd_codes`.
    """
    _check_shape(num_splits, num_sub_items)
    counts_UI = count_matrix(histories, num_items)
    factors_IM, _ = _item_factors(_damped(counts_UI), num_splits, seed)
    factors_IM = _unit_rows(factors_IM)
    rng, seen_I = np.random.default_rng(seed), _seen(counts_UI)
    return _stack([_bins(values_I, seen_I, num_sub_items, RANK_JITTER, rng) for values_I in factors_IM.T])


def bpr_codes(
    histories: Histories, num_items: int, num_splits: int = 8, *, num_sub_items: int = 256, seed: int = 0
) -> Codes:
    """RecJPQ's BPR strategy: one factor of a matrix factorisation trained to rank per split, equally full bins.

    arXiv:2312.06165, section 4.2; BPR: Rendle et al. 2009. Deviations: the library is implicit, not LightFM (same
    `BPR_EPOCHS`, plain SGD instead of Adagrad), and bins are cut by rank. Item biases are dropped, as in the paper.

    Args, Returns, Raises: as `svd_codes`. One thread, because more would race and lose determinism.

    Cost: O(BPR_EPOCHS M events + I log I).
    """
    from implicit.bpr import BayesianPersonalizedRanking  # a second to import, and only this strategy needs it

    _check_shape(num_splits, num_sub_items)
    counts_UI = count_matrix(histories, num_items)
    model = BayesianPersonalizedRanking(
        num_splits, learning_rate=BPR_LEARNING_RATE, iterations=BPR_EPOCHS, num_threads=1, random_state=seed
    )
    model.fit(counts_UI, show_progress=False)
    # implicit appends the bias as one more column
    return _quantile_codes(model.item_factors[:, :num_splits], _seen(counts_UI), num_sub_items, seed)


def kmeans_codes(
    histories: Histories,
    num_items: int,
    num_splits: int = 8,
    *,
    num_sub_items: int = 256,
    seed: int = 0,
    dim: int = 64,
) -> Quantised:
    """Optimised product quantisation of `dim` SVD factors; also returns centroids to start sub-item embeddings from.

    The idea of RecJPQ-HC: a wide SVD keeps what M components drop, and neighbours in all of its dimensions share
    sub-items. Ours damps the counts as `svd_rank_codes` does and adds noise of norm `VECTOR_JITTER` before k-means.
    Bins are not equally full. For other choices call `svd_vectors` and `vector_codes`.

    Args:
        histories: training events only.
        num_items: I.
        num_splits: M, a divisor of dim.
        num_sub_items: B, 2 to 256.
        seed: the same seed gives the same codes on the same machine and BLAS.
        dim: D, width of the SVD; dimensions beyond the matrix's rank hold only the noise.

    Returns:
        Quantised of all items. Items without a history draw their sub-items at random.

    Raises:
        ValueError: a position outside the catalogue, no event at all, num_splits does not divide dim, num_sub_items
            out of range.

    Cost: O(D events + I D B); memory O(events + I D): the process peaks at 1.4 GB per million items at D = 64.
    """
    _check_shape(num_splits, num_sub_items)
    counts_UI = count_matrix(histories, num_items)
    seen_I = _seen(counts_UI)
    vectors_ID = scaled_unit_rows(counts_UI, dim, seed)[seen_I]
    seen = vector_codes(
        vectors_ID, num_splits, num_sub_items=num_sub_items, seed=seed, rotate=True, jitter=VECTOR_JITTER
    )
    codes_IM = random_codes(histories, num_items, num_splits, num_sub_items=num_sub_items, seed=seed)
    codes_IM[seen_I] = seen.codes_IM
    return seen._replace(codes_IM=codes_IM)


def svd_vectors(histories: Histories, num_items: int, dim: int = 64, *, seed: int = 0) -> Floats:
    """Item vectors from the histories alone: a truncated SVD of the counts, damped as in `svd_rank_codes`.

    Right singular vectors times singular values, then rows to unit length: a product of two rows is the cosine of the
    items' columns, as far as `dim` components tell.

    Args:
        histories: training events only.
        num_items: I.
        dim: D; columns beyond the matrix's rank are 0.
        seed: of the randomised SVD.

    Returns:
        (I, D) float32; unit rows, zero rows for items without a history.

    Raises:
        ValueError: a position outside the catalogue.
    """
    return scaled_unit_rows(count_matrix(histories, num_items), dim, seed)


def vector_codes(
    vectors_ID: Floats,
    num_splits: int = 8,
    *,
    num_sub_items: int = 256,
    seed: int = 0,
    rotate: bool = True,
    jitter: float = 0.0,
) -> Quantised:
    """Codes of given item vectors (text, attributes, another model): product quantisation of their directions.

    Args:
        vectors_ID: (I, D) finite; brought to unit length here, zero rows stay zero. Not modified.
        num_splits: M, a divisor of D.
        num_sub_items: B, 2 to 256.
        seed: the same seed gives the same codes on the same machine and BLAS.
        rotate: learn a rotation first (OPQ); the codebooks then live in the rotated space.
        jitter: norm of the Gaussian noise added to every unit vector, so that equal vectors get different codes.

    Returns:
        Quantised. A later item gets its codes by `quantise.encode` of its unit vector.

    Raises:
        ValueError: as `quantise.product_quantise`.

    Cost: O(I D B), one copy of the vectors.
    """
    unit_ID = _unit_rows(vectors_ID)
    if jitter:
        deviation = np.float32(jitter / np.sqrt(unit_ID.shape[1]))
        unit_ID += deviation * np.random.default_rng(seed).standard_normal(unit_ID.shape, np.float32)
    return product_quantise(unit_ID, num_splits, num_sub_items=num_sub_items, rotate=rotate, seed=seed)


def nearest_codes(codes_IM: Codes, seen_I: Mask, vectors_ID: Floats, *, seed: int = 0) -> Codes:
    """Every unseen item takes the codes of the seen item with the nearest vector.

    Approximate: the search looks at seen items of the same of `CELLS` k-means cells. Follow with `break_ties`.

    Args:
        codes_IM: (I, M); rows of unseen items are not read. Not modified.
        seen_I: (I,) which rows of codes to trust (`seen_items`).
        vectors_ID: (I, D) finite vectors of all items, compared by Euclidean distance.
        seed: of the k-means.

    Returns:
        (I, M) uint8, ties to the smaller position. An item whose cell holds no seen item keeps its own codes.

    Raises:
        ValueError: NaN or infinity among the vectors.

    Cost: O(I D CELLS + unseen x seen x D / CELLS) for cells of like size.
    """
    cell_I = product_quantise(vectors_ID, 1, num_sub_items=CELLS, seed=seed).codes_IM[:, 0]
    codes_IM = codes_IM.copy()
    for cell in range(CELLS):
        unseen, seen = np.flatnonzero((cell_I == cell) & ~seen_I), np.flatnonzero((cell_I == cell) & seen_I)
        if len(seen):
            half_norm_S = 0.5 * np.square(vectors_ID[seen]).sum(1)
            for some in np.array_split(unseen, 1 + len(unseen) * len(seen) // (1 << 24)):
                nearest = (vectors_ID[some] @ vectors_ID[seen].T - half_norm_S).argmax(1)
                codes_IM[some] = codes_IM[seen[nearest]]
    return codes_IM


def _check_shape(num_splits: int, num_sub_items: int) -> None:
    if num_splits < 1:
        raise ValueError(f"num_splits={num_splits}: an item needs at least one code")
    if not 2 <= num_sub_items <= 256:
        raise ValueError(f"num_sub_items={num_sub_items}: codes are bytes, choose 2 to 256")


def _seen(counts_UI: csr_matrix) -> Mask:
    return np.bincount(counts_UI.indices, minlength=counts_UI.shape[1]) > 0


def _damped(counts_UI: csr_matrix) -> csr_matrix:
    """log(1 + count); users to unit length; items divided by the square root of their norm."""
    damped_UI = counts_UI.log1p()
    damped_UI = diags_array(_inverse(np.sqrt(damped_UI.power(2).sum(axis=1)))) @ damped_UI
    damped_UI = damped_UI @ diags_array(_inverse(np.sqrt(np.sqrt(damped_UI.power(2).sum(axis=0)))))
    return damped_UI.astype(np.float32)


def _inverse(norms: Doubles) -> Doubles:
    norms = np.asarray(norms).ravel()
    return np.divide(1, norms, where=norms > 0, out=np.zeros_like(norms))


def _item_factors(matrix_UI: csr_matrix, dim: int, seed: int) -> tuple[Floats, Floats]:
    """(I, D) right singular vectors and (D,) singular values, largest first; zeros beyond the matrix's shape.

    Randomised (Halko, Martinsson and Tropp 2011, arXiv:0909.4061, alg. 4.4 and 5.1), on purpose not iterated until it
    is exact: codes from an exact truncated SVD found fewer next items on a real log.
    """
    factors_ID, values_D = np.zeros((matrix_UI.shape[1], dim), np.float32), np.zeros(dim, np.float32)
    if matrix_UI.nnz:
        rng = np.random.default_rng(seed)
        users = rng.standard_normal((matrix_UI.shape[0], dim + OVERSAMPLING), np.float32)
        for _ in range(POWER_ITERATIONS):
            users, _ = qr(matrix_UI @ (matrix_UI.T @ users), mode="economic", overwrite_a=True)
        items, _ = qr(matrix_UI.T @ users, mode="economic", overwrite_a=True)
        turn, values, _ = svd((matrix_UI @ items).T, full_matrices=False, overwrite_a=True)
        rank = min(dim, len(values))
        factors_ID[:, :rank], values_D[:rank] = items @ turn[:, :rank], values[:rank]
    return factors_ID, values_D


def scaled_unit_rows(counts_UI: csr_matrix, dim: int, seed: int) -> Floats:
    """(I, D) right singular vectors of damped counts times singular values, rows to unit length."""
    factors_ID, values_D = _item_factors(_damped(counts_UI), dim, seed)
    factors_ID[~_seen(counts_UI)] = 0  # from rounding errors, which unit length would blow up
    return _unit_rows(factors_ID * values_D)


def _unit_rows(vectors_ID: Floats) -> Floats:
    norm_I1 = np.linalg.norm(vectors_ID, axis=1, keepdims=True)
    unit_ID: Floats = np.divide(vectors_ID, norm_I1, where=norm_I1 > 0, out=np.zeros(vectors_ID.shape, np.float32))
    return unit_ID


def _quantile_codes(factors_IM: Floats, seen_I: Mask, num_sub_items: int, seed: int) -> Codes:
    """RecJPQ's binning of every column: to [0, 1], noise, equally full bins."""
    rng = np.random.default_rng(seed)
    low_M, high_M = factors_IM.min(0), factors_IM.max(0)
    scaled_IM = (factors_IM - low_M) / (high_M - low_M + 1e-10)
    noisy_IM = scaled_IM + rng.normal(0, SVD_NOISE, scaled_IM.shape)
    return _stack([_bins(values_I, seen_I, num_sub_items, 0.0, rng) for values_I in noisy_IM.T])


def _bins(values_I: Doubles, seen_I: Mask, num_sub_items: int, jitter: float, rng: Generator) -> Codes:
    """floor(B * rank / I): ties by position, noise of `jitter` bins, a random rank for every unseen item."""
    place_I = rng.random(len(values_I))
    place_I[seen_I] = _rank(values_I[seen_I]) / max(seen_I.sum(), 1)
    place_I[seen_I] += rng.normal(0, jitter / num_sub_items, seen_I.sum())
    return (_rank(place_I) * num_sub_items // len(place_I)).astype(np.uint8)


def _rank(values_I: Doubles) -> NDArray[np.int64]:
    rank_I = np.empty(len(values_I), np.int64)
    rank_I[np.argsort(values_I, kind="stable")] = np.arange(len(values_I))
    return rank_I


def _stack(columns: list[Codes]) -> Codes:
    return np.ascontiguousarray(np.stack(columns, axis=1))
