import numpy as np
import pytest

from everyitem.compress.assign import assign_codes, compress_vectors
from everyitem.types import Histories

STRATEGIES = ("kmeans", "hybrid", "svd-rank", "svd", "bpr", "random")


@pytest.fixture(scope="module")
def histories():
    rng = np.random.default_rng(0)
    return Histories.from_lists(rng.integers(0, 90, (200, 9)).tolist())


@pytest.mark.parametrize("num_sub_items", [16, 256])
@pytest.mark.parametrize("kind", STRATEGIES)
def test_codes_stay_below_the_sub_items_and_differ(histories, kind, num_sub_items):
    found = assign_codes(histories, 90, kind, 4, dim=16, seed=0, num_sub_items=num_sub_items)
    assert found.codes_IM.shape == (90, 4)
    assert found.codes_IM.max() < num_sub_items
    assert len(np.unique(found.codes_IM, axis=0)) == 90
    if found.codebooks_MBd is not None:
        assert found.codebooks_MBd.shape == (4, num_sub_items, 4)


def test_compressed_vectors_have_the_sub_items_asked_for():
    vectors_ID = np.random.default_rng(0).standard_normal((90, 16), np.float32)
    found = compress_vectors(vectors_ID, 4, seed=0, num_sub_items=32)
    assert found.codebooks_MBd.shape == (4, 32, 4)
    assert found.codes_IM.max() < 32
