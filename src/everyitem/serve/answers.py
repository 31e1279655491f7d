"""Bodies to answers: what a request means for one version of a model. Runs on the batcher's thread; knows no HTTP."""

import time
from typing import Any, NamedTuple

import numpy as np

from everyitem.recommender import Explanation
from everyitem.serve.bodies import MAX_EXPLAINED, Explain, Found, Rank, Recommend, Similar
from everyitem.serve.metrics import COST_SECONDS, SCANNED, STAGE_SECONDS
from everyitem.serve.version import Hit, Search, Version
from everyitem.types import Histories

Body = Recommend | Found | Similar | Rank | Explain
NEVER = float("inf")


class Unknown(LookupError):
    """The item that is asked for is not in the catalogue."""


class Asked(NamedTuple):
    """A body, the version that shall answer it, and what else has to be known."""

    version: Version
    body: Body
    history: list[Any]
    """Item ids: those of the body, or of the user's stored events."""
    entered: float
    """When it was queued, on the clock of `time.monotonic`."""
    deadline: float
    """Of the search, on the same clock."""


def answers(asked: list[Asked]) -> list[dict[str, Any] | Exception]:
    """An answer or a refusal for each, all parts of it from its own version."""
    start = time.monotonic()
    for one in asked:
        STAGE_SECONDS.labels("queue").observe(start - one.entered)
    out: list[dict[str, Any] | Exception] = [Unknown()] * len(asked)
    for version in dict.fromkeys(one.version for one in asked):
        prepared: dict[int, tuple[Search, int]] = {}
        for number, one in enumerate(asked):
            if one.version is version:
                try:
                    if isinstance(one.body, Explain):
                        out[number] = _explained(one)
                    else:
                        prepared[number] = search_of(one)
                except (ValueError, Unknown) as error:
                    out[number] = error
        with STAGE_SECONDS.labels("model").time():
            hits = version.search([search for search, _ in prepared.values()])
        for (number, (_, unknown)), hit in zip(prepared.items(), hits, strict=True):
            try:
                out[number] = _answer(asked[number], hit, unknown)
            except ValueError as error:
                out[number] = error
    return out


def search_of(one: Asked) -> tuple[Search, int]:
    """What to look for, and how many events of the history are unknown."""
    version, body = one.version, one.body
    find, num_items = version.recommender.positions, version.index.num_items
    if isinstance(body, Similar):
        item = known(version, body.item_id)
        exclude = np.append(_known(find(body.exclude)), np.int32(item))
        allow = version.allowed(body.where, None)
        return Search(exclude[:0], item, min(body.k, num_items), allow, exclude, one.deadline), 0
    events = find(one.history)
    history = _known(events)
    unknown = len(events) - len(history)
    if isinstance(body, Rank):
        allow = version.allowed(None, body.items)
        return Search(history, -1, min(len(body.items), num_items), allow, history[:0], one.deadline), unknown
    assert isinstance(body, Recommend)
    exclude = _known(find(body.exclude))
    if body.exclude_seen:
        exclude = np.append(exclude, history)
    allow = version.allowed(body.where, body.include)
    return Search(history, -1, min(body.k, num_items), allow, exclude, one.deadline), unknown


def _answer(one: Asked, hit: Hit, unknown: int) -> dict[str, Any]:
    version, body, top = one.version, one.body, hit.top
    assert not isinstance(body, Explain)
    found = top.items[0] >= 0
    positions, scores = top.items[0][found], top.scores[0][found].tolist()
    items = [
        {"item_id": item_id, "score": score, "rank": rank}
        for rank, (item_id, score) in enumerate(zip(version.ids(positions), scores, strict=True), 1)
    ]
    if body.return_fields:
        for item, fields in zip(items, version.fields(positions, body.return_fields), strict=True):
            item["fields"] = fields
    bound, last = float(top.bound[0]), float(top.scores[0, -1])
    exact = bound <= last
    num_items = version.index.num_items
    _observe(hit, num_items)
    answer: dict[str, Any] = {
        "model_version": version.name,
        "items": items,
        "exact": exact,
        "eligible": len(items) if exact and not found.all() else None,
        "certificate": {
            "bound": _finite(bound),
            "threshold": _finite(last),
            "scanned": min(int(top.scored[0]), num_items),  # remembered items may be scored twice
            "catalogue": num_items,
        },
        "cost": {"predicted_us": hit.predicted_us, "predicted_items": hit.looked_at, "actual_us": hit.actual_us},
    }
    if isinstance(body, Similar):
        return answer | {"unknown_items": 0, "fallback": None}
    fallback = None if len(hit.query) else "popularity"
    if isinstance(body, Found):
        return answer | {"unknown_items": unknown, "fallback": fallback} | _picture(version, hit, positions, items)
    if isinstance(body, Rank):
        there = {item["item_id"] for item in items}
        answer["missing"] = [item_id for item_id in dict.fromkeys(body.items) if item_id not in there]
    elif body.explain and not fallback:
        rows = Histories.from_lists([_known(version.recommender.positions(one.history))])
        for item, position in list(zip(items, positions.tolist(), strict=True))[:MAX_EXPLAINED]:
            item["why"] = why(version.recommender.explained(hit.query, rows, position))
    return answer | {"unknown_items": unknown, "fallback": fallback}


def _observe(hit: Hit, num_items: int) -> None:
    if not len(hit.query):
        return
    SCANNED.observe(float(hit.top.scored[0]) / max(1, num_items))
    COST_SECONDS.labels("actual").observe(hit.actual_us / 1e6)
    if hit.predicted_us is not None:
        COST_SECONDS.labels("predicted").observe(hit.predicted_us / 1e6)


def _picture(version: Version, hit: Hit, positions: Any, items: list[dict[str, Any]]) -> dict[str, Any]:
    """Where the sub-items of the answer stand among all of their split."""
    index = version.index
    if not len(hit.query) or not hasattr(index, "score_table"):
        return {"splits": [], "looked_at": hit.looked_at, "items": [item | {"sub_items": []} for item in items]}
    table_MB = index.score_table(hit.query)[0]
    place_MB = np.argsort(np.argsort(-table_MB, axis=1, kind="stable"), axis=1, kind="stable")
    codes_KM = index.codes_IM[positions]
    pictured = []
    for item, code_M in zip(items, codes_KM.tolist(), strict=True):
        rows = [
            {"split": m, "sub_item": b, "score": float(table_MB[m, b]), "place": int(place_MB[m, b])}
            for m, b in enumerate(code_M)
        ]
        pictured.append(item | {"sub_items": rows})
    splits = [{"split": m, "scores": np.sort(row)[::-1].tolist()} for m, row in enumerate(table_MB)]
    return {"splits": splits, "looked_at": hit.looked_at, "items": pictured}


def _explained(one: Asked) -> dict[str, Any]:
    body = one.body
    assert isinstance(body, Explain)
    known(one.version, body.item_id)
    explanation = one.version.recommender.explain(one.history, body.item_id)
    return {"model_version": one.version.name, "item_id": body.item_id} | why(explanation)


def why(explanation: Explanation) -> dict[str, Any]:
    """An explanation as JSON has it."""
    return {
        "score": explanation.score,
        "splits": explanation.splits.to_dicts(),
        "history": explanation.history.head(10).to_dicts(),
    }


def known(version: Version, item_id: Any) -> int:
    """The position of an item; raises `Unknown`."""
    position = int(version.recommender.positions([item_id])[0])
    if position < 0:
        raise Unknown(f"item {item_id!r} is not in the catalogue of this model")
    return position


def _known(positions: Any) -> Any:
    return positions[positions >= 0]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
