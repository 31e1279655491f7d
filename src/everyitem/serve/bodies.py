"""What goes over the wire: strict pydantic bodies with their caps and examples. Knows no model and no routes.

Strict means: no bool for an int, no text for a number, no unknown key, no NaN. Caps stand here and
in `guard.py` (bytes).
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

MAX_K = 1000
MAX_HISTORY = 1000
MAX_ITEMS = 1000
"""Ids in a list of candidates, of items to exclude, of items to change; events in a call."""
MAX_ID = 128
MAX_WHERE = 1000
MAX_EXPLAINED = 50
MAX_DEADLINE_MS = 30_000
MAX_FIELDS = 64

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
ItemId = Integer | Text
UserId = Integer | Text
ItemIds = Annotated[list[ItemId], Field(max_length=MAX_ITEMS)]
Value = Annotated[str, StringConstraints(max_length=10_000)] | Integer | float | bool | None

HISTORY: list[JsonValue] = ["item-003", "item-017"]


class Body(BaseModel):
    """Every request body."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Who(Body):
    """Whose next items: a user of the history store, or a history that comes along."""

    user_id: UserId | None = Field(default=None, description="A user whose events were sent to /v1/events.")
    history: Annotated[list[ItemId], Field(max_length=MAX_HISTORY)] | None = Field(
        default=None, description="Item ids, oldest first, instead of user_id; may be empty.", examples=[HISTORY]
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.user_id is None) == (self.history is None):
            raise ValueError("give either user_id or history, and not both")
        return self


class Recommend(Who):
    """The k best items, exactly."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": HISTORY, "k": 5, "where": "price < 50 and in_stock"}]}
    )
    k: int = Field(default=10, ge=1, le=MAX_K)
    where: Annotated[str, StringConstraints(max_length=MAX_WHERE)] | None = Field(
        default=None, description="SQL condition on the item attributes, e.g. price < 50 and in_stock."
    )
    include: ItemIds | None = Field(default=None, description="Only these items are eligible.")
    exclude: ItemIds = Field(default=[], description="These items are not.")
    exclude_seen: bool = Field(default=True, description="Leave out what the history holds.")
    deadline_ms: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE_MS,
        description="Milliseconds until an answer is worth nothing. A search that is cut short returns the best so far "
        "and says exact: false; bound still holds. Without it every answer is exact.",
    )
    explain: bool = Field(default=False, description=f"Say why, for the first {MAX_EXPLAINED} items.")
    return_fields: Annotated[list[Text], Field(max_length=MAX_FIELDS)] = Field(
        default=[], description='Attributes to return with every item; ["*"] for all.'
    )


class Found(Recommend):
    """The same question, answered with how the answer was found."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": HISTORY, "k": 5}]})
    k: int = Field(default=10, ge=1, le=MAX_EXPLAINED)


class Similar(Body):
    """The items whose vectors have the largest inner product with this one's."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_id": "item-003", "k": 5}]})
    item_id: ItemId
    k: int = Field(default=10, ge=1, le=MAX_K)
    where: Annotated[str, StringConstraints(max_length=MAX_WHERE)] | None = None
    exclude: ItemIds = []
    return_fields: Annotated[list[Text], Field(max_length=MAX_FIELDS)] = []


class Rank(Who):
    """Candidates of another system, in our order with our scores."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": HISTORY, "items": ["item-250", "item-009"]}]})
    items: Annotated[list[ItemId], Field(min_length=1, max_length=MAX_ITEMS)]
    return_fields: Annotated[list[Text], Field(max_length=MAX_FIELDS)] = []


class Explain(Who):
    """Why an item has its score."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": HISTORY, "item_id": "item-250"}]})
    item_id: ItemId


class Event(Body):
    """A user met an item."""

    user_id: UserId
    item_id: ItemId


class Events(Body):
    """Events to append, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [{"user_id": "u1", "item_id": "item-003"}]}]})
    events: Annotated[list[Event], Field(min_length=1, max_length=MAX_ITEMS)]


class Item(Body):
    """A new item, or new attributes of one that is there."""

    item_id: ItemId
    fields: dict[Text, Value] = Field(
        default={}, max_length=MAX_FIELDS, description="Attributes; a new item has null elsewhere."
    )
    like: Annotated[list[ItemId], Field(max_length=100)] = Field(
        default=[], description="For a new item: known items among which it is placed, at least one."
    )


class Items(Body):
    """Changes of the catalogue, all or none."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "upsert": [{"item_id": "item-new", "fields": {"title": "New"}, "like": ["item-003"]}],
                    "delete": ["item-009"],
                }
            ]
        }
    )
    upsert: Annotated[list[Item], Field(max_length=MAX_ITEMS)] = []
    delete: ItemIds = []

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.upsert and not self.delete:
            raise ValueError("give upsert or delete")
        return self


class Answer(BaseModel):
    """What every answer of the model carries."""

    request_id: str = Field(description="Also in the header X-Request-ID, and in the server's log.")
    model_version: str = Field(description="The version that the whole answer comes from.")
    took_ms: float


class Split(BaseModel):
    """What one sub-item adds to a score; the last row, without a split, is the memory's share where there is one."""

    split: int | None
    sub_item: int | None
    score: float


