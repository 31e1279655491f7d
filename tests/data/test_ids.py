import numpy as np
import polars as pl
import pytest

from everyitem.data import ids as module
from everyitem.data.ids import ItemIds

TEXT = [f"item {n}" for n in range(300)]
NUMBERS = [7 * n - 900 for n in range(300)]


@pytest.mark.parametrize("kinds", [0, 1, 10])
@pytest.mark.parametrize("known", [TEXT, NUMBERS])
def test_positions_are_those_of_a_dictionary(known, kinds, monkeypatch):
    if kinds:  # under the first two seeds ids share hashes
        own = module.hashes_of
        monkeypatch.setattr(module, "hashes_of", lambda ids, seed: own(ids, seed) % (kinds if seed < 2 else 2**63))
    catalogue, asked = ItemIds(pl.Series(known[:250])), np.random.default_rng(0).permutation(known).tolist()
    place = {item_id: position for position, item_id in enumerate(known[:250])}
    assert catalogue.positions(asked).tolist() == [place.get(item_id, -1) for item_id in asked]
    assert catalogue.positions([known[3], None, known[3]]).tolist() == [3, -1, 3]


def test_a_catalogue_without_items_knows_none():
    assert ItemIds(pl.Series([], dtype=pl.String)).positions(["a"]).tolist() == [-1]
