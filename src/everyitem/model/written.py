"""What a causal language model would write next: prompts for a search over titles (`index.prompts.Prompts`).

Titles end with a token of their own and have different lengths. A search wants strings of one length, so behind the end
stands filling, token V, which costs nothing: its log-probability is 0 and the model is not asked.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from everyitem.types import Floats, Histories, Ids

Whole = NDArray[np.int64]


def filled_titles(titles: Histories, filling: int) -> Ids:
    """(I, M) the titles' tokens, filled up behind their ends to the longest one."""
    tokens_IM = titles.padded("left")
    return np.where(tokens_IM < 0, np.int32(filling), tokens_IM)


class Written(NamedTuple):
    """What was read and written of some rows."""

    cache: Any
    """Keys and values that the model keeps: S places per row, prompts first, then the nodes that it was asked about."""
    prompt_UP: Tensor
    """(U, P) bool: where the prompt is no padding."""
    slot_Un: Whole
    """(U, n) the place of each node among the S; -1 where the model was not asked."""
    above_UnM: Whole
    """(U, n, M) the nodes that each node sees, itself first; -1 where there are no more."""


class WrittenPrompts:
    """Rows of tokens as prompts of a causal language model of the Hugging Face kind.

    Args:
        model: with `model` (the decoder) and `lm_head`; attends to all places: no window shorter than a row.
        rows: U prompts, at least one token each.
        end: the token that ends a title.
        longest: M, tokens of a title at most.
        batch: prompts read together.
    """

    def __init__(self, model: Any, rows: Sequence[Whole], *, end: int, longest: int, batch: int = 32) -> None:
        window = getattr(model.config, "sliding_window", None)
        room = max((len(row) for row in rows), default=0) + longest
        if window is not None and room > window:
            raise ValueError(f"prompt and title have up to {room} tokens, the model's window {window}; shorten it")
        self.model, self.rows, self.end, self.longest, self.batch = model, rows, end, longest, batch
        self.vocabulary: int = model.config.vocab_size

    def __len__(self) -> int:
        return len(self.rows)

    def read(self) -> Iterator[tuple[Whole, Floats, Written]]:
        """Prompts of like length together."""
        order = np.argsort([len(row) for row in self.rows], kind="stable")
        for first in range(0, len(order), self.batch):
            rows = order[first : first + self.batch]
            lengths = torch.tensor([len(self.rows[row]) for row in rows])
            tokens_UP = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
            for place, row in enumerate(rows):
                tokens_UP[place, : lengths[place]] = torch.from_numpy(np.asarray(self.rows[row]))
            real_UP = torch.arange(tokens_UP.shape[1]) < lengths[:, None]
            with torch.inference_mode():
                output = self.model.model(input_ids=tokens_UP, use_cache=True)
                hidden_UD = output.last_hidden_state[torch.arange(len(rows)), lengths - 1]
                log_probs_UV = self._log_probs(hidden_UD)
            nothing = np.empty((len(rows), 0), np.int64)
            state = Written(output, real_UP, nothing, np.empty((len(rows), 0, self.longest), np.int64))
            yield rows, log_probs_UV, state

    def step(self, state: Written, parents_UN: Whole, tokens_UN: Whole) -> tuple[Floats, Written]:
        """Append nodes; those behind the end of a title cost nothing."""
        over_UN = (tokens_UN == self.end) | (tokens_UN == self.vocabulary)
        asked = np.flatnonzero(~over_UN.all(axis=0))
        num_rows, num_new = tokens_UN.shape
        num_nodes, num_places = state.slot_Un.shape[1], _places(state)
        above_UNM = self._above(state, parents_UN)
        slot_UN = np.full((num_rows, num_new), -1)
        slot_UN[:, asked] = num_places + np.arange(len(asked))
        slots_Un = np.concatenate([state.slot_Un, slot_UN], axis=1)
        out = np.full((num_rows, num_new, self.vocabulary + 1), -np.inf, np.float32)
        cache = state.cache
        if len(asked):
            seen_UNS = self._seen(state, slots_Un, above_UNM[:, asked], num_places + len(asked))
            depth_UN = (above_UNM[:, asked] >= 0).sum(axis=2)
            places_UN = state.prompt_UP.sum(1, keepdim=True) + torch.from_numpy(depth_UN) - 1
            tokens = torch.from_numpy(np.where(over_UN, self.end, tokens_UN)[:, asked])
            cache = self._ask(cache, tokens, places_UN, seen_UNS)
            with torch.inference_mode():
                out[:, asked] = self._log_probs(cache.last_hidden_state)
        out[over_UN] = -np.inf
        out[over_UN, self.vocabulary] = 0
        both = np.concatenate([state.above_UnM, above_UNM], axis=1)
        assert both.shape[1] == num_nodes + num_new
        return out, Written(cache, state.prompt_UP, slots_Un, both)

    def _above(self, state: Written, parents_UN: Whole) -> Whole:
        num_rows, num_nodes, deepest = state.above_UnM.shape
        above_UNM = np.full((*parents_UN.shape, deepest), -1)
        above_UNM[..., 0] = num_nodes + np.arange(parents_UN.shape[1])
        if num_nodes:
            row_U1 = np.arange(num_rows)[:, None]
            parents_above = np.where(parents_UN[..., None] >= 0, state.above_UnM[row_U1, parents_UN], -1)
            above_UNM[..., 1:] = parents_above[..., :-1]
        return above_UNM

    def _seen(self, state: Written, slots_Un: Whole, above_UNM: Whole, num_places: int) -> Tensor:
        """(U, N, S) bool: the prompt, the nodes above, itself."""
        num_rows, num_new, _ = above_UNM.shape
        seen = np.zeros((num_rows, num_new, num_places + 1), bool)
        slot_UNM = np.where(above_UNM >= 0, slots_Un[np.arange(num_rows)[:, None, None], above_UNM], -1)
        np.put_along_axis(seen, slot_UNM, True, axis=2)
        seen[..., : state.prompt_UP.shape[1]] = state.prompt_UP.numpy()[:, None]
        return torch.from_numpy(seen[..., :-1])  # the last column took what is not there

    def _ask(self, cache: Any, tokens_UN: Tensor, places_UN: Tensor, seen_UNS: Tensor) -> Any:
        name = "cache" if "cache" in cache else "past_key_values"  # the name changed in transformers 5.24
        mask = torch.zeros(seen_UNS.shape, dtype=self.model.dtype).masked_fill(~seen_UNS, -torch.inf)[:, None]
        by_kind = getattr(self.model.config, "layer_types", None)
        masks: Any = dict.fromkeys(by_kind, mask) if by_kind else mask
        with torch.inference_mode():
            return self.model.model(
                input_ids=tokens_UN, position_ids=places_UN, attention_mask=masks, use_cache=True, **{name: cache[name]}
            )

    def _log_probs(self, hidden: Tensor) -> Floats:
        """(..., V + 1) log-probabilities, at most 0; the filling never follows anything but an end."""
        logits = self.model.lm_head(hidden).float()
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        found = torch.log_softmax(logits, -1).clamp(max=0.0)
        filling = torch.full((*found.shape[:-1], 1), -torch.inf)
        log_probs: Floats = torch.cat([found, filling], -1).numpy()
        return log_probs


def _places(state: Written) -> int:
    return int(state.prompt_UP.shape[1] + (state.slot_Un[:1] >= 0).sum())
