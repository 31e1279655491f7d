"""What crosses rooms: histories in, top-K out. NumPy only.

Shape letters, one legend for the whole project: U users (rows), T time, D dim, I items, M splits, B sub-items per
split, C clusters, K results, L layers, H heads, V vocabulary. Arrays carry them: `codes_IM`, `table_UMB`.
Positions are int32 0..I-1 and -1 is "no item"; external ids (str or int64) live only at the doors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]


class TopK(NamedTuple):
    """The K best items of every row, best first: score descending, then position ascending."""

    items: Ids
    """(U, K) positions in the catalogue; -1 where nothing is left."""
    scores: Floats
    """(U, K) descending; -inf beside every -1."""
    bound: Floats
    """(U,) the certificate: no eligible item outside the row scores above this."""
    scored: NDArray[np.int64]
    """(U,) items whose full score was computed."""


Query = TypeVar("Query", contravariant=True)


class Index(Protocol[Query]):
    """A catalogue that can be asked for its best items. Laws: `tests/test_laws.py`."""

    @property
    def num_items(self) -> int:
        """Positions in the catalogue, removed ones included."""
        ...

    def top_k(
        self, query: Query, k: int, *, allow: Any = None, exclude: Ids | None = None, deadline: float | None = None
    ) -> TopK:
        """The k best eligible items of every row of the query."""
        ...


@dataclass(frozen=True, slots=True)
class Histories:
    """Ragged rows of item positions, oldest first: row u is `items[starts[u]:stops[u]]`.

    Rows are views, so a shorter history (leave-one-out, the last T) copies nothing, and `items` may be a memory map.
    """

    items: Ids
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    @classmethod
    def from_lists(cls, rows: Iterable[Iterable[int]]) -> Self:
        """Pack a list of lists of positions."""
        arrays = [np.asarray(list(row), np.int32) for row in rows]
        stops = np.cumsum([len(a) for a in arrays], dtype=np.int64)
        items = np.concatenate(arrays) if arrays else np.empty(0, np.int32)
        return cls(items, stops - np.array([len(a) for a in arrays], np.int64), stops)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Ids:
        return self.items[self.starts[row] : self.stops[row]]

    def __iter__(self) -> Iterator[Ids]:
        return (self[u] for u in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) events in every row."""
        return self.stops - self.starts

    def select(self, rows: NDArray[np.integer[Any]] | slice) -> Self:
        """Some of the rows, in the order asked for."""
        return type(self)(self.items, self.starts[rows], self.stops[rows])

    def last(self, num_events: int) -> Self:
        """The newest `num_events` of every row."""
        return type(self)(self.items, np.maximum(self.starts, self.stops - num_events), self.stops)

    def translate(self, position_of: Ids) -> Self:
        """Replace position i by `position_of[i]`; events that become -1 are dropped. Copies the events."""
        events = position_of[self.events()]
        kept = np.concatenate([[0], np.cumsum(events >= 0)])
        stops = np.cumsum(self.lengths)
        return type(self)(events[events >= 0], kept[stops - self.lengths], kept[stops])

    def events(self) -> Ids:
        """All events of all rows, one row after the other."""
        lengths = self.lengths
        first = np.cumsum(lengths) - lengths
        events: Ids = self.items[np.repeat(self.starts - first, lengths) + np.arange(lengths.sum())]
        return events

    def padded(self, align: str = "right") -> Ids:
        """(U, T) with T the longest row, padded with -1 on the left (`align="right"`) or on the right ("left")."""
        lengths = self.lengths
        width = int(lengths.max(initial=0))
        column = np.arange(width)[None, :]
        offset = (
            column - (width - lengths)[:, None] if align == "right" else np.broadcast_to(column, (len(self), width))
        )
        real = (offset >= 0) & (offset < lengths[:, None])
        out = np.full((len(self), width), -1, np.int32)
        out[real] = self.items[(self.starts[:, None] + offset)[real]]
        return out


class Ranker(Protocol):
    """Anything that turns histories into ranked positions: a trained recommender or a baseline."""

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k best positions for every history; with `exclude_seen` none that the history holds."""
        ...
