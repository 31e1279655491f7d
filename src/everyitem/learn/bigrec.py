"""BIGRec (arXiv:2308.08434): a language model writes the next title freely; found are the items with titles near it.

Near is the Euclidean distance of the model's own last hidden states at a title's last token. Popularity, or the scores
of a recommender that knows no text, can be mixed in (`evaluate/grounding.py`). Nothing keeps the model to titles that
exist: that is the difference to a search over a trie.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyitem.data.text import prompt_row
from everyitem.evaluate.grounding import best_gamma, grounded
from everyitem.index import reference
from everyitem.types import Floats, Histories, Ids, TopK

Whole = NDArray[np.int64]
Weights = Callable[[Histories], Floats]
"""Histories to (U, I) weights, larger for what is likelier."""


class BIGRec:
    """A language model as a recommender that grounds what it writes.

    Args:
        model: a causal language model of the Hugging Face kind, in evaluation mode.
        titles: the tokens of every item's title, each ending with the token that ends titles; see
            `data.text.title_tokens`.
        start: tokens that begin every row.
        length: tokens of a row, at most, the title that is written included.
        beam: continuations that are written side by side; the likeliest is grounded. As published.
        weights: what is mixed in; None: distance alone.
        gamma: how much of it, see `fit_gamma`.
        batch: rows at a time.

    Raises:
        ValueError: `length` leaves no room for a history.

    Cost: a pass over all titles at the start. A rank is `beam` continuations of up to the longest title, token by
    token, a pass over what was written, and U I D multiplications.
    """

    def __init__(
        self,
        model: Any,
        titles: Histories,
        start: Sequence[int],
        *,
        length: int,
        beam: int = 4,
        weights: Weights | None = None,
        gamma: float = 0.0,
        batch: int = 32,
    ) -> None:
        self.model, self.titles, self.start = model, titles, list(start)
        self.end, self.longest = int(titles[0][-1]), int(titles.lengths.max())
        if length <= self.longest + len(self.start):
            raise ValueError(
                f"length is {length}, but start and a title take {self.longest + len(self.start)} tokens; allow more"
            )
        self.length, self.beam, self.batch = length, beam, batch
        self.weights, self.gamma = weights, gamma
        self.vectors_ID = self.embed([title.astype(np.int64) for title in titles])

    def rank(self, histories: Histories, k: int, *, exclude_seen: bool = False) -> TopK:
        """The k best items for every history; items with the same title share their score, smaller positions first."""
        distance_UI = self.distances(histories)
        weight_UI = np.zeros_like(distance_UI) if self.weights is None else self.weights(histories)
        exclude = histories.padded("left") if exclude_seen else None
        return reference.top_k(grounded(distance_UI, weight_UI, self.gamma), k, exclude=exclude)

    def fit_gamma(self, histories: Histories, targets_U: Ids) -> float:
        """Choose `gamma` by NDCG@10 on validation users, and return it. Raises ValueError without weights."""
        if self.weights is None:
            raise ValueError("there is nothing to mix in; give weights, such as popularity")
        self.gamma = best_gamma(self.distances(histories), self.weights(histories), targets_U)
        return self.gamma

    def distances(self, histories: Histories) -> Floats:
        """(U, I) Euclidean distances of all titles from the one that is written after each history."""
        return _distances(self.embed(self.write(histories)), self.vectors_ID)

    def write(self, histories: Histories) -> list[Whole]:
        """The likeliest title after each history that the beam finds, the end token last; never empty."""
        rows = [prompt_row(self.titles, history, self.start, self.length - self.longest) for history in histories]
        out: list[Whole] = [np.empty(0, np.int64)] * len(rows)
        for part, tokens_UP, real_UP in self._padded(rows, left=True):
            with torch.inference_mode():
                written = self.model.generate(
                    tokens_UP,
                    attention_mask=real_UP.long(),
                    num_beams=self.beam,
                    do_sample=False,
                    max_new_tokens=self.longest,
                    eos_token_id=self.end,
                    pad_token_id=self.end,
                )
            for row, tokens in zip(part, written[:, tokens_UP.shape[1] :].cpu().numpy(), strict=True):
                ends = np.flatnonzero(tokens == self.end)
                out[row] = np.append(tokens[: ends[0]] if len(ends) else tokens, self.end)
        return out

    def embed(self, rows: Sequence[Whole]) -> Floats:
        """(N, D) last hidden states at the last tokens of rows; equal rows have equal bits."""
        place_of: dict[tuple[int, ...], int] = {}
        places = [place_of.setdefault(tuple(row.tolist()), len(place_of)) for row in rows]
        distinct = [np.array(row, np.int64) for row in place_of]
        out = np.empty((len(distinct), int(self.model.config.hidden_size)), np.float32)
        for part, tokens_UP, real_UP in self._padded(distinct, left=False):
            with torch.inference_mode():
                hidden = self.model.get_decoder()(input_ids=tokens_UP, use_cache=False).last_hidden_state
            last = real_UP.sum(1) - 1
            out[part] = hidden[torch.arange(len(part), device=hidden.device), last].float().cpu().numpy()
        vectors_ND: Floats = out[places]
        return vectors_ND

    def _padded(self, rows: Sequence[Whole], *, left: bool) -> Iterator[tuple[Whole, Tensor, Tensor]]:
        """(which rows, tokens (U, P), which of them are real), rows of like length together."""
        order = np.argsort([len(row) for row in rows], kind="stable")
        for first in range(0, len(order), self.batch):
            part = order[first : first + self.batch]
            width = max(len(rows[row]) for row in part)
            tokens_UP, real_UP = np.full((len(part), width), self.end), np.zeros((len(part), width), bool)
            for place, row in enumerate(part):
                where = slice(width - len(rows[row]), None) if left else slice(len(rows[row]))
                tokens_UP[place, where], real_UP[place, where] = rows[row], True
            device = self.model.device
            yield part, torch.from_numpy(tokens_UP).to(device), torch.from_numpy(real_UP).to(device)


def popularity_weights(events_I: NDArray[np.integer[Any]]) -> Weights:
    """Training events of every item, the same for everybody."""

    def weights(histories: Histories) -> Floats:
        return np.broadcast_to(events_I.astype(np.float32), (len(histories), len(events_I)))

    return weights


def _distances(vectors_UD: Floats, vectors_ID: Floats) -> Floats:
    """Differences, not a difference of squares, which for near vectors is mostly rounding."""
    distance_UI = np.empty((len(vectors_UD), len(vectors_ID)), np.float32)
    for row, vector_D in enumerate(vectors_UD):
        distance_UI[row] = np.sqrt(np.square(vectors_ID - vector_D).sum(axis=1))
    return distance_UI
