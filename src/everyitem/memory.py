"""What vectors cannot hold: which item came again, and which one followed which. NumPy only; knows no model or index.

A few dozen of a million items are remembered beside a query: those of the history, and those that came directly after
its last events in training. Such an item's score becomes

    score(i) = s_i + weights . features(i) + slope (s_i - s*),     s_i = <query, vector_i>

with s* the best score of all items that are not remembered, and one slope for items of the history, one for others.
Features: of an item of the history 1, log of its age in events (1: the newest), log of its occurrences, whether it is
the newest; of an item after the l-th last event h 1, log n(h -> i), log n(h), from the transitions of training. The
weights are fitted after the vectors, on the validation users (`learn/remember.py`): their next events stand in no
count. All other items keep the score of their vector, so the best items remain exact: see `index.raised.top_k`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Floats, Histories, Ids

HISTORY_FEATURES = 4
LAG_FEATURES = 3
NUM_LAGS = 3
"""Last events whose successors are remembered."""
NUM_FEATURES = HISTORY_FEATURES + NUM_LAGS * LAG_FEATURES


class Transitions(NamedTuple):
    """For every item, the items that most often came directly after it: i's are starts_I[i] to starts_I[i + 1]."""

    starts_I: NDArray[np.int64]
    """(I + 1,)"""
    items_N: Ids
    """Best first: count descending, then position ascending."""
    counts_N: Floats
    """How often it came directly after."""
    totals_I: Floats
    """How often anything came after the item, beyond those kept as well."""


def count_transitions(histories: Histories, num_items: int, size: int) -> Transitions:
    """Count consecutive events, repeats of an item included.

    Args:
        histories: training rows, oldest event first.
        num_items: I.
        size: successors kept per item, at most.

    Cost: O(events log events) time and about 60 bytes an event; 12 bytes an item and 8 a transition after.
    """
    events, rows = histories.events(), np.repeat(np.arange(len(histories)), histories.lengths)
    together = rows[1:] == rows[:-1]
    keys = events[:-1][together] * np.int64(num_items) + events[1:][together]
    keys, counts = np.unique(keys, return_counts=True)
    last, following = np.divmod(keys, num_items)
    best_first = np.lexsort((-counts, last))  # stable: keys came sorted, so ties stay in order of position
    kept = np.arange(len(keys)) - np.searchsorted(last, last) < size
    starts_I = np.searchsorted(last[kept], np.arange(num_items + 1))
    totals_I = np.bincount(last, weights=counts, minlength=num_items).astype(np.float32)
    items_N, counts_N = (array[best_first][kept] for array in (following, counts))
    return Transitions(starts_I, items_N.astype(np.int32), counts_N.astype(np.float32), totals_I)


class Remembered(NamedTuple):
    """What histories bring to mind."""

    items_UN: Ids
    """Positions, ascending and distinct in a row, padded with -1."""
    features_UNF: Floats
    """0 beside every -1."""

    @property
    def seen_UN(self) -> NDArray[np.bool_]:
        """Whether the item stands in the history."""
        seen_UN: NDArray[np.bool_] = self.features_UNF[:, :, 0] > 0
        return seen_UN


def remember(transitions: Transitions, histories: Histories, length: int) -> Remembered:
    """The items of the histories' last `length` events and those that followed the last few, with their features.

    Cost: O(events + transitions kept of the last events); a row does not depend on the others.
    """
    num_items = np.int64(2**31)
    recent = histories.last(length)
    own, owner = recent.events(), np.repeat(np.arange(len(recent)), recent.lengths)
    place_in_row = np.arange(len(own)) - np.repeat(np.cumsum(recent.lengths) - recent.lengths, recent.lengths)
    age = recent.lengths[owner] - place_in_row
    row, lag, following, logs = _followers(transitions, recent)
    keys = np.concatenate([owner * num_items + own, row * num_items + following])
    distinct, place = np.unique(keys, return_inverse=True)

    features = np.zeros((len(distinct), NUM_FEATURES), np.float32)
    occurrences = np.bincount(place[: len(own)], minlength=len(distinct))
    youngest = np.full(len(distinct), length + 1)
    np.minimum.at(youngest, place[: len(own)], age)
    seen = occurrences > 0
    columns = (np.ones(seen.sum()), np.log(youngest[seen]), np.log(occurrences[seen]), youngest[seen] == 1)
    features[seen, :HISTORY_FEATURES] = np.stack(columns, axis=1)
    column = HISTORY_FEATURES + LAG_FEATURES * lag[:, None] + np.arange(LAG_FEATURES)
    features[place[len(own) :, None], column] = logs
    return _padded(*np.divmod(distinct, num_items), features, len(histories))


class Memory(NamedTuple):
    """Transitions and what a fit found them to be worth."""

    transitions: Transitions
    weights_F: Floats
    slopes: Floats
    """(2,): of items of the history, of other items."""
    length: NDArray[np.int64]
    """(), events of a history that are looked at."""

    def remembered(self, histories: Histories) -> tuple[Ids, Floats, Floats]:
        """For `index.raised.top_k`: (items (U, N), bonus (U, N), slope (U, N)), padded with -1 and 0.

        Bonuses are summed feature by feature, so that their bits do not depend on the batch.
        """
        found = remember(self.transitions, histories, int(self.length))
        bonus_UN = np.zeros(found.items_UN.shape, np.float32)
        for weight, feature_UN in zip(self.weights_F, np.moveaxis(found.features_UNF, -1, 0), strict=True):
            bonus_UN += weight * feature_UN
        seen, other = self.slopes
        slope_UN: Floats = np.where(found.seen_UN, seen, other)
        return found.items_UN, bonus_UN, slope_UN

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for a file."""
        own = {"weights_F": self.weights_F, "slopes": self.slopes, "length": self.length}
        return self.transitions._asdict() | own

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `arrays`. Raises KeyError for one that is missing."""
        transitions = Transitions(*(arrays[name] for name in Transitions._fields))
        return cls(transitions, arrays["weights_F"], arrays["slopes"], arrays["length"])


def _followers(transitions: Transitions, recent: Histories) -> tuple[NDArray[Any], NDArray[Any], Ids, Floats]:
    """(row, lag, item, (1, log n(h -> i), log n(h))) of what came after the event `lag` before a row's last one."""
    row, lag = np.nonzero(recent.lengths[:, None] > np.arange(NUM_LAGS))
    event = recent.items[recent.stops[row] - 1 - lag]
    known = event < len(transitions.totals_I)  # items added since training have no transitions
    row, lag, event = row[known], lag[known], event[known]
    start = transitions.starts_I[event]
    count = transitions.starts_I[event + 1] - start
    each = np.repeat(np.arange(len(row)), count)
    where = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count) + start[each]
    columns = (np.ones(len(each)), np.log(transitions.counts_N[where]), np.log(transitions.totals_I[event][each]))
    return row[each], lag[each], transitions.items_N[where], np.stack(columns, axis=1).astype(np.float32)


def _padded(rows: NDArray[Any], items: NDArray[Any], features: Floats, num_rows: int) -> Remembered:
    counts = np.bincount(rows, minlength=num_rows)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (num_rows, int(counts.max(initial=0)))
    items_UN, features_UNF = np.full(shape, -1, np.int32), np.zeros((*shape, NUM_FEATURES), np.float32)
    items_UN[rows, nth], features_UNF[rows, nth] = items, features
    return Remembered(items_UN, features_UNF)