class Near(BaseModel):
    """An item of the history and its cosine with the explained item."""

    item_id: ItemId
    similarity: float


class Why(BaseModel):
    """Shares that add up to the score, and the nearest items of the history."""

    score: float
    splits: list[Split]
    history: list[Near]


class Scored(BaseModel):
    """An item of an answer."""

    item_id: ItemId
    score: float
    rank: int
    fields: dict[str, Any] | None = None
    why: Why | None = None


class Certificate(BaseModel):
    """What proves that nothing better exists."""

    bound: float | None = Field(
        description="No eligible item outside the answer scores more; null: none is left outside."
    )
    threshold: float | None = Field(description="The score of the k-th item; null: there are fewer.")
    scanned: int = Field(description="Items whose full score was computed.")
    catalogue: int = Field(description="Items of the catalogue.")


class Cost(BaseModel):
    """Of the search; null where nothing was predicted."""

    predicted_us: float | None
    predicted_items: int | None = Field(description="Items in blocks whose bounds reach a first threshold.")
    actual_us: float


class Recommended(Answer):
    """Items, best first, with the proof that they are the best."""

    items: list[Scored]
    exact: bool = Field(description="False only where deadline_ms cut the search short.")
    eligible: int | None = Field(description="How many items are eligible, where they are fewer than k.")
    certificate: Certificate
    cost: Cost
    unknown_items: int = Field(description="Events of the history that the catalogue does not have; they were skipped.")
    fallback: str | None = Field(description='"popularity" where no event of the history is known.')


class Ranked(Recommended):
    """The candidates, best first."""

    missing: list[ItemId] = Field(description="Candidates that the catalogue does not have, or no longer.")


class Explained(Answer, Why):
    """Why an item has its score."""

    item_id: ItemId


class SplitPicture(BaseModel):
    """The scores of one split's sub-items."""

    split: int
    scores: list[float] = Field(description="Of all sub-items, best first.")


class FoundItem(Scored):
    """An item and where its sub-items stand among those of their splits."""

    sub_items: list[dict[str, Any]] = Field(description="split, sub_item, score, place (0: the best of its split).")


class Pruned(BaseModel):
    """Eligible items by the score that their bytes allow; those that a memory raises are not among them."""

    ceiling: float = Field(description="No item can score more.")
    threshold: float | None = Field(
        description="Score of the last item of the answer; null: fewer are eligible than k."
    )
    step: float = Field(description="The score that a bar stands for.")
    remembered: int = Field(description="Eligible items that a memory raises.")
    bars: list[int] = Field(description="Items whose bound is less than 1, 2, 3, ... steps below the ceiling.")
    passing: int = Field(description="So many bars, the first ones, hold the items that could reach the threshold.")


class FoundAnswer(Answer):
    """How an answer was found: what the sub-items score, what bounds left to look at, what was scored in full."""

    items: list[FoundItem]
    exact: bool
    certificate: Certificate
    cost: Cost
    splits: list[SplitPicture] = Field(description="Empty for a model without sub-items.")
    looked_at: int | None = Field(description="Items in blocks that the bounds could not rule out.")
    pruned: Pruned | None = Field(description="Null without history, for a model without sub-items, or with too many.")


class Stored(Answer):
    """Events that are stored: they survive a crash of the server."""

    stored: int
    unknown_items: int = Field(description="Of these, events with items that the catalogue does not have (yet).")


class Changed(Answer):
    """The catalogue has changed: model_version is the first version with the change."""

    added: int
    updated: int
    deleted: int
    catalogue: int


class User(Answer):
    """What is stored about a user."""

    user_id: str
    history: list[ItemId]


class Erased(Answer):
    """Nothing is stored about a user any more."""

    user_id: str
    erased: int = Field(description="Events that were erased.")


class Listed(BaseModel):
    """An item of the catalogue."""

    item_id: ItemId
    fields: dict[str, Any]


class Column(BaseModel):
    """An attribute: its type, the range of numbers, and the values of a text that has few."""

    type: str
    least: float | None = None
    most: float | None = None
    values: list[str] | None = None


class Catalogue(Answer):
    """Items whose titles (or ids) contain every word, the most popular first."""

    items: list[Listed]
    matches: int
    columns: dict[str, Column] = Field(description="Attributes, for `where` and `return_fields`.")


class Ready(BaseModel):
    """Whether requests should be sent here."""

    ready: bool
    model_version: str
    problem: str | None


class Reloaded(Answer):
    """What this worker serves after looking at the model folder; the others look at the same moment."""

    problem: str | None = Field(description="Why the version in the folder is not served, if it is not.")


class Problem(BaseModel):
    """What went wrong: got, allowed, remedy."""

    error: str
    request_id: str
