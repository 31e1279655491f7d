"""To faiss and back: the same codes, the same items."""

from typing import Any

import numpy as np
import pytest

from everyitem.index import PQIndex

faiss: Any = pytest.importorskip("faiss", reason="faiss-cpu is an extra: pip install everyitem[bench]")

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 200, (3000, 4), dtype=np.uint8)
CODEBOOKS = RNG.standard_normal((4, 200, 3)).astype(np.float32)
ROTATION = np.linalg.qr(RNG.standard_normal((12, 12)))[0].astype(np.float32)
QUERY = RNG.standard_normal((5, 12)).astype(np.float32)


@pytest.mark.parametrize("rotation", [None, ROTATION], ids=["plain", "rotated"])
def test_a_round_trip_keeps_codes_and_answers(rotation: Any) -> None:
    index = PQIndex(CODES, CODEBOOKS, rotation_DD=rotation)
    there = index.to_faiss()
    scores, items = there.search(QUERY, 20)
    top = index.top_k(QUERY, 20)
    np.testing.assert_allclose(scores, top.scores, rtol=1e-5, atol=1e-5)
    assert (items == top.items).mean() > 0.99
    back = PQIndex.from_faiss(there)
    assert np.array_equal(back.codes_IM, CODES)
    assert np.array_equal(back.codebooks_MBd[:, :200], CODEBOOKS)
    assert back.top_k(QUERY, 20).items.tobytes() == top.items.tobytes()
    assert back.top_k(QUERY, 20).scores.tobytes() == top.scores.tobytes()


@pytest.mark.parametrize("description", ["PQ4", "OPQ4,PQ4"])
def test_an_index_that_faiss_trained_is_read(description: str) -> None:
    vectors = RNG.standard_normal((3000, 12)).astype(np.float32)
    trained = faiss.index_factory(12, description, faiss.METRIC_INNER_PRODUCT)
    trained.train(vectors)
    trained.add(vectors)
    scores, items = trained.search(QUERY, 10)
    top = PQIndex.from_faiss(trained).top_k(QUERY, 10)
    np.testing.assert_allclose(scores, top.scores, rtol=1e-4, atol=1e-4)
    assert (items == top.items).mean() > 0.9


@pytest.mark.parametrize(
    ("description", "metric", "message"),
    [
        ("Flat", "METRIC_INNER_PRODUCT", "IndexFlat"),
        ("PQ4", "METRIC_L2", "METRIC_INNER_PRODUCT is needed"),
        ("PQ4x4", "METRIC_INNER_PRODUCT", "8 bits"),
        ("PQ4", "METRIC_INNER_PRODUCT", "not been trained"),
        ("PCA6,PQ2", "METRIC_INNER_PRODUCT", "not a rotation"),
    ],
)
def test_other_indexes_are_refused(description: str, metric: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PQIndex.from_faiss(faiss.index_factory(12, description, getattr(faiss, metric)))


def test_removed_items_cannot_be_handed_over() -> None:
    index = PQIndex(CODES, CODEBOOKS)
    index.remove([1])
    with pytest.raises(ValueError, match="hide items"):
        index.to_faiss()
