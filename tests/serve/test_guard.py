"""Who is let in, what is refused at the door, what the log says."""

import json
import logging

import pytest

KEY, ADMIN_KEY = "k" * 32, "a" * 32
ASK = {"history": ["item-003"], "k": 1}
CHANGE = {"upsert": [{"item_id": "item-003", "fields": {"price": 2.5}}]}


@pytest.fixture(scope="module")
def folder(tiny_models):
    return tiny_models["pq"]


@pytest.fixture(scope="module")
def client(served, folder):
    """Of a server without keys; not to be changed."""
    return served(folder)


def status(client, method, path, **options):
    response = client.request(method, path, **options)
    if response.status_code >= 400 and response.status_code != 413:
        assert set(response.json()) == {"error", "request_id"}
        assert response.json()["request_id"] == response.headers["x-request-id"]
    return response.status_code


@pytest.mark.parametrize("header", [{"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}, {"x-api-key": ADMIN_KEY}])
def test_a_key_opens_what_reads(served, folder, header):
    client = served(folder, api_key=KEY, admin_key=ADMIN_KEY)
    assert status(client, "POST", "/v1/recommend", json=ASK, headers=header) == 200
    assert status(client, "GET", "/metrics", headers=header) == 200
    for wrong in ({}, {"x-api-key": KEY[:-1]}, {"x-api-key": ""}, {"authorization": KEY + "x"}, {"x-api-key": "ü"}):
        wrong = {name: value.encode() for name, value in wrong.items()}
        for method, path in (
            ("POST", "/v1/recommend"),
            ("GET", "/metrics"),
            ("GET", "/openapi.json"),
            ("GET", "/nope"),
        ):
            assert status(client, method, path, headers=wrong) == 401
    assert status(client, "GET", "/livez") == status(client, "GET", "/readyz") == 200


def test_changes_need_the_key_for_them(served, copied):
    both = served(copied(), api_key=KEY, admin_key=ADMIN_KEY)
    for key, expected in ((KEY, 401), (ADMIN_KEY, 200)):
        assert status(both, "POST", "/v1/items", json=CHANGE, headers={"x-api-key": key}) == expected
        assert status(both, "POST", "/v1/admin/reload", headers={"x-api-key": key}) == expected


def test_without_a_key_for_them_changes_are_closed_where_there_is_a_key(served, folder):
    client = served(folder, api_key=KEY)
    assert status(client, "POST", "/v1/items", json=CHANGE, headers={"x-api-key": KEY}) == 403
    assert status(served(folder), "POST", "/v1/admin/reload") == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil:80", "", "localhost:80:90"])
def test_another_name_of_this_machine_is_refused(client, host):
    assert status(client, "GET", "/livez", headers={"host": host}) == 421
    assert status(client, "POST", "/v1/recommend", json=ASK, headers={"host": host}) == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"])
def test_its_own_names_are_not(client, host):
    assert status(client, "GET", "/livez", headers={"host": host}) == 200


def test_pages_of_other_sites_are_refused(client):
    for origin, expected in (("http://evil.example", 403), ("null", 403), ("http://localhost", 200)):
        assert status(client, "POST", "/v1/recommend", json=ASK, headers={"origin": origin}) == expected


def test_a_body_without_the_type_of_json_is_refused(client):
    for kind in ({}, {"content-type": "text/plain"}):
        assert status(client, "POST", "/v1/recommend", content=json.dumps(ASK), headers=kind) == 422


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_and_headers_are_refused(client, chunked):
    body = b"[" + b"1," * (140 << 10) + b"1]"
    content = iter([body[: 1 << 17], body[1 << 17 :]]) if chunked else body
    headers = {"content-type": "application/json"}
    assert status(client, "POST", "/v1/recommend", content=content, headers=headers) == 413
    assert status(client, "GET", "/livez", headers={"x-long": "x" * (17 << 10)}) == 431


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("recommend", ASK | {"k": 1001}),
        ("recommend", ASK | {"k": True}),
        ("recommend", ASK | {"k": 1.0}),
        ("recommend", ASK | {"k": "1"}),
        ("recommend", {"history": ["item-003"] * 1001}),
        ("recommend", {"history": ["x" * 129]}),
        ("recommend", {"history": [3]}),
        ("recommend", {"history": [2**63]}),
        ("recommend", {"history": [None]}),
        ("recommend", {"history": ["\ud800"]}),
        ("recommend", {}),
        ("recommend", ASK | {"user_id": "u"}),
        ("recommend", ASK | {"nope": 1}),
        ("recommend", ASK | {"deadline_ms": 30001}),
        ("recommend", ASK | {"where": "x" * 1001}),
        ("recommend", ASK | {"where": "nope = 1"}),
        ("recommend", ASK | {"where": "price in (select 1)"}),
        ("recommend", ASK | {"return_fields": ["nope"]}),
        ("similar", {"item_id": ""}),
        ("rank", {"history": [], "items": []}),
        ("events", {"events": []}),
        ("events", {"events": [{"user_id": "u", "item_id": 3}]}),
        ("items", {}),
        ("items", {"upsert": [{"item_id": "item-003", "fields": {"nope": 1}}]}),
        ("items", {"upsert": [{"item_id": "item-003", "fields": {"price": "cheap"}}]}),
        ("items", {"upsert": [{"item_id": "brand-new", "like": ["nope"]}]}),
        ("items", {"upsert": [{"item_id": "item-003"}] * 2}),
        ("items", {"delete": ["nope"]}),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(client, route, body):
    response = client.post(f"/v1/{route}", content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert 5 < len(response.json()["error"]) < 500
    assert "Traceback" not in response.text


@pytest.mark.parametrize("body", ['{"k":', "", '{"history": [], "k": NaN}', "[" * 100_000, '{"history": [1e999]}'])
def test_what_is_not_json_is_refused(client, body):
    response = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)


def test_answers_carry_what_a_browser_must_know(client):
    headers = client.get("/livez").headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_the_log_says_what_happened_without_histories_or_user_ids(client, caplog):
    with caplog.at_level(logging.INFO):
        client.post("/v1/events", json={"events": [{"user_id": "somebody", "item_id": "item-017"}]})
        answer = client.post(
            "/v1/recommend", json={"user_id": "somebody", "k": 1}, headers={"x-request-id": "r-1"}
        ).json()
        client.get("/v1/users/somebody")
    lines = [record.fields for record in caplog.records if record.name == "everyitem.access"]
    assert "somebody" not in str(lines)
    assert "item-" not in str(lines)
    assert lines[1] == {
        **{"request_id": "r-1", "method": "POST", "route": "/v1/recommend", "status": 200, "ms": lines[1]["ms"]},
        **{"model_version": answer["model_version"], "user": lines[2]["user"]},
    }
    assert lines[2]["route"] == "/v1/users/{user_id}"
    assert len(lines[1]["user"]) == 16


def test_metrics_count_what_happened(client):
    before = client.get("/metrics").text
    client.post("/v1/recommend", json=ASK)
    client.get("/livez", headers={"host": "evil"})
    after = client.get("/metrics").text

    def value(text, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    for name in (
        'everyitem_requests_total{route="/v1/recommend",status="200"}',
        'everyitem_request_seconds_count{route="/v1/recommend"}',
        'everyitem_stage_seconds_count{stage="queue"}',
        'everyitem_stage_seconds_count{stage="model"}',
        "everyitem_scanned_share_count",
        'everyitem_search_seconds_count{kind="predicted"}',
        'everyitem_search_seconds_count{kind="actual"}',
        'everyitem_refused_total{reason="host"}',
    ):
        assert value(after, name) == value(before, name) + 1, name
    assert value(after, "everyitem_serving{") >= 1


def test_overload_is_refused_unread_and_says_when_to_come_back(client, monkeypatch):
    service = client.app.state.service
    monkeypatch.setattr(service._model, "overdue", lambda: 2.4)
    response = client.post("/v1/recommend", content=b"not even JSON")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"
    assert "try again later" in response.json()["error"]
    refused_later = client.post("/v1/explain", json={"history": ["item-003"], "item_id": "item-017"})
    assert refused_later.status_code == 503
    assert refused_later.headers["retry-after"] == "3"
    assert client.get("/readyz").status_code == 200


def test_who_cannot_wait_is_told_so(client):
    response = client.post("/v1/recommend", json=ASK | {"deadline_ms": 0.0001})
    assert response.status_code == 504
    assert "deadline" in response.json()["error"]


def test_a_store_that_is_down_is_said_to_be(served, folder, monkeypatch):
    client = served(folder)
    client.app.state.service.history.close()
    for response in (
        client.post("/v1/recommend", json={"user_id": "u"}),
        client.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "item-003"}]}),
        client.get("/v1/users/u"),
        client.delete("/v1/users/u"),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "history store" in response.json()["error"]
    assert status(client, "POST", "/v1/recommend", json=ASK) == 200
