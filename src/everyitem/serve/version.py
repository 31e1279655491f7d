"""One opened version of a model, and what it answers in positions. Knows no bodies and no HTTP."""

import threading
import time
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everyitem import model_folder
from everyitem.data import catalogue
from everyitem.index import BeamIndex, files
from everyitem.index.pq import PQIndex
from everyitem.recommender import Recommender, load
from everyitem.types import Floats, Histories, Ids, TopK

Bits = NDArray[np.uint8]

FILTER_BYTES = 64 << 20
"""Filters of earlier requests that are kept, in bytes."""
PREDICTED_K = (10, 100, 1000)
"""Costs are predicted for the next of these: for every k, sample queries are timed once."""
WARM_SEARCHES = 9


class Search(NamedTuple):
    """What one request asks of the index, in positions."""

    history: Ids
    """Known events, oldest first; empty: the most popular items."""
    item: int
    """-1, or the item whose vector is the query, in place of the history."""
    k: int
    allow: Bits | None
    exclude: Ids
    deadline: float
    """On the clock of `time.monotonic`; infinity: the search runs to its end."""


class Hit(NamedTuple):
    """What a search found."""

    top: TopK
    """One row."""
    query: Floats
    """(1, D), or no row where popularity answered."""
    actual_us: float
    predicted_us: float | None
    looked_at: int | None


def name_of(metadata: dict[str, Any]) -> str:
    """What the version of a model folder with this metadata is called."""
    index = (model_folder.index_version(metadata) or "v000000").split()[0]
    return f"{index}-{metadata[model_folder.FINGERPRINTS]['recommender.json'][:12]}"


