"""What one search over item codes sees: a state is never changed, only followed by another."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index.arrangement import Arrangement, Codes
from everyitem.index.door import Bits


class State(NamedTuple):
    """What one search sees: the items that were arranged together, and those added since."""

    runs: tuple[Codes, ...]
    arranged: tuple[Arrangement, ...] | None
    removed: Bits | None
    catalogue: Any

    @property
    def num_items(self) -> int:
        """Positions, removed ones included."""
        return sum(map(len, self.runs))

    @property
    def codes_IM(self) -> Codes:
        """(I, M); a copy where there is more than one run."""
        return self.runs[0] if len(self.runs) == 1 else np.concatenate(self.runs)

    def codes(self, positions: NDArray[np.int64]) -> Codes:
        """(..., M) codes at positions of any shape."""
        base, *tails = self.runs
        if not tails:
            return base[positions]
        (tail,) = tails
        found = np.empty((*positions.shape, base.shape[1]), np.uint8)
        late = positions >= len(base)
        found[~late], found[late] = base[positions[~late]], tail[positions[late] - len(base)]
        return found


def part(codes_IM: Codes, arranged: Arrangement) -> tuple[Any, ...]:
    """What the core takes for a run of codes."""
    return codes_IM, *arranged
