import numpy as np
import polars as pl
import pytest

from everyitem.data import ids as module
from everyitem.data.ids import ItemIds

TEXT = [f"item {n}" for n in range(300)]
NUMBERS = [7 * n - 900 for n in range(300)]


@pytest.fixture(params=[(TEXT, 0), (NUMBERS, 0), (TEXT, 1), (TEXT, 10)], ids=["text", "numbers", "one", "ten"])
def known(request, monkeypatch):
    """Ids; under the first two seeds some share their hash."""
    ids, kinds = request.param
    if kinds:
        own = module.hashes_of
        monkeypatch.setattr(module, "hashes_of", lambda ids, seed: own(ids, seed) % (kinds if seed < 2 else 2**62))
    return ids


@pytest.mark.parametrize("together", [300, 8])
def test_positions_are_those_of_a_dictionary(known, together):
    catalogue, asked = ItemIds(pl.Series(known[:250])), np.random.default_rng(0).permutation(known).tolist()
    place = {item_id: position for position, item_id in enumerate(known[:250])}
    for start in range(0, 300, together):  # few are compared one by one
        some = asked[start : start + together]
        assert catalogue.positions(some).tolist() == [place.get(item_id, -1) for item_id in some]
    assert catalogue.positions([known[3], None, known[3]]).tolist() == [3, -1, 3]


@pytest.mark.parametrize("first", [0, 1, 120, 299, 300])
def test_an_extended_catalogue_is_like_one_made_anew(known, first):
    ids = pl.Series(known)
    extended = ItemIds(ids.head(first)).extended(ids)
    assert extended.positions(known).tolist() == list(range(300))
    assert extended.positions([known[0]]).tolist() == [0]


@pytest.mark.parametrize("ids", [["a", "b", "a"], [1, 2, 1]])
def test_an_id_that_stands_twice_is_refused(ids):
    with pytest.raises(ValueError, match="an item id stands for two items"):
        ItemIds(pl.Series(ids))
    with pytest.raises(ValueError, match="an item id stands for two items"):
        ItemIds(pl.Series(ids[:2])).extended(pl.Series(ids))


def test_a_catalogue_without_items_knows_none():
    assert ItemIds(pl.Series([], dtype=pl.String)).positions(["a"]).tolist() == [-1]
