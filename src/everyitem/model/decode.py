"""Histories of token strings to log-probabilities of the next token, by ONNX Runtime. Works without torch.

`token_decoder.py` makes its file. The keys and values of a prompt are kept once per row, whatever the number of beams:
what is written after it is a tree, and a new node sees the prompt, the nodes above it and itself.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from everyitem.model.encode import equal_lengths, open_session
from everyitem.types import Floats, Histories, Ids

PROMPTS_AT_ONCE = 64

Whole = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Decode(Protocol):
    """One pass of the model over N new tokens of every row."""

    def __call__(
        self, tokens_UN: Whole, places_UN: Whole, seen_UNS: Mask, past_UPE: Floats, asked_Q: Whole
    ) -> tuple[Floats, Floats]:
        """Run it.

        Args:
            tokens_UN: the new tokens.
            places_UN: where each of them stands, counted from the beginning of its row.
            seen_UNS: which of the S = P + N known and new tokens each of them sees.
            past_UPE: keys and values of P known tokens.
            asked_Q: which of the N new tokens are asked what comes next.

        Returns:
            (U, Q, V) log-probabilities, and (U, N, E) keys and values of the new tokens.
        """
        ...


class Decoder:
    """An exported token decoder; see `Decode`. One thread per session, as `Encoder`.

    Args:
        path: the .onnx file.
        length: the newest events that the model sees.
    """

    def __init__(self, path: Path, length: int) -> None:
        try:
            self.session = open_session(path)
        except Exception as error:  # onnxruntime raises its own types per cause, all of them mean: not loadable
            raise ValueError(f"{path}: the decoder cannot be loaded ({str(error).splitlines()[0][:200]})") from None
        self.length = length
        self.state_width: int = next(given.shape[2] for given in self.session.get_inputs() if given.name == "past")

    def __call__(
        self, tokens_UN: Whole, places_UN: Whole, seen_UNS: Mask, past_UPE: Floats, asked_Q: Whole
    ) -> tuple[Floats, Floats]:
        """As `Decode` says."""
        given = {"tokens": tokens_UN, "places": places_UN, "seen": seen_UNS, "past": past_UPE, "asked": asked_Q}
        log_probs, state = self.session.run(["log_probs", "state"], given)
        return log_probs, state

    def prompts(self, tokens_IM: Ids, histories: Histories) -> "TokenPrompts":
        """The query of a `BeamIndex` of these strings: non-empty histories of positions."""
        return TokenPrompts(self, self.state_width, tokens_IM, histories.last(self.length))


class Written(NamedTuple):
    """What was read and written of some rows."""

    past_UPE: Floats
    """Keys and values: the prompt's tokens, then the nodes in the order in which they were appended."""
    above_UnM: Whole
    """(U, n, M) the nodes that each node sees, itself first; -1 where there are no more."""


class TokenPrompts:
    """Histories as prompts: the strings of their items one after the other. See `index.prompts.Prompts`."""

    def __init__(self, decode: Decode, state_width: int, tokens_IM: Ids, histories: Histories) -> None:
        if (histories.lengths == 0).any():
            raise ValueError("a history without events is no prompt; answer it otherwise, by popularity for example")
        self.decode, self.state_width, self.tokens_IM, self.histories = decode, state_width, tokens_IM, histories

    def __len__(self) -> int:
        return len(self.histories)

    def read(self) -> Iterator[tuple[Whole, Floats, Written]]:
        """Prompts of equal length together, so that there is no padding."""
        longest = int(self.histories.lengths.max(initial=0))
        for rows, ids_UT in equal_lengths(self.histories, longest, PROMPTS_AT_ONCE):
            tokens_UP = self.tokens_IM[ids_UT].reshape(len(rows), -1).astype(np.int64)
            num_rows, num_tokens = tokens_UP.shape
            log_probs_U1V, past_UPE = self.decode(
                tokens_UP,
                np.tile(np.arange(num_tokens), (num_rows, 1)),
                np.tile(np.tri(num_tokens, dtype=bool), (num_rows, 1, 1)),
                np.empty((num_rows, 0, self.state_width), np.float32),
                np.array([num_tokens - 1]),
            )
            nothing = np.empty((num_rows, 0, self.tokens_IM.shape[1]), np.int64)
            yield rows, log_probs_U1V[:, 0], Written(past_UPE, nothing)

    def step(self, state: Written, parents_UN: Whole, tokens_UN: Whole) -> tuple[Floats, Written]:
        """Append nodes."""
        past_UPE, above_UnM = state
        num_rows, num_nodes, _ = above_UnM.shape
        num_prompt, num_new = past_UPE.shape[1] - num_nodes, tokens_UN.shape[1]
        every_U1 = np.arange(num_rows)[:, None]
        above_UNM = np.full((num_rows, num_new, above_UnM.shape[2]), -1)
        above_UNM[..., 0] = num_nodes + np.arange(num_new)
        if num_nodes:
            parents_above_UNM = np.where(parents_UN[..., None] >= 0, above_UnM[every_U1, parents_UN], -1)
            above_UNM[..., 1:] = parents_above_UNM[..., :-1]
        seen_UNS = np.zeros((num_rows, num_new, past_UPE.shape[1] + num_new + 1), bool)
        np.put_along_axis(seen_UNS, np.where(above_UNM >= 0, num_prompt + above_UNM, -1), True, axis=2)
        seen_UNS[..., :num_prompt] = True
        log_probs_UNV, new_UNE = self.decode(
            tokens_UN,
            num_prompt - 1 + (above_UNM >= 0).sum(axis=2),
            np.ascontiguousarray(seen_UNS[..., :-1]),  # the last column took what is not there
            past_UPE,
            np.arange(num_new),
        )
        both = np.concatenate([past_UPE, new_UNE], axis=1), np.concatenate([above_UnM, above_UNM], axis=1)
        return log_probs_UNV, Written(*both)
