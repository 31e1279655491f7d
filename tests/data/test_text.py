import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everyitem.data.text import like_lengths, prompt_row, title_tokens, training_rows
from everyitem.types import Histories

END = 0
TITLES = ["a b", "c", "d e f", "b", "a a a a"]


def encode(texts):
    """Letters as tokens 1, 2, ...; spaces vanish."""
    return [[ord(letter) - 96 for letter in text if letter != " "] for text in texts]


@pytest.fixture
def titles():
    return title_tokens(TITLES, encode, end=END, longest=4)


def test_a_title_is_its_tokens_and_an_end(titles):
    assert [list(row) for row in titles] == [[1, 2, 0], [3, 0], [4, 5, 6, 0], [2, 0], [1, 1, 1, 0]]


def test_the_end_stands_nowhere_else():
    rows = title_tokens(["x"], lambda _: [[5, END, 7]], end=END, longest=9)
    assert list(rows[0]) == [5, 7, END]


def test_an_item_without_a_title_is_refused():
    with pytest.raises(ValueError, match="1 items have no title, the first at position 1"):
        title_tokens(["a", " ", "b"], encode, end=END, longest=4)


def test_a_prompt_has_the_newest_titles_that_fit(titles):
    history = np.array([0, 2, 1], np.int32)
    assert list(prompt_row(titles, history, [9], 10)) == [9, 1, 2, 0, 4, 5, 6, 0, 3, 0]
    assert list(prompt_row(titles, history, [9], 9)) == [9, 4, 5, 6, 0, 3, 0]
    assert list(prompt_row(titles, history, [9], 2)) == [9]


def test_every_title_but_the_first_is_asked_for(titles):
    ((tokens, labels),) = training_rows(titles, Histories.from_lists([[0, 1, 3]]), [9], 50)
    assert list(tokens) == [9, 1, 2, 0, 3, 0, 2, 0]
    assert list(labels) == [-100] * 4 + [3, 0, 2, 0]


def test_or_the_last_alone(titles):
    rows = training_rows(titles, Histories.from_lists([[0, 1, 3], [2], [1, 0]]), [9], 50, last_only=True)
    assert [list(labels) for _, labels in rows] == [[-100] * 6 + [2, 0], [-100] * 3 + [1, 2, 0]]


@given(st.lists(st.lists(st.integers(0, 4), max_size=12), max_size=4), st.integers(9, 30), st.integers(0, 1))
def test_every_title_after_the_first_is_asked_for_once(rows, length, starts):
    titles, start = title_tokens(TITLES, encode, end=END, longest=4), [9] * starts
    found = list(training_rows(titles, Histories.from_lists(rows), start, length))
    assert all(len(tokens) == len(labels) <= length for tokens, labels in found)
    asked = sum(int((labels == END).sum()) for _, labels in found)
    assert asked == sum(max(0, len(row) - 1) for row in rows)
    for tokens, labels in found:
        assert ((labels == -100) | (labels == tokens)).all()
        assert list(tokens[:starts]) == start


def test_two_titles_that_do_not_fit_together_are_not_asked_for(titles):
    rows = list(training_rows(titles, Histories.from_lists([[2, 4, 1]]), [], 6))
    assert [list(tokens) for tokens, _ in rows] == [[1, 1, 1, 0, 3, 0]]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 100))
def test_groups_hold_every_row_once_and_no_more_tokens_than_allowed(lengths, tokens):
    lengths = np.array(lengths)
    groups = like_lengths(lengths, tokens, seed=0)
    assert sorted(np.concatenate(groups)) == list(range(len(lengths)))
    assert all(len(group) == 1 or lengths[group].max() * len(group) <= tokens for group in groups)
    again = like_lengths(lengths, tokens, seed=0)
    assert all(np.array_equal(one, other) for one, other in zip(groups, again, strict=True))
