"""Requests drawn from our own OpenAPI: no status, body or type that it does not say, and no 500.

The long run is `benchmarks/http_fuzz.py`.
"""

from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

CASES = 2000


def test_the_server_keeps_to_its_schema(copied, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    from http_fuzz import fuzz

    statuses = fuzz(copied("pq"), CASES, seed_=0)
    assert sum(statuses.values()) > 0.8 * CASES
    for route in ("recommend", "similar", "rank", "explain", "found", "events", "items"):
        answered = {status for name, status in statuses if name == f"POST /v1/{route}"}
        assert {200, 422} <= answered, (route, statuses)
