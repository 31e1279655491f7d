"""Why an item has its score: what each kind of index can say of itself."""

from typing import Any, NamedTuple

import numpy as np
import polars as pl

from everyitem.index import BeamIndex, DenseIndex, ModelIndex, TwoLevelIndex


class Explanation(NamedTuple):
    """Why an item has its score."""

    score: float
    splits: pl.DataFrame
    """split, sub_item, score: one row per split; the scores add up (float32, in this order) to `score`. A dense index
    has one split, and its sub-item is the item; a two-level one has cluster and item; of a semantic id every token is a
    split. What a memory adds stands in a last row without split and sub-item."""
    history: pl.DataFrame
    """item_id, similarity: the history's items nearest to the explained one, nearest first; see `likeness.py`."""


def splits(index: ModelIndex, query: Any, position: int, score: np.float32) -> pl.DataFrame:
    """The first rows of `Explanation.splits`, for one query of this index."""
    sub_items: Any = [position]
    scores: Any = [score]
    if isinstance(index, TwoLevelIndex):
        cluster, *scores = index.levels(query[0], position)
        sub_items = [cluster, position]
    elif isinstance(index, BeamIndex):
        sub_items = index.tokens_IM[position]
        scores = index.token_scores(query, np.array([[position]], np.int32))[0, 0]
    elif not isinstance(index, DenseIndex):
        sub_items = index.codes_IM[position]
        scores = index.score_table(query)[0, range(len(sub_items)), sub_items]
    return pl.DataFrame({"split": range(len(scores)), "sub_item": sub_items, "score": scores})
