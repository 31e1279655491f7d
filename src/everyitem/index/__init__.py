"""Which items are best? NumPy and the C++ core; knows no torch."""

from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.index.pq import PQIndex
from everyitem.index.two_level import TwoLevelIndex

AnyIndex = PQIndex | DenseIndex | TwoLevelIndex
"""What a model folder may hold: found by vectors of length `dim`, added to by vectors."""

__all__ = ["AnyIndex", "DenseIndex", "PQIndex", "TwoLevelIndex", "load_index"]
