"""everyitem: exact recommendations from catalogues of millions to a billion items, on ordinary CPUs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from everyitem.data.interactions import Log, read_log
    from everyitem.data.splits import leave_one_out, split_by_time
    from everyitem.index.beam import BeamIndex
    from everyitem.index.dense import DenseIndex
    from everyitem.index.files import load_index
    from everyitem.index.pq import PQIndex
    from everyitem.index.two_level import TwoLevelIndex
    from everyitem.learn.fit import fit
    from everyitem.recommender import Recommender, load
    from everyitem.session import Session
    from everyitem.types import Histories, TopK

_ROOMS = {
    "Log": "data.interactions",
    "read_log": "data.interactions",
    "leave_one_out": "data.splits",
    "split_by_time": "data.splits",
    "fit": "learn.fit",
    "BeamIndex": "index.beam",
    "DenseIndex": "index.dense",
    "load_index": "index.files",
    "PQIndex": "index.pq",
    "TwoLevelIndex": "index.two_level",
    "Recommender": "recommender",
    "load": "recommender",
    "Session": "session",
    "Histories": "types",
    "TopK": "types",
}

__all__ = [
    "BeamIndex",
    "DenseIndex",
    "Histories",
    "Log",
    "PQIndex",
    "Recommender",
    "Session",
    "TopK",
    "TwoLevelIndex",
    "fit",
    "leave_one_out",
    "load",
    "load_index",
    "read_log",
    "split_by_time",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import everyitem` costs nothing and never needs torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'everyitem' has no attribute {name!r}")
    return getattr(import_module(f"everyitem.{_ROOMS[name]}"), name)
