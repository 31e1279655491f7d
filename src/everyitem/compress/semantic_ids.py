"""Semantic ids: every item becomes a string of tokens, from coarse to fine, which a language model can write.

Residual k-means of item vectors, equally full if asked, or ids that somebody else published; then a last digit that
tells items with the same string apart. `rq_vae.py` learns the codes instead. Knows vectors and texts, no model.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from everyitem.compress.codes import scaled_unit_rows
from everyitem.quantise import product_quantise
from everyitem.types import Floats, Ids

BALANCING_ROUNDS = 10
"""Alternations of balanced assignment and means; on real vectors the distortion rests after five."""
WORD = re.compile(r"\w+")


class Residual(NamedTuple):
    """Codes of a residual quantiser: vector(i) is about sum_m codebooks[m, codes[i, m]]."""

    codes_IM: Ids
    codebooks_MBD: Floats


class Collisions(NamedTuple):
    """How far strings tell items apart, before the last digit."""

    strings: int
    """Distinct ones."""
    sharing: int
    """Items whose string another item has as well."""
    largest: int
    """Items with the same string, at most."""


def residual_kmeans(
    vectors_ID: Floats, num_levels: int = 3, *, num_codes: int = 256, balanced: bool = False, seed: int = 0
) -> Residual:
    """Quantise vectors level by level, each level by k-means of what the levels before left over.

    Args:
        vectors_ID: (I, D) finite. Not modified.
        num_levels: M.
        num_codes: B per level, 2 to 256.
        balanced: every code of a level gets floor(I / B) or ceil(I / B) items (`balanced_assignment`), so that a prefix
            never leads to a crowd and none goes unused.
        seed: the same seed gives the same codes on the same machine and BLAS.

    Raises:
        ValueError: as `product_quantise`.

    Cost: M k-means of O(I D B); balanced, `BALANCING_ROUNDS` times that and 8 I B bytes.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels={num_levels}: an item needs at least one code")
    residual_ID = np.array(vectors_ID, np.float32)
    codes, books = [], []
    for m in range(num_levels):
        found = product_quantise(residual_ID, 1, num_sub_items=num_codes, seed=seed + m)
        codes_I, book_BD = found.codes_IM[:, 0].astype(np.int32), found.codebooks_MBd[0]
        if balanced:
            codes_I, book_BD = _balanced_kmeans(residual_ID, book_BD)
        residual_ID -= book_BD[codes_I]
        codes.append(codes_I)
        books.append(book_BD)
    return Residual(np.stack(codes, axis=1), np.stack(books))


def _balanced_kmeans(vectors_ID: Floats, centres_BD: Floats) -> tuple[Ids, Floats]:
    for _ in range(BALANCING_ROUNDS):
        codes_I = balanced_assignment(_distances(vectors_ID, centres_BD))
        counts_B = np.bincount(codes_I, minlength=len(centres_BD))
        sums_BD = np.stack([np.bincount(codes_I, column, len(centres_BD)) for column in vectors_ID.T], axis=1)
        means_BD = (sums_BD / np.maximum(counts_B, 1)[:, None]).astype(np.float32)
        centres_BD = np.where(counts_B[:, None] > 0, means_BD, centres_BD)
    return codes_I, centres_BD


def _distances(vectors_ID: Floats, centres_BD: Floats) -> Floats:
    """(I, B) squared, but for a constant per vector."""
    distance_IB: Floats = np.square(centres_BD).sum(axis=1) - 2 * vectors_ID @ centres_BD.T
    return distance_IB


