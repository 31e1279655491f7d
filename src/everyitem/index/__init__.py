"""Which items are best? NumPy and the C++ core; knows no torch."""

from everyitem.index.dense import DenseIndex
from everyitem.index.files import load_index
from everyitem.index.pq import PQIndex

__all__ = ["DenseIndex", "PQIndex", "load_index"]
