"""A history that grows click by click: one more event costs one event, not the whole history. Works without torch."""

from typing import Any

import numpy as np
import polars as pl

from everyitem.index.beam import BeamIndex
from everyitem.model.decode import Decoder
from everyitem.recommender import Recommender
from everyitem.types import Floats, Histories, Ids


class Session:
    """What one user did so far, and what the encoder has computed of it; see `model/attention.py`.

    As long as the history fits the encoder's window of `length` events, a session answers as `Recommender.recommend`
    does: the same query but for the rounding of sums. When the window is full, its newer half is encoded anew, once in
    length / 2 events; from then on the query has seen the newest length / 2 to length events, where
    `Recommender.recommend` always looks at the newest `length`. Memory and seen items are of the whole history.

    Not to be used by two threads at once. Memory: 4 E bytes per event of the window, E = (2 L - 1) D.

    Args:
        recommender: a loaded model; it may change (items added or removed) while sessions are open.
        history: item ids, oldest first.

    Raises:
        ValueError: the model's encoder keeps no state.
    """

    def __init__(self, recommender: Recommender, history: list[Any] | tuple[Any, ...] = ()) -> None:
        encoder, index = recommender.encoder, recommender.index
        if isinstance(encoder, Decoder) or isinstance(index, BeamIndex) or not encoder.keeps_state:
            raise ValueError(
                "this model's encoder keeps no state: a bidirectional one has to see the whole history again, and so "
                "does one of semantic ids or of an early release (train anew); use Recommender.recommend"
            )
        self.recommender, self._encoder, self._index = recommender, encoder, index
        self.events: Ids = np.empty(0, np.int32)
        """Positions of all events so far, oldest first."""
        self.query_UD: Floats = np.empty((0, index.dim), np.float32)
        """(1, D); (0, D) before the first known event."""
        self.window = 0
        """Newest events that the query has seen."""
        self._state_UTE = np.empty((1, encoder.length, encoder.state_width), np.float32)
        self.add(history)

    def add(self, item_ids: list[Any] | tuple[Any, ...]) -> int:
        """Append events, oldest first. Returns how many named an unknown item and were skipped.

        Cost: encoding as many events; when the window overflows, half a window.
        """
        found = self.recommender.positions(list(item_ids))
        new = found[found >= 0]
        if len(new):
            self.events = np.concatenate([self.events, new])
            self._encode(len(new))
        return len(found) - len(new)

    def recommend(self, k: int = 10, *, where: str | None = None, exclude_seen: bool = True) -> pl.DataFrame:
        """The k best items now: item_id, score, rank. Arguments as of `Recommender.recommend`; popularity if empty."""
        rows = Histories(self.events, np.zeros(1, np.int64), np.full(1, len(self.events)))
        allow = None if where is None else self.recommender.matching(where)
        k = min(k, len(self.recommender.items))
        if not self.window:
            top = self.recommender.rank(rows, k, allow=allow)
        else:
            seen = self.events[None] if exclude_seen else None
            top = self.recommender.best(self.query_UD, rows, k, allow=allow, exclude=seen)
        return self.recommender.table(pl.Series([0]), top).drop("user_id")

    def _encode(self, num_new: int) -> None:
        encoder, known = self._encoder, self.window
        if known + num_new > encoder.length:
            known, num_new = 0, max(encoder.length // 2, min(num_new, encoder.length))
        vectors_TD = self._index.vectors(self.events[-num_new:])
        self.query_UD, state = encoder.extend(vectors_TD[None], self._state_UTE[:, :known])
        self._state_UTE[:, known : known + num_new] = state
        self.window = known + num_new
