"""A filter that many searches share, put in the order in which a PQ index stores its items."""

from typing import Any, NamedTuple

import numpy as np

from everyitem.index.door import Bits


class Compiled(NamedTuple):
    """What the core takes: the bits by position, and the same by slot of one catalogue."""

    catalogue: Any
    allow: Bits
    slots: Any


class CompiledFilter:
    """The items that may be returned; made by `PQIndex.compile_filter`, passed as `allow`.

    Stays true while the index changes: items keep their positions, and those added later are not allowed. After `add`
    or `compact` the next search compiles it anew, at the cost of `compile_filter`.
    """

    def __init__(self, allow: Bits, num_items: int) -> None:
        self._allow = allow
        self._num_items = num_items
        self._compiled = Compiled(None, allow, None)

    def __repr__(self) -> str:
        allowed = int(np.unpackbits(self._allow, count=self._num_items, bitorder="little").sum())
        return f"CompiledFilter({allowed} of {self._num_items} items)"

    def for_catalogue(self, catalogue: Any, num_items: int) -> Compiled:
        """As this catalogue of so many items stores them."""
        compiled = self._compiled
        if compiled.catalogue is not catalogue:
            if num_items < self._num_items:
                raise ValueError(
                    f"the filter was compiled for {self._num_items} items, but this index has {num_items}: "
                    "a filter belongs to the index that compiled it"
                )
            allow = np.pad(self._allow, (0, (num_items + 7) // 8 - len(self._allow)))
            compiled = self._compiled = Compiled(catalogue, allow[None], catalogue.compile(allow))
        return compiled
