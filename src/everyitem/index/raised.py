"""The exact best items where a few of them have scores of their own. Knows no memory: any bonus and slope will do."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everyitem.index import AnyIndex, door
from everyitem.types import Floats, Ids, TopK


def top_k(
    index: AnyIndex,
    query_UD: ArrayLike,
    k: int,
    raised_UN: Ids,
    bonus_UN: Floats,
    slope_UN: Floats,
    *,
    allow: ArrayLike | None = None,
    exclude: ArrayLike | None = None,
    **options: Any,
) -> TopK:
    """The k best eligible items: by vector, but a raised item scores s + (bonus + slope (s - s*)).

    s is the score of its vector, s* that of the best item of the catalogue that is not raised in its row. The index
    leaves the raised items out, their own scores are merged in: exact, because no other score changes.

    Args:
        index: the catalogue.
        query_UD: (U, D) float32.
        k: results per row.
        raised_UN: (U, N) positions, distinct within a row, padded with -1.
        bonus_UN: (U, N) float32, of any sign.
        slope_UN: (U, N) float32, of any sign.
        allow: as in `PQIndex.top_k`.
        exclude: (U, E) positions padded with -1; holds for raised items as well.
        options: what else `top_k` of the index takes: deadline, threads, algorithm.

    Returns:
        TopK in the order of every index; `scored` counts the raised items that were eligible.

    Cost: one `top_k` of the index, two where other items than raised ones are filtered out, and M N U lookups.
    """
    excluded = door.excluded(exclude, len(raised_UN), index.num_items)
    hidden = raised_UN if excluded is None else np.hstack([raised_UN, excluded])
    top = index.top_k(query_UD, k, allow=allow, exclude=hidden, **options)
    eligible_UN, only_raised = _eligible(index, raised_UN, allow, excluded)
    # where nothing else was filtered out, as with seen items that are all remembered, the best other item is known
    best_U1 = top.scores[:, :1] if only_raised else index.top_k(query_UD, 1, exclude=raised_UN, **options).scores
    plain_UN = index.scores(query_UD, np.maximum(raised_UN, 0))
    score_UN = plain_UN + _share(plain_UN, bonus_UN, slope_UN, best_U1)
    items = np.hstack([top.items, np.where(eligible_UN, raised_UN, np.int32(-1))])
    scores = np.hstack([top.scores, np.where(eligible_UN, score_UN, np.float32(-np.inf))])
    order = np.lexsort((items, -scores), axis=1)
    items, scores = np.take_along_axis(items, order, 1), np.take_along_axis(scores, order, 1)
    # what did not fit scores at most the k-th; of what the index did not look at it says so itself
    certain = top.bound <= top.scores[:, -1]
    bound = np.where(certain, scores[:, k - 1], np.maximum(top.bound, scores[:, k - 1]))
    return TopK(items[:, :k], scores[:, :k], bound, top.scored + eligible_UN.sum(axis=1))


def share(index: AnyIndex, query_UD: ArrayLike, raised_UN: Ids, bonus_UN: Floats, slope_UN: Floats) -> Floats:
    """(U, N) what `top_k` adds to the scores of the raised items' vectors."""
    best_U1 = index.top_k(query_UD, 1, exclude=raised_UN).scores
    return _share(index.scores(query_UD, np.maximum(raised_UN, 0)), bonus_UN, slope_UN, best_U1)


def _share(plain_UN: Floats, bonus_UN: Floats, slope_UN: Floats, best_U1: Floats) -> Floats:
    # where every item is raised there is nothing to compare with
    behind_UN = np.where(np.isneginf(best_U1), np.float32(0), plain_UN - np.maximum(best_U1, -door.LARGEST))
    added: Floats = bonus_UN + slope_UN * behind_UN
    return added


def _eligible(
    index: AnyIndex, raised_UN: Ids, allow: ArrayLike | None, excluded: Ids | None
) -> tuple[NDArray[np.bool_], bool]:
    """(U, N) the raised items that may be returned, and whether no other item is filtered out."""
    eligible_UN: NDArray[np.bool_] = (raised_UN >= 0) & ~index.removed_at(raised_UN)
    bits = door.allowed(allow, len(raised_UN), index.num_items)
    if bits is not None:
        eligible_UN &= door.bits_at(bits, np.maximum(raised_UN, 0))
    only_raised = bits is None
    if excluded is not None:
        same_UNE = raised_UN[:, :, None] == excluded[:, None, :]
        eligible_UN &= ~same_UNE.any(axis=2)
        only_raised &= bool((same_UNE.any(axis=1) | (excluded < 0)).all())
    return eligible_UN, only_raised
