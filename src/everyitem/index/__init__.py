"""Which items are best? NumPy and the C++ core; knows no torch."""

from everyitem.index.beam import BeamIndex
from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.index.pq import PQIndex
from everyitem.index.two_level import TwoLevelIndex

AnyIndex = PQIndex | DenseIndex | TwoLevelIndex
"""Found by vectors of length `dim`, added to by vectors."""
ModelIndex = AnyIndex | BeamIndex
"""What a model folder may hold."""

__all__ = ["AnyIndex", "BeamIndex", "DenseIndex", "ModelIndex", "PQIndex", "TwoLevelIndex", "load_index"]