def balanced_assignment(distance_IB: Floats) -> Ids:
    """One of B codes for every item, near ones, with sizes that differ by at most one.

    Deferred acceptance (Gale and Shapley 1962): items ask their nearest code, a code keeps the nearest that fit and
    sends the others to their next. No item and code would both gain by leaving what they have. To keep codes from
    running empty, the I mod B largest places go to the codes asked for most at first.

    Args:
        distance_IB: what being assigned costs; ties go to the smaller code, then to the smaller position.

    Returns:
        (I,) int32.

    Cost: a sort of every row, then rounds over the items that were sent on; memory 8 I B bytes.
    """
    num_items, num_codes = distance_IB.shape
    wish_IB = np.argsort(distance_IB, axis=1, kind="stable").astype(np.int16)
    places_B = np.full(num_codes, num_items // num_codes)
    asked_B = np.bincount(wish_IB[:, 0], minlength=num_codes)
    places_B[np.argsort(-asked_B, kind="stable")[: num_items % num_codes]] += 1
    turn_I = np.zeros(num_items, np.int64)
    code_I = wish_IB[:, 0].astype(np.int64)
    while True:
        order = np.lexsort((distance_IB[np.arange(num_items), code_I], code_I))
        starts_B = np.searchsorted(code_I[order], np.arange(num_codes))
        place_I = np.arange(num_items) - starts_B[code_I[order]]
        refused = order[place_I >= places_B[code_I[order]]]
        if not len(refused):
            return code_I.astype(np.int32)
        turn_I[refused] += 1
        code_I[refused] = wish_IB[refused, turn_I[refused]]


def read_semantic_ids(texts: Sequence[str | None]) -> Ids:
    """Codes of published semantic ids, such as <a_183><b_70><c_232><d_6>: the whole numbers in each text, in order.

    Raises:
        ValueError: a text without a number, or texts with different counts of them.
    """
    found = [[int(number) for number in re.findall(r"\d+", text or "")] for text in texts]
    lengths = sorted({len(row) for row in found})
    if len(lengths) != 1 or lengths[0] == 0:
        raise ValueError(
            f"semantic ids hold {' or '.join(map(str, lengths))} numbers per item, but every item needs as many as the "
            "others and at least one, for example <a_183><b_70><c_232>"
        )
    return np.array(found, np.int32)


def collisions(codes_IM: Ids) -> Collisions:
    """Count the items that share their string."""
    counts = np.unique(codes_IM, axis=0, return_counts=True)[1]
    return Collisions(len(counts), int(counts[counts > 1].sum()), int(counts.max(initial=0)))


def with_last_digit(codes_IM: Ids) -> Ids:
    """Tell items with equal strings apart: one more code, 0, 1, ... in the order of positions (TIGER).

    Returns:
        (I, M + 1), or the codes themselves where no two are equal.
    """
    order = np.lexsort(codes_IM.T)
    is_first_I = np.ones(len(order), bool)
    is_first_I[1:] = (codes_IM[order[1:]] != codes_IM[order[:-1]]).any(axis=1)
    if is_first_I.all():
        return codes_IM
    starts = np.flatnonzero(is_first_I)
    digit_I = np.empty(len(order), np.int32)
    digit_I[order] = np.arange(len(order)) - starts[np.cumsum(is_first_I) - 1]
    return np.column_stack([codes_IM, digit_I])


def level_sizes(codes_IM: Ids) -> NDArray[np.int64]:
    """(M,) tokens that every level needs."""
    sizes: NDArray[np.int64] = codes_IM.max(axis=0).astype(np.int64) + 1
    return sizes


def as_tokens(codes_IM: Ids, *, first: int = 0) -> Ids:
    """Every level's codes as tokens of their own: level after level, from `first` on."""
    sizes_M = level_sizes(codes_IM)
    return (codes_IM + first + np.cumsum(sizes_M) - sizes_M).astype(np.int32)


def text_vectors(texts: Sequence[str | None], dim: int = 64, *, seed: int = 0) -> Floats:
    """Item vectors from words: a truncated SVD of words x items, damped as histories are in `svd_vectors`.

    Latent semantic analysis (Deerwester et al. 1990): no language model, so it runs anywhere. Rare words count more,
    because the row of every word has unit length.

    Args:
        texts: of every item; None is no words.
        dim: D; columns beyond the rank are 0.
        seed: of the randomised SVD.

    Returns:
        (I, D) float32; unit rows, zero rows for items without a word.
    """
    words: dict[str, int] = {}
    rows, columns = [], []
    for position, text in enumerate(texts):
        for word in WORD.findall((text or "").lower()):
            rows.append(words.setdefault(word, len(words)))
            columns.append(position)
    counts_WI = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(words), len(texts)))
    counts_WI.sum_duplicates()
    return scaled_unit_rows(counts_WI, dim, seed)
