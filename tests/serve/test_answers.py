"""What the routes answer, held against the recommender that a caller of the library would use."""

import numpy as np
import pytest

from everyitem.recommender import load

HISTORY = ["item-003", "item-017", "item-250"]


@pytest.fixture(scope="module", params=["pq", "dense", "two-level"])
def both(request, tiny_models, served):
    """A client and the recommender behind it."""
    return served(tiny_models[request.param]), load(tiny_models[request.param])


def asked(client, route, **body):
    response = client.post(f"/v1/{route}", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


@pytest.mark.parametrize(
    "options",
    [{}, {"k": 400}, {"where": "price < 30 and in_stock"}, {"exclude_seen": False}, {"exclude": ["item-116", "nope"]}],
)
@pytest.mark.parametrize("history", [HISTORY, [], ["nope"]])
def test_recommend_is_what_the_library_recommends(both, history, options):
    client, recommender = both
    answer = asked(client, "recommend", history=history, **options)
    expected = recommender.answer(
        [history], options.get("k", 10), **{n: v for n, v in options.items() if n != "k"}
    ).frame
    assert ids(answer) == expected["item_id"].to_list()
    assert [np.float32(item["score"]) for item in answer["items"]] == expected["score"].to_list()
    assert [item["rank"] for item in answer["items"]] == expected["rank"].to_list()
    assert answer["exact"]
    assert answer["eligible"] == (None if len(expected) == options.get("k", 10) else len(expected))
    assert answer["unknown_items"] == history.count("nope")
    assert answer["fallback"] == (None if history == HISTORY else "popularity")
    assert answer["certificate"]["catalogue"] == 400


def test_the_certificate_holds_for_everything_outside(both):
    client, _ = both
    everything = asked(client, "recommend", history=HISTORY, k=1000)["items"]
    best = asked(client, "recommend", history=HISTORY, k=5)
    assert best["items"] == everything[:5]
    certificate = best["certificate"]
    assert everything[5]["score"] <= certificate["bound"] <= certificate["threshold"] == everything[4]["score"]
    assert 0 < certificate["scanned"] <= 400


def test_include_and_exclude_narrow_the_answer(both):
    client, _ = both
    everything = ids(asked(client, "recommend", history=HISTORY, k=1000))
    some = [*everything[7:60:4], "nope"]
    answer = asked(client, "recommend", history=HISTORY, k=50, include=some, exclude=some[:2], where="price > 0")
    assert ids(answer) == some[2:-1]
    assert answer["eligible"] == len(some) - 3
    assert asked(client, "recommend", history=HISTORY, include=[])["items"] == []


def test_rank_gives_candidates_the_scores_that_they_have_among_all(both):
    client, _ = both
    everything = {item["item_id"]: item for item in asked(client, "recommend", history=HISTORY, k=1000)["items"]}
    candidates = ["item-399", "nope", "item-001", "item-100", "item-001"]
    answer = asked(client, "rank", history=HISTORY, items=candidates)
    expected = sorted((everything[name] for name in {*candidates} - {"nope"}), key=lambda item: item["rank"])
    assert ids(answer) == [item["item_id"] for item in expected]
    assert [item["score"] for item in answer["items"]] == [item["score"] for item in expected]
    assert answer["missing"] == ["nope"]


def test_similar_is_what_the_library_finds(both):
    client, recommender = both
    answer = asked(client, "similar", item_id="item-042", k=7)
    assert ids(answer) == recommender.similar_items("item-042", 7)["item_id"].to_list()
    filtered = asked(client, "similar", item_id="item-042", k=400, where="in_stock", exclude=["item-001"])
    in_stock = set(recommender.items.filter("in_stock")["item_id"]) - {"item-001"}
    everything = recommender.similar_items("item-042", 400)["item_id"]
    assert ids(filtered) == [item_id for item_id in everything if item_id in in_stock]
