"""Which position does an id have? Text or integers, in the type of a catalogue. Knows no attributes."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.data import catalogue
from everyitem.types import Ids


class ItemIds:
    """The distinct ids of a catalogue.

    Args:
        ids: row i for position i.

    Cost: 12 bytes an id beside the ids themselves; to look one up, a binary search among the hashes of all.
    """

    def __init__(self, ids: pl.Series) -> None:
        self._ids, self._seed = ids, 0
        while not self._sort():  # of a billion ids, one catalogue in forty
            self._seed += 1

    @property
    def dtype(self) -> pl.DataType:
        """Text or integers."""
        return self._ids.dtype

    def positions(self, ids: pl.Series | list[Any]) -> Ids:
        """Positions of ids; -1 for an id that is not there. Raises ValueError if they are of another type."""
        wanted = catalogue.ids_as(self.dtype, ids)
        found = np.full(len(wanted), -1, np.int32)
        if wanted.null_count():
            given = wanted.is_not_null().to_numpy()
            found[given] = self.positions(wanted.filter(given))
        elif len(self._ids):
            slot = np.searchsorted(self._hashes, hashes_of(wanted, self._seed))
            position = self._order[np.minimum(slot, len(self._order) - 1)]
            same = (self._ids[position] == wanted).to_numpy()
            found[same] = position[same]
        return found

    def _sort(self) -> bool:
        """Sort by hash; False if two ids share one."""
        hashes = hashes_of(self._ids, self._seed)
        order = np.argsort(hashes)
        self._hashes, self._order = hashes[order], order.astype(np.int32)
        return not (self._hashes[1:] == self._hashes[:-1]).any()

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
                f"catalogue (there {given[0]!r}, here {self._ids.first()!r}); give the log with this model's ids"
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


def hashes_of(ids: pl.Series, seed: int) -> NDArray[np.uint64]:
    """One hash per id, the same within a process for ids of one type."""
    return ids.hash(seed).to_numpy()
