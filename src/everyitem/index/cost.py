"""What a search will cost, before it is run: items from the bounds above the blocks, time from searches timed once."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index.arrangement import Arrangement, sample_queries
from everyitem.index.state import State
from everyitem.types import Floats

ROUNDS = 3


class Cost(NamedTuple):
    """Per row of a query."""

    items: NDArray[np.int64]
    """(U,) items looked at."""
    microseconds: NDArray[np.float64]
    """(U,) on one thread, the machine idle, from Python."""


class Clock(NamedTuple):
    """What searching costs here: a start, and so much per item looked at."""

    start_us: float
    item_us: float

    def predict(self, items_U: NDArray[np.int64]) -> Cost:
        """Items to microseconds."""
        return Cost(items_U, self.start_us + self.item_us * items_U.astype(np.float64))


def timed(search: Callable[[Floats], object], items_U: NDArray[np.int64], query_UD: Floats) -> Clock:
    """The line through the median times of searching for one query after the other."""
    seconds = np.empty((ROUNDS, len(query_UD)))
    for one_round in seconds:
        for row in range(len(query_UD)):
            start = time.perf_counter()
            search(query_UD[row, None])
            one_round[row] = time.perf_counter() - start
    microseconds = np.median(seconds, axis=0) * 1e6
    spread = items_U - items_U.mean()
    if not (spread @ spread):  # every query looks at as many items: what is their share of the time does not show
        return Clock(float(np.median(microseconds)), 0.0)
    slope = max(0.0, float(spread @ microseconds / (spread @ spread)))
    return Clock(float(np.median(microseconds - slope * items_U)), slope)


class Clocks:
    """One clock per k, for one layout of a catalogue, whatever is added to it; made when first asked for."""

    def __init__(self) -> None:
        self._made: tuple[Arrangement | None, dict[int, Clock]] = (None, {})

    def clock(self, state: State, k: int, codebooks_MdB: Floats) -> Clock:
        """What a search for k items costs in this catalogue, by timing it for sample queries."""
        assert state.arranged
        catalogue, layout = state.catalogue, state.arranged[0]
        timed_for, by_k = self._made  # together, as other threads may ask
        if layout is not timed_for:
            by_k = {}
            self._made = layout, by_k
        if k not in by_k:
            sample_SD = sample_queries(state.codes_IM, codebooks_MdB)

            def search(query_UD: Floats) -> object:
                return catalogue.top_k(query_UD, k, None, None, None, state.removed, math.inf, 1, "planned", 1.0, 1)

            items_S = catalogue.predict(sample_SD, k, None, None, state.removed, 1)
            by_k[k] = timed(search, items_S, sample_SD)
        return by_k[k]
