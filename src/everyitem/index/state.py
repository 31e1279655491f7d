"""What one search over item codes sees: a state is never changed, only followed by another."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from everyitem.index.arrangement import Arrangement, Codes, in_order
from everyitem.index.door import Bits, removed_mask


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

    def sections(self) -> dict[str, NDArray[Any]]:
        """Plain arrays by name, for a file."""
        named: dict[str, NDArray[Any]] = {
            "codes": self.codes_IM,
            "removed": removed_mask(self.removed, self.num_items),
            "arranged": np.array(len(self.runs[0])),  # items; those after them were added since
        }
        if self.arranged and self.arranged[0].levels:  # else blocks are a copy of the codes, made in no time
            named |= self.arranged[0].sections()
        return named


def restored(
    sections: Mapping[str, NDArray[Any]], codes_IM: Codes, num_splits: int, *, verify: bool
) -> tuple[tuple[Codes, ...], tuple[Arrangement, ...] | None]:
    """The runs and their arrangements, if there are any, that `State.sections` gave."""
    base = Arrangement.from_sections(sections)
    if base is None:
        return (codes_IM,), None
    num_arranged = int(sections["arranged"])
    if not 0 <= num_arranged <= len(codes_IM):
        raise ValueError(f"arranged is {num_arranged}, but the codes hold {len(codes_IM)} items")
    if verify:
        base.check(num_arranged, num_splits)
    late = codes_IM[num_arranged:]
    if not len(late):
        return (codes_IM,), (base,)
    return (codes_IM[:num_arranged], late), (base, in_order(late, base.recode_MB))


def part(codes_IM: Codes, arranged: Arrangement) -> tuple[Any, ...]:
    """What the core takes for a run of codes."""
    return codes_IM, arranged.blocks, arranged.positions_S, arranged.levels
