"""Tells items apart that got the same code. Knows codes and, if given, centroids; nothing of where they came from."""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from everyitem.quantise import Codes
from everyitem.types import Floats

Mask = NDArray[np.bool_]
Doubles = NDArray[np.float64]

MAX_ROUNDS = 64


class TieReport(NamedTuple):
    """How far codes tell items apart."""

    tied_before: int
    """Items that shared their whole code tuple with another."""
    largest_before: int
    """Items in the largest such group; 1: all differed."""
    tied_after: int
    largest_after: int
    changed: int
    """Codes changed: entries of (I, M), at least one per item that moved."""


def break_ties(
    codes_IM: Codes, num_sub_items: int = 256, seed: int = 0, *, codebooks_MBd: Floats | None = None
) -> tuple[Codes, TieReport]:
    """Make code tuples unique by changing as few codes as possible, each to a near sub-item.

    Of a group of items with equal tuples the first keeps it. The others take the tuples around it in turn: first those
    that differ in one split by the nearest sub-item (every split, the cheapest first), then the second nearest, and so
    on; when a group outgrows its M (B - 1) such neighbours, tuples that differ in two splits, then three. A tuple that
    is taken is skipped; no item that had a tuple to itself is moved.

    Args:
        codes_IM: (I, M), values below num_sub_items. Not modified.
        num_sub_items: B.
        seed: which of equally cheap splits goes first.
        codebooks_MBd: sub-items' centroids: near then means Euclidean. None: codes are bins, near means |b - b'|.

    Returns:
        The codes and what was done. `tied_after` is 0 unless the tuples do not suffice (I > B**M) or so nearly that
        `MAX_ROUNDS` rounds of moves leave some items tied. Bins stay equally full only nearly.

    Cost: a radix sort of the codes per round, usually a handful of rounds.
    """
    order, is_first_I = _sort_tuples(codes_IM, np.zeros(len(codes_IM), bool))
    before = _count_tied(is_first_I)
    # N movers, those of a group side by side: only they ever change, so whoever held a tuple first keeps it.
    mover_N = order[~is_first_I]
    _, first_N, group_N = np.unique(np.cumsum(is_first_I)[~is_first_I], return_index=True, return_inverse=True)
    near_MBB, cost_MB = _near_sub_items(codes_IM.shape[1], num_sub_items, codebooks_MBd)
    split_order_GM = _cheapest_first(codes_IM[mover_N[first_N]], cost_MB, np.random.default_rng(seed))
    tried_G = np.zeros(len(split_order_GM), np.int64)
    unique_IM, losing_N = codes_IM.copy(), np.ones(len(mover_N), bool)
    for _ in range(MAX_ROUNDS):
        losers, group_L = mover_N[losing_N], group_N[losing_N]
        if not len(losers):
            break
        turn_L = tried_G[group_L] + np.arange(len(losers)) - np.searchsorted(group_L, group_L)
        tried_G += np.bincount(group_L, minlength=len(tried_G))
        unique_IM[losers] = _neighbour(codes_IM[losers], turn_L, split_order_GM[group_L], near_MBB)
        losing_N = _lost(unique_IM, losers)[mover_N]
    unique_IM[mover_N[losing_N]] = codes_IM[mover_N[losing_N]]
    after = _count_tied(_sort_tuples(unique_IM, np.zeros(len(codes_IM), bool))[1])
    return unique_IM, TieReport(*before, *after, int((unique_IM != codes_IM).sum()))


def _sort_tuples(codes_IM: Codes, late_I: Mask) -> tuple[NDArray[np.intp], Mask]:
    """Items by tuple, late ones behind the others, then by position; and where a new tuple begins."""
    order = np.lexsort((late_I, *codes_IM.T))
    sorted_IM = codes_IM[order]
    is_first_I = np.ones(len(order), bool)
    is_first_I[1:] = (sorted_IM[1:] != sorted_IM[:-1]).any(1)
    return order, is_first_I


def _count_tied(is_first_I: Mask) -> tuple[int, int]:
    sizes_G = np.diff(np.flatnonzero(is_first_I), append=len(is_first_I))
    return int(sizes_G[sizes_G > 1].sum()), int(sizes_G.max(initial=0))


def _lost(codes_IM: Codes, arrived: NDArray[np.intp]) -> Mask:
    """(I,) whether another item holds the tuple with more right: it was there before, or it arrived and is first."""
    late_I = np.zeros(len(codes_IM), bool)
    late_I[arrived] = True
    order, is_first_I = _sort_tuples(codes_IM, late_I)
    lost_I = np.empty(len(codes_IM), bool)
    lost_I[order] = ~is_first_I
    return lost_I


def _near_sub_items(num_splits: int, num_sub_items: int, codebooks_MBd: Floats | None) -> tuple[Codes, Doubles]:
    """(M, B, B) every sub-item's neighbours, itself first, then the nearest; (M, B) the distance to the nearest."""
    if codebooks_MBd is None:
        bins_B = np.arange(num_sub_items, dtype=np.float64)
        distance_MBB = np.tile(np.abs(bins_B[:, None] - bins_B), (num_splits, 1, 1))
    else:
        distance_MBB = np.stack([cdist(book_Bd, book_Bd) for book_Bd in codebooks_MBd])
    distance_MBB[:, np.arange(num_sub_items), np.arange(num_sub_items)] = -1  # first even where a twin is 0 away
    near_MBB = distance_MBB.argsort(axis=2, kind="stable").astype(np.uint8)
    return near_MBB, np.sort(distance_MBB, axis=2)[:, :, 1]


def _cheapest_first(codes_GM: Codes, cost_MB: Doubles, rng: Generator) -> NDArray[np.intp]:
    """(G, M) the splits of every tuple, smallest distance to another sub-item first, equals in random order."""
    cost_GM = cost_MB[np.arange(codes_GM.shape[1]), codes_GM]
    return np.lexsort((rng.random(codes_GM.shape), cost_GM), axis=1)


def _neighbour(codes_LM: Codes, turn_L: NDArray[np.int64], split_order_LM: NDArray[np.intp], near_MBB: Codes) -> Codes:
    """The tuple that is reached at this turn (0, 1, ...) of a walk away from the given one."""
    num_splits, num_sub_items, _ = near_MBB.shape
    steps_LM = np.zeros(codes_LM.shape, np.int64)
    one = turn_L < num_splits * (num_sub_items - 1)
    steps_LM[one, turn_L[one] % num_splits] = turn_L[one] // num_splits + 1
    # Then count in base B: that meets every tuple there is, those with few changes first. From B on, because smaller
    # numbers change one split only.
    number = turn_L[~one] - num_splits * (num_sub_items - 1) + num_sub_items
    for m in range(num_splits):
        number, steps_LM[~one, m] = np.divmod(number, num_sub_items)
    out_LM = np.empty_like(codes_LM)
    there_LM = near_MBB[split_order_LM, np.take_along_axis(codes_LM, split_order_LM, 1), steps_LM]
    np.put_along_axis(out_LM, split_order_LM, there_LM, 1)
    return out_LM
