"""Cuts histories into training batches. A batch is a pure function of (seed, epoch, step), so training can resume.

Knows nothing of models: it yields padded positions, oldest first. Memory: 16 bytes per window, never the events.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Histories, Ids


def windows(histories: Histories, length: int, *, keep: Literal["all", "last"] = "all") -> Histories:
    """Pieces of at most `length` + 1 events: `length` inputs, each with the event after it as its target.

    The published models train on the last `length` events of a user only (`keep="last"`). With long histories that
    leaves most of the log unused, so "all" also takes the earlier pieces; consecutive pieces share one event, and
    every event but a user's first is a target exactly once. Rows with fewer than two events have nothing to predict.
    """
    starts, stops = histories.starts, histories.stops
    has_target = stops - starts >= 2
    starts, stops = starts[has_target], stops[has_target]
    pieces = -(-(stops - starts - 1) // length) if keep == "all" else np.ones_like(stops)
    owner = np.repeat(np.arange(len(stops)), pieces)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    piece_stops = stops[owner] - nth * length
    return Histories(histories.items, np.maximum(starts[owner], piece_stops - length - 1), piece_stops)


class Batches:
    """Shuffled batches of similar length, so that short histories cost little.

    Rows are shuffled, sorted by length inside runs of `bucket` batches, cut so that rows x width stays near
    `positions`, and the batches are shuffled again.
    """

    def __init__(self, rows: Histories, *, positions: int = 6400, bucket: int = 64, seed: int = 0) -> None:
        self.rows = rows
        self.positions = positions
        self.bucket = bucket
        self.seed = seed

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Ids]:
        """Batches (U, T) int32 of epoch `number` from step `start` on, padded with -1 on the right."""
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.rows))
        lengths = self.rows.lengths
        mean = max(1.0, float(lengths.mean())) if len(lengths) else 1.0
        run = max(1, int(self.bucket * self.positions / mean))
        cuts: list[NDArray[np.int64]] = []
        for first in range(0, len(order), run):
            part = order[first : first + run]
            cuts += self._cut(part[np.argsort(lengths[part], kind="stable")])
        for step in rng.permutation(len(cuts))[start:]:
            yield self.rows.select(cuts[step]).padded(align="left")

    def _cut(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Consecutive groups of rows, sorted by length, each of about `positions` positions when padded."""
        lengths = self.rows.lengths[rows]
        groups, first = [], 0
        while first < len(rows):
            # the widest row of a group is its last one: grow until rows x width passes the budget
            size = np.arange(1, len(rows) - first + 1) * lengths[first:]
            last = first + max(1, int(np.searchsorted(size, self.positions, side="right")))
            groups.append(rows[first:last])
            first = last
        return groups
