"""Routes as Amazon Personalize and Gorse have them, so that a client can change its address and nothing else.

Ids are text there; here they become what the model's ids are. What these APIs can ask and this server cannot do is
refused, never ignored. Scores are ours: sums, not probabilities.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, Field

from everyitem.serve.bodies import (
    MAX_HISTORY,
    MAX_ID,
    MAX_ITEMS,
    MAX_K,
    Body,
    Event,
    Events,
    Rank,
    Recommend,
    Similar,
    Text,
)
from everyitem.serve.respond import GONE, as_json, service_of, unless_gone

router = APIRouter(tags=["compatible"])
Id = Annotated[str, Path(min_length=1, max_length=MAX_ID)]
Count = Annotated[int, Query(ge=1, le=MAX_K)]


class GetRecommendations(Body):
    """Personalize: for a user, or items like `itemId`."""

    campaignArn: str | None = Field(default=None, max_length=256, description="Taken and not looked at.")
    recommenderArn: str | None = Field(default=None, max_length=256, description="Taken and not looked at.")
    userId: Text | None = None
    itemId: Text | None = None
    numResults: int = Field(default=25, ge=1, le=500)


class GetPersonalizedRanking(Body):
    """Personalize: candidates in the user's order."""

    campaignArn: str | None = Field(default=None, max_length=256, description="Taken and not looked at.")
    userId: Text
    inputList: Annotated[list[Text], Field(min_length=1, max_length=500)]


class PersonalizeItem(BaseModel):
    """An item of a Personalize answer."""

    itemId: str
    score: float | None = None


class Recommendations(BaseModel):
    """Answer to GetRecommendations."""

    itemList: list[PersonalizeItem]
    recommendationId: str


class PersonalizedRanking(BaseModel):
    """Answer to GetPersonalizedRanking; unknown items come last and have no score."""

    personalizedRanking: list[PersonalizeItem]
    recommendationId: str


class Feedback(Body):
    """Gorse: a user met an item. Every type of feedback counts as an event, in the order given."""

    FeedbackType: Text
    UserId: Text
    ItemId: Text
    Timestamp: str | None = Field(default=None, max_length=64, description="Taken and not looked at.")
    Comment: str | None = Field(default=None, max_length=1000, description="Taken and not looked at.")


class SessionFeedback(Feedback):
    """Gorse: an event of a session; nobody has to be named."""

    UserId: Text | None = None  # type: ignore[assignment]


class GorseScore(BaseModel):
    """An item of a Gorse answer."""

    Id: str
    Score: float


class RowAffected(BaseModel):
    """How many events Gorse's client is told were stored."""

    RowAffected: int


@router.post("/recommendations", response_model=Recommendations)
async def get_recommendations(body: GetRecommendations, request: Request) -> Response:
    """Amazon Personalize, GetRecommendations: items like `itemId` if it is given, else for `userId`."""
    if body.itemId is not None:
        question: Any = Similar(item_id=_id(request, body.itemId), k=body.numResults)
    elif body.userId is not None:
        question = Recommend(user_id=body.userId, k=body.numResults)
    else:
        raise ValueError("give userId or itemId")
    return await _told(
        request, question, body.userId, lambda answer: {"itemList": _personalize(answer)} | _named(request)
    )


@router.post("/personalize-ranking", response_model=PersonalizedRanking)
async def get_personalized_ranking(body: GetPersonalizedRanking, request: Request) -> Response:
    """Amazon Personalize, GetPersonalizedRanking."""
    question = Rank(user_id=body.userId, items=[_id(request, item) for item in body.inputList])

    def told(answer: dict[str, Any]) -> dict[str, Any]:
        missing = [{"itemId": str(item)} for item in answer["missing"]]
        return {"personalizedRanking": _personalize(answer) + missing} | _named(request)

    return await _told(request, question, body.userId, told)


@router.get("/api/recommend/{user_id}", response_model=list[str] | list[GorseScore])
async def gorse_recommend(
    user_id: Id,
    request: Request,
    n: Count = 10,
    offset: Annotated[int, Query(ge=0, lt=MAX_K)] = 0,
    category: Annotated[str | None, Query(max_length=MAX_ID)] = None,
    write_back_type: Annotated[str | None, Query(alias="write-back-type", max_length=MAX_ID)] = None,
    version: Annotated[str | None, Header(alias="X-API-Version")] = None,
) -> Response:
    """Gorse: ids for a user; with the header `X-API-Version: 2` also scores."""
    if category or write_back_type:
        raise ValueError("category and write-back-type are not offered: use `where` of /v1/recommend, and /v1/events")
    question = Recommend(user_id=user_id, k=min(MAX_K, n + offset))

    def told(answer: dict[str, Any]) -> Any:
        items = _gorse(answer)[offset : offset + n]
        return items if version == "2" else [item["Id"] for item in items]

    return await _told(request, question, user_id, told)


@router.post("/api/session/recommend", response_model=list[GorseScore])
async def gorse_session(
    body: Annotated[list[SessionFeedback], Field(min_length=1, max_length=MAX_HISTORY)], request: Request, n: Count = 10
) -> Response:
    """Gorse: for the events that come along, oldest first."""
    history = [_id(request, event.ItemId) for event in body]
    return await _told(request, Recommend(history=history, k=n), None, _gorse)


@router.get("/api/item/{item_id}/neighbors", response_model=list[GorseScore])
async def gorse_neighbors(item_id: Id, request: Request, n: Count = 10) -> Response:
    """Gorse: items like this one."""
    return await _told(request, Similar(item_id=_id(request, item_id), k=n), None, _gorse)


@router.post("/api/feedback", response_model=RowAffected)
@router.put("/api/feedback", response_model=RowAffected)
async def gorse_feedback(
    body: Annotated[list[Feedback], Field(min_length=1, max_length=MAX_ITEMS)], request: Request
) -> Response:
    """Gorse: append events; once answered they survive a crash of the server."""
    events = [Event(user_id=event.UserId, item_id=_id(request, event.ItemId)) for event in body]
    content = await unless_gone(request, service_of(request).store(Events(events=events)))
    return Response(status_code=GONE) if content is None else as_json({"RowAffected": content["stored"]})


async def _told(request: Request, question: Any, user_id: str | None, told: Any) -> Response:
    content = await unless_gone(request, service_of(request).ask(question), user_id=user_id)
    return Response(status_code=GONE) if content is None else as_json(told(content))


def _id(request: Request, text: str) -> Any:
    """Text as an id of the model's kind."""
    (found,) = service_of(request).version.recommender.parse_ids([text]) or [""]
    return found


def _named(request: Request) -> dict[str, str]:
    return {"recommendationId": request.scope["everyitem"]["request_id"]}


def _personalize(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"itemId": str(item["item_id"]), "score": item["score"]} for item in answer["items"]]


def _gorse(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"Id": str(item["item_id"]), "Score": item["score"]} for item in answer["items"]]
