"""Routes of Amazon Personalize and Gorse give what our own routes give."""

import pytest

HISTORY = ["item-003", "item-017"]


@pytest.fixture(scope="module")
def client(served, tiny_models):
    client = served(tiny_models["pq"])
    feedback = [{"FeedbackType": "click", "UserId": "u", "ItemId": item, "Timestamp": "2026-01-01"} for item in HISTORY]
    assert client.post("/api/feedback", json=feedback).json() == {"RowAffected": 2}
    return client


def ours(client, route, **body):
    return [(item["item_id"], item["score"]) for item in client.post(f"/v1/{route}", json=body).json()["items"]]


def test_personalize_recommends_for_a_user_or_like_an_item(client):
    for asked, expected in (
        ({"userId": "u"}, ours(client, "recommend", user_id="u", k=25)),
        ({"userId": "u", "numResults": 3}, ours(client, "recommend", user_id="u", k=3)),
        ({"itemId": "item-042", "userId": "u"}, ours(client, "similar", item_id="item-042", k=25)),
    ):
        answer = client.post("/recommendations", json={"campaignArn": "arn:aws:x"} | asked)
        assert [(item["itemId"], item["score"]) for item in answer.json()["itemList"]] == expected
        assert answer.json()["recommendationId"] == answer.headers["x-request-id"]


def test_personalize_ranks(client):
    candidates = ["item-042", "nope", "item-001"]
    answer = client.post("/personalize-ranking", json={"userId": "u", "inputList": candidates}).json()
    expected = ours(client, "rank", user_id="u", items=candidates)
    *known, unknown = answer["personalizedRanking"]
    assert [(item["itemId"], item["score"]) for item in known] == expected
    assert unknown == {"itemId": "nope"}


@pytest.mark.parametrize("asked", [{}, {"userId": "u", "filterArn": "arn"}, {"userId": "u", "numResults": 501}])
def test_what_personalize_can_and_we_cannot_is_refused(client, asked):
    assert client.post("/recommendations", json=asked).status_code == 422


def test_gorse_recommends(client):
    expected = ours(client, "recommend", user_id="u", k=5)
    assert client.get("/api/recommend/u?n=3&offset=2").json() == [item_id for item_id, _ in expected[2:]]
    scored = client.get("/api/recommend/u?n=5", headers={"X-API-Version": "2"}).json()
    assert [(item["Id"], item["Score"]) for item in scored] == expected
    session = [{"FeedbackType": "read", "ItemId": item} for item in HISTORY]
    found = client.post("/api/session/recommend?n=5", json=session).json()
    assert [(item["Id"], item["Score"]) for item in found] == expected
    near = client.get("/api/item/item-042/neighbors?n=4").json()
    assert [(item["Id"], item["Score"]) for item in near] == ours(client, "similar", item_id="item-042", k=4)
    assert client.get("/api/health/ready").json()["ready"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/api/recommend/u?category=shoes", 422), ("/api/recommend/u?n=1001", 422), ("/api/item/nope/neighbors", 404)],
)
def test_what_gorse_can_and_we_cannot_is_refused(client, path, expected):
    assert client.get(path).status_code == expected
