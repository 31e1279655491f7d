"""Histories as text: a title is a row of tokens, a history the titles one after the other (BIGRec, arXiv:2308.08434).

What a model is asked for is the title that comes next, token by token up to the token that ends every title. Knows no
tokenizer and no model; tokens are integers.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Histories, Ids

Tokens = NDArray[np.int64]
NOT_ASKED = -100
"""Label of a token that is given, not asked for."""


def title_tokens(
    titles: Sequence[str], encode: Callable[[list[str]], list[list[int]]], *, end: int, longest: int
) -> Histories:
    """A row of tokens per title: at most `longest`, the last of them `end`, which stands nowhere else.

    Args:
        titles: of every item, in the order of positions. White space becomes single spaces.
        encode: texts to tokens, without special tokens.
        end: token that ends a title.
        longest: tokens that are kept of a title, the end included; two titles may become the same.

    Raises:
        ValueError: a title without a letter.
    """
    rows = encode([" ".join(title.split()) for title in titles])
    empty = [position for position, row in enumerate(rows) if not any(token != end for token in row)]
    if empty:
        raise ValueError(f"{len(empty)} items have no title, the first at position {empty[0]}; give every item one")
    return Histories.from_lists([*[token for token in row if token != end][: longest - 1], end] for row in rows)


def prompt_row(titles: Histories, history: Ids, start: Sequence[int], length: int) -> Tokens:
    """The start and the newest titles of a history that fit into `length` tokens, oldest first."""
    return np.concatenate([np.array(start, np.int64), *_newest(titles, history, length - len(start))])


def _newest(titles: Histories, history: Ids, room: int) -> list[Ids]:
    """The newest titles that fit."""
    taken: list[Ids] = []
    for item in history[::-1]:
        title = titles[int(item)]
        room -= len(title)
        if room < 0:
            break
        taken.append(title)
    return taken[::-1]


def training_rows(
    titles: Histories, histories: Histories, start: Sequence[int], length: int, *, last_only: bool = False
) -> Iterator[tuple[Tokens, Tokens]]:
    """(tokens, labels) of histories, long ones cut into pieces that fit, each beginning with `start`.

    Every title but the first of a row is asked for, given all before it: the same model as one row per target, at a
    fraction of the cost. A piece begins with the last title of the one before.

    Args:
        titles: from `title_tokens`.
        histories: item positions, oldest first.
        start: tokens that begin every row.
        length: tokens of a row, at most.
        last_only: one row per history, with its last title alone asked for, as published.

    Yields:
        Tokens and labels of the same length; the label is the token, or -100 where it is not asked for.
    """
    for history in histories:
        stop = len(history)
        while stop >= 2:
            taken = _newest(titles, history[:stop], length - len(start))
            if len(taken) < 2:
                stop -= 1  # two titles that do not fit together
                continue
            tokens = np.concatenate([np.array(start, np.int64), *taken])
            given = len(start) + (sum(map(len, taken[:-1])) if last_only else len(taken[0]))
            labels = tokens.copy()
            labels[:given] = NOT_ASKED
            yield tokens, labels
            if last_only:
                break
            stop -= len(taken) - 1


def like_lengths(lengths: NDArray[np.integer], tokens: int, seed: int) -> list[NDArray[np.int64]]:
    """Rows in groups of like length, each at most `tokens` with its padding (at least one row); groups in any order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    groups: list[NDArray[np.int64]] = []
    first = 0
    for place in range(1, len(order) + 1):
        if place == len(order) or lengths[order[place]] * (place + 1 - first) > tokens:
            groups.append(order[first:place])
            first = place
    return [groups[number] for number in rng.permutation(len(groups))]
