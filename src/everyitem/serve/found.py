"""How an answer was found: what bytes told of every item before its score was computed. Knows no HTTP."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from everyitem.index.arrangement import Codes
from everyitem.index.bounds import LARGEST_CUT, ByteGaps, byte_gaps
from everyitem.index.pq import PQIndex
from everyitem.serve.version import Search, Version
from everyitem.types import Histories

MOST_CODES = 1 << 28
"""Sub-items of a catalogue, M I, up to which a search is looked at again: about a second."""
ITEMS_PER_CHUNK = 1 << 20
MOST_BARS = 120
MOST_STEPS = 255 * MOST_BARS - 1
"""Items that lose more are counted as if they lost so much."""
WIDTHS = (1, 3, 5, 15, 17, 51, 85, 255)
"""Steps that a bar can stand for: the cut falls between two bars."""


def pruned(version: Version, search: Search) -> dict[str, Any] | None:
    """Every eligible item by the score that its bytes allow, and the threshold: whoever is below it was left out.

    A search starts with a lower threshold and so scores a few more items than those above the last one. Items that a
    memory raises have scores of their own and are merged in afterwards: all numbers here are of the others.

    Returns:
        ceiling: no item can score more; threshold: score of the k-th item (None: fewer are eligible);
        remembered: eligible items that a memory raises; step: score per bar; bars: items whose bound is less than
        1, 2, 3, ... steps below the ceiling; passing: so many bars, the first ones, hold the items that could reach the
        threshold. None where nothing was searched, the index has no sub-items, or they are more than MOST_CODES.

    Cost: 1 to 2 ns per sub-item.
    """
    index = version.index
    if not (isinstance(index, PQIndex) and len(search.history)) or index.num_items * index.num_splits > MOST_CODES:
        return None
    rows = Histories.from_lists([search.history])
    memory = version.recommender.memory
    remembered = search.history[:0] if memory is None else memory.remembered(rows)[0][0]
    hidden = np.append(search.exclude, remembered)
    query_UD = version.recommender.encode(rows)
    found = index.top_k(query_UD, search.k, allow=search.allow, exclude=hidden[None], threads=1)
    gaps = byte_gaps(index.score_table(query_UD)[0], float(found.scores[0, -1]))
    eligible_I = ~index.removed_I
    if search.allow is not None:
        eligible_I &= np.unpackbits(search.allow, count=index.num_items, bitorder="little").astype(bool)
    eligible_I[search.exclude] = False
    num_remembered = int(eligible_I[remembered].sum())
    eligible_I[remembered] = False
    items_by_steps = _count(gaps, index.codes_IM, eligible_I)
    width = next(n for n in WIDTHS if n * MOST_BARS >= len(items_by_steps))
    return {
        "ceiling": gaps.ceiling,
        "threshold": float(found.scores[0, -1]) if found.items[0, -1] >= 0 else None,
        "remembered": num_remembered,
        "step": gaps.step * width,
        "bars": np.add.reduceat(items_by_steps, np.arange(0, len(items_by_steps), width)).tolist(),
        "passing": (LARGEST_CUT + 1) // width,
    }


def _count(gaps: ByteGaps, codes_IM: Codes, eligible_I: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many eligible items lose 0, 1, 2, ... steps."""
    counts = np.zeros(MOST_STEPS + 1, np.int64)
    for first in range(0, len(codes_IM), ITEMS_PER_CHUNK):
        chunk = slice(first, first + ITEMS_PER_CHUNK)
        sums_I = gaps.sums(codes_IM[chunk][eligible_I[chunk]])
        counts += np.bincount(np.minimum(sums_I, MOST_STEPS), minlength=MOST_STEPS + 1)
    return counts[: np.flatnonzero(counts).max(initial=0) + 1]
