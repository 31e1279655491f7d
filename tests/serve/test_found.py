"""What /v1/found tells of a search, held against every score; what /v1/catalogue tells of the columns."""

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from everyitem.data.catalogue import FEW_VALUES, described
from everyitem.index.pq import PQIndex
from everyitem.recommender import load
from everyitem.serve.found import pruned
from everyitem.serve.version import Search
from everyitem.types import Histories

HISTORY = ["item-003", "item-017", "item-250"]


def found(client, **body):
    response = client.post("/v1/found", json={"history": HISTORY} | body)
    assert response.status_code == 200, response.text
    return response.json()


def plain_scores(recommender):
    """(I,) scores by vectors alone, and the positions that the memory raises."""
    rows = Histories.from_lists([recommender.positions(HISTORY)])
    every = np.arange(len(recommender.items))[None]
    return recommender.index.scores(recommender.encode(rows), every)[0], recommender.memory.remembered(rows)[0][0]


@pytest.mark.parametrize("options", [{}, {"k": 3, "where": "price < 30 and in_stock"}, {"exclude_seen": False}])
def test_every_eligible_item_stands_in_a_bar_that_is_not_below_its_score(tiny_models, served, options):
    recommender = load(tiny_models["pq"])
    told = found(served(tiny_models["pq"]), **options)["pruned"]
    scores_I, remembered = plain_scores(recommender)
    eligible_I = recommender.matching(options["where"]) if "where" in options else np.ones(400, bool)
    if options.get("exclude_seen", True):
        eligible_I[recommender.positions(HISTORY)] = False
    assert told["remembered"] == eligible_I[remembered].sum()
    eligible_I[remembered] = False
    assert sum(told["bars"]) == eligible_I.sum()
    assert told["threshold"] == np.sort(scores_I[eligible_I])[-options.get("k", 10)]
    for bar in range(len(told["bars"])):
        top_of_the_next = told["ceiling"] - told["step"] * (bar + 1) * (1 - 1e-6)
        assert sum(told["bars"][: bar + 1]) >= (scores_I[eligible_I] > top_of_the_next).sum()
    assert sum(told["bars"][: told["passing"]]) >= (scores_I[eligible_I] >= told["threshold"]).sum()
    assert sum(told["bars"][: told["passing"]]) < eligible_I.sum()


def test_items_far_below_the_threshold_stand_in_the_last_bar():
    """The best item has the best sub-item of every split, so the gap that a step stands for is all but nothing."""
    rng = np.random.default_rng(0)
    codebooks_MBd = rng.standard_normal((4, 8, 2)).astype(np.float32)
    query_UD = rng.standard_normal((1, 8)).astype(np.float32)
    codes_IM = rng.integers(0, 7, (500, 4), dtype=np.uint8)
    codes_IM[123] = PQIndex(codes_IM, codebooks_MBd).score_table(query_UD)[0].argmax(axis=1)
    recommender = SimpleNamespace(memory=None, encode=lambda rows: query_UD)
    version = SimpleNamespace(index=PQIndex(codes_IM, codebooks_MBd), recommender=recommender)
    nothing = np.empty(0, np.int32)
    told = pruned(version, Search(np.zeros(1, np.int32), -1, 1, None, nothing, float("inf")))
    same = int((codes_IM == codes_IM[123]).all(axis=1).sum())
    assert sum(told["bars"]) == 500
    assert sum(told["bars"][: told["passing"]]) == same
    assert told["bars"][-1] == 500 - same


def test_where_fewer_are_eligible_nothing_is_left_out(tiny_models, served):
    told = found(served(tiny_models["pq"]), k=50, where="item_id < 'item-030'")["pruned"]
    assert told["threshold"] is None
    assert len(told["bars"]) <= told["passing"]


def test_nothing_is_told_where_nothing_was_pruned(tiny_models, served):
    assert found(served(tiny_models["dense"]))["pruned"] is None
    assert found(served(tiny_models["pq"]), history=[])["pruned"] is None


def test_removed_items_are_in_no_bar(copied, served):
    client = served(copied())
    before = found(client)["pruned"]
    gone = [item["item_id"] for item in found(client)["items"] if item["item_id"] not in HISTORY]
    client.post("/v1/items", json={"delete": gone})
    after = found(client)["pruned"]
    total = sum(before["bars"]) + before["remembered"]
    assert sum(after["bars"]) + after["remembered"] == total - len(gone)


def test_columns_are_described_by_what_can_be_asked_of_them():
    few = [None, *(f"v{n:02}" for n in range(FEW_VALUES))]
    items = pl.DataFrame(
        {
            "item_id": [f"i{n}" for n in range(len(few))],
            "category": few,
            "price": [None, np.nan, np.inf, *(float(n) for n in range(len(few) - 3))],
            "in_stock": [True] * len(few),
            "nothing": pl.Series([None] * len(few), dtype=pl.Float64),
        }
    )
    assert described(items) == {
        "item_id": {"type": "String"},
        "category": {"type": "String", "values": few[1:]},
        "price": {"type": "Float64", "least": 0.0, "most": len(few) - 4.0},
        "in_stock": {"type": "Boolean"},
        "nothing": {"type": "Float64", "least": None, "most": None},
    }
