"""Which position does an id have? Text or integers, in the type of a catalogue. Knows no attributes."""

import bisect
from typing import Any

import numpy as np
import polars as pl

from everyitem.data import catalogue
from everyitem.types import Ids

FEW = 32
"""Ids that are looked up one by one, about 10 us each; more go through polars, which starts threads first."""


class ItemIds:
    """The distinct ids of a catalogue.

    Args:
        ids: row i for position i.
    """

    def __init__(self, ids: pl.Series) -> None:
        self._order = ids.arg_sort().to_numpy()
        self._sorted = ids.sort()
        self._example = ids.first()

    @property
    def dtype(self) -> pl.DataType:
        """Text or integers."""
        return self._sorted.dtype

    def positions(self, ids: pl.Series | list[Any]) -> Ids:
        """Positions of ids; -1 for an id that is not there. Raises ValueError if they are of another type."""
        wanted = catalogue.ids_as(self.dtype, ids)
        if len(wanted) <= FEW:
            return np.array([self._position(item_id) for item_id in wanted], np.int32)
        slot = np.minimum(self._sorted.search_sorted(wanted).to_numpy(), len(self._sorted) - 1)
        known = (self._sorted[slot] == wanted).to_numpy()
        return np.where(known, self._order[slot], -1).astype(np.int32)

    def positions_in_log(self, given: pl.Series) -> Ids:
        """Positions of the distinct item ids of a log; -1 for one that is not there.

        The log's ids are read in the type of these, as a file of text does not say which type it means.

        Raises:
            ValueError: the log has ids of another type, and none of them is here.
        """
        ids = catalogue.read_as(self.dtype, given)
        found = np.full(len(ids), -1, np.int32)
        found[ids.is_not_null().to_numpy()] = self.positions(ids.drop_nulls())
        if given.dtype != self.dtype and (found < 0).all():
            raise ValueError(
                f"item ids are {self.dtype} in this model, {given.dtype} in the log, and none of these is in the "
                f"catalogue (there {given[0]!r}, here {self._example!r}); give the log with this model's ids"
            )
        return found

    def parse(self, texts: list[str]) -> list[Any]:
        """Ids typed by a person, in the type of these; what is empty is left out.

        Raises:
            ValueError: these are integers and a text is not one.
        """
        stripped = [text.strip() for text in texts if text.strip()]
        if not self.dtype.is_integer():
            return stripped
        try:
            return [int(text) for text in stripped]
        except ValueError:
            raise ValueError(f"item ids of this model are integers; got {', '.join(stripped)}") from None

    def _position(self, item_id: Any) -> int:
        if item_id is None:
            return -1
        slot = bisect.bisect_left(self._sorted, item_id)
        return int(self._order[slot]) if slot < len(self._sorted) and self._sorted[slot] == item_id else -1
