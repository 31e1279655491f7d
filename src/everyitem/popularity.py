"""What everybody gets of whom nothing is known: the items with the most training events. Knows no model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.index import ModelIndex, door
from everyitem.types import Ids, TopK

STEP = 4096
"""Items of the list that are looked at together."""


class Popularity:
    """The items of a catalogue, most popular first.

    Args:
        events_I: training events of every item.
    """

    def __init__(self, events_I: NDArray[np.integer]) -> None:
        self.events_I = events_I
        self.order_I: Ids = np.argsort(-events_I, kind="stable").astype(np.int32)
        self._total = max(1, int(events_I.sum()))

    def top_k(
        self,
        index: ModelIndex,
        k: int,
        *,
        allow: NDArray[Any] | None = None,
        exclude: Ids | None = None,
    ) -> TopK:
        """One row: the k most popular eligible items; a score is the item's share of all training events.

        Args:
            index: says what was removed.
            k: results.
            allow: (I,) bool or packed bits, as an index takes them.
            exclude: (E,) positions.

        Cost: a walk down the list until k are found.
        """
        eligible = np.empty(0, np.int32)
        for first in range(0, len(self.order_I), STEP):
            step = self.order_I[first : first + STEP]
            kept = step[~index.removed_at(step[None])[0]]
            if allow is not None:
                kept = kept[allow[kept] if allow.dtype == bool else door.bits_at(allow[None], kept[None])[0]]
            if exclude is not None:
                kept = kept[~np.isin(kept, exclude)]
            eligible = np.append(eligible, kept)
            if len(eligible) > k:
                break
        found = eligible[:k]
        items, scores = np.full((1, k), -1, np.int32), np.full((1, k), -np.inf, np.float32)
        items[0, : len(found)] = found
        scores[0, : len(found)] = self.events_I[found] / self._total
        bound = scores[:, -1] if len(eligible) > k else np.full(1, -np.inf, np.float32)
        return TopK(items, scores, bound, np.zeros(1, np.int64))
