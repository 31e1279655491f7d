"""Which position does an id have? Text or integers, in the type of a catalogue. Knows no attributes."""

import copy
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem.data import catalogue
from everyitem.types import Ids

FEW = 64
"""Ids that are compared one by one: what compares many at once is much code, which one request finds in no cache."""
CHUNK = 1 << 20
SEEDS = 8
"""Ways to hash before two ids are taken for one; of a billion ids one catalogue in forty needs a second way."""


class ItemIds:
    """The distinct ids of a catalogue.

    Args:
        ids: row i for position i, text or integers.

    Raises:
        ValueError: an id stands there twice.

    Cost: .2 us an id to begin with, 12 bytes an id beside the ids themselves; a binary search for an id.
    """

    def __init__(self, ids: pl.Series) -> None:
        self._ids = ids
        for self._seed in range(SEEDS):
            self._hashes, self._order = _sorted(hashes_of(ids, self._seed))
            if not (self._hashes[1:] == self._hashes[:-1]).any():
                return
        raise ValueError("an item id stands for two items; ids must be unique")

    def extended(self, ids: pl.Series) -> "ItemIds":
        """These, and more at their end: `ids` are all of them. Cost: of the new ones alone, and a copy."""
        hashes, order = _sorted(hashes_of(ids.slice(len(self._ids)), self._seed))
        place = np.searchsorted(self._hashes, hashes)
        more = copy.copy(self)
        more._ids = ids
        more._hashes = np.insert(self._hashes, place, hashes)
        more._order = np.insert(self._order, place, order + np.int32(len(self._ids)))
        distinct = (more._hashes[1:] != more._hashes[:-1]).all()
        return more if distinct else ItemIds(ids)

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
            same = self._held(position, wanted)
            found[same] = position[same]
        return found

    def _held(self, position: Ids, wanted: pl.Series) -> NDArray[np.bool_]:
        """Whether these positions have these ids."""
        if len(wanted) > FEW:
            return (self._ids[position] == wanted).to_numpy()
        pairs = zip(position.tolist(), wanted.to_list(), strict=True)
        return np.array([self._ids[at] == item_id for at, item_id in pairs], bool)

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


def hashes_of(ids: pl.Series, seed: int) -> NDArray[np.int64]:
    """One number per id, the same within a process for ids of one type; of integers themselves."""
    if ids.dtype.is_integer():
        return ids.to_numpy()
    hashed = hash if seed == 0 else lambda text: hash((seed, text))
    parts = (ids.slice(start, CHUNK).to_list() for start in range(0, max(len(ids), 1), CHUNK))
    return np.concatenate([np.fromiter(map(hashed, part), np.int64, len(part)) for part in parts])


def _sorted(hashes: NDArray[np.int64]) -> tuple[NDArray[np.int64], Ids]:
    """In ascending order, and where each stood."""
    order = np.argsort(hashes)
    return hashes[order], order.astype(np.int32)
