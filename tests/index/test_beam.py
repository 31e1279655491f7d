"""The laws of `BeamIndex`: ids and score bits against exhaustive scoring, with language models full of ties.

Its query is a language model, not a matrix, so the laws of tests/test_laws.py are stated here once more. A beam that is
not exact may miss items; what it returns obeys the laws all the same.
"""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everyitem.index import BeamIndex, load_index, reference
from everyitem.index.files import check
from everyitem.index.prompts import FormulaPrompts, string_scores
from everyitem.types import TopK


class TablePrompts:
    """A language model whose every prefix has log-probabilities of its own, drawn from the prefix alone.

    The state is the list of prefixes written so far, row by row. Reads `batch` rows at a time.
    """

    def __init__(self, seed: int, rows: list[int], num_tokens: int, flavour: str, batch: int) -> None:
        self.seed, self.rows, self.num_tokens, self.flavour, self.batch = seed, rows, num_tokens, flavour, batch
        self.steps = 0

    def __len__(self) -> int:
        return len(self.rows)

    def read(self) -> Any:
        for rows in np.array_split(np.arange(len(self)), max(1, -(-len(self) // self.batch))):
            if len(rows):
                yield rows, np.stack([self.after(self.rows[row], ()) for row in rows]), (rows, [[] for _ in rows])

    def step(self, state: Any, parents_UN: Any, tokens_UN: Any) -> Any:
        self.steps += 1
        rows, prefixes = state
        out = np.empty((*tokens_UN.shape, self.num_tokens), np.float32)
        for row, written, parents, tokens, part in zip(rows, prefixes, parents_UN, tokens_UN, out, strict=True):
            new = [(*(written[p] if p >= 0 else ()), int(t)) for p, t in zip(parents, tokens, strict=True)]
            part[:] = [self.after(self.rows[row], prefix) for prefix in new]
            written += new
        return out, state

    def after(self, row: int, prefix: tuple[int, ...]) -> Any:
        rng = np.random.default_rng([self.seed, row, *prefix])
        if self.flavour == "few values":
            return -rng.integers(0, 3, self.num_tokens).astype(np.float32) / 4
        if self.flavour == "all equal":
            return np.full(self.num_tokens, -0.7, np.float32)
        logits = rng.standard_normal(self.num_tokens) * (30 if self.flavour == "sure" else 1)
        return (logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A random catalogue and prompts."""

    seed: int
    num_items: int
    num_levels: int
    num_tokens: int
    num_rows: int
    flavour: str
    batch: int

    @cached_property
    def tokens(self) -> Any:
        shape = (self.num_items, self.num_levels)
        return np.random.default_rng(self.seed).integers(0, self.num_tokens, shape)

    def prompts(self, rows: list[int] | None = None) -> TablePrompts:
        rows = list(range(self.num_rows)) if rows is None else rows
        return TablePrompts(self.seed, rows, self.num_tokens, self.flavour, self.batch)

    @cached_property
    def scores(self) -> Any:
        return string_scores(self.prompts(), self.tokens)

    def filters(self, share: float, per_row: bool) -> tuple[Any, Any]:
        rng = np.random.default_rng(self.seed + 1)
        shape = (self.num_rows, self.num_items)
        allow = rng.random(shape if per_row else shape[1:]) < share
        return allow, rng.integers(-1, max(1, self.num_items), (self.num_rows, 4)).astype(np.int32)


cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    num_items=st.integers(1, 8) | st.integers(1, 40),
    num_levels=st.integers(1, 4),
    num_tokens=st.sampled_from([1, 2, 3, 7]),
    num_rows=st.integers(1, 3),
    flavour=st.sampled_from(["few values", "all equal", "normal", "sure"]),
    batch=st.sampled_from([1, 2]),
)
widths = st.sampled_from([1, 2, 5, 1000])
shares = st.sampled_from([0.0, 0.1, 0.7, 1.0])
law = settings(deadline=None, max_examples=60)


def same(one: TopK, other: TopK) -> bool:
    return all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("items", "scores", "bound"))


def test_the_reference_adds_up_the_tokens_of_every_item() -> None:
    case = Case(3, 6, 3, 4, 2, "normal", 2)
    prompts = case.prompts()
    for row in range(2):
        for item, (a, b, c) in enumerate(case.tokens):
            parts = [prompts.after(row, ())[a], prompts.after(row, (a,))[b], prompts.after(row, (a, b))[c]]
            assert case.scores[row, item] == np.float32(np.float32(parts[0] + parts[1]) + parts[2])


@settings(law, max_examples=200)
@given(case=cases, width=widths, share=shares, per_row=st.booleans(), data=st.data())
def test_exact_search_equals_scoring_every_item(
    case: Case, width: int, share: float, per_row: bool, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, case.num_items + 3), label="k")
    allow, exclude = case.filters(share, per_row)
    index = BeamIndex(case.tokens, width=width, exact=True)
    assert same(index.top_k(case.prompts(), k), reference.top_k(case.scores, k))
    found = index.top_k(case.prompts(), k, allow=allow, exclude=exclude)
    assert same(found, reference.top_k(case.scores, k, allow, exclude))
    packed = np.packbits(allow, axis=-1, bitorder="little")
    assert same(found, index.top_k(case.prompts(), k, allow=packed, exclude=exclude))
    assert (found.scored <= case.num_items).all()


@law
@given(case=cases, share=shares, per_row=st.booleans(), k=st.integers(1, 45))
def test_a_beam_as_wide_as_the_catalogue_is_exhaustive(case: Case, share: float, per_row: bool, k: int) -> None:
    allow, exclude = case.filters(share, per_row)
    found = BeamIndex(case.tokens, width=case.num_items).top_k(case.prompts(), k, allow=allow, exclude=exclude)
    assert same(found, reference.top_k(case.scores, k, allow, exclude))


@law
@given(case=cases, width=widths, share=shares, per_row=st.booleans(), k=st.integers(1, 45))
def test_what_a_beam_returns_is_eligible_in_order_never_short_and_bounded(
    case: Case, width: int, share: float, per_row: bool, k: int
) -> None:
    allow, exclude = case.filters(share, per_row)
    found = BeamIndex(case.tokens, width=width).top_k(case.prompts(), k, allow=allow, exclude=exclude)
    eligible = reference.eligible(case.scores.shape, allow, exclude)
    for row in range(case.num_rows):
        items = found.items[row][found.items[row] >= 0]
        assert len(items) == len(set(items)) == min(k, eligible[row].sum())
        assert eligible[row, items].all()
        assert found.scores[row, : len(items)].tobytes() == case.scores[row, items].tobytes()
        assert np.isneginf(found.scores[row, len(items) :]).all()
        assert [*zip(-found.scores[row], items, strict=False)] == sorted(zip(-found.scores[row], items, strict=False))
        outside = eligible[row] & ~np.isin(np.arange(case.num_items), items)
        assert (case.scores[row, outside] <= found.bound[row]).all()


@law
@given(case=cases, width=widths)
def test_a_beam_reads_no_more_than_its_width_at_every_level(case: Case, width: int) -> None:
    prompts = case.prompts()
    BeamIndex(case.tokens, width=width).top_k(prompts, 1)
    assert prompts.steps == (case.num_levels - 1) * -(-case.num_rows // case.batch)


@law
@given(case=cases, width=widths, exact=st.booleans(), k=st.integers(1, 20))
def test_rows_do_not_depend_on_their_batch(case: Case, width: int, exact: bool, k: int) -> None:
    index = BeamIndex(case.tokens, width=width, exact=exact)
    batch = index.top_k(case.prompts(), k)
    for row in range(case.num_rows):
        assert same(index.top_k(case.prompts([row]), k), TopK(*(part[row, None] for part in batch)))


@law
@given(case=cases)
def test_order_prefix_and_certificate(case: Case) -> None:
    index = BeamIndex(case.tokens, width=2, exact=True)
    longest = index.top_k(case.prompts(), case.num_items + 1)
    assert np.isneginf(longest.bound).all()
    for k in range(1, case.num_items + 1, 1 + case.num_items // 5):
        found = index.top_k(case.prompts(), k)
        assert found.items.tobytes() == longest.items[:, :k].tobytes()
        assert (found.bound == found.scores[:, -1]).all()


@law
@given(case=cases, data=st.data())
def test_scores_of_given_items_are_the_bits_of_the_search(case: Case, data: st.DataObject) -> None:
    position = st.integers(0, case.num_items - 1)
    items = np.array([data.draw(st.lists(position, min_size=3, max_size=3)) for _ in range(case.num_rows)])
    index = BeamIndex(case.tokens)
    assert index.scores(case.prompts(), items).tobytes() == np.take_along_axis(case.scores, items, 1).tobytes()
    parts = index.token_scores(case.prompts(), items)
    assert parts.shape == (*items.shape, case.num_levels)


@law
@given(case=cases, data=st.data())
def test_add_and_remove_equal_building_anew(case: Case, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, case.num_items), label="start")
    gone = data.draw(st.lists(st.integers(0, case.num_items - 1), max_size=10), label="gone")
    early = [item for item in gone if item < start]
    index = BeamIndex(case.tokens[:start], width=3, exact=True)
    index.remove(early)
    assert index.add(tokens=case.tokens[start:]).tolist() == list(range(start, case.num_items))
    assert (index.tokens_IM == case.tokens).all()
    for removed in (early, gone):
        index.remove(removed)
        kept = ~np.isin(np.arange(case.num_items), removed)
        assert same(index.top_k(case.prompts(), 5), reference.top_k(case.scores, 5, kept))
        allow, exclude = case.filters(0.7, per_row=True)
        found = index.top_k(case.prompts(), 5, allow=allow, exclude=exclude)
        assert same(found, reference.top_k(case.scores, 5, allow & kept, exclude))
    assert np.flatnonzero(index.removed_I).tolist() == sorted(set(gone))
    assert (index.removed_at(np.arange(-1, case.num_items)[None])[0, 1:] == index.removed_I).all()
    index.restore(gone)
    assert same(index.top_k(case.prompts(), 5), reference.top_k(case.scores, 5))


@settings(law, max_examples=15)
@given(case=cases, gone=st.booleans(), exact=st.booleans())
def test_save_and_load_give_the_same_bits(case: Case, gone: bool, exact: bool) -> None:
    index = BeamIndex(case.tokens, width=3, exact=exact)
    index.remove([0] if gone else [])
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        loaded = load_index(folder)
        assert isinstance(loaded, BeamIndex)
        assert (loaded.width, loaded.exact) == (3, exact)
        assert same(loaded.top_k(case.prompts(), 10), index.top_k(case.prompts(), 10))
        assert check(folder) == []


def test_a_deadline_leaves_a_true_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(5, 60, 4, 7, 3, "normal", 2)
    for calls in range(12):
        clock = iter([0.0] * (3 + calls) + [9.0] * 100)
        monkeypatch.setattr("everyitem.index.beam.time.monotonic", lambda clock=clock: next(clock))
        found = BeamIndex(case.tokens, width=2, exact=True).top_k(case.prompts(), 5, deadline=1)
        for row in range(case.num_rows):
            items = found.items[row][found.items[row] >= 0]
            assert found.scores[row, : len(items)].tobytes() == case.scores[row, items].tobytes()
            assert (np.delete(case.scores[row], items) <= found.bound[row]).all()
    monkeypatch.undo()
    stopped = BeamIndex(case.tokens).top_k(case.prompts(), 5, deadline=0)
    assert (stopped.items == -1).all()
    assert (stopped.bound == 0).all()
    assert same(
        BeamIndex(case.tokens, exact=True).top_k(case.prompts(), 5, deadline=3600), reference.top_k(case.scores, 5)
    )


def test_exact_search_reads_little_where_the_model_is_sure() -> None:
    case = Case(1, 3000, 4, 20, 1, "sure", 1)
    prompts = case.prompts()
    found = BeamIndex(case.tokens, width=10, exact=True).top_k(prompts, 10)
    assert found.bound == found.scores[0, -1]
    assert found.scored[0] < 300
    assert prompts.steps < 30


def test_shared_tokens_count_from_the_first() -> None:
    index = BeamIndex([[1, 2, 3], [1, 2, 4], [1, 5, 3], [0, 2, 3], [1, 2, 3]])
    assert index.shared_tokens(0).tolist() == [3, 2, 1, 0, 3]


def test_an_empty_catalogue_answers_with_nothing() -> None:
    index = BeamIndex(np.empty((0, 3), np.int32))
    found = index.top_k(FormulaPrompts(4), 2)
    assert found.items.tolist() == [[-1, -1]]
    assert np.isneginf(found.bound).all()
    assert index.add(tokens=[[1, 2, 3]]).tolist() == [0]
    assert index.top_k(FormulaPrompts(4), 2).items.tolist() == [[0, -1]]


class Saying(FormulaPrompts):
    """A model that says one number for everything."""

    def __init__(self, value: float) -> None:
        super().__init__(3)
        self.value = value

    def _after(self, tokens: Any) -> Any:
        return np.full((*tokens.shape, 3), self.value, np.float32)


def test_mistakes_are_explained() -> None:
    for tokens in ([1, 2], [[0.5]], np.empty((3, 0), int), [[-1]], [[2**31]]):
        with pytest.raises(ValueError, match=r"tokens are|tokens reach"):
            BeamIndex(tokens)
    with pytest.raises(ValueError, match="width is 0"):
        BeamIndex([[0]], width=0)
    index = BeamIndex([[0, 1], [2, 0]])
    with pytest.raises(ValueError, match="k is 0"):
        index.top_k(FormulaPrompts(3), 0)
    with pytest.raises(ValueError, match="has 2 tokens, but an item of this index has token 2"):
        index.top_k(FormulaPrompts(2), 1)
    for value in (0.1, np.nan, -np.inf):
        with pytest.raises(ValueError, match="log-probabilities are finite and at most 0"):
            index.top_k(Saying(value), 1)
    with pytest.raises(ValueError, match=r"needs \(items, 2\)"):
        index.add(tokens=[[1]])
    with pytest.raises(ValueError, match="positions 0 to 1"):
        index.scores(FormulaPrompts(3), [[2]])