class Version:
    """A model folder as it was at one moment; whatever happens to the folder, its answers stay the same.

    Args:
        folder: the model folder.
        saved: what this process has just saved there; None: it is loaded, and verified to the byte.

    Raises:
        FileNotFoundError, ValueError: no model there, damaged, or its golden query is answered wrongly.
        ValueError: its items are semantic ids.
    """

    def __init__(self, folder: Path, saved: Recommender | None = None) -> None:
        self.recommender: Recommender = saved or load(folder)
        if isinstance(self.recommender.index, BeamIndex):
            raise ValueError(
                f"{folder}: its items are semantic ids, which the server does not write; ask by "
                "`everyitem recommend`, or serve a model with other items"
            )
        metadata = self.recommender.metadata
        self._folder = folder
        self._golden = files.recorded_golden(folder / "index", model_folder.index_version(metadata))
        self.name = name_of(metadata)
        self._filters: OrderedDict[str, Bits] = OrderedDict()
        self._filtering = threading.Lock()
        self._start_us = 0.0
        if problem := self.problem():
            raise ValueError(problem)
        self._warm()

    @property
    def index(self) -> Any:
        """The catalogue's index."""
        return self.recommender.index

    def problem(self) -> str | None:
        """Asks the golden query; None if its answer has the recorded ids and score bits."""
        if files.golden_answered(self.index, self._golden):
            return None
        return f"{self._folder}: the golden query is answered wrongly; {files.REMEDY}"

    def search(self, searches: list[Search]) -> list[Hit]:
        """One hit per search: histories are encoded together, searches with the same k and filter share a call."""
        rows = Histories.from_lists(search.history for search in searches)
        hits: dict[int, Hit] = {}
        groups: dict[Any, list[int]] = {}
        for number, search in enumerate(searches):
            if search.item < 0 and not len(search.history):
                hits[number] = self._popular(search)
            else:
                alone = number if search.deadline < float("inf") else -1
                groups.setdefault((search.k, id(search.allow), search.item < 0, alone), []).append(number)
        encoded = [number for group in groups.values() for number in group if searches[number].item < 0]
        query_UD = np.empty((len(searches), self.index.dim), np.float32)
        if encoded:
            query_UD[encoded] = self.recommender.encode(rows.select(np.array(encoded)))
        for group in groups.values():
            for number in group:
                if searches[number].item >= 0:
                    query_UD[number] = self.index.vectors([searches[number].item])[0]
            found = self._together(
                [searches[number] for number in group], query_UD[group], rows.select(np.array(group))
            )
            hits |= zip(group, found, strict=True)
        return [hits[number] for number in range(len(searches))]

    def _together(self, searches: list[Search], query_UD: Floats, rows: Histories) -> list[Hit]:
        first = searches[0]
        start = time.perf_counter()
        options: dict[str, Any] = {"allow": first.allow, "threads": 1}
        exclude = Histories.from_lists(search.exclude for search in searches).padded()
        if exclude.shape[1]:
            options["exclude"] = exclude
        if first.deadline < float("inf"):
            options["deadline"] = max(0.0, first.deadline - time.monotonic())
        if first.item < 0:
            top = self.recommender.best(query_UD, rows, first.k, **options)
        else:
            top = self.index.top_k(query_UD, first.k, **options)
        actual_us = (time.perf_counter() - start) * 1e6 / len(searches)
        items_U, us_U = self._predicted(query_UD, first.k, first.allow)
        return [
            Hit(TopK._make(part[row, None] for part in top), query_UD[row, None], actual_us, us_U[row], items_U[row])
            for row in range(len(searches))
        ]

    def _popular(self, search: Search) -> Hit:
        start = time.perf_counter()
        popularity = self.recommender.popularity
        top = popularity.top_k(self.index, search.k, allow=search.allow, exclude=search.exclude)
        nothing = np.empty((0, self.index.dim), np.float32)
        return Hit(top, nothing, (time.perf_counter() - start) * 1e6, None, None)

    def _predicted(self, query_UD: Floats, k: int, allow: Bits | None) -> tuple[list[Any], list[Any]]:
        if not isinstance(self.index, PQIndex):
            return [None] * len(query_UD), [None] * len(query_UD)
        cost = self.index.predict_cost(query_UD, next((n for n in PREDICTED_K if n >= k), k), allow=allow)
        return cost.items.tolist(), (cost.microseconds + self._start_us).tolist()

    def allowed(self, where: str | None, include: list[Any] | None) -> Bits | None:
        """Packed bits of the items that a condition and a list of candidates allow; None: all. Conditions are kept.

        Raises:
            ValueError: the condition cannot be evaluated, or an id is of another type.
        """
        bits = None if where is None else self._filter(where)
        if include is None:
            return bits
        mask = np.zeros(self.index.num_items, bool)
        positions = self.recommender.positions(include)
        mask[positions[positions >= 0]] = True
        chosen = np.packbits(mask, bitorder="little")
        return chosen if bits is None else chosen & bits

    def knows_filter(self, where: str | None) -> bool:
        """Whether `allowed` has evaluated this condition before."""
        return where is None or where in self._filters

    def _filter(self, where: str) -> Bits:
        bits = self._filters.get(where)
        if bits is None:
            bits = np.packbits(self.recommender.matching(where), bitorder="little")
        with self._filtering:
            self._filters[where] = bits
            self._filters.move_to_end(where)
            while len(self._filters) > 1 and len(self._filters) * bits.nbytes > FILTER_BYTES:
                self._filters.popitem(last=False)
        return bits

    @cached_property
    def columns(self) -> dict[str, dict[str, Any]]:
        """What there is to filter by; see `data.catalogue.described`."""
        return catalogue.described(self.recommender.items)

    def fields(self, positions: Ids, names: list[str]) -> list[dict[str, Any]]:
        """Attributes of items, one dictionary each; `["*"]` stands for all.

        Raises:
            ValueError: there is no such attribute.
        """
        columns = [name for name in self.recommender.items.columns if name != "item_id"]
        if names == ["*"]:
            names = columns
        if unknown := [name for name in names if name not in columns]:
            raise ValueError(f"return_fields has {unknown[0]!r}, but the attributes are {', '.join(columns)}")
        return self.recommender.items.select(names)[positions].to_dicts()

    def ids(self, positions: Ids) -> list[Any]:
        """External ids of positions."""
        ids = self.recommender.items["item_id"]
        return [ids[position] for position in positions.tolist()]

    def titles_with(self, words: list[str], count: int) -> tuple[Ids, int]:
        """Positions of items whose title (or name, and id) contains every word, most popular first, and their number.

        Cost: reads all titles, some 50 ms per million and word.
        """
        items = self.recommender.items
        shown = [name for name in ("title", "name") if items.schema.get(name) == pl.String]
        columns = [items[name].fill_null("") for name in (*shown, "item_id")]
        matching = ~self.index.removed_I
        for word in words:
            pattern = f"(?i){pl.escape_regex(word)}"
            found = [column.cast(pl.String).str.contains(pattern).to_numpy() for column in columns]
            matching &= np.logical_or.reduce(found)
        order = self.recommender.popularity.order_I
        positions = order[matching[order]]
        return positions[:count], len(positions)

    def _warm(self) -> None:
        """Do what the first request would have to wait for, and see what a search takes beside the index's own time."""
        some = np.zeros(1, np.int32)
        for k in PREDICTED_K if self.index.num_items else ():
            asked = [Search(some, -1, min(k, self.index.num_items), None, some[:0], float("inf"))]
            hits = [self.search(asked)[0] for _ in range(WARM_SEARCHES)]
            beside = np.median([hit.actual_us - (hit.predicted_us or 0.0) for hit in hits])
            self._start_us = self._start_us or max(0.0, float(beside))
