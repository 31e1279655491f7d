"""What a `BeamIndex` asks of a language model, its naive twin, and a formula in place of a model."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from everyitem.types import Floats, Ids


class Prompts(Protocol):
    """U prompts in the hands of a causal language model with V tokens: the query of a `BeamIndex`.

    What was written after a prompt is a tree. Its nodes are numbered per row in the order in which `step` appended
    them, from 0 on; -1 is the prompt. The state holds all of them (their keys and values, say), so nothing has to be
    reordered or copied when a beam goes on from somewhere else, and all nodes of a row share its prompt.
    """

    def __len__(self) -> int:
        """U."""
        ...

    def read(self) -> Iterator[tuple[NDArray[np.int64], Floats, Any]]:
        """Read the prompts, some rows at a time, as suits the model; every row once.

        Yields:
            (U',) which rows, (U', V) log-probabilities of what comes next, and the state of these rows.
        """
        ...

    def step(self, state: Any, parents_UN: NDArray[np.int64], tokens_UN: NDArray[np.int64]) -> tuple[Floats, Any]:
        """Append N nodes to every row of a state: this token after that parent.

        Returns:
            (U', N, V) log-probabilities of what comes after each new node, and the new state. The old one is not
            needed again.
        """
        ...


def string_scores(prompts: Prompts, tokens_IM: Ids) -> Floats:
    """The naive twin of `BeamIndex`: every item's score, token by token, float32 in token order.

    Args:
        prompts: U of them.
        tokens_IM: the items' strings.

    Returns:
        (U, I) float32: the sum of log p(token m | prompt, tokens before m).

    Cost: I (M - 1) calls of the model.
    """
    scores_UI = np.zeros((len(prompts), len(tokens_IM)), np.float32)
    for rows, first_UV, state in prompts.read():
        nodes = 0
        for item, tokens_M in enumerate(tokens_IM):
            log_probs_UV, parent = first_UV, -1
            for m, token in enumerate(tokens_M):
                scores_UI[rows, item] += log_probs_UV[:, token]
                if m + 1 < len(tokens_M):
                    ones_U1 = np.ones((len(rows), 1), np.int64)
                    log_probs_U1V, state = prompts.step(state, parent * ones_U1, token * ones_U1)
                    log_probs_UV, parent, nodes = log_probs_U1V[:, 0], nodes, nodes + 1
    return scores_UI


class FormulaPrompts:
    """One prompt and a formula instead of a language model: log p = -(97 token + 31 parent's token) % 64 / 8 - 1 / 8.

    The same bits everywhere, so that a stored answer can be asked for again on any machine. What it says is not a
    distribution, which no search relies on.
    """

    def __init__(self, num_tokens: int) -> None:
        self._step_V = 97 * np.arange(num_tokens, dtype=np.int64)

    def __len__(self) -> int:
        return 1

    def read(self) -> Iterator[tuple[NDArray[np.int64], Floats, None]]:
        """One row."""
        yield np.zeros(1, np.int64), self._after(np.zeros(1, np.int64)), None

    def step(self, state: None, parents_UN: NDArray[np.int64], tokens_UN: NDArray[np.int64]) -> tuple[Floats, None]:
        """What comes next depends on the last token alone."""
        return self._after(tokens_UN), None

    def _after(self, tokens: NDArray[np.int64]) -> Floats:
        steps = (self._step_V + 31 * tokens[..., None]) % 64
        return (-(steps + 1) / 8).astype(np.float32)
