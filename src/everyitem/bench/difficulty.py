"""How hard is a catalogue to search? Three numbers that say so without searching: they go with every timing."""

from typing import NamedTuple

import numpy as np

from everyitem.index import PQIndex
from everyitem.types import Floats

NUM_QUERIES, NUM_SAMPLED = 32, 200_000


class Difficulty(NamedTuple):
    """Medians over queries of how far the best scores stand out, in the scores' standard deviations (sd)."""

    best: float
    """(max - mean) / sd, max being the best conceivable score: the best sub-item of every split."""
    threshold: float
    """(theta - mean) / sd, theta being the K-th best score."""
    gap: float
    """(max - theta) / (max - mean): what an item may lose and still enter, of what an average item loses. The smaller,
    the more can be pruned."""

    def __str__(self) -> str:
        return f"(max-mean)/sd {self.best:.1f}, (theta-mean)/sd {self.threshold:.2f}, G/(max-mean) {self.gap:.3f}"


def difficulty(index: PQIndex, queries_UD: Floats, k: int = 10) -> Difficulty:
    """Of the first queries; mean and sd are those of a sample of items.

    Cost: one exact search per query.
    """
    queries_UD = queries_UD[:NUM_QUERIES]
    some_IM = index.codes_IM[:: max(1, index.num_items // NUM_SAMPLED)]
    table_UMB = index.score_table(queries_UD).astype(np.float64)
    scores_UI = table_UMB[:, 0, some_IM[:, 0]]
    for m in range(1, index.num_splits):
        scores_UI += table_UMB[:, m, some_IM[:, m]]
    mean_U, sd_U = scores_UI.mean(axis=1), np.maximum(scores_UI.std(axis=1), 1e-30)
    best_U = table_UMB.max(axis=2).sum(axis=1)
    theta_U = index.top_k(queries_UD, min(k, index.num_items), algorithm="pqtopk").scores[:, -1]
    return Difficulty(
        float(np.median((best_U - mean_U) / sd_U)),
        float(np.median((theta_U - mean_U) / sd_U)),
        float(np.median((best_U - theta_U) / np.maximum(best_U - mean_U, 1e-30))),
    )
