"""From how far every item is from a text to a ranking that also knows what others took (BIGRec, arXiv:2308.08434).

Knows distances and weights; does not know where they come from.
"""

import numpy as np

from everyitem.evaluate.measures import ndcg
from everyitem.types import Floats, Ids

GAMMAS = [n / 100 for n in range(100)] + [float(n) for n in range(1, 101)]
"""The published grid, and 0: no injection."""


def from_0_to_1(values_UI: Floats) -> Floats:
    """Every row scaled so that its least is 0 and its largest 1; rows of one value become 0."""
    low_U1, high_U1 = values_UI.min(axis=1, keepdims=True), values_UI.max(axis=1, keepdims=True)
    spread_U1 = np.where(high_U1 > low_U1, high_U1 - low_U1, 1)
    scaled: Floats = ((values_UI - low_U1) / spread_U1).astype(np.float32)
    return scaled


def grounded(distance_UI: Floats, weight_UI: Floats, gamma: float) -> Floats:
    """(U, I) scores -d' (1 + w')^-gamma: higher is nearer, and nearer still what others took.

    d' and w' are distances and weights scaled by `from_0_to_1`.

    Args:
        distance_UI: Euclidean distance of every title from the text.
        weight_UI: popularity, the same for every row, or the scores of a recommender that knows no text.
        gamma: 0 ranks by distance alone.
    """
    score: Floats = -from_0_to_1(distance_UI) * (1 + from_0_to_1(weight_UI)) ** np.float32(-gamma)
    return score


def best_gamma(distance_UI: Floats, weight_UI: Floats, targets_U: Ids, k: int = 10) -> float:
    """The gamma of `GAMMAS` with the largest NDCG@k for validation users; the smallest of equals.

    Cost: 200 passes over (U, I).
    """
    values = [_ndcg(grounded(distance_UI, weight_UI, gamma), targets_U, k) for gamma in GAMMAS]
    return GAMMAS[int(np.argmax(values))]


def _ndcg(score_UI: Floats, targets_U: Ids, k: int) -> float:
    """Ties go to the smaller position, as in every ranking here."""
    target_U1 = np.take_along_axis(score_UI, targets_U[:, None].astype(np.int64), axis=1)
    tied_before = (score_UI == target_U1) & (np.arange(score_UI.shape[1]) < targets_U[:, None])
    rank_U = 1 + (score_UI > target_U1).sum(axis=1) + tied_before.sum(axis=1)
    return float(ndcg(np.where(rank_U <= k, rank_U, 0), k).mean())
