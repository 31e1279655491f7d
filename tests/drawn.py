"""Catalogues that hypothesis draws: items in codes, vectors and clusters, and queries, with ties and extreme values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

FLAVOURS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(1.5, shape).clip(-1e6, 1e6),
    "few values": lambda rng, shape: rng.integers(-1, 2, shape),
    "all equal": lambda rng, shape: np.full(shape, 0.3),
    "one-hot split": lambda rng, shape: rng.standard_normal(shape) * (np.arange(shape[0]) == 0)[:, None, None],
    "signed zeros": lambda rng, shape: rng.choice([0.0, -0.0], shape),
    "denormal": lambda rng, shape: rng.integers(-3, 4, shape) * 1e-44,
    "huge": lambda rng, shape: rng.choice([1e30, -1e30, 1e23, 1.0], shape),
}


@dataclass(frozen=True)
class Catalogue:
    """Random items and queries, made from a seed so that hypothesis can replay them."""

    seed: int
    num_items: int
    num_splits: int
    num_sub_items: int
    split_dim: int
    num_rows: int
    flavour: str
    correlated: bool

    @property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    @property
    def codes(self) -> Any:
        rng, shape = self._rng, (self.num_items, self.num_splits)
        codes = rng.integers(0, self.num_sub_items, shape, dtype=np.uint8)
        if self.correlated:  # one cluster per item, with a little noise: where unsafe pruning goes wrong
            codes = np.where(rng.random(shape) < 0.8, codes[:, :1], codes)
        return codes

    @property
    def codebooks(self) -> Any:
        shape = (self.num_splits, self.num_sub_items, self.split_dim)
        return FLAVOURS[self.flavour](self._rng, shape).astype(np.float32)

    @property
    def vectors(self) -> Any:
        return self.codebooks[np.arange(self.num_splits), self.codes].reshape(self.num_items, -1)

    @property
    def clustering(self) -> Any:
        count = 2 + self.seed % 40  # the last cluster is empty
        vectors = FLAVOURS[self.flavour](self._rng, (self.num_splits, count, self.split_dim)).astype(np.float32)
        bias_C, vectors_CD = (np.arange(count) % 3).astype(np.float32), vectors.swapaxes(0, 1).reshape(count, -1)
        return self.codes[:, 0] % np.int64(count - 1), vectors_CD, bias_C

    @property
    def rotation(self) -> Any:
        dim = self.num_splits * self.split_dim
        return np.linalg.qr(self._rng.standard_normal((dim, dim)))[0].astype(np.float32)

    @property
    def query(self) -> Any:
        shape = (self.num_rows, self.num_splits * self.split_dim)
        tie_rich = self.flavour in ("few values", "denormal", "huge", "all equal")
        return (self._rng.integers(-1, 2, shape) if tie_rich else self._rng.standard_normal(shape)).astype(np.float32)


catalogues = st.builds(
    Catalogue,
    seed=st.integers(0, 2**32 - 1),
    num_items=st.integers(1, 12) | st.integers(1, 300),
    num_splits=st.sampled_from([1, 2, 3, 4, 8, 16]),
    num_sub_items=st.sampled_from([2, 3, 16, 37, 130, 256]),
    split_dim=st.integers(1, 9),
    num_rows=st.integers(1, 4),
    flavour=st.sampled_from(sorted(FLAVOURS)),
    correlated=st.booleans(),
)
shares = st.sampled_from([0.0, 0.001, 0.5, 0.999, 1.0])


def some_filters(catalogue: Catalogue, share: float, per_row: bool) -> tuple[Any, Any]:
    """Random (allow, exclude) that let about this share of the items through."""
    rng = np.random.default_rng(catalogue.seed + 1)
    shape = (catalogue.num_rows, catalogue.num_items)
    allow = rng.random(shape if per_row else shape[1:]) < share
    exclude = rng.integers(-1, catalogue.num_items, (catalogue.num_rows, 5)).astype(np.int32)
    return allow, exclude
